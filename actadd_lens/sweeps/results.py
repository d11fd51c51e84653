"""What a sweep found: effects with intervals and adjusted p-values, the best cell, the effect-damage frontier."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float

from actadd_lens.errors import SettingError
from actadd_lens.models import LensModel
from actadd_lens.prompts.positions import Position
from actadd_lens.statistics import (
    Alternative,
    Effect,
    bootstrap_intervals,
    max_t_p,
    paired_effect,
    split_prompts,
    standardised_effect,
)
from actadd_lens.sweeps.grid import Grid
from actadd_lens.vectors.interventions import Intervention

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

LEVEL = 0.05
"""A cell stands when its adjusted p-value is at most this."""

Place = tuple[int, int, int, int]
"""A cell by its places on the axes: pair, layer, coefficient, position."""


@dataclass(frozen=True, eq=False)
class Sweep:
    """Metrics, or scores of texts, in every cell of a grid.

    Attributes:
        grid: The axes.
        metrics: Names of what was measured.
        units: Their units.
        steered: What was measured in each cell, on each prompt and sample; metrics of logits have one sample.
        unsteered: The same without steering; by pair and position, for what is left out may hang on them.
        nulls: The same as `steered` under each null vector, averaged over samples.
    """

    grid: Grid
    metrics: tuple[str, ...]
    units: tuple[str, ...]
    steered: Float[np.ndarray, "metrics pairs layers coefficients positions prompts samples"]
    unsteered: Float[np.ndarray, "metrics pairs positions prompts samples"]
    nulls: Float[np.ndarray, "metrics nulls pairs layers coefficients positions prompts"]

    # -- numbers -----------------------------------------------------------------------------------------------

    @cached_property
    def by_prompt(self) -> Float[np.ndarray, "metrics pairs layers coefficients positions prompts"]:
        """Steered minus unsteered on each prompt, averaged over samples; NaN where a prompt has no value."""
        return _finite(self.steered.mean(axis=-1) - self._unsteered_means)

    @cached_property
    def null_by_prompt(self) -> Float[np.ndarray, "metrics nulls pairs layers coefficients positions prompts"]:
        """The same of each null vector."""
        return _finite(self.nulls - self._unsteered_means[:, None])

    @property
    def effects(self) -> Float[np.ndarray, "metrics pairs layers coefficients positions"]:
        """Mean effect in each cell over the prompts that have one."""
        return _mean(self.by_prompt)

    @property
    def null_effects(self) -> Float[np.ndarray, "metrics nulls pairs layers coefficients positions"]:
        """The same of each null vector, over the same prompts."""
        return _mean(np.where(np.isfinite(self.by_prompt)[:, None], self.null_by_prompt, np.nan))

    def p_values(
        self, metric: int | str = 0, *, alternative: Alternative = "two-sided"
    ) -> Float[np.ndarray, "pairs layers coefficients positions"]:
        """P-values adjusted over the whole grid (max-T, Westfall and Young); NaN without nulls.

        In each cell, effect and nulls are put on one scale by their common mean and standard deviation, for otherwise
        the largest coefficient alone would decide. Each null counts with its most extreme cell.

        Args:
            metric: Its name or place.
            alternative: `greater`, `less`, or `two-sided`.
        """
        index = self._metric(metric)
        observed, nulls = self.effects[index], self.null_effects[index]
        found = np.full(observed.shape, np.nan)
        if len(nulls):
            kept = np.isfinite(observed) & np.isfinite(nulls).all(axis=0)
            scaled = _standardised(np.concatenate([observed[None, kept], nulls[:, kept]]))
            if kept.any():
                found[kept] = max_t_p(scaled[0], scaled[1:], alternative)
        return found

    def stands(
        self, metric: int | str = 0, *, level: float = LEVEL
    ) -> Bool[np.ndarray, "pairs layers coefficients positions"]:
        """Cells whose adjusted p-value is at most `level`; without nulls, those whose interval leaves zero out."""
        if self.grid.nulls:
            return np.asarray(self.p_values(metric) <= level)
        low, high, _ = self.intervals(metric)
        return np.asarray((low > 0) | (high < 0))

    def intervals(self, metric: int | str = 0) -> tuple[np.ndarray, np.ndarray, str]:
        """Lower and upper ends of each cell's bootstrap interval (95 %), and what was resampled."""
        index = self._metric(metric)
        differences = self.steered[index] - np.broadcast_to(
            self.unsteered[index][:, None, None], self.steered[index].shape
        )
        flat = differences.reshape(-1, *differences.shape[-2:])
        low, high, covers = bootstrap_intervals(flat)
        return low.reshape(self.grid.shape), high.reshape(self.grid.shape), covers

    def effect(
        self,
        metric: int | str = 0,
        *,
        pair: int = 0,
        layer: int | None = None,
        coefficient: float | None = None,
        position: Position | None = None,
    ) -> Effect:
        """The effect in one cell with its interval, beside its nulls.

        Args:
            metric: Its name or place.
            pair: The pair's place.
            layer: The layer's number; may be left out where there is one.
            coefficient: The coefficient; may be left out where there is one.
            position: The position; may be left out where there is one.

        Raises:
            SettingError: The sweep has no such cell, or no value in it.
        """
        places = (
            _place("pair", pair, range(len(self.grid.pairs))),
            _place("layer", layer, self.grid.layers),
            _place("coefficient", coefficient, self.grid.coefficients),
            _place("position", position, self.grid.positions),
        )
        return self._effect(self._metric(metric), places, range(len(self.grid.prompts)))

    def _effect(self, metric: int, place: Place, prompts: Any) -> Effect:
        chosen = np.asarray(list(prompts))
        pair, _, _, position = place
        steered, plain = self.steered[(metric, *place)][chosen], self.unsteered[metric, pair, position][chosen]
        kept = np.isfinite(steered).all(axis=1) & np.isfinite(plain).all(axis=1)
        if not kept.any():
            raise SettingError(f"{self.metrics[metric]} has no value on any prompt: are all their positions injected?")
        effect = paired_effect(steered[kept], plain[kept])
        nulls = self.null_by_prompt[(metric, slice(None), *place)][:, chosen][:, kept]
        return effect.with_nulls(_mean(nulls))

    # -- choosing ----------------------------------------------------------------------------------------------

    def best(
        self,
        metric: int | str = 0,
        *,
        alternative: Alternative = "greater",
        at_most: Mapping[int | str, float] | None = None,
        seed: int = 0,
    ) -> "BestCell":
        """The cell with the largest effect, chosen on one half of the prompts and reported on the other.

        Each null vector chooses its own best cell by the same rule on the same half, so that the p-value allows for
        the choice.

        Args:
            metric: Its name or place.
            alternative: What counts as large: `greater`, `less`, or `two-sided` for either.
            at_most: Other metrics whose effect a cell may not exceed, by name or place; such as a KL divergence.
            seed: Seed of the halving.

        Raises:
            SettingError: There are fewer than 8 prompts, or no cell is allowed.
        """
        index = self._metric(metric)
        choose, report = split_prompts(len(self.grid.prompts), seed=seed)
        limits = {self._metric(name): limit for name, limit in (at_most or {}).items()}
        place = self._choice(self.by_prompt[..., choose], index, alternative, limits)
        if place is None:
            raise SettingError(f"No cell keeps below {at_most}: allow more, or try smaller coefficients.")
        nulls = [
            self._null_report(number, index, alternative, limits, choose, report) for number in range(self.grid.nulls)
        ]
        grid = self.grid
        return BestCell(
            metric=self.metrics[index],
            pair=place[0],
            layer=grid.layers[place[1]],
            coefficient=grid.coefficients[place[2]],
            position=grid.positions[place[3]],
            chosen=self._effect(index, place, choose),
            effect=self._effect(index, place, report).with_nulls(np.asarray(nulls, dtype=float)),
            alternative=alternative,
            grid=grid,
        )

    def _choice(
        self, by_prompt: np.ndarray, index: int, alternative: Alternative, limits: Mapping[int, float]
    ) -> Place | None:
        """The place of the best cell that is allowed; None where none is."""
        effects = _mean(by_prompt)
        score = _directed(effects[index], alternative)
        for other, limit in limits.items():
            score = np.where(effects[other] <= limit, score, np.nan)
        if not np.isfinite(score).any():
            return None
        pair, layer, coefficient, position = np.unravel_index(int(np.nanargmax(score)), score.shape)
        return int(pair), int(layer), int(coefficient), int(position)

    def _null_report(
        self,
        number: int,
        index: int,
        alternative: Alternative,
        limits: Mapping[int, float],
        choose: tuple[int, ...],
        report: tuple[int, ...],
    ) -> float:
        """What a null reports from the cell that it chose; nothing allowed is no steering, and no effect."""
        by_prompt = self.null_by_prompt[:, number]
        place = self._choice(by_prompt[..., choose], index, alternative, limits)
        return 0.0 if place is None else float(_mean(by_prompt[(index, *place)][list(report)]))

    def frontier(
        self,
        damage: "Sweep | None" = None,
        *,
        metric: int | str = 0,
        damage_metric: int | str | None = None,
        alternative: Alternative = "greater",
    ) -> "Frontier":
        """Effect against damage, and the cells that no other cell beats in both.

        Args:
            damage: A sweep of the same grid on other text; by default this one, with another metric.
            metric: What counts as effect.
            damage_metric: What counts as damage; by default the first metric of `damage`, or the second of this sweep.
            alternative: Which effects are large: `greater`, `less`, or `two-sided`.

        Raises:
            SettingError: The grids differ, or there is no such metric.
        """
        other = self if damage is None else damage
        mine, theirs = self.grid, other.grid
        axes = [(grid.labels, grid.layers, grid.coefficients, grid.positions) for grid in (mine, theirs)]
        if axes[0] != axes[1]:
            raise SettingError(
                f"A sweep over {mine} and one over {theirs} share no frontier: use the same axes for both."
            )
        chosen = (1 if damage is None else 0) if damage_metric is None else damage_metric
        first, second = self._metric(metric), other._metric(chosen)
        effects, costs = self.effects[first], other.effects[second]
        best = _undominated(_directed(effects, alternative).ravel(), costs.ravel()).reshape(effects.shape)
        return Frontier(mine, self.metrics[first], other.metrics[second], effects, costs, best)

    # -- showing -----------------------------------------------------------------------------------------------

    def frame(self) -> "pd.DataFrame":
        """One row per metric and cell."""
        import pandas as pd

        return pd.DataFrame([row for metric in range(len(self.metrics)) for row in self._rows(metric)])

    def _rows(self, metric: int) -> Iterator[dict[str, Any]]:
        low, high, _ = self.intervals(metric)
        effects, p_values, stands = self.effects[metric], self.p_values(metric), self.stands(metric)
        nulls = self.null_effects[metric]
        plain = _mean(_finite(self.unsteered[metric].mean(axis=-1)))
        for place, told in _cells(self.grid):
            effect, null = float(effects[place]), nulls[(slice(None), *place)]
            row: dict[str, Any] = {"metric": self.metrics[metric], **told}
            row |= {"unsteered": float(plain[place[0], place[3]]), "effect": effect}
            row |= {"low": float(low[place]), "high": float(high[place])}
            if len(null):
                several = len(null) > 1
                row |= {
                    "null mean": float(null.mean()),
                    "null sd": float(null.std(ddof=1)) if several else float("nan"),
                    "standardised": standardised_effect(effect, null) if several else float("nan"),
                }
                row["adjusted p"] = float(p_values[place])
            yield {**row, "stands": bool(stands[place])}

    def plot(
        self,
        metric: int | str = 0,
        *,
        pair: int = 0,
        position: Position | None = None,
        ax: "Axes | None" = None,
    ) -> "Axes":
        """Heat map of layers x coefficients; cells that do not stand are hatched.

        Args:
            metric: Its name or place.
            pair: The pair's place.
            position: The position; the first one by default.
            ax: Where to draw.
        """
        from actadd_lens.plots.sweeps import plot_sweep

        return plot_sweep(self, self._metric(metric), pair, self._drawn(position), ax=ax)

    def plot_lines(
        self,
        metric: int | str = 0,
        *,
        pair: int = 0,
        position: Position | None = None,
        ax: "Axes | None" = None,
    ) -> "Axes":
        """Effect over layers, one line for each coefficient, with its interval as a band.

        Args:
            metric: Its name or place.
            pair: The pair's place.
            position: The position; the first one by default.
            ax: Where to draw.
        """
        from actadd_lens.plots.sweeps import plot_lines

        return plot_lines(self, self._metric(metric), pair, self._drawn(position), ax=ax)

    def _drawn(self, position: Position | None) -> int:
        return 0 if position is None else _place("position", position, self.grid.positions)

    def __repr__(self) -> str:
        nulls = f", {self.grid.nulls} nulls" if self.grid.nulls else ""
        return f"{type(self).__name__}({self.grid}, {len(self.grid.prompts)} prompts{nulls}: {', '.join(self.metrics)})"

    def _repr_html_(self) -> str:
        from html import escape

        return f"<p>{escape(repr(self))}</p>" + self.frame().to_html(index=False, max_rows=20)

    @property
    def _unsteered_means(self) -> np.ndarray:
        """Laid out to go with `steered`."""
        return np.asarray(self.unsteered.mean(axis=-1)[:, :, None, None])

    def _metric(self, metric: int | str) -> int:
        return _place("metric", metric, self.metrics if isinstance(metric, str) else range(len(self.metrics)))


