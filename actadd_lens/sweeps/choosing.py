"""Choosing a cell on one half of the prompts, and reporting its effect on the other; each null does the same."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from actadd_lens.models import LensModel
from actadd_lens.prompts.positions import Position
from actadd_lens.statistics import Alternative, Effect
from actadd_lens.sweeps.grid import Grid
from actadd_lens.sweeps.tables import Place, directed, mean_of
from actadd_lens.vectors.interventions import Intervention


@dataclass(frozen=True, eq=False)
class BestCell:
    """The cell that was chosen on one half of the prompts, and its effect on the other.

    Attributes:
        metric: What was measured.
        pair: The pair's place.
        layer: Injection layer.
        coefficient: Injection coefficient.
        position: Where row 0 lands.
        chosen: The effect on the half that it was chosen on, which is too large because it was chosen for it.
        effect: The effect on the held-out half, with the nulls' effects, each from its own chosen cell.
        alternative: What counted as large.
        grid: The grid that it comes from.
        without_cell: Number of nulls that have no allowed cell. They find nothing, as this vector might have done, and
            are not compared with it.
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
    without_cell: int = 0

    @property
    def p_value(self) -> float:
        """Monte Carlo p-value of the reported effect among the vectors that have an allowed cell; NaN without nulls.

        If no null has an allowed cell, there is nothing to compare with, and p is 1.
        """
        if not len(self.effect.nulls) and self.without_cell:
            return 1.0
        return self.effect.p_value(self.alternative)

    def vector(self, model: LensModel) -> Intervention:
        """The cell's vector with its coefficient and position, ready for steering."""
        return self.grid.vector(model, self.pair, self.layer, self.coefficient, self.position)

    def __repr__(self) -> str:
        told = f"{self.coefficient:g} × ({self.grid.labels[self.pair]}) at layer {self.layer}, {self.position}"
        p_value = "" if np.isnan(self.p_value) else f"; p = {self.p_value:.2g}"
        if self.without_cell:
            p_value += f" ({self.without_cell} nulls have no allowed cell)"
        return f"BestCell({told}; on held-out prompts: {self.metric} {self.effect}{p_value})"


def best_place(
    by_prompt: Float[np.ndarray, "metrics pairs layers coefficients positions prompts"],
    metric: int,
    alternative: Alternative,
    limits: Mapping[int, float],
) -> Place | None:
    """The place of the best cell that is allowed; None if none is.

    Args:
        by_prompt: Effects on the prompts that are chosen on.
        metric: What is to be large.
        alternative: What counts as large.
        limits: Largest values that other metrics may have.
    """
    effects = mean_of(by_prompt)
    score = directed(effects[metric], alternative)
    for other, limit in limits.items():
        score = np.where(effects[other] <= limit, score, np.nan)
    if not np.isfinite(score).any():
        return None
    pair, layer, coefficient, position = np.unravel_index(int(np.nanargmax(score)), score.shape)
    return int(pair), int(layer), int(coefficient), int(position)
