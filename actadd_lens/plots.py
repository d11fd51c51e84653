"""Pictures: each function takes a result and returns the Axes; none runs a model.

Colours are those of Okabe and Ito, which colour-blind readers can tell apart.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from actadd_lens.errors import SettingError
from actadd_lens.statistics import Effect
from actadd_lens.vectors import naming

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from actadd_lens.experiments.demonstration import Demonstration
    from actadd_lens.measuring.measure import CompletionMeasurement, Measurement
    from actadd_lens.steering.preview import Preview
    from actadd_lens.vectors.vector import SteeringVector

STEERED = "#D55E00"
UNSTEERED = "#56B4E9"
NULL = "#999999"


def new_axes(ax: "Axes | None" = None, *, figsize: tuple[float, float] = (6.0, 3.2)) -> "Axes":
    """The Axes given, or new ones on a figure of their own."""
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    axes: Axes = plt.subplots(figsize=figsize, layout="constrained")[1]
    return axes


def colours(count: int) -> Sequence[Any]:
    """So many colours, told apart by colour-blind readers too (after eight they repeat)."""
    palette = [STEERED, "#0072B2", "#009E73", "#CC79A7", "#E69F00", UNSTEERED, "#F0E442", "#000000"]
    return [palette[index % len(palette)] for index in range(count)]


def visible(text: str) -> str:
    """A token as pictures show it: spaces as dots, line ends as arrows, and no mathematics in dollars."""
    return naming.visible(text).replace("$", r"\$")


def heat_map(
    values: Float[np.ndarray, "rows columns"],
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    label: str,
    ax: "Axes | None" = None,
    marks: Sequence[Sequence[str]] | None = None,
    centred: bool = True,
    limit: float | None = None,
) -> "Axes":
    """A table of numbers as colours: orange above zero, purple below, white at zero; cells without a number are grey.

    Args:
        values: The numbers; NaN where there is none.
        rows: Name of each row, drawn from the top.
        columns: Name of each column; tokens are best passed through `visible`.
        label: What the numbers are, with their unit; it stands beside the colour bar.
        ax: Where to draw.
        marks: A short text for each cell, such as its number; `""` for none.
        centred: Whether the numbers have a sign, so that zero is the middle; else colours run up from the smallest.
        limit: The number at which colours end, such as 1 for cosines; by default the largest.
    """
    import matplotlib as mpl

    table = np.ma.masked_invalid(np.asarray(values, dtype=float))
    longest, widest = (max((len(name) for name in names), default=0) for names in (rows, columns))
    slanted = widest > 3
    width = max(4.5, 2.0 + 0.08 * longest + 0.55 * len(columns))
    height = max(1.8, 1.0 + 0.34 * len(rows) + (0.055 * widest if slanted else 0.2))
    ax = new_axes(ax, figsize=(min(width, 12.0), height))
    if centred:
        largest = limit or (float(np.abs(table).max()) if table.count() else 1.0)
        colour_map, low, high = mpl.colormaps["PuOr_r"], -(largest or 1.0), largest or 1.0
    else:
        found = (float(table.min()), float(table.max())) if table.count() else (0.0, 1.0)
        colour_map, low, high = mpl.colormaps["cividis"], found[0], limit or found[1]
    image = ax.imshow(table, cmap=colour_map.with_extremes(bad="#DDDDDD"), vmin=low, vmax=high, aspect="auto")
    ax.set_xticks(range(len(columns)), columns, rotation=45 if slanted else 0, ha="right" if slanted else "center")
    ax.set_xticks(np.arange(len(columns) + 1) - 0.5, minor=True)
    ax.set_yticks(range(len(rows)), rows)
    ax.set_yticks(np.arange(len(rows) + 1) - 0.5, minor=True)
    ax.tick_params(which="minor", length=0)
    ax.grid(which="minor", color="white", linewidth=1)
    ax.spines[:].set_visible(False)
    ax.figure.colorbar(image, ax=ax, label=label, shrink=0.9)
    if marks is not None:
        _write_marks(ax, marks, image)
    return ax


def _write_marks(ax: "Axes", marks: Sequence[Sequence[str]], image: Any) -> None:
    """Text in cells, white where the colour below is dark."""
    shades = image.to_rgba(image.get_array())
    for row, texts in enumerate(marks):
        for column, text in enumerate(texts):
            red, green, blue = shades[row, column, :3]
            is_dark = 0.3 * red + 0.59 * green + 0.11 * blue < 0.5
            ink = "white" if is_dark else "black"
            ax.text(column, row, text, ha="center", va="center", fontsize=8, color=ink)


def plot_norms(vector: "SteeringVector", *, ax: "Axes | None" = None) -> "Axes":
    """Norm of each row of a steering vector."""
    ax = new_axes(ax)
    norms = vector.norms.tolist()
    ax.bar(range(len(norms)), norms, color=STEERED)
    ax.set_xticks(range(len(norms)))
    ax.set_xlabel("row (token of the prompt pair)")
    ax.set_ylabel("row norm")
    ax.set_title(f"{vector.label}, layer {vector.layer}")
    return ax


def plot_preview(preview: "Preview", *, ax: "Axes | None" = None) -> "Axes":
    """Relative norm of what lands on each token of a prompt."""
    ax = new_axes(ax, figsize=(max(4.0, 0.6 * len(preview.tokens)), 3.2))
    bottoms = np.zeros(len(preview.tokens))
    numbers = sorted({touch.vector for touch in preview.touches})
    for number, colour in zip(numbers, colours(len(numbers)), strict=True):
        touches = [touch for touch in preview.touches if touch.vector == number]
        heights = np.zeros(len(preview.tokens))
        for touch in touches:
            heights[touch.token] += touch.relative
        label = f"{touches[0].label}, layer {touches[0].layer}"
        ax.bar(range(len(heights)), heights, bottom=bottoms, color=colour, label=label)
        bottoms += heights
    ax.set_xticks(range(len(preview.tokens)), [visible(text) for text in preview.tokens], rotation=45, ha="right")
    ax.set_xlabel("prompt token")
    ax.set_ylabel("injection norm / stream norm")
    ax.legend(frameon=False)
    return ax


def plot_effects(effects: dict[str, Effect], *, unit: str = "", title: str = "", ax: "Axes | None" = None) -> "Axes":
    """Effects with their intervals, each above the effects of its null vectors.

    Args:
        effects: Effects by name, drawn from the top.
        unit: What was measured.
        title: Title of the picture.
        ax: Where to draw.

    Raises:
        SettingError: It is no dictionary of effects.
    """
    if not isinstance(effects, dict) or not all(isinstance(effect, Effect) for effect in effects.values()):
        raise SettingError("plot_effects takes effects by name, such as {'4 × love': measured.effect}.")
    ax = new_axes(ax, figsize=(6.4, 0.9 + 0.6 * len(effects)))
    spread = np.random.default_rng(0)
    labelled = False
    for row, effect in enumerate(effects.values()):
        height = len(effects) - 1 - row
        if len(effect.nulls):
            jitter = height - 0.18 + spread.uniform(-0.06, 0.06, len(effect.nulls))
            ax.scatter(effect.nulls, jitter, s=14, color=NULL, alpha=0.8, linewidths=0,
                       label=None if labelled else "null vectors of equal norms")  # fmt: skip
            labelled = True
        errors = [[effect.mean - effect.low], [effect.high - effect.mean]]
        error = None if np.isnan(errors).any() else errors
        ax.errorbar([effect.mean], [height + 0.1], xerr=error, fmt="o", color=STEERED, capsize=3,
                    label="steering vector" if row == 0 else None)  # fmt: skip
    ax.axvline(0, color="black", linewidth=0.8)
    ax.set_yticks(range(len(effects)), list(effects)[::-1])
    ax.set_ylim(-0.6, len(effects) - 0.4)
    ax.set_xlabel(f"steered − unsteered{f', {unit}' if unit else ''}")
    # The key stands above the picture, where no null or interval can be.
    ax.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0, ncols=2, fontsize="small")
    ax.set_title(title, pad=22)
    for side in ("top", "right", "left"):
        ax.spines[side].set_visible(False)
    return ax


def plot_measurement(measurement: "Measurement | CompletionMeasurement", *, ax: "Axes | None" = None) -> "Axes":
    """One effect with its interval, above the effects of its null vectors."""
    from actadd_lens.measuring.measure import Measurement

    if isinstance(measurement, Measurement):
        vectors, unit = measurement.vectors, measurement.metric.name
    else:
        vectors, unit = measurement.completions.vectors, measurement.scorer
    return plot_effects({" + ".join(naming.vector_names(vectors)): measurement.effect}, unit=unit, ax=ax)


def plot_demonstration(demonstration: "Demonstration", *, axes: "Sequence[Axes] | None" = None) -> "Sequence[Axes]":
    """Effects of each chapter in an Axes of its own."""
    chapters = demonstration.chapters
    if axes is None:
        import matplotlib.pyplot as plt

        heights = [0.9 + 0.6 * len(chapter.measurements) for chapter in chapters]
        figsize = (7.0, sum(heights) + 0.8)
        _, axes = plt.subplots(len(chapters), 1, figsize=figsize, height_ratios=heights, layout="constrained")
    for chapter, ax in zip(chapters, axes, strict=True):
        effects = {name: measurement.effect for name, measurement in chapter.measurements.items()}
        unit = next(iter(chapter.measurements.values())).scorer
        title = f"{chapter.name}: {chapter.vector.label} at layer {chapter.vector.layer}"
        plot_effects(effects, unit=unit, title=title, ax=ax)
    return axes