@dataclass(frozen=True, eq=False, repr=False)
class CompletionSweep(Sweep):
    """Scores of the texts that a model writes in every cell, and the texts.

    Attributes:
        texts: The steered text of each cell, prompt and sample.
        unsteered_texts: The unsteered text of each prompt and sample.
    """

    texts: np.ndarray
    unsteered_texts: np.ndarray


@dataclass(frozen=True, eq=False)
class BestCell:
    """The cell that was chosen on one half of the prompts, and its effect on the other.

    Attributes:
        metric: What was measured.
        pair: The pair's place.
        layer: Injection layer.
        coefficient: Injection coefficient.
        position: Where row 0 lands.
        chosen: The effect on the half that it was chosen on: too large, for that is why it was chosen.
        effect: The effect on the other half, beside what each null reports from the cell that it chose itself.
        alternative: What counted as large.
        grid: The grid that it comes from.
    """

    metric: str
    pair: int
    layer: int
    coefficient: float
    position: Position
    chosen: Effect
    effect: Effect
    alternative: Alternative
    grid: Grid

    @property
    def p_value(self) -> float:
        """Monte Carlo p-value of the reported effect; NaN without nulls."""
        return self.effect.p_value(self.alternative)

    def vector(self, model: LensModel) -> Intervention:
        """The cell's vector with its coefficient and position, ready to steer with."""
        return self.grid.vector(model, self.pair, self.layer, self.coefficient, self.position)

    def __repr__(self) -> str:
        told = f"{self.coefficient:g} × ({self.grid.labels[self.pair]}) at layer {self.layer}, {self.position}"
        p_value = f"; p = {self.p_value:.2g}" if len(self.effect.nulls) else ""
        return f"BestCell({told}: {self.metric} {self.effect} on prompts that it was not chosen on{p_value})"


