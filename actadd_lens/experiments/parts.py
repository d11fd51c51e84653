"""Part of the residual dimensions, and other positions: how much of the effect is left (section 2j of the paper)."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from actadd_lens import storybook
from actadd_lens.checks import check_run, require
from actadd_lens.errors import SettingError
from actadd_lens.experiments.continuations import (
    Cells,
    Place,
    beside_nulls,
    choice_settings,
    disfluency_ratios,
    early_to_middle,
    halves,
    prompt_estimate,
    try_cells,
    writing_options,
)
from actadd_lens.experiments.evidence import TENTH, Estimate, Experiment, Finding
from actadd_lens.experiments.inputs import topic_of
from actadd_lens.experiments.topic_words import cell_estimate
from actadd_lens.experiments.topics import MOST_DISFLUENCY
from actadd_lens.measuring import scorers
from actadd_lens.measuring.nulls import null_table
from actadd_lens.methods.actadd import compute_steering_vectors
from actadd_lens.models import LensModel, backend_of
from actadd_lens.prompts.pairs import PromptPair, as_pair
from actadd_lens.prompts.positions import Position
from actadd_lens.prompts.texts import as_texts, each_once
from actadd_lens.sweeps.results import CompletionSweep
from actadd_lens.sweeps.texts import plan_sweep_completions, sweep_completions
from actadd_lens.vectors.vector import SteeringVector

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

FRACTIONS = (0.0, 0.1, 0.3, 0.5, 0.7, 1.0)
_WORDS: dict[Any, float] = {"front": 0.70, "mid": 0.81, "back": 0.87}
"""The paper's wedding words per completion by position."""

POSITIONS: tuple[Position, ...] = ("front", "mid", "back")

