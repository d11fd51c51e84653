"""The picture of a reading by a dictionary."""

from typing import TYPE_CHECKING

import numpy as np

from actadd_lens.plots.style import STEERED, UNSTEERED, as_written, new_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from actadd_lens.analysis.dictionary import DictionaryReading, DictionaryRow


@as_written
def plot_dictionary_reading(reading: "DictionaryReading", *, ax: "Axes | None" = None) -> "Axes":
    """Weights of the picked directions of each nonzero row; a star marks those significant after correction."""
    rows = [row for row in reading.rows if row.pursuit]
    bars = [(row, rank) for row in rows for rank in range(len(row.pursuit))]
    ax = new_axes(ax, figsize=(7.2, max(1.8, 0.9 + 0.27 * len(bars) + 0.45 * len(rows))))
    place, ticks, names, heads = 0.0, [], [], []
    for row in rows:
        heads.append((place - 0.9, _head(row)))
        for item in row.pursuit:
            ax.barh(place, item.weight, height=0.75, color=STEERED if item.weight > 0 else UNSTEERED)
            ticks.append(place)
            names.append((item.name or f"feature {item.feature}") + (" *" if item.significant else ""))
            place += 1
        place += 1.4
    ax.axvline(0, color="black", linewidth=0.8)
    ax.set_yticks(ticks, names, fontsize=8)
    ax.set_ylim(place - 1.4, -1.6)
    for height, text in heads:
        ax.text(
            0.01, height, text, transform=ax.get_yaxis_transform(), fontsize=8, weight="bold", va="center",
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
        )  # fmt: skip
    ax.set_xlabel("weight in the sum, in units of the row's norm")
    kind = "null vectors" if reading.null_kind == "vectors given" else reading.null_kind
    told = f"* significant against {reading.nulls} {kind}" if reading.nulls else "without nulls"
    ax.set_title(f"in terms of a dictionary of {reading.features} directions; {told}", fontsize=9)
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def _head(row: "DictionaryRow") -> str:
    told = f"{row.name}, row {row.row}: {len(row.pursuit)} directions explain {row.pursuit[-1].explained:.0%}"
    nulls = row.null_explained[:, len(row.pursuit) - 1] if len(row.null_explained) else np.zeros(0)
    return f"{told}, of a null {nulls.mean():.0%}" if len(nulls) else told