@dataclass(frozen=True, eq=False)
class Frontier:
    """Effect against damage in every cell.

    Attributes:
        grid: The axes.
        effect_metric: What counts as effect.
        damage_metric: What counts as damage.
        effects: Effect of each cell.
        damage: Damage of each cell.
        undominated: Whether no other cell has as much effect with less damage, or more with as little.
    """

    grid: Grid
    effect_metric: str
    damage_metric: str
    effects: Float[np.ndarray, "pairs layers coefficients positions"]
    damage: Float[np.ndarray, "pairs layers coefficients positions"]
    undominated: Bool[np.ndarray, "pairs layers coefficients positions"]

    def frame(self) -> "pd.DataFrame":
        """One row per cell."""
        import pandas as pd

        return pd.DataFrame(
            {
                **told,
                "effect": self.effects[place],
                "damage": self.damage[place],
                "undominated": self.undominated[place],
            }
            for place, told in _cells(self.grid)
        )

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Effect against damage; the undominated cells are joined and named."""
        from actadd_lens.plots.sweeps import plot_frontier

        return plot_frontier(self, ax=ax)


def _cells(grid: Grid) -> Iterator[tuple[Place, dict[str, Any]]]:
    """Every cell by its places and by its values."""
    for pair, layer, coefficient, position in np.ndindex(*grid.shape):
        told = {
            "pair": grid.labels[pair],
            "layer": grid.layers[layer],
            "coefficient": grid.coefficients[coefficient],
            "position": grid.positions[position],
        }
        yield (pair, layer, coefficient, position), told


def _place(name: str, value: Any, axis: Any) -> int:
    """Where a value stands on an axis; None is the only one."""
    values = list(axis)
    if value is None and len(values) == 1:
        return 0
    if value not in values:
        shown = ", ".join(map(str, values))
        problem = f"No {name} was named" if value is None else f"There is no {name} {value!r} in this sweep"
        raise SettingError(f"{problem}: it has {shown}.")
    return values.index(value)


def _finite(values: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(values), values, np.nan)


def _mean(values: np.ndarray) -> np.ndarray:
    """Mean over the last axis of what is not NaN; NaN where nothing is."""
    kept = ~np.isnan(values)
    counts = kept.sum(axis=-1)
    total = np.where(kept, values, 0.0).sum(axis=-1)
    return np.asarray(np.where(counts > 0, total / np.maximum(counts, 1), np.nan))


def _standardised(values: Float[np.ndarray, "arms cells"]) -> Float[np.ndarray, "arms cells"]:
    """Each cell on one scale; a cell in which nothing differs is zero."""
    spread = values.std(axis=0, ddof=1)
    centred = values - values.mean(axis=0)
    varies = spread > 1e-12 * np.abs(values).max(axis=0)
    return np.asarray(np.where(varies, centred / np.where(varies, spread, 1.0), 0.0))


def _directed(values: np.ndarray, alternative: Alternative) -> np.ndarray:
    if alternative not in ("greater", "less", "two-sided"):
        raise SettingError(f"The alternative {alternative!r} is not known: use 'greater', 'less' or 'two-sided'.")
    return values if alternative == "greater" else -values if alternative == "less" else np.abs(values)


def _undominated(gains: Float[np.ndarray, " cells"], costs: Float[np.ndarray, " cells"]) -> Bool[np.ndarray, " cells"]:
    """Cells that no other beats: not one with as much gain at less cost, nor with more gain at as little cost."""
    found = np.zeros(len(gains), dtype=bool)
    known = np.isfinite(gains) & np.isfinite(costs)
    cheapest = np.inf
    for gain in np.unique(gains[known])[::-1]:
        members = known & (gains == gain)
        least = costs[members].min()
        if least < cheapest:
            found |= members & (costs == least)
            cheapest = least
    return found
