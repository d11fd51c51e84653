"""Pictures of sweeps: heat map, lines with bands, frontier. Each takes a result and returns the Axes."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from actadd_lens.plots.style import NULL, STEERED, as_written, colours, heat_map, new_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from actadd_lens.sweeps.frontier import Frontier
    from actadd_lens.sweeps.results import Sweep

_ROOM = 0.09
"""Room that a name needs in the picture of a frontier, as a share of the frontier's size."""


@as_written
def plot_sweep(sweep: "Sweep", metric: int, pair: int, position: int, *, ax: "Axes | None" = None) -> "Axes":
    """Heat map of layers x coefficients of one metric, pair and position; cells that are not significant are hatched.

    Args:
        sweep: The result.
        metric: The metric's place.
        pair: The pair's place.
        position: The position's place.
        ax: Where to draw.
    """
    from matplotlib.patches import Rectangle

    grid = sweep.grid
    values = sweep.effects[metric][pair, :, :, position]
    ax = heat_map(
        values,
        rows=[str(layer) for layer in grid.layers],
        columns=[f"{coefficient:g}" for coefficient in grid.coefficients],
        label=_axis_label(sweep, metric),
        ax=ax,
    )
    significant, rule = sweep.significant(metric)[pair, :, :, position], _rule(sweep, metric)
    if rule:
        for row, column in np.argwhere(~significant & np.isfinite(values)):
            corner = (column - 0.5, row - 0.5)
            ax.add_patch(Rectangle(corner, 1, 1, fill=False, hatch="////", edgecolor="#666666", linewidth=0))
    ax.set_xlabel("injection coefficient")
    ax.set_ylabel("injection layer")
    told = f"hatched: {rule}" if rule else "not tested: no nulls, and too few prompts to resample"
    ax.set_title(f"{_title(sweep, pair, position)}\n{told}", fontsize="small")
    return ax


@as_written
def plot_lines(sweep: "Sweep", metric: int, pair: int, position: int, *, ax: "Axes | None" = None) -> "Axes":
    """Effect over layers, a line for each coefficient with its interval as a band, above the nulls of all of them.

    Args:
        sweep: The result.
        metric: The metric's place.
        pair: The pair's place.
        position: The position's place.
        ax: Where to draw.
    """
    grid = sweep.grid
    ax = new_axes(ax, figsize=(max(5.0, 2.5 + 0.4 * len(grid.layers)), 3.6))
    effects = sweep.effects[metric][pair, :, :, position]
    *ends, covers = sweep.intervals(metric)
    low, high = (end[pair, :, :, position] for end in ends)
    order = np.argsort(grid.layers)
    layers = np.asarray(grid.layers)[order]
    nulls = sweep.null_effects[metric][:, pair, :, :, position]
    if len(nulls):
        spread = np.quantile(nulls, [0.025, 0.975], axis=0)
        least, most = spread[0].min(axis=1)[order], spread[1].max(axis=1)[order]
        ax.fill_between(layers, least, most, color=NULL, alpha=0.25, linewidth=0, label="nulls (95 %)")
    for index, colour in enumerate(_shades(grid.coefficients)):
        line = {"color": colour, "marker": "o", "markersize": 3.5, "linewidth": 1.5}
        ax.plot(layers, effects[order, index], label=f"{grid.coefficients[index]:g}", **line)
        ax.fill_between(layers, low[order, index], high[order, index], color=colour, alpha=0.2, linewidth=0)
    ax.axhline(0, color="black", linewidth=0.8)
    ax.set_xticks(layers)
    ax.set_xlabel("injection layer")
    ax.set_ylabel(_axis_label(sweep, metric))
    bands = "no bands: one number has no interval" if covers == "nothing" else f"bands: 95 % over {covers}"
    bands += _told_cautions(sweep, metric, pair, position)
    ax.set_title(f"{_title(sweep, pair, position)}\n{bands}", fontsize="small")
    ax.legend(title="coefficient", frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5))
    ax.spines[["top", "right"]].set_visible(False)
    return ax


