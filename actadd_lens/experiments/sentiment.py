"""Sentiment of continuations, both ways: texts of one sentiment continued in the other (section 2f of the paper)."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from actadd_lens import storybook
from actadd_lens.checks import check_run
from actadd_lens.errors import SettingError
from actadd_lens.experiments.continuations import (
    Cells,
    Conditions,
    Measured,
    Tried,
    as_pairs,
    check_relevance,
    choice_settings,
    disfluency,
    early_to_middle,
    fluency_finding,
    halves,
    own_relevance,
    relevance_finding,
    relevance_name,
    relevance_of,
    scored,
    told_empty,
    try_cells,
    unless_empty,
    write_conditions,
    writing_options,
)
from actadd_lens.experiments.evidence import TENTH, Experiment, Finding, Side
from actadd_lens.experiments.writing import Relevance
from actadd_lens.measuring import scorers
from actadd_lens.models import LensModel, backend_of
from actadd_lens.prompts.pairs import PromptPair
from actadd_lens.prompts.texts import as_texts, each_once, encode_prompts
from actadd_lens.sweeps.texts import plan_sweep_completions
from actadd_lens.vectors.vector import SteeringVector

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

PAIRS = (("Love", "Hate"), ("I love it", "I hate it"))

MOST_DISFLUENCY = 1.7
"""The paper's own: perplexity 17.2 -> 29.2 where a positive review is continued as a negative one."""

_DIRECTIONS = (("positive", "negative"), ("negative", "positive"), ("neutral", "negative"), ("neutral", "positive"))

_PAPER = {
    ("positive", "negative"): ("success .207 → .395", "disfluency 17.2 → 29.2", 0.395 - 0.207),
    ("negative", "positive"): ("success .200 → .349", "disfluency 18.5 → 29.3", 0.349 - 0.200),
}