COUNT, SHARE = 0, 1
"""Places of the two scorers in a sweep."""


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class Parts(Experiment):
    """Topic words per completion with each part of what is added.

    Attributes:
        parts: The fractions of dimensions, or the positions.
        sweep: What was written with each, on prompts that nothing was chosen on; each null in the cell that it chose.
        ratios: Perplexity of what was written with each over that of the unsteered text.
    """

    parts: tuple[Any, ...]
    sweep: CompletionSweep
    ratios: tuple[float, ...]

    axis: ClassVar[str]
    """What the parts are parts of."""

    def effect(self, part: Any, metric: int = COUNT) -> Estimate:
        """Topic words per completion with a part, steered minus unsteered; or the share of completions with any."""
        return cell_estimate(self.sweep, metric, self._place(part), range(len(self.sweep.grid.prompts)))

    def _place(self, part: Any) -> tuple[int, int, int, int]:
        index = self.parts.index(part)
        return (index, 0, 0, 0) if len(self.sweep.grid.pairs) > 1 else (0, 0, 0, index)

    def frame(self) -> "pd.DataFrame":
        """One row per part: words per completion, share of completions, and what it costs in fluency."""
        import pandas as pd

        return pd.DataFrame(self._row(part) for part in self.parts)

    def _row(self, part: Any) -> dict[str, Any]:
        words, share, place = self.effect(part), self.effect(part, SHARE), self._place(part)
        nulls, plain = words.nulls or (np.nan,), float(self.sweep.unsteered[COUNT, 0, 0].mean())
        return {
            self.axis: part, "unsteered": plain, "steered": plain + words.value, "effect": words.value,
            "low": words.low, "high": words.high, "n": words.n, "null mean": float(np.mean(nulls)),
            "null most": max(nulls), "p": words.p_value("greater"),
            "share of completions": float(self.sweep.steered[(SHARE, *place)].mean()), "effect on share": share.value,
            "disfluency": self.ratios[self.parts.index(part)],
        }  # fmt: skip

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Topic words per completion with each part, with intervals and nulls."""
        from actadd_lens.plots.experiments_writing import plot_parts

        return plot_parts(self, ax=ax)

    def summary(self) -> str:
        """What was done and what was found."""
        effects = ", ".join(f"{part}: {self.effect(part).value:+.2f}" for part in self.parts)
        return (
            f"Topic words per completion on {self.model} by {self.axis}, steered − unsteered, with "
            f"{self.settings['cell']}, {self.settings['choice']}: {effects} (unsteered "
            f"{float(self.sweep.unsteered[COUNT, 0, 0].mean()):.2f})."
        )


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class Dimensions(Parts):
    """Topic words per completion with the first fraction of the residual dimensions only."""

    name: ClassVar[str] = "dimensions"
    title: ClassVar[str] = "Part of the residual dimensions"
    axis: ClassVar[str] = "fraction of dimensions"

    def slope(self) -> Estimate:
        """Words per completion from no dimension to all, by a line through all fractions."""
        weights = np.asarray(self.parts) - np.mean(self.parts)
        weights = weights / (weights**2).sum()
        effects = self.sweep.steered[COUNT, :, 0, 0, 0]
        nulls = np.einsum("f,fnp->np", weights, self.sweep.null_by_prompt[COUNT, :, :, 0, 0, 0].swapaxes(0, 1))
        return prompt_estimate(np.einsum("f,fps->ps", weights, effects), list(nulls))

    def findings(self) -> tuple[Finding, ...]:
        """Claim 12: part of the dimensions has part of the effect, and more of them have more."""
        inner = [part for part in self.parts if 0 < part < 1]
        slope, found = self.slope(), []
        for part in inner:
            effect, whole = self.effect(part), self.effect(max(self.parts))
            share = (
                f"{effect.value / whole.value:.0%} of the whole" if whole.beyond("greater") else "the whole has none"
            )
            about = f"topic words per completion with the first {part:.0%} of dimensions, {self.settings['cell']}"
            found.append(
                Finding.of_move(12, about, effect, "greater", "most of the effect by .3 to .7", f"{share}.",
                                margin=TENTH * _WORDS["front"])
            )  # fmt: skip
        about = f"growth of topic words from no dimension to all, {self.settings['cell']}"
        paper = "the effect grows with the fraction"
        return (*found, Finding.of_move(12, about, slope, "greater", paper, margin=TENTH * _WORDS["front"]))


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class Positions(Parts):
    """Topic words per completion by position."""

    name: ClassVar[str] = "positions"
    title: ClassVar[str] = "Other positions"
    axis: ClassVar[str] = "position"

    def findings(self) -> tuple[Finding, ...]:
        """Claim 12: other positions have part of the effect."""
        paper = {"front": ".70 words", "mid": ".81 words", "back": ".87 words, less coherent"}
        found = []
        for part, ratio in zip(self.parts, self.ratios, strict=True):
            effect = self.effect(part)
            about = f"topic words per completion at position {part}, {self.settings['cell']}"
            told = f"Perplexity of the completions is {ratio:.2f} times that of the unsteered ones."
            known = _WORDS.get(part)
            found.append(
                Finding.of_move(12, about, effect, "greater", paper.get(part, ""), told,
                                margin=known and TENTH * known)
            )  # fmt: skip
        return tuple(found)


def dimensions(
    model: LensModel,
    pair: Any = (" wedding", ""),
    *,
    fractions: Sequence[float] = FRACTIONS,
    words: Sequence[str] | None = None,
    prompts: Sequence[str] | None = None,
    layers: Sequence[int] | None = None,
    coefficients: Sequence[float] = (2.0, 4.0),
    most_disfluency: float = MOST_DISFLUENCY,
    choose_on: int = 20,
    n: int = 2,
    max_new_tokens: int = 40,
    nulls: int = 19,
    top_p: float | None = 0.9,
    temperature: float = 1.0,
    seed: int = 0,
    path: str | os.PathLike[str] | None = None,
    executor: Any = None,
    progress: bool = True,
) -> Dimensions:
    """Add only the first fraction of the residual dimensions, and count topic words.

    Layer and coefficient are chosen with the whole vector on one half of the prompts; results are from the other half.
    Each null chooses its own by the same rule on the same prompts. The null vectors of a part have its row norms, in
    all dimensions.

    Args:
        model: The model.
        pair: Prompt pair.
        fractions: Fractions of the residual dimensions, counted from the first; two or more.
        words: The topic's words; by default those of the package's topic that the pair names.
        prompts: 8 or more; by default neutral prompts of the package.
        layers: Layers to choose among; by default those at the paper's relative depths.
        coefficients: Coefficients to choose among.
        most_disfluency: Largest ratio of perplexities that a cell may have to be chosen.
        choose_on: Maximum number of prompts that the choice is made on, with one sample each.
        n: Samples per prompt.
        max_new_tokens: Maximum number of tokens to add.
        nulls: Null vectors of each part.
        top_p: As in `complete`.
        temperature: As in `complete`.
        seed: Seed of samples, halves and nulls.
        path: As in `sweep_completions`.
        executor: As in `sweep`.
        progress: Whether to show bars.

    Raises:
        SettingError: A setting is out of range, there are fewer than 8 prompts, or the pair is about no topic of the
            package and words are not given; otherwise the errors of `sweep_completions`.
    """
    check_run(seed=seed)
    for fraction in fractions:
        is_number = isinstance(fraction, int | float) and not isinstance(fraction, bool)
        require(is_number and 0 <= fraction <= 1, "fractions", fractions, "numbers from 0 to 1")
    if len(set(fractions)) < max(2, len(fractions)):
        raise SettingError(f"fractions is {fractions!r}: give two or more, each once.")
    written = writing_options(n, max_new_tokens, seed, top_p, temperature)
    setup = _Setup(
        model, as_pair(pair), topic_of(pair, words).words, _prompts(prompts), _layers(model, layers),
        tuple(coefficients), choose_on, nulls, written, path, executor, progress,
    )  # fmt: skip
    choice = setup.choice(setup.cells(POSITIONS[:1]), most_disfluency)
    sweep = setup.report(setup.first_dimensions(fractions), choice, POSITIONS[:1])
    ratios = tuple(float(value) for value in disfluency_ratios(model, sweep)[:, 0, 0, 0])
    return Dimensions(
        model=backend_of(model).name, settings={**setup.settings(choice), "fractions": list(fractions)},
        parts=tuple(fractions), sweep=sweep, ratios=ratios,
    )  # fmt: skip


def positions(
    model: LensModel,
    pair: Any = (" wedding", ""),
    *,
    positions: Sequence[Position] = POSITIONS,
    words: Sequence[str] | None = None,
    prompts: Sequence[str] | None = None,
    layers: Sequence[int] | None = None,
    coefficients: Sequence[float] = (2.0, 4.0),
    most_disfluency: float = MOST_DISFLUENCY,
    choose_on: int = 20,
    n: int = 2,
    max_new_tokens: int = 40,
    nulls: int = 19,
    top_p: float | None = 0.9,
    temperature: float = 1.0,
    seed: int = 0,
    path: str | os.PathLike[str] | None = None,
    executor: Any = None,
    progress: bool = True,
) -> Positions:
    """Add the vector at other tokens of the prompt, and count topic words.

    Layer and coefficient are chosen at the front on one half of the prompts; results are from the other half. Each null
    chooses its own by the same rule on the same prompts.

    Args:
        model: The model.
        pair: Prompt pair.
        positions: Prompt tokens that receive row 0.
        words: The topic's words; by default those of the package's topic that the pair names.
        prompts: 8 or more; by default neutral prompts of the package.
        layers: Layers to choose among; by default those at the paper's relative depths.
        coefficients: Coefficients to choose among.
        most_disfluency: Largest ratio of perplexities that a cell may have to be chosen.
        choose_on: Maximum number of prompts that the choice is made on, with one sample each.
        n: Samples per prompt.
        max_new_tokens: Maximum number of tokens to add.
        nulls: Null vectors.
        top_p: As in `complete`.
        temperature: As in `complete`.
        seed: Seed of samples, halves and nulls.
        path: As in `sweep_completions`.
        executor: As in `sweep`.
        progress: Whether to show bars.

    Raises:
        SettingError: A setting is out of range, there are fewer than 8 prompts, or the pair is about no topic of the
            package and words are not given; otherwise the errors of `sweep_completions`.
    """
    check_run(seed=seed)
    written = writing_options(n, max_new_tokens, seed, top_p, temperature)
    setup = _Setup(
        model, as_pair(pair), topic_of(pair, words).words, _prompts(prompts), _layers(model, layers),
        tuple(coefficients), choose_on, nulls, written, path, executor, progress,
    )  # fmt: skip
    choice = setup.choice(setup.cells(positions), most_disfluency)
    sweep = setup.report(choice.cells, choice, positions)
    ratios = tuple(float(value) for value in disfluency_ratios(model, sweep)[0, 0, 0])
    return Positions(
        model=backend_of(model).name, settings={**setup.settings(choice), "positions": list(positions)},
        parts=sweep.grid.positions, sweep=sweep, ratios=ratios,
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class _Choice:
    """The cell that was chosen with the whole vector at the front, and those that the nulls chose."""

    cells: Cells
    own: Place
    nulls: tuple[Place, ...]
    settings: dict[str, Any]


@dataclass(frozen=True, eq=False)
class _Setup:
    """What both experiments share: a choice on one half of the prompts, a sweep on the other."""

    model: LensModel
    pair: PromptPair
    words: tuple[str, ...]
    prompts: tuple[str, ...]
    layers: tuple[int, ...]
    coefficients: tuple[float, ...]
    choose_on: int
    nulls: int
    written: dict[str, Any]
    path: str | os.PathLike[str] | None
    executor: Any
    progress: bool

    def cells(self, positions: Sequence[Position]) -> Cells:
        """The cells to choose among, after checking all settings."""
        self._halves()
        plan = plan_sweep_completions(
            self.model, [self.pair], layers=self.layers, coefficients=self.coefficients, positions=positions,
            prompts=self.prompts, scorers=self._scorers, nulls=self.nulls, **self.written,
        )  # fmt: skip
        return Cells.planned(plan)

    def _halves(self) -> tuple[list[str], list[str]]:
        return halves(self.prompts, self.written["seed"], self.choose_on)

    @property
    def _scorers(self) -> list[scorers.Scorer]:
        return [scorers.word_count(self.words), scorers.contains_word(self.words)]

    @property
    def _run(self) -> dict[str, Any]:
        return {"path": self.path, "executor": self.executor, "progress": self.progress, "written": self.written}

    def choice(self, cells: Cells, most_disfluency: float) -> _Choice:
        """Layer and coefficient, of the vector and of each null."""
        tried = try_cells(self.model, cells, self._scorers[SHARE:], wanted=1, prompts=self._halves()[0], **self._run)
        what = "the share of completions with a topic word"
        own, *nulls = tried.places(most_disfluency)
        return _Choice(cells, own, tuple(nulls), choice_settings(cells, tried, most_disfluency, what))

    def first_dimensions(self, fractions: Sequence[float]) -> Cells:
        """The first dimensions of the vector in place of pairs, at every layer, with nulls of their row norms."""
        whole = compute_steering_vectors(self.model, [self.pair], layers=self.layers)
        found = {
            (part, place): _first(whole[0, layer], fraction)
            for part, fraction in enumerate(fractions)
            for place, layer in enumerate(self.layers)
        }
        vectors = list(found.values())
        drawn: Sequence[tuple[SteeringVector, ...]] = [()] * len(vectors)
        if self.nulls:
            drawn = null_table(self.model, vectors, n=self.nulls, seed=self.written["seed"])
        conditions = {key: (own, *nulls) for (key, own), nulls in zip(found.items(), drawn, strict=True)}
        return Cells(self.layers, self.coefficients, conditions)

    def report(self, parts: Cells, choice: _Choice, positions: Sequence[Position]) -> CompletionSweep:
        """The sweep on the half that nothing was chosen on; parts stand in place of pairs."""
        count, (_, layer, coefficient) = parts.shape[1], choice.own
        sweep = sweep_completions(
            self.model, [parts.conditions[part, layer][0] for part in range(count)], layers=parts.layers[layer],
            coefficients=parts.coefficients[coefficient], positions=positions, prompts=self._halves()[1],
            scorers=self._scorers, path=self.path, executor=self.executor, progress=self.progress, **self.written,
        )  # fmt: skip
        nulls = [
            [parts.vector((part, *place[1:]), condition) for part in range(count)]
            for condition, place in enumerate(choice.nulls, 1)
        ]
        return beside_nulls(self.model, sweep, nulls, scorers=self._scorers, **self._run)

    def settings(self, choice: _Choice) -> dict[str, Any]:
        """What the numbers depend on."""
        return {
            **choice.settings, "choose_on": self.choose_on, "words": list(self.words), **self.written,
            "nulls": self.nulls, "null_kind": "unrelated_pairs", "prompts": list(self.prompts),
        }  # fmt: skip


def _prompts(prompts: Sequence[str] | None) -> tuple[str, ...]:
    return storybook.neutral_prompts()[:40] if prompts is None else each_once(as_texts(prompts))


def _layers(model: LensModel, layers: Sequence[int] | None) -> tuple[int, ...]:
    return early_to_middle(model) if layers is None else tuple(layers)


def _first(vector: SteeringVector, fraction: float) -> SteeringVector:
    """The first dimensions of a vector, as a fraction of them; zero where the fraction leaves none."""
    count = round(fraction * vector.d_model)
    return vector.keep_dimensions(slice(0, count)) if count else vector.with_norm(0.0)
