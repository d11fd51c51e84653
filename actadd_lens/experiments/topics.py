"""Several topics, each with a vector from one pair, and the completions that mention it (section 2d of the paper)."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float

from actadd_lens import storybook
from actadd_lens.checks import check_run
from actadd_lens.errors import SettingError
from actadd_lens.experiments.continuations import (
    Cells,
    Tried,
    beside_nulls,
    disfluency_ratios,
    early_to_middle,
    halves,
    prompt_estimate,
    try_cells,
    writing_options,
)
from actadd_lens.experiments.evidence import TENTH, Estimate, Experiment, Finding
from actadd_lens.experiments.topic_words import cell_estimate
from actadd_lens.measuring import scorers
from actadd_lens.models import Backend, LensModel, backend_of
from actadd_lens.prompts.pairs import PromptPair, as_pair
from actadd_lens.prompts.texts import as_texts, each_once, encode_prompts
from actadd_lens.steering.clean import unsteered
from actadd_lens.sweeps.results import CompletionSweep
from actadd_lens.sweeps.texts import plan_sweep_completions, sweep_completions

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

MOST_DISFLUENCY = 1.7
"""As for sentiment: the paper gives no disfluency for topics."""

_RISE = 20.0
"""The paper's largest rise, in points."""

_PAPER = "+5 to +20 points for finance, music, politics, science and weddings, none for art; a GPT model rates"


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class Topics(Experiment):
    """Share of completions that take up each topic, steered against unsteered.

    Attributes:
        names: The topics.
        sweep: One pair and one scorer for each topic, at the chosen layer and coefficient; each null at its own.
        ratios: Perplexity of each topic's completions over that of the unsteered ones.
    """

    name: ClassVar[str] = "topics"
    title: ClassVar[str] = "Completions on several topics"

    names: tuple[str, ...]
    sweep: CompletionSweep
    ratios: tuple[float, ...]

    def rise(self, topic: str) -> Estimate:
        """Rise of the share of completions with a word of a topic under its own vector, in percentage points.

        Raises:
            SettingError: There is no such topic.
        """
        if topic not in self.names:
            raise SettingError(f"There is no topic {topic!r} here: there are {', '.join(self.names)}.")
        index = self.names.index(topic)
        return _points(cell_estimate(self.sweep, index, (index, 0, 0, 0), range(len(self.sweep.grid.prompts))))

    @property
    def mean_rise(self) -> Estimate:
        """The same, averaged over topics; null i of all topics is one null."""
        count = range(len(self.names))
        own = [self.sweep.steered[index, index, 0, 0, 0] - self.sweep.unsteered[index, index, 0] for index in count]
        nulls = np.mean([self.sweep.null_by_prompt[index, :, index, 0, 0, 0] for index in count], axis=0)
        return _points(prompt_estimate(np.mean(own, axis=0), list(nulls)))

    def frame(self) -> "pd.DataFrame":
        """One row per topic; shares and rises in per cent of completions."""
        import pandas as pd

        return pd.DataFrame(self._row(index) for index in range(len(self.names)))

    def _row(self, index: int) -> dict[str, Any]:
        rise, nulls = self.rise(self.names[index]), self.rise(self.names[index]).nulls or (np.nan,)
        others = [other for other in range(len(self.names)) if other != index]
        elsewhere = [self.sweep.effects[other, index, 0, 0, 0] for other in others] or [np.nan]
        plain = 100 * float(self.sweep.unsteered[index, index, 0].mean())
        return {
            "topic": self.names[index], "pair": self.sweep.grid.labels[index], "unsteered": plain,
            "steered": plain + rise.value, "rise": rise.value, "low": rise.low, "high": rise.high, "n": rise.n,
            "null mean": float(np.mean(nulls)), "null most": max(nulls), "p": rise.p_value("greater"),
            "rise of other topics": 100 * float(np.mean(elsewhere)), "disfluency": self.ratios[index],
        }  # fmt: skip

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Rise of each topic with its interval, the nulls and the paper's range."""
        from actadd_lens.plots.experiments_writing import plot_topics

        return plot_topics(self, ax=ax)

    def findings(self) -> tuple[Finding, ...]:
        """Claim 3, over all topics."""
        rise = self.mean_rise
        apart = [name for name in self.names if self.rise(name).beyond("greater")]
        about = f"share of completions with a topic word, mean over {len(self.names)} topics, {self.settings['cell']}"
        told = f"{len(apart)} of {len(self.names)} topics are significant, uncorrected for their number: "
        told += f"{', '.join(apart) or 'none'}."
        return (Finding.of_move(3, f"{about}, points", rise, "greater", _PAPER, told, margin=TENTH * _RISE),)

    def summary(self) -> str:
        """What was done and what was found."""
        rises = ", ".join(f"{name} {self.rise(name).value:+.0f}" for name in self.names)
        return (
            f"Vectors of {len(self.names)} topics on {self.model}, {self.settings['cell']}, {self.settings['choice']}: "
            f"the share of completions with a word of the topic rises by {self.mean_rise} points ({rises}); perplexity "
            f"× {np.exp(np.mean(np.log(self.ratios))):.2f}."
        )