@as_written
def plot_frontier(frontier: "Frontier", *, ax: "Axes | None" = None) -> "Axes":
    """Effect against damage of every cell; the undominated ones are joined, and named where there is room.

    Args:
        frontier: The result.
        ax: Where to draw.
    """
    ax = new_axes(ax, figsize=(6.0, 4.0))
    best = frontier.undominated
    ax.scatter(frontier.damage[~best], frontier.effects[~best], s=16, color=NULL, alpha=0.7, linewidths=0, label="cell")
    places = sorted(
        (tuple(place) for place in np.argwhere(best).tolist()), key=lambda place: float(frontier.damage[place])
    )
    line = np.array([(frontier.damage[place], frontier.effects[place]) for place in places]).reshape(-1, 2)
    ax.plot(line[:, 0], line[:, 1], "o-", color=STEERED, markersize=5, linewidth=1.2, label="best trade-offs")
    for place in _apart(places, line):
        spot = (frontier.damage[place], frontier.effects[place])
        ax.annotate(_cell_name(frontier, place), spot, xytext=(5, -9), textcoords="offset points", fontsize=7)
    ax.margins(x=0.16, y=0.1)
    ax.set_xlabel(f"damage: {frontier.damage_metric}, steered − unsteered")
    ax.set_ylabel(f"effect: {frontier.effect_metric},\nsteered − unsteered")
    ax.legend(frameon=False, fontsize="small")
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def _rule(sweep: "Sweep", metric: int) -> str:
    """What hatching means; empty where nothing was tested."""
    if sweep.grid.nulls:
        return f"adjusted p above 0.05 ({sweep.grid.nulls} nulls, two-sided), or interval contains zero"
    covers = sweep.intervals(metric)[2]
    return (
        ""
        if covers == "nothing"
        else f"adjusted p above 0.05 (flipped signs), or 95 % interval over {covers} contains zero"
    )


def _title(sweep: "Sweep", pair: int, position: int) -> str:
    grid = sweep.grid
    label = grid.labels[pair].replace("$", r"\$")
    return f"{label}, position {grid.positions[position]}, {len(grid.prompts)} prompts"


def _told_cautions(sweep: "Sweep", metric: int, pair: int, position: int) -> str:
    """Warnings about the intervals, with the number of cells, as a further line."""
    cautions = [told for told in sweep.cautions(metric)[pair, :, :, position].flat if told]
    counts = {told: cautions.count(told) for told in dict.fromkeys(cautions)}
    cells = len(sweep.grid.layers) * len(sweep.grid.coefficients)
    return "".join(f"\n{told} ({count} of {cells} cells)" for told, count in counts.items())


def _axis_label(sweep: "Sweep", metric: int) -> str:
    unit = f" ({sweep.units[metric]})" if sweep.units[metric] else ""
    return f"{sweep.metrics[metric]},\nsteered − unsteered{unit}".replace("$", r"\$")


def _shades(coefficients: Sequence[float]) -> Sequence[Any]:
    """A few coefficients in colours that are told apart; many on a scale."""
    if len(coefficients) <= 8:
        return colours(len(coefficients))
    import matplotlib as mpl

    ranks = np.argsort(np.argsort(coefficients)) / (len(coefficients) - 1)
    return [mpl.colormaps["cividis"](rank) for rank in ranks]


def _apart(places: Sequence[Any], spots: np.ndarray) -> list[Any]:
    """Places whose spots leave room for a name, from the largest damage down."""
    size = np.ptp(spots, axis=0) if len(spots) else np.ones(2)
    scaled = spots / np.where(size > 0, size, 1.0)
    chosen: list[int] = []
    for index in reversed(range(len(places))):
        if all(np.abs(scaled[index] - scaled[other]).max() > _ROOM for other in chosen):
            chosen.append(index)
    return [places[index] for index in chosen]


def _cell_name(frontier: "Frontier", place: tuple[int, int, int, int]) -> str:
    """A cell by whatever differs between cells."""
    grid = frontier.grid
    told = [f"{grid.coefficients[place[2]]:g} × at layer {grid.layers[place[1]]}"]
    if len(grid.pairs) > 1:
        told.append(grid.labels[place[0]].replace("$", r"\$"))
    if len(grid.positions) > 1:
        told.append(str(grid.positions[place[3]]))
    return ", ".join(told)
