"""Measures what second-look.md shows: vectors through the Jacobian, by attention or by value, part by part."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import two_vectors
from page_parts import picture, table

import actadd_lens as al
from actadd_lens.experiments import attention_frozen
from actadd_lens.measuring.nulls import NullKind
from actadd_lens.models import backend_of
from actadd_lens.statistics import effect_columns, one_share_interval
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


def topics(model: Any, lens: al.JacobianLens, layer: int | None = None) -> str:
    """Where a topic's words rank in its vector, by either lens, beside the same in null vectors."""
    known = al.storybook.topics()
    lines, beyond = [], {"logit": 0, "J": 0, "J, others": 0}
    for steered in TOPICS if layer is None else [replace(one, layer=layer) for one in TOPICS]:
        vector = al.compute_steering_vector(model, steered.pair, layer=steered.layer).row(-1)
        vectors = [vector, *al.null_vectors(model, vector, n=NULLS)]
        words = word_tokens(model, known[steered.topic])
        others = {token: word for token, word in words.items() if word[:4] != steered.pair[0].strip()[:4]}
        line: dict[str, Any] = {"topic": steered.topic, "pair": f"`{steered.pair[0]}`", "layer": steered.layer}
        for name, through, tokens in (("logit", None, words), ("J", lens, words), ("J, others", lens, others)):
            ranks = mean_ranks(model, vectors, through, list(tokens))
            better = int((ranks[1:] <= ranks[0]).sum())
            beyond[name] += better == 0
            line |= {f"rank, {name}": round(10 ** ranks[0]), f"nulls as high, {name}": better}
        lines.append(line | {"words": len(words)})
    names = {"logit": "the logit lens", "J": "the J-lens", "J, others": "the J-lens without the pair's own words"}
    told = ", ".join(f"{count} of {len(TOPICS)} by {names[name]}" for name, count in beyond.items())
    return f"Topics whose words rank higher than in all of {NULLS} nulls: {told}.\n\n{table(pd.DataFrame(lines))}"


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


# -- the parts of the page -----------------------------------------------------------------------------------------

PROMPTS, WITH_NULLS = 16, 39
SUBJECTS = (
    ("topic", (" weddings", ""), 3, 3.0, al.metrics.next_token_logprob(" wedding")),
    ("sentiment", (" happy", " sad"), 3, 4.0, al.metrics.logit_difference(" happy", " sad")),
)
"""A topic and a mood: pair, layer, coefficient, and what it is meant to move; set before anything was measured."""


EVERYWHERE = 0.3
"""Coefficient of a vector's last row where it is added to every token."""


CALLS = 200
"""Null vectors that are read as if they were one's own."""


def parts(model: Any, kept: Path | None = None) -> dict[str, str]:
    """The measured parts of the page."""
    lens = lens_of(model, kept)
    return {
        "jacobian": topics(model, lens),
        "jacobian-lens": lenses(model, lens, ""),
        "jacobian-rate": rate(model),
        "freezing": freezing(model),
        "heads": heads(model),
        "project": projected(model),
        "dimensions": dimensions(model, lens),
        "attribution": attribution(model),
    }


def beside(model: Any) -> dict[str, str]:
    """The topics in another model."""
    lens = al.fit_jacobian(model, fitting_texts()[::2], sorted({steered.layer for steered in TOPICS}))
    return {"jacobian-tinytalk": topics(model, lens)}


SMOLLM2_LAYERS = (10, 18)
"""A third of the way up, and where the page on SmolLM2 steers."""


def on_smollm2(model: Any) -> dict[str, str]:
    """The topics and that page's row in a model of 135 M parameters."""
    lens = al.fit_jacobian(model, fitting_texts()[::2], SMOLLM2_LAYERS)
    shown = [f"Layer {layer}. {topics(model, lens, layer)}" for layer in SMOLLM2_LAYERS]
    pair = al.PromptPair("I love it", "I hate it", prepend_bos=False)
    row = al.compute_steering_vector(model, pair, layer=SMOLLM2_LAYERS[-1]).row(1)
    read = al.logit_lens(model, row, through=lens, k=5, nulls=NULLS)
    told = f"The row of ` love` − ` hate` of {row.label}, read without BOS at layer {SMOLLM2_LAYERS[-1]}"
    shown.append(f"{told}; {_significant(read)}.\n\n{picture(read, 'jacobian-smollm2')}")
    return {"jacobian-smollm2": "\n\n".join(shown)}