def topics(
    model: LensModel,
    *,
    topics: Mapping[str, storybook.Topic | Sequence[str]] | None = None,
    pairs: Mapping[str, Any] | None = None,
    prompts: Sequence[str] | None = None,
    layers: Sequence[int] | None = None,
    coefficients: Sequence[float] = (2.0, 4.0),
    most_disfluency: float = MOST_DISFLUENCY,
    choose_on: int = 6,
    n: int = 1,
    max_new_tokens: int = 40,
    nulls: int = 19,
    top_p: float | None = 0.9,
    temperature: float = 1.0,
    seed: int = 0,
    path: str | os.PathLike[str] | None = None,
    executor: Any = None,
    progress: bool = True,
) -> Topics:
    """Steer towards several topics, one after another, and count the completions that mention each.

    Layer and coefficient are one choice for all topics, made on one half of the prompts; results are from the other
    half. Each null makes its own choice by the same rule on the same prompts.

    Args:
        model: The model.
        topics: Topics, or their words, by name; by default the package's ten.
        pairs: A prompt pair for each topic; by default the likeliest word of the topic that is one token, against
            nothing.
        prompts: 8 or more; by default neutral prompts of the package.
        layers: Layers to choose among; by default those at the paper's relative depths.
        coefficients: Coefficients to choose among.
        most_disfluency: Largest ratio of perplexities that a cell may have to be chosen.
        choose_on: Maximum number of prompts that the choice is made on, with one sample each.
        n: Samples per prompt.
        max_new_tokens: Maximum number of tokens to add.
        nulls: Null vectors of each topic; null i of all topics chooses one cell.
        top_p: As in `complete`.
        temperature: As in `complete`.
        seed: Seed of samples, halves and nulls.
        path: As in `sweep_completions`.
        executor: As in `sweep`.
        progress: Whether to show bars.

    Raises:
        SettingError: A setting is out of range, or there are fewer than 8 prompts; else the errors of
            `sweep_completions`.
    """
    check_run(seed=seed)
    texts = storybook.neutral_prompts()[:40] if prompts is None else each_once(as_texts(prompts))
    choose, report = halves(texts, seed, choose_on)
    chosen = early_to_middle(model) if layers is None else tuple(layers)
    words = {name: _words_of(topic) for name, topic in (storybook.topics() if topics is None else topics).items()}
    found, takes_up = _pairs(model, words, pairs, choose), [scorers.contains_word(some) for some in words.values()]
    written = writing_options(n, max_new_tokens, seed, top_p, temperature)
    plan = plan_sweep_completions(
        model, found, layers=chosen, coefficients=coefficients, prompts=texts, nulls=nulls, scorers=takes_up, **written
    )
    cells = Cells.planned(plan)
    run: dict[str, Any] = {"path": path, "executor": executor, "progress": progress, "written": written}
    tried = over_topics(try_cells(model, cells, takes_up, wanted=1, prompts=choose, **run))
    (_, layer, coefficient), *of_nulls = tried.places(most_disfluency)
    chosen_at = cells.layers[layer], cells.coefficients[coefficient]
    sweep = sweep_completions(
        model, found, layers=chosen_at[0], coefficients=chosen_at[1], prompts=report,
        path=path, executor=executor, progress=progress, scorers=takes_up, **written,
    )  # fmt: skip
    drawn = [
        [cells.vector((topic, *place[1:]), condition) for topic in range(len(words))]
        for condition, place in enumerate(of_nulls, 1)
    ]
    sweep = beside_nulls(model, sweep, drawn, scorers=takes_up, **run)
    settings = {
        "cell": f"coefficient {chosen_at[1]:g} at layer {chosen_at[0]}",
        "choice": tried.told(most_disfluency, "the share of completions with a topic word"),
        "layer": chosen_at[0], "coefficient": chosen_at[1], "layers": list(cells.layers),
        "coefficients": list(cells.coefficients), "most_disfluency": most_disfluency, "choose_on": choose_on,
        "pairs": {name: pair.label for name, pair in zip(words, found, strict=True)},
        "words": {name: list(some) for name, some in words.items()}, **written, "nulls": nulls,
        "null_kind": "unrelated_pairs", "null cells": [cells.told(place) for place in of_nulls],
        "prompts": list(texts),
    }  # fmt: skip
    ratios = tuple(float(value) for value in disfluency_ratios(model, sweep)[:, 0, 0, 0])
    return Topics(model=backend_of(model).name, settings=settings, names=tuple(words), sweep=sweep, ratios=ratios)


