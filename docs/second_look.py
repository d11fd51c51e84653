"""Measures what second-look.md shows: vectors through the Jacobian, by attention or by value, part by part."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from page_parts import table

import actadd_lens as al
from actadd_lens.models import backend_of
from actadd_lens.storybook import Topic

NULLS = 60
TOGETHER = 8
"""Sentences in a text that a J-lens is fitted on."""


@dataclass(frozen=True)
class Steered:
    """A topic's vector as docs/storybook.md has it, chosen there for what it does to text."""

    topic: str
    pair: tuple[str, str]
    layer: int
    coefficient: float


TOPICS = (
    Steered("weddings", (" weddings", ""), 3, 3.0),
    Steered("cooking", (" cook", ""), 4, 3.0),
    Steered("sea", (" sea", ""), 3, 3.0),
    Steered("music", (" music", ""), 4, 2.5),
    Steered("football", (" football", ""), 4, 2.5),
    Steered("space", (" rocket", ""), 3, 3.0),
    Steered("gardens", (" garden", ""), 5, 3.0),
    Steered("school", (" school", ""), 4, 3.0),
    Steered("winter", (" snow", ""), 3, 2.5),
    Steered("doctors", (" hospital", ""), 3, 3.0),
)


def fitting_texts() -> list[str]:
    """The package's sentences with a mood or none, eight to a text: no topic's word is in them."""
    found = []
    for sentences in al.storybook.sentiment_sentences().values():
        starts = range(0, len(sentences) - TOGETHER + 1, TOGETHER)
        found += [" ".join(sentences[start : start + TOGETHER]) for start in starts]
    return found


def lens_of(model: Any, kept: Path | None = None) -> al.JacobianLens:
    """The J-lens of all layers; from a file where one is kept, for it takes minutes."""
    if kept is not None and kept.is_file():
        return al.JacobianLens.load(kept)
    lens = al.fit_jacobian(model, fitting_texts(), range(model.cfg.n_layers))
    if kept is not None:
        lens.save(kept)
    return lens


def topics(model: Any, lens: al.JacobianLens) -> str:
    """Where a topic's words rank in its vector, by either lens, beside the same in null vectors."""
    known = al.storybook.topics()
    lines, beyond = [], {"logit": 0, "J": 0, "J, others": 0}
    for steered in TOPICS:
        vector = al.compute_steering_vector(model, steered.pair, layer=steered.layer).row(-1)
        vectors = [vector, *al.null_vectors(model, vector, n=NULLS)]
        words = word_tokens(model, known[steered.topic])
        others = {token: word for token, word in words.items() if word[:4] != steered.pair[0].strip()[:4]}
        line: dict[str, Any] = {"topic": steered.topic, "pair": f"`{steered.pair[0]}` − ``", "layer": steered.layer}
        for name, through, tokens in (("logit", None, words), ("J", lens, words), ("J, others", lens, others)):
            ranks = mean_ranks(model, vectors, through, list(tokens))
            better = int((ranks[1:] <= ranks[0]).sum())
            beyond[name] += better == 0
            line |= {f"rank, {name}": round(10 ** ranks[0]), f"nulls as high, {name}": better}
        lines.append(line | {"words": len(words)})
    told = ", ".join(f"{count} of {len(TOPICS)} by {name}" for name, count in beyond.items())
    return f"Beyond all of {NULLS} nulls: {told}.\n\n{table(pd.DataFrame(lines))}"


def word_tokens(model: Any, topic: Topic) -> dict[int, str]:
    """The topic's words that are one token with the space before them."""
    backend, found = backend_of(model), {}
    for word in topic.words:
        tokens = backend.encode(f" {word}", prepend_bos=False)
        if len(tokens) == 1:
            found[tokens[0]] = word
    return found


def mean_ranks(
    model: Any, vectors: Sequence[al.SteeringVector], through: al.JacobianLens | None, tokens: list[int]
) -> np.ndarray:
    """Mean over words of the common logarithm of their ranks, for the vector and each null."""
    lens = al.logit_lens(model, vectors, through=through, k=1, tokens=tokens)
    return np.array([np.mean([np.log10(token.rank) for token in row.followed]) for row in lens.rows])