def _significant(found: Any) -> str:
    tokens = ", ".join(f"`{token.text}`" for token in found.significant)
    return f"significant tokens: {tokens or 'none'}"


def lenses(model: Any, lens: al.JacobianLens, suffix: str) -> str:
    """Both lenses of the vectors that two-vectors.md takes apart."""
    told = [(subject.name, subject.pair, subject.layer) for subject in two_vectors.SUBJECTS]
    told += [(f"{name}-words", pair, layer) for name, pair, layer, *_ in SUBJECTS]
    shown = []
    for name, pair, layer in told:
        vector = al.compute_steering_vector(model, pair, layer=layer)
        found = al.logit_lens(model, vector, through=lens, k=5, nulls=NULLS)
        drawn = picture(found, f"jacobian-{name}{suffix}")
        shown.append(f"{vector.label} at layer {layer}; {_significant(found)}.\n\n{drawn}")
    return "\n\n".join(shown)


def rate(model: Any) -> str:
    """How often a vector that is a null itself has a token that stands, by a J-lens of a few texts."""
    _, pair, layer, _, _ = SUBJECTS[0]
    lens = al.fit_jacobian(model, fitting_texts()[:4], [layer])
    vector, told = al.compute_steering_vector(model, pair, layer=layer).row(-1), []
    kinds: tuple[NullKind, ...] = ("unrelated_pairs", "gaussian")
    for kind in kinds:
        stand = [
            bool(al.logit_lens(model, null, through=lens, k=5, nulls=19, null_kind=kind, seed=number).significant)
            for number, null in enumerate(al.null_vectors(model, vector, kind=kind, n=CALLS, seed=1), 100_000)
        ]
        low, high = one_share_interval(np.array(stand, dtype=float)[:, None])
        told.append(f"{np.mean(stand):.1%} of {CALLS} calls, 95 % interval {low:.1%} to {high:.1%} (`{kind}`)")
    return f"Compared with 19 nulls of its kind, a null vector has a significant token in {' and in '.join(told)}."


def freezing(model: Any) -> str:
    """Both vectors by attention and by value, at the front and on every token."""
    prompts, shown = al.storybook.neutral_prompts()[:PROMPTS], []
    for name, pair, layer, coefficient, metric in SUBJECTS:
        vector = al.compute_steering_vector(model, pair, layer=layer)
        for place, added in (("front", coefficient * vector), ("all", EVERYWHERE * vector.row(-1))):
            found = al.attention_or_value(
                model, prompts, added, metric, position=place, nulls=WITH_NULLS, progress=False
            )
            told = f"{added.coefficient:g} × ({vector.label}) at layer {layer}, position `{place}`, {metric.name}"
            told += f", {len(prompts)} prompts:\n\n{table(found.frame())}"
            shown.append(told + (f"\n\n{picture(found, f'freezing-{name}')}" if place == "front" else ""))
    return "\n\n".join(shown)


PAIRS_ON_MODELS = ((" wedding", ""), (" happy", " sad"))
"""Pairs of the experiment on every model, at its defaults: a third of the way up, 3 in front and 0.3 everywhere."""


def attention_rows(model: Any) -> pd.DataFrame:
    """The `attention` experiment on one model: a row per pair and place; no share of an effect that is not there."""
    lines = []
    for pair in PAIRS_ON_MODELS:
        found = attention_frozen(
            model, pair, prompts=al.storybook.neutral_prompts()[:PROMPTS], nulls=WITH_NULLS, progress=False
        )
        for place, parts in zip(found.places, found.found, strict=True):
            columns, left, verdict = effect_columns(parts.effect("whole")), found.left(place), found.verdict(place)
            columns.pop("null mean", None)
            there = verdict != "not testable here"
            where = {"layer": found.settings["layer"], "position": place}
            told: dict[str, Any] = {"left": f"{left}" if there else "", "most by values": verdict}
            pair_told = f"`{found.settings['pair']}`"
            lines.append({"model": backend_of(model).name, "pair": pair_told, **where, **columns, **told})
    return pd.DataFrame(lines)


