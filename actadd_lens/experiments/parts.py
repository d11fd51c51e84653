"""Part of the residual dimensions, and other positions: how much of the effect is left (section 2j of the paper)."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from actadd_lens import scorers, storybook
from actadd_lens.compute import compute_steering_vector
from actadd_lens.errors import SettingError
from actadd_lens.experiments.continuations import (
    Tried,
    disfluency_ratios,
    early_to_middle,
    halves,
    prompt_estimate,
    writing_options,
)
from actadd_lens.experiments.evidence import Estimate, Experiment, Finding, moves
from actadd_lens.experiments.topic_words import cell_estimate
from actadd_lens.experiments.topics import MOST_DISFLUENCY, try_topics
from actadd_lens.models import LensModel, backend_of
from actadd_lens.positions import Position
from actadd_lens.prompts import PromptPair, as_pair, as_texts
from actadd_lens.sampling import require
from actadd_lens.sweep_results import CompletionSweep
from actadd_lens.sweep_texts import plan_sweep_completions, sweep_completions

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

FRACTIONS = (0.0, 0.1, 0.3, 0.5, 0.7, 1.0)
POSITIONS: tuple[Position, ...] = ("front", "mid", "back")

COUNT, SHARE = 0, 1
"""Places of the two scorers in a sweep."""


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class Parts(Experiment):
    """Topic words per completion with each part of what is added.

    Attributes:
        parts: The fractions of dimensions, or the positions.
        sweep: What was written with each, on prompts that nothing was chosen on.
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
        """Topic words per completion with each part, with intervals, beside the nulls."""
        from actadd_lens.plots_experiments_writing import plot_parts

        return plot_parts(self, ax=ax)

    def summary(self) -> str:
        """What was done and what came out."""
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
                Finding(12, about, moves(effect, "greater"), effect, "most of the effect by .3 to .7", f"{share}.")
            )
        about = f"growth of topic words from no dimension to all, {self.settings['cell']}"
        return (*found, Finding(12, about, moves(slope, "greater"), slope, "the effect grows with the fraction"))


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
            found.append(Finding(12, about, moves(effect, "greater"), effect, paper.get(str(part), ""), told))
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
    n: int = 2,
    max_new_tokens: int = 40,
    nulls: int = 19,
    top_p: float | None = 0.9,
    temperature: float = 1.0,
    seed: int = 0,
    path: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> Dimensions:
    """Add only the first fraction of the residual dimensions, and count topic words.

    Layer and coefficient are chosen with the whole vector on one half of the prompts; the other half reports. The null
    vectors of a part have its row norms, in all dimensions.

    Args:
        model: The model.
        pair: Prompt pair.
        fractions: Fractions of the residual dimensions, counted from the first; two or more.
        words: The topic's words; by default the paper's nine of weddings.
        prompts: 8 or more; by default neutral prompts of the package.
        layers: Layers to choose among; by default those as deep as the paper's.
        coefficients: Coefficients to choose among.
        most_disfluency: Largest ratio of perplexities that a chosen cell may have, on the half that it is chosen on.
        n: Samples per prompt.
        max_new_tokens: Most tokens to add.
        nulls: Null vectors of each part.
        top_p: As in `complete`.
        temperature: As in `complete`.
        seed: Seed of samples, halves and nulls.
        path: As in `sweep_completions`.
        progress: Whether to show bars.

    Raises:
        SettingError: A setting is out of its range, or there are fewer than 8 prompts; else the errors of
            `sweep_completions`.
    """
    for fraction in fractions:
        is_number = isinstance(fraction, int | float) and not isinstance(fraction, bool)
        require(is_number and 0 <= fraction <= 1, "fractions", fractions, "numbers from 0 to 1")
    if len(set(fractions)) < max(2, len(fractions)):
        raise SettingError(f"fractions is {fractions!r}: give two or more, each once.")
    written = writing_options(n, max_new_tokens, seed, top_p, temperature)
    setup = _Setup(model, as_pair(pair), _words(words), _prompts(prompts), _layers(model, layers), tuple(coefficients),
                   nulls, written, path, progress)  # fmt: skip
    setup.check(POSITIONS[:1])
    layer, coefficient, settings = setup.choice(most_disfluency)
    whole = compute_steering_vector(model, setup.pair, layer=layer)
    some = [whole.keep_dimensions(slice(0, round(fraction * whole.d_model))) for fraction in fractions]
    sweep = setup.report(some, layer, coefficient, POSITIONS[:1])
    ratios = tuple(float(value) for value in disfluency_ratios(model, sweep)[:, 0, 0, 0])
    return Dimensions(
        model=backend_of(model).name, settings={**settings, "fractions": list(fractions)}, parts=tuple(fractions),
        sweep=sweep, ratios=ratios,
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
    n: int = 2,
    max_new_tokens: int = 40,
    nulls: int = 19,
    top_p: float | None = 0.9,
    temperature: float = 1.0,
    seed: int = 0,
    path: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> Positions:
    """Add the vector at other tokens of the prompt, and count topic words.

    Layer and coefficient are chosen at the front on one half of the prompts; the other half reports.

    Args:
        model: The model.
        pair: Prompt pair.
        positions: Prompt tokens that receive row 0.
        words: The topic's words; by default the paper's nine of weddings.
        prompts: 8 or more; by default neutral prompts of the package.
        layers: Layers to choose among; by default those as deep as the paper's.
        coefficients: Coefficients to choose among.
        most_disfluency: Largest ratio of perplexities that a chosen cell may have, on the half that it is chosen on.
        n: Samples per prompt.
        max_new_tokens: Most tokens to add.
        nulls: Null vectors.
        top_p: As in `complete`.
        temperature: As in `complete`.
        seed: Seed of samples, halves and nulls.
        path: As in `sweep_completions`.
        progress: Whether to show bars.

    Raises:
        SettingError: A setting is out of its range, or there are fewer than 8 prompts; else the errors of
            `sweep_completions`.
    """
    written = writing_options(n, max_new_tokens, seed, top_p, temperature)
    setup = _Setup(model, as_pair(pair), _words(words), _prompts(prompts), _layers(model, layers), tuple(coefficients),
                   nulls, written, path, progress)  # fmt: skip
    setup.check(positions)
    layer, coefficient, settings = setup.choice(most_disfluency)
    sweep = setup.report([setup.pair], layer, coefficient, positions)
    ratios = tuple(float(value) for value in disfluency_ratios(model, sweep)[0, 0, 0])
    return Positions(
        model=backend_of(model).name, settings={**settings, "positions": list(positions)}, parts=sweep.grid.positions,
        sweep=sweep, ratios=ratios,
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class _Setup:
    """What both experiments share: a choice on one half of the prompts, a sweep on the other."""

    model: LensModel
    pair: PromptPair
    words: tuple[str, ...]
    prompts: tuple[str, ...]
    layers: tuple[int, ...]
    coefficients: tuple[float, ...]
    nulls: int
    written: dict[str, Any]
    path: str | os.PathLike[str] | None
    progress: bool

    def check(self, positions: Sequence[Position]) -> None:
        """Everything that can be wrong, before anything runs."""
        halves(self.prompts, self.written["seed"])
        plan_sweep_completions(
            self.model, [self.pair], layers=self.layers, coefficients=self.coefficients, positions=positions,
            prompts=self.prompts, scorers=self._scorers, nulls=self.nulls, **self.written,
        )  # fmt: skip

    @property
    def _scorers(self) -> list[scorers.Scorer]:
        return [scorers.word_count(self.words), scorers.contains_word(self.words)]

    def choice(self, most_disfluency: float) -> tuple[int, float, dict[str, Any]]:
        """Layer and coefficient, and the settings that tell of them."""
        choose, _ = halves(self.prompts, self.written["seed"])
        tried: Tried = try_topics(
            self.model, [self.pair], [self.words], layers=self.layers, coefficients=self.coefficients, prompts=choose,
            path=self.path, progress=self.progress, written=self.written,
        )  # fmt: skip
        place = tried.best(most_disfluency)
        layer, coefficient = self.layers[place[1]], float(self.coefficients[place[2]])
        settings = {
            "cell": f"{coefficient:g} × ({self.pair.label}) at layer {layer}",
            "choice": tried.told(place, most_disfluency, "the share of completions with a topic word"),
            "pair": self.pair.label, "layer": layer, "coefficient": coefficient, "layers": list(self.layers),
            "coefficients": list(map(float, self.coefficients)), "most_disfluency": most_disfluency,
            "words": list(self.words), **self.written, "nulls": self.nulls, "null_kind": "unrelated_pairs",
            "prompts": list(self.prompts),
        }  # fmt: skip
        return layer, coefficient, settings

    def report(
        self, sources: Sequence[Any], layer: int, coefficient: float, positions: Sequence[Position]
    ) -> CompletionSweep:
        """The sweep on the half that nothing was chosen on."""
        _, report = halves(self.prompts, self.written["seed"])
        return sweep_completions(
            self.model, sources, layers=layer, coefficients=coefficient, positions=positions, prompts=report,
            scorers=self._scorers, nulls=self.nulls, path=self.path, progress=self.progress, **self.written,
        )  # fmt: skip


def _words(words: Sequence[str] | None) -> tuple[str, ...]:
    return storybook.topics()["weddings"].words if words is None else tuple(words)


def _prompts(prompts: Sequence[str] | None) -> tuple[str, ...]:
    return storybook.neutral_prompts()[:40] if prompts is None else as_texts(prompts)


def _layers(model: LensModel, layers: Sequence[int] | None) -> tuple[int, ...]:
    return early_to_middle(model) if layers is None else tuple(layers)