@dataclass(frozen=True, eq=False)
class Shift:
    """One direction: what was written after texts of one sentiment with a vector towards another.

    Attributes:
        source: Sentiment of the prompts.
        target: Sentiment that is wanted.
        conditions: What was written.
        success: Whether a continuation scores beyond zero on the wanted side.
        compound: VADER's compound score.
        disfluency: Perplexity after the prompt.
        relevance: How related the continuation is to its prompt.
        own_relevance: How much more it is related to its own prompt than to another.
    """

    source: str
    target: str
    conditions: Conditions
    success: Measured
    compound: Measured
    disfluency: Measured
    relevance: Measured
    own_relevance: Measured

    @property
    def label(self) -> str:
        """The direction in words."""
        return f"{self.source} to {self.target}"

    @property
    def measured(self) -> tuple[Measured, ...]:
        """Everything that was measured."""
        return self.success, self.compound, self.disfluency, self.relevance, self.own_relevance


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class Sentiment(Experiment):
    """The sentiment of continuations, steered both ways.

    Attributes:
        shifts: The directions.
    """

    name: ClassVar[str] = "sentiment"
    title: ClassVar[str] = "Sentiment of continuations, in both directions"

    shifts: tuple[Shift, ...]

    def frame(self) -> "pd.DataFrame":
        """One row per direction and measure; the change in disfluency is a ratio."""
        import pandas as pd

        return pd.DataFrame(
            {"direction": shift.label, **measured.row()} for shift in self.shifts for measured in shift.measured
        )

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Share of continuations of the wanted sentiment: unsteered, prompted and steered, with the nulls."""
        from actadd_lens.plots.experiments_writing import plot_sentiment

        return plot_sentiment(self, ax=ax)

    def findings(self) -> tuple[Finding, ...]:
        """Claims 5 and 7, for each direction."""
        return tuple(finding for shift in self.shifts for finding in self._findings(shift))

    def _findings(self, shift: Shift) -> list[Finding]:
        side: Side = "greater" if shift.target == "positive" else "less"
        success, told, rise = _PAPER.get((shift.source, shift.target), ("", "", None))
        lexicon = "VADER, a lexicon, decides; the paper uses a classifier."
        change, compound = shift.success.change(), shift.compound.change()
        where = f"{shift.label}; {self.settings['cell']}"
        share = f"share of {shift.target} continuations, {shift.success.told()}, {where}"
        return [
            Finding.of_move(5, share, change, "greater", success, lexicon, margin=rise and TENTH * rise),
            Finding.of_move(5, f"mean compound score, {shift.compound.told()}, {where}", compound, side, "", lexicon),
            fluency_finding(shift.disfluency, MOST_DISFLUENCY, where, told,
                            chosen_below=self.settings.get("most_disfluency", MOST_DISFLUENCY)),
            relevance_finding(shift.own_relevance, where, self.settings["relevance"]),
        ]  # fmt: skip

    def summary(self) -> str:
        """What was done and what was found."""
        told = [
            f"{shift.label}: {100 * shift.success.mean('unsteered'):.0f} % of continuations unsteered, "
            f"{100 * shift.success.mean('steered'):.0f} % steered, {100 * shift.success.mean('prompted'):.0f} % after "
            f"the pair's text as a prompt (change {shift.success.change()}); perplexity × "
            f"{shift.disfluency.change().value:.2f}"
            for shift in self.shifts
        ]
        return (
            f"Prompts continued in another sentiment on {self.model}, with {self.settings['cell']}, "
            f"{self.settings['choice']}. " + "; ".join(told) + "."
        )


def sentiment(
    model: LensModel,
    pairs: Any = PAIRS,
    *,
    prompts: Mapping[str, Sequence[str]] | None = None,
    layers: Sequence[int] | None = None,
    coefficients: Sequence[float] = (2.0, 4.0),
    most_disfluency: float = MOST_DISFLUENCY,
    choose_on: int = 8,
    n: int = 2,
    max_new_tokens: int = 30,
    nulls: int = 19,
    top_p: float | None = 0.9,
    temperature: float = 1.0,
    seed: int = 0,
    judge: LensModel | None = None,
    relevance: Relevance | None = None,
    path: str | os.PathLike[str] | None = None,
    executor: Any = None,
    progress: bool = True,
) -> Sentiment:
    """Continue texts of one sentiment in the other, both ways, and compare steering with prompting for it.

    Pair, layer and coefficient are one choice for all directions, made on one half of each sentiment's prompts; results
    are from the other half. Each null makes its own choice by the same rule on the same prompts. Towards the negative
    the vector is subtracted. In the prompted condition, the text of the pair on the wanted side is put before the
    prompt, and nothing is added. Empty continuations have no score.

    Args:
        model: The model.
        pairs: One prompt pair or several, positive side first.
        prompts: Beginnings by their sentiment: `positive`, `negative`, and `neutral` ones to steer both ways; 8 or
            more of each. By default beginnings of the package's sentences.
        layers: Layers to choose among; by default those at the paper's relative depths.
        coefficients: Coefficients to choose among, as sizes.
        most_disfluency: Largest ratio of perplexities that a cell may have to be chosen.
        choose_on: Maximum number of prompts of each sentiment that the choice is made on, with one sample each.
        n: Samples per prompt and condition.
        max_new_tokens: Maximum number of tokens to add.
        nulls: Null vectors.
        top_p: As in `complete`.
        temperature: As in `complete`.
        seed: Seed of samples, halves and nulls.
        judge: The model that judges perplexity; by default the unsteered model itself.
        relevance: Prompts and continuations to numbers, such as `embedding_relevance()`; by default the dependence on
            the prompt.
        path: As in `sweep_completions`, for the choice.
        executor: As in `sweep`.
        progress: Whether to show bars.

    Raises:
        SettingError: A setting is out of range, or there are fewer than 8 prompts of a sentiment; else the errors of
            `sweep_completions`.
    """
    check_run(seed=seed)
    given = _default_prompts() if prompts is None else {
        label: each_once(as_texts(texts)) for label, texts in prompts.items()
    }  # fmt: skip
    chosen = early_to_middle(model) if layers is None else tuple(layers)
    written = writing_options(n, max_new_tokens, seed, top_p, temperature)
    setup = _Setup(
        model, as_pairs(pairs), given, chosen, tuple(coefficients), choose_on, nulls, written, judge, relevance
    )
    cells = setup.cells()
    tried = setup.tried(cells, path=path, executor=executor, progress=progress)
    conditions = [cells.vector(place, condition) for condition, place in enumerate(tried.places(most_disfluency))]
    leads = setup.pairs[tried.best(most_disfluency)[0]]
    shifts = tuple(
        setup.shift(*direction, conditions, leads, executor=executor, progress=progress)
        for direction in setup.directions
    )
    return Sentiment(
        model=backend_of(model).name,
        settings={**choice_settings(cells, tried, most_disfluency, "the compound score"), **setup.settings()},
        notes=("Prompted texts use random numbers of their own, so their difference from the others is not paired.",
               told_empty([shift.conditions for shift in shifts])),
        shifts=shifts,
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class _Setup:
    """What all directions share."""

    model: LensModel
    pairs: list[PromptPair]
    prompts: dict[str, tuple[str, ...]]
    layers: tuple[int, ...]
    coefficients: tuple[float, ...]
    choose_on: int
    nulls: int
    written: dict[str, Any]
    judge: LensModel | None
    relevance: Relevance | None

    @property
    def directions(self) -> list[tuple[str, str]]:
        return [(source, target) for source, target in _DIRECTIONS if source in self.prompts]

    def halves(self, source: str) -> tuple[list[str], list[str]]:
        """Prompts of a sentiment to choose on, and to report on."""
        return halves(self.prompts[source], self.written["seed"], self.choose_on)

    def cells(self) -> Cells:
        """The cells to choose among, after checking all settings."""
        known = {source for source, _ in _DIRECTIONS}
        if not self.prompts or not set(self.prompts) <= known:
            raise SettingError(f"The prompts are of {sorted(self.prompts)}: expected some of {sorted(known)}.")
        backend = backend_of(self.model)
        for source, texts in self.prompts.items():
            self.halves(source)
            plan = plan_sweep_completions(
                self.model, self.pairs, layers=self.layers, coefficients=self.coefficients, prompts=texts,
                scorers=scorers.sentiment(), nulls=self.nulls, **self.written,
            )  # fmt: skip
            for lead in (text for pair in self.pairs for text in (pair.positive, pair.negative) if text):
                encode_prompts(backend, [f"{lead} {text}" for text in texts], room=self.written["max_new_tokens"])
        check_relevance(self.model, self.relevance)
        return Cells.planned(plan)

    def tried(self, cells: Cells, *, path: str | os.PathLike[str] | None, executor: Any, progress: bool) -> Tried:
        """All cells in every direction: the mean of what they gain, the largest of what they cost."""
        found = []
        for source, target in self.directions:
            sign = 1 if target == "positive" else -1
            towards = replace(cells, coefficients=tuple(sign * size for size in cells.coefficients))
            found.append(
                try_cells(
                    self.model, towards, [unless_empty(scorers.sentiment())], wanted=sign, path=path,
                    prompts=self.halves(source)[0], executor=executor, progress=progress, written=self.written,
                )
            )  # fmt: skip
        return Tried(np.mean([one.gains for one in found], axis=0), np.max([one.ratios for one in found], axis=0))

    def shift(
        self,
        source: str,
        target: str,
        conditions: Sequence[SteeringVector],
        leads: PromptPair,
        *,
        executor: Any,
        progress: bool,
    ) -> Shift:
        """One direction, on the half that nothing was chosen on; the first condition is the steering vector's."""
        sign = 1 if target == "positive" else -1
        vector, *nulls = [sign * condition for condition in conditions]
        lead = (leads.positive if sign > 0 else leads.negative) or ""
        found = write_conditions(
            self.model,
            self.halves(source)[1],
            vector,
            lead=lead,
            nulls=nulls,
            executor=executor,
            progress=progress,
            **self.written,
        )
        compound = scored("compound", scorers.sentiment(), found)
        return Shift(
            source, target, found, _success(compound, sign), compound, disfluency(self.judge or self.model, found),
            relevance_of(self.model, found, self.relevance), own_relevance(self.model, found, self.relevance),
        )  # fmt: skip

    def settings(self) -> dict[str, Any]:
        """What the numbers depend on, beside the choice."""
        return {
            "choose_on": self.choose_on, **self.written, "nulls": self.nulls, "null_kind": "unrelated_pairs",
            "prompts": {label: list(texts) for label, texts in self.prompts.items()},
            "judge": backend_of(self.judge or self.model).name, "relevance": relevance_name(self.relevance),
        }  # fmt: skip


def _success(compound: Measured, sign: int) -> Measured:
    """Whether each score is beyond zero on the wanted side; without a score there is no answer."""
    conditions: dict[str, Any] = {
        name: np.where(np.isnan(values), np.nan, sign * values > 0)
        for name in ("unsteered", "steered", "nulls", "prompted")
        if (values := getattr(compound, name)) is not None
    }
    return replace(compound, name="success", **conditions)


def beginning(sentence: str) -> str:
    """The first half of a sentence, four words at least, without the comma that it may end in.

    >>> beginning("What a terrible day, everything went wrong.")
    'What a terrible day'
    """
    words = sentence.split()
    return " ".join(words[: max(4, (len(words) + 1) // 2)]).rstrip(".,;:!?")


def _default_prompts() -> dict[str, tuple[str, ...]]:
    sentences = storybook.sentiment_sentences()
    found = {label: tuple(map(beginning, sentences[label]))[:40] for label in ("positive", "negative")}
    return {**found, "neutral": storybook.neutral_prompts()[:24]}