def attention(rows: Sequence[pd.DataFrame]) -> str:
    """The experiment on several models."""
    told = f"{PROMPTS} prompts, {WITH_NULLS} nulls; *left* is the share of the effect with attention frozen:"
    return f"{told}\n\n{table(pd.concat(rows, ignore_index=True))}"


def heads(model: Any) -> str:
    """The heads that would look most, and what stands."""
    _, pair, layer, coefficient, _ = SUBJECTS[0]
    vector = coefficient * al.compute_steering_vector(model, pair, layer=layer)
    found = al.head_reading(model, vector, al.storybook.neutral_prompts()[:4], nulls=WITH_NULLS)
    frame = found.frame()
    largest = frame.reindex(frame["look"].abs().sort_values(ascending=False).index).head(6)
    largest = largest.assign(promoted=largest["promoted"].map(lambda text: f"`{text}`"))
    looks, tokens = ((frame[f"adjusted p, {name}"] <= 0.05).sum() for name in ("look", "token"))
    told = (
        f"{vector.label}: {looks} of {len(frame)} heads are significant in how they attend, {tokens} in what they "
        "would write."
    )
    return f"{told}\n\n{table(largest)}\n\n{picture(found, 'heads')}"


def projected(model: Any) -> str:
    """One text along a topic's vector, coloured as a notebook shows it."""
    wedding = al.compute_steering_vector(model, (" weddings", ""), layer=3)
    text = "The bride and the groom had a big party"
    return al.project(model, text, wedding, layer=5, steered_by=3 * wedding)._repr_html_()


def dimensions(model: Any, lens: al.JacobianLens) -> str:
    """The topic's vector with some dimensions kept, and beside another topic's."""
    _, pair, layer, coefficient, metric = SUBJECTS[0]
    prompts = al.storybook.neutral_prompts()[:PROMPTS]
    vector = coefficient * al.compute_steering_vector(model, pair, layer=layer)
    found = al.ablate_dimensions(
        model, prompts, vector, metric, keep=[4, 12, 24, 48, 96], orders=["largest", "random", "jacobian"],
        through=lens, nulls=WITH_NULLS, progress=False,
    )  # fmt: skip
    cook = 3 * al.compute_steering_vector(model, (" cook", ""), layer=layer)
    both = al.interaction(model, [vector, cook], metric, prompts, nulls=WITH_NULLS, progress=False)
    return f"{found!r}:\n\n{table(found.frame())}\n\n{picture(found, 'dimensions-kept')}\n\n{table(both.frame())}"


def attribution(model: Any) -> str:
    """How far gradients are from patching, and the few components that suffice."""
    _, pair, layer, coefficient, metric = SUBJECTS[0]
    prompts, shown = al.storybook.neutral_prompts()[:PROMPTS], []
    vector = al.compute_steering_vector(model, pair, layer=layer)
    for c in (coefficient / 10, coefficient):
        found = al.attribute_injection(model, prompts[:4], c * vector, metric, progress=False)
        told = (
            f"{c:g} × ({vector.label}), effect {found.whole.mean:+.3g} over 4 prompts, gap of the rows {found.gap:+.2g}"
        )
        shown.append(f"{told}:\n\n{table(found.errors())}")
    enough = al.minimal_set(model, prompts, coefficient * vector, metric, progress=False)
    told = f"{enough.size(0.8)} of {len(enough.components)} heads and MLPs keep 80 % of the effect; these are the first"
    told += " five:"
    return "\n\n".join([*shown, f"{told}\n\n{table(enough.frame().head(5))}", picture(enough, "minimal-set")])