def over_topics(tried: Tried) -> Tried:
    """One choice for all topics: the mean of what a cell gains, the largest of what it costs.

    >>> both = over_topics(Tried(np.array([[[[0.2]], [[0.4]]]]), np.array([[[[1.0]], [[1.5]]]])))
    >>> both.gains.item(), both.ratios.item()
    (0.30000000000000004, 1.5)
    """
    return Tried(tried.gains.mean(axis=1, keepdims=True), tried.ratios.max(axis=1, keepdims=True))


def likeliest_pair(
    backend: Backend, name: str, words: Sequence[str], probabilities: Float[np.ndarray, " d_vocab"]
) -> PromptPair:
    """The likeliest of a topic's name and words that is one token, against nothing; its name, where none is.

    Args:
        backend: The model.
        name: The topic's name.
        words: Its words.
        probabilities: Probability of every token.
    """
    # SentencePiece puts a space before every text by itself
    spaced, bare = (len(backend.encode(text, prepend_bos=False)) for text in (" a", "a"))
    texts = [("" if spaced > bare else " ") + word for word in (name, *words)]
    tokens = {text: backend.encode(text, prepend_bos=False) for text in texts}
    single = [text for text in texts if len(tokens[text]) == 1]
    return PromptPair(max(single, key=lambda text: probabilities[tokens[text][0]]) if single else texts[0], "")


def next_probabilities(backend: Backend, prompts: Sequence[str]) -> Float[np.ndarray, " d_vocab"]:
    """Mean probability of every token after the prompts, unsteered, in one pass.

    Args:
        backend: The model.
        prompts: The prompts.
    """
    rows = encode_prompts(backend, prompts)
    longest, filler = max(map(len, rows)), backend.pad_token_id or 0
    tokens = torch.tensor([[*row, *[filler] * (longest - len(row))] for row in rows], device=backend.device)
    ends = torch.tensor([len(row) - 1 for row in rows], device=backend.device)
    with torch.no_grad(), unsteered(backend):
        return np.asarray(backend.logits_at(tokens, ends).float().softmax(dim=-1).mean(dim=0).cpu().numpy())


def _pairs(
    model: LensModel, words: Mapping[str, Sequence[str]], pairs: Mapping[str, Any] | None, prompts: Sequence[str]
) -> list[PromptPair]:
    """The pair of each topic, in their order."""
    if not words:
        raise SettingError("There is no topic: pass one or more, each with its words.")
    given = dict(pairs or {})
    strange = [name for name in given if name not in words]
    if strange:
        raise SettingError(f"There is a pair for {strange[0]!r}, which is none of the topics {', '.join(words)}.")
    backend = backend_of(model)
    probabilities = next_probabilities(backend, prompts) if len(given) < len(words) else np.zeros(0)
    return [
        as_pair(given[name]) if name in given else likeliest_pair(backend, name, some, probabilities)
        for name, some in words.items()
    ]


def _words_of(topic: storybook.Topic | Sequence[str]) -> tuple[str, ...]:
    return topic.words if isinstance(topic, storybook.Topic) else tuple(topic)


def _points(share: Estimate) -> Estimate:
    """A share in percentage points."""
    nulls = tuple(100 * null for null in share.nulls)
    return replace(share, value=100 * share.value, low=100 * share.low, high=100 * share.high, nulls=nulls)
