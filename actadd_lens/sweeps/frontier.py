"""Effect against damage: the cells that no other cell beats in both."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float

from actadd_lens.sweeps.grid import Grid
from actadd_lens.sweeps.tables import cells_of

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


@dataclass(frozen=True, eq=False)
class Frontier:
    """Effect against damage in every cell.

    Attributes:
        grid: The axes.
        effect_metric: What counts as effect.
        damage_metric: What counts as damage.
        effects: Effect of each cell.
        damage: Damage of each cell.
        undominated: Whether no other cell has at least the same effect with less damage, or more effect with at most
            the same damage.
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
            for place, told in cells_of(self.grid)
        )

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Effect against damage; the undominated cells are joined and named."""
        from actadd_lens.plots.sweeps import plot_frontier

        return plot_frontier(self, ax=ax)


def undominated_among(
    gains: Float[np.ndarray, " cells"], costs: Float[np.ndarray, " cells"]
) -> Bool[np.ndarray, " cells"]:
    """Cells for which no other has at least the same gain at less cost, or more gain at no more cost."""
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
