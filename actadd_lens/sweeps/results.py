"""Results of sweeps: effects with intervals and adjusted p-values, the best cell, the effect-damage frontier."""

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from jaxtyping import Bool, Float

from actadd_lens.errors import SettingError
from actadd_lens.measuring.values import with_value
from actadd_lens.prompts.positions import Position
from actadd_lens.statistics import (
    LEVEL,
    Alternative,
    ConceptEffect,
    Effect,
    Kind,
    cell_cautions,
    cell_intervals,
    concept_effect,
    first_places,
    max_t_p,
    on_one_scale,
    paired_effect,
    sign_flip_p,
    split_prompts,
    standardised_effect,
)
from actadd_lens.sweeps.choosing import BestCell, best_place
from actadd_lens.sweeps.frontier import Frontier, undominated_among
from actadd_lens.sweeps.grid import Grid
from actadd_lens.sweeps.tables import Place, cells_of, directed, finite, mean_of, place_of

if TYPE_CHECKING:
    import os
    from pathlib import Path

    import pandas as pd
    from matplotlib.axes import Axes


@dataclass(frozen=True, eq=False)
class Sweep:
    """Metrics, or scores of texts, in every cell of a grid.

    Attributes:
        grid: The axes.
        metrics: Names of what was measured.
        units: Their units.
        steered: What was measured in each cell, on each prompt and sample; metrics of logits have one sample.
        unsteered: The same without steering, by pair and position, because what is left out may depend on them.
        nulls: The same as `steered` under each null vector, averaged over samples.
        plan: Hash under which its plan was registered by `plan.register` before it was run; empty if it was not.
    """

    _zeros: ClassVar[Kind] = "numbers"
    """The kind of numbers that are all 0."""

    grid: Grid
    metrics: tuple[str, ...]
    units: tuple[str, ...]
    steered: Float[np.ndarray, "metrics pairs layers coefficients positions prompts samples"]
    unsteered: Float[np.ndarray, "metrics pairs positions prompts samples"]
    nulls: Float[np.ndarray, "metrics nulls pairs layers coefficients positions prompts"]
    plan: str = field(default="", kw_only=True)

    # -- numbers -----------------------------------------------------------------------------------------------

    @cached_property
    def by_prompt(self) -> Float[np.ndarray, "metrics pairs layers coefficients positions prompts"]:
        """Steered minus unsteered on each prompt, averaged over samples; NaN where a prompt has no value."""
        return finite(self.steered.mean(axis=-1) - self._unsteered_means)

    @cached_property
    def null_by_prompt(self) -> Float[np.ndarray, "metrics nulls pairs layers coefficients positions prompts"]:
        """The same of each null vector."""
        return finite(self.nulls - self._unsteered_means[:, None])

    @cached_property
    def distinct(self) -> list[int]:
        """Indices of the prompts without repeats: a prompt counts once, also when halves are made."""
        return first_places(self.grid.prompts)

    @property
    def effects(self) -> Float[np.ndarray, "metrics pairs layers coefficients positions"]:
        """Mean effect in each cell over the prompts that have one."""
        return mean_of(self.by_prompt[..., self.distinct])

    @property
    def null_effects(self) -> Float[np.ndarray, "metrics nulls pairs layers coefficients positions"]:
        """The same of each null vector, over the same prompts."""
        kept = np.where(np.isfinite(self.by_prompt)[:, None], self.null_by_prompt, np.nan)
        return mean_of(kept[..., self.distinct])

    def p_values(
        self, metric: int | str = 0, *, alternative: Alternative = "two-sided"
    ) -> Float[np.ndarray, "pairs layers coefficients positions"]:
        """P-values adjusted over the whole grid (max-T, Westfall and Young); NaN without nulls.

        In each cell, effect and nulls are scaled by their common mean and standard deviation; otherwise the largest
        coefficient alone would decide. Each null counts with its most extreme cell.

        Args:
            metric: Its name or place.
            alternative: `greater`, `less`, or `two-sided`.
        """
        index = self._metric(metric)
        observed, nulls = self.effects[index], self.null_effects[index]
        found = np.full(observed.shape, np.nan)
        if len(nulls):
            kept = np.isfinite(observed) & np.isfinite(nulls).all(axis=0)
            scaled = on_one_scale(np.concatenate([observed[None, kept], nulls[:, kept]]))
            if kept.any():
                found[kept] = max_t_p(scaled[0], scaled[1:], alternative)
        return found

    def significant(
        self, metric: int | str = 0, *, level: float = LEVEL
    ) -> Bool[np.ndarray, "pairs layers coefficients positions"]:
        """Cells that are significant after correction: adjusted p at most `level`, and the interval excludes zero.

        Without nulls, p comes from flips of each prompt's sign, adjusted over the grid: it says that steering does
        something there, not that it does more than an unrelated vector.

        Args:
            metric: Its name or place.
            level: Largest p-value.
        """
        index = self._metric(metric)
        low, high, _ = self.intervals(index)
        if self.grid.nulls:
            p_values = self.p_values(index)
        else:
            flat = self.by_prompt[index][..., self.distinct].reshape(-1, len(self.distinct))
            p_values = sign_flip_p(flat).reshape(self.grid.shape)
        return np.asarray((p_values <= level) & ~((low <= 0) & (high >= 0)))

    def stands(self, metric: int | str = 0, *, level: float = LEVEL) -> Bool[np.ndarray, "*cells"]:
        """The name of `significant` in 0.1."""
        warnings.warn("Sweep.stands() is now Sweep.significant().", DeprecationWarning, stacklevel=2)
        return self.significant(metric, level=level)

    def intervals(self, metric: int | str = 0) -> tuple[np.ndarray, np.ndarray, str]:
        """Lower and upper ends of each cell's interval (95 %, not corrected for other cells), and what it covers."""
        low, high, covers = cell_intervals(*self._flat(self._metric(metric)), zeros=self._zeros)
        return low.reshape(self.grid.shape), high.reshape(self.grid.shape), covers

    def cautions(self, metric: int | str = 0) -> np.ndarray:
        """For each cell, a warning if its interval is probably too narrow or too wide; else empty."""
        found = cell_cautions(*self._flat(self._metric(metric)), zeros=self._zeros)
        return np.array(found, dtype=object).reshape(self.grid.shape)

    def _flat(self, metric: int) -> tuple[np.ndarray, np.ndarray]:
        """Steered and unsteered values as [cells, prompts, samples]."""
        steered = self.steered[metric][..., self.distinct, :]
        plain = np.broadcast_to(self.unsteered[metric][:, None, None, :, self.distinct], steered.shape)
        flat = (-1, *steered.shape[-2:])
        return steered.reshape(flat), plain.reshape(flat)

    def effect(
        self,
        metric: int | str = 0,
        *,
        pair: int = 0,
        layer: int | None = None,
        coefficient: float | None = None,
        position: Position | None = None,
    ) -> Effect:
        """The effect in one cell, with interval and nulls.

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
            place_of("pair", pair, range(len(self.grid.pairs))),
            place_of("layer", layer, self.grid.layers),
            place_of("coefficient", coefficient, self.grid.coefficients),
            place_of("position", position, self.grid.positions),
        )
        return self._effect(self._metric(metric), places, self.distinct)

    def _effect(self, metric: int, place: Place, prompts: Any) -> Effect:
        chosen = np.asarray(list(prompts))
        pair, _, _, position = place
        steered, plain = self.steered[(metric, *place)][chosen], self.unsteered[metric, pair, position][chosen]
        kept = with_value(self.metrics[metric], np.concatenate([steered, plain], axis=1).T)
        effect = paired_effect(steered[kept], plain[kept], zeros=self._zeros)
        nulls = self.null_by_prompt[(metric, slice(None), *place)][:, chosen][:, kept]
        return effect.with_nulls(mean_of(nulls), nulls)

    def concept(
        self,
        metric: int | str = 0,
        *,
        layer: int | None = None,
        coefficient: float | None = None,
        position: Position | None = None,
    ) -> ConceptEffect:
        """The mean effect over prompts and all pairs, which are taken as a sample of pairs of one concept.

        This makes a claim about a concept; `effect` makes one about a single pair.

        Args:
            metric: Its name or place.
            layer: The layer's number; may be left out where there is one.
            coefficient: The coefficient; may be left out where there is one.
            position: The position; may be left out where there is one.

        Raises:
            SettingError: There is no such cell, or there are fewer than two pairs or prompts with a value.
        """
        places = (
            place_of("layer", layer, self.grid.layers),
            place_of("coefficient", coefficient, self.grid.coefficients),
            place_of("position", position, self.grid.positions),
        )
        table = self.by_prompt[(self._metric(metric), slice(None), *places)]
        table = table[:, self.distinct]
        return concept_effect(table[:, np.isfinite(table).all(axis=0)])

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

        Each null vector chooses its own best cell by the same rule on the same half, so that the p-value accounts for
        the choice. If no cell is allowed for the vector, that is an error; nulls without an allowed cell are left out
        of the comparison.

        Args:
            metric: Its name or place.
            alternative: What counts as large: `greater`, `less`, or `two-sided` for either.
            at_most: Largest effect that other metrics may have in a cell, by name or place; such as a KL divergence.
            seed: Seed of the halving.

        Raises:
            SettingError: There are fewer than 8 prompts, or no cell is allowed.
        """
        index = self._metric(metric)
        halves = split_prompts(len(self.distinct), seed=seed)
        choose, report = ([self.distinct[place] for place in half] for half in halves)
        limits = {self._metric(name): limit for name, limit in (at_most or {}).items()}
        chosen = [best_place(table[..., choose], index, alternative, limits) for table in self._conditions()]
        place, null_places = chosen[0], chosen[1:]
        without = sum(found is None for found in null_places)
        if place is None:
            if np.isnan(self.by_prompt[index]).all():
                with_value(self.metrics[index], self.by_prompt[index])
            others = f" {without} of {len(null_places)} nulls have none either." if null_places else ""
            raise SettingError(f"No cell stays below {at_most}: allow more, or try smaller coefficients.{others}")
        tables = [
            self.null_by_prompt[(index, number, *found)][report]
            for number, found in enumerate(null_places)
            if found is not None
        ]
        nulls = np.array([float(mean_of(table)) for table in tables])
        grid = self.grid
        return BestCell(
            metric=self.metrics[index],
            pair=place[0],
            layer=grid.layers[place[1]],
            coefficient=grid.coefficients[place[2]],
            position=grid.positions[place[3]],
            chosen=self._effect(index, place, choose),
            effect=self._effect(index, place, report).with_nulls(nulls),
            alternative=alternative,
            grid=grid,
            without_cell=without,
        )

    def _conditions(self) -> Iterator[Float[np.ndarray, "metrics pairs layers coefficients positions prompts"]]:
        """Effects by prompt, of the vector and then of each null."""
        yield self.by_prompt
        yield from (self.null_by_prompt[:, number] for number in range(self.grid.nulls))

    def frontier(
        self,
        damage: "Sweep | None" = None,
        *,
        metric: int | str = 0,
        damage_metric: int | str | None = None,
        alternative: Alternative = "greater",
    ) -> "Frontier":
        """Effect against damage, with the cells that no other cell beats in both.

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
                f"A sweep over {mine} and one over {theirs} cannot share a frontier: use the same axes for both."
            )
        chosen = (1 if damage is None else 0) if damage_metric is None else damage_metric
        first, second = self._metric(metric), other._metric(chosen)
        effects, costs = self.effects[first], other.effects[second]
        best = undominated_among(directed(effects, alternative).ravel(), costs.ravel()).reshape(effects.shape)
        return Frontier(mine, self.metrics[first], other.metrics[second], effects, costs, best)

    # -- showing -----------------------------------------------------------------------------------------------

    def frame(self) -> "pd.DataFrame":
        """One row per metric and cell."""
        import pandas as pd

        return pd.DataFrame([row for metric in range(len(self.metrics)) for row in self._rows(metric)])

    def _rows(self, metric: int) -> Iterator[dict[str, Any]]:
        low, high, _ = self.intervals(metric)
        effects, p_values, significant = self.effects[metric], self.p_values(metric), self.significant(metric)
        nulls, cautions = self.null_effects[metric], self.cautions(metric)
        plain = mean_of(finite(self.unsteered[metric][..., self.distinct, :].mean(axis=-1)))
        for place, told in cells_of(self.grid):
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
            row["significant"] = bool(significant[place])
            yield {**row, "caution": str(cautions[place])} if any(cautions.flat) else row

    def plot(
        self,
        metric: int | str = 0,
        *,
        pair: int = 0,
        position: Position | None = None,
        ax: "Axes | None" = None,
    ) -> "Axes":
        """Heat map of layers x coefficients; cells that are not significant are hatched.

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

    def page(self, path: "str | os.PathLike[str]", *, title: str = "A sweep") -> "Path":
        """Write one self-contained HTML file, to be mailed or put on the web: it needs no server or network.

        Args:
            path: The file.
            title: Its heading.

        Raises:
            SettingError: It cannot be written there.
        """
        from actadd_lens.pages.html import write_page
        from actadd_lens.pages.sweeps import sweep_page

        return write_page(sweep_page(self, title=title), path)

    def _drawn(self, position: Position | None) -> int:
        return 0 if position is None else place_of("position", position, self.grid.positions)

    def __repr__(self) -> str:
        nulls = f", {self.grid.nulls} nulls" if self.grid.nulls else ""
        return f"{type(self).__name__}({self.grid}, {len(self.grid.prompts)} prompts{nulls}: {', '.join(self.metrics)})"

    def _repr_html_(self) -> str:
        from html import escape

        return f"<p>{escape(repr(self))}</p>" + self.frame().to_html(index=False, max_rows=20)

    @property
    def _unsteered_means(self) -> np.ndarray:
        """Unsteered means with the axes of `steered`."""
        return np.asarray(self.unsteered.mean(axis=-1)[:, :, None, None])

    def _metric(self, metric: int | str) -> int:
        return place_of("metric", metric, self.metrics if isinstance(metric, str) else range(len(self.metrics)))


@dataclass(frozen=True, eq=False, repr=False)
class CompletionSweep(Sweep):
    """Scores of the texts that a model generates in every cell, and the texts.

    Attributes:
        texts: The steered text of each cell, prompt and sample.
        unsteered_texts: The unsteered text of each prompt and sample.
    """

    _zeros = "shares"

    texts: np.ndarray
    unsteered_texts: np.ndarray
