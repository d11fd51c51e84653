"""What all pictures share: axes, colours that colour-blind readers can tell apart (Okabe and Ito), heat maps."""

import functools
import re
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import numpy as np
from jaxtyping import Float

from actadd_lens.vectors import naming

if TYPE_CHECKING:
    from matplotlib.axes import Axes


Parameters = ParamSpec("Parameters")
Drawn = TypeVar("Drawn")

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
    """That many colours, distinguishable for colour-blind readers too (after eight they repeat)."""
    palette = [STEERED, "#0072B2", "#009E73", "#CC79A7", "#E69F00", UNSTEERED, "#F0E442", "#000000"]
    return [palette[index % len(palette)] for index in range(count)]


def visible(text: str) -> str:
    """A token as pictures show it: spaces as dots, line ends as arrows, and no mathematics in dollars."""
    return naming.visible(text).replace("$", r"\$")


def as_written(draw: Callable[Parameters, Drawn]) -> Callable[Parameters, Drawn]:
    """A picture whose texts are shown as written: matplotlib would read text between dollar signs as formulas.

    Args:
        draw: A function that returns Axes, or several of one figure.
    """

    @functools.wraps(draw)
    def drawn(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Drawn:
        found = draw(*args, **kwargs)
        first: Any = found[0] if isinstance(found, Sequence) else found
        if not hasattr(first, "figure"):  # several axes as an array
            first = first[0]
        for ax in first.figure.axes:
            for text in _texts(ax):
                text.set_text(_without_formulas(text.get_text()))
            for axis in (ax.xaxis, ax.yaxis):
                _write_ticks(axis)
        return found

    return drawn


def _texts(ax: "Axes") -> Iterator[Any]:
    legend = ax.get_legend()
    yield from (ax.title, ax.xaxis.label, ax.yaxis.label, *ax.texts)
    yield from () if legend is None else (legend.get_title(), *legend.get_texts())


def _write_ticks(axis: Any) -> None:
    """Names of ticks, where they were given; those of numbers are matplotlib's own."""
    from matplotlib.ticker import FixedLocator

    if isinstance(axis.get_major_locator(), FixedLocator):
        names = [label.get_text() for label in axis.get_ticklabels()]
        plain = [_without_formulas(name) for name in names]
        if plain != names:
            axis.set_ticklabels(plain)


def _without_formulas(text: str) -> str:
    return re.sub(r"(?<!\\)\$", r"\\$", text)


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
        label: What the numbers are, with their unit, for the colour bar.
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
