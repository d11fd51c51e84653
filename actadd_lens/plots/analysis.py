"""Pictures of the analysis results: each function takes a result and returns the Axes; none runs a model."""

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from actadd_lens.plots.style import NULL, STEERED, UNSTEERED, as_written, heat_map, new_axes, visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from actadd_lens.analysis.lens import LogitLens
    from actadd_lens.analysis.linearity import Linearity
    from actadd_lens.analysis.norms import NormProfile
    from actadd_lens.analysis.shift import NextTokenShift, TextShift
    from actadd_lens.analysis.similarity import CosineSimilarity

_NAMED = 6
"""Tokens that are named at each end of a Q-Q picture."""


@as_written
def plot_logit_lens(lens: "LogitLens", *, ax: "Axes | None" = None) -> "Axes":
    """Tokens of each row that is not zero: the most promoted on top, the most demoted at the bottom."""
    rows = [row for row in lens.rows if row.promoted]
    k, columns = lens.k, []
    z, marks = np.full((2 * k, len(rows)), np.nan), [[""] * len(rows) for _ in range(2 * k)]
    several = len({row.vector for row in rows}) > 1
    for column, row in enumerate(rows):
        named = f"{row.name}\n{row.row_name}" if several else row.row_name
        columns.append(row.name if row.row is None else named)
        for line, token in enumerate((*row.promoted, *reversed(row.demoted))):
            z[line, column], marks[line][column] = token.z, visible(token.text)
    longest = max((len(text) for line in marks for text in line), default=4)
    width = 2.2 + len(rows) * max(0.75, 0.085 * longest + 0.15)
    ax = new_axes(ax, figsize=(width, max(2.4, 1.3 + 0.26 * 2 * k)))
    names = [f"+{rank}" for rank in range(1, k + 1)] + [f"−{rank}" for rank in range(k, 0, -1)]
    heat_map(z, rows=names, columns=columns, label="z against random directions", ax=ax, marks=marks)
    ax.axhline(k - 0.5, color="black", linewidth=1)
    ax.set_ylabel("demoted      promoted")
    ax.set_title(_wrapped(lens.title, width), fontsize=9)
    return ax


@as_written
def plot_similarity(similarity: "CosineSimilarity", *, ax: "Axes | None" = None) -> "Axes":
    """Cosines as colours and numbers; a star marks those that unrelated pairs rarely reach."""
    down, across = ((similarity.cosines != 0).any(axis=axis) for axis in (1, 0))  # rows of zeros say nothing
    if not down.any():
        down, across = ~down, ~across
    cosines, outside = similarity.cosines[down][:, across], similarity.outside[down][:, across]
    marks = [
        [f"{value:+.2f}{'*' if outside[row, column] else ''}" for column, value in enumerate(line)]
        for row, line in enumerate(cosines)
    ]
    rows = [_plain(name) for name, kept in zip(similarity.names, down, strict=True) if kept]
    columns = [_plain(name) for name, kept in zip(similarity.other_names, across, strict=True) if kept]
    few = len(columns) <= 14
    ax = heat_map(
        cosines,
        rows=rows,
        columns=columns,
        label="cosine similarity",
        ax=ax,
        marks=marks if few else None,
        limit=1.0,
    )
    told = "* outside 95 % of unrelated pairs" if similarity.nulls and few else ""
    compared = {"rows": "row with row", "aligned": "vectors, row by row", "pooled": "vectors, rows pooled"}
    ax.set_title(compared[similarity.by] + (f"; {told}" if told else ""), fontsize=9)
    return ax


@as_written
def plot_norm_profile(profile: "NormProfile", *, ax: "Axes | None" = None) -> "Axes":
    """Relative norm on each token that a row lands on."""
    table = profile.table
    touched = [column for column in range(table.shape[1]) if np.isfinite(table[:, column]).any()]
    last = min(table.shape[1], max(touched) + 2)
    names = [_plain(name) for name in profile.names]
    if len(names) == 1:
        names = [f"layer {layer}{' ◀' if layer == profile.layers[0] else ''}" for layer in range(len(table))]
    marks = [[_short(value) for value in line[:last]] for line in table]
    # Before the first block the stream may be tiny; it is written, but would drown the other layers' colours.
    later = table[1:] if len(names) > 1 else table
    limit = float(np.nanmax(later)) if np.isfinite(later).any() else None
    columns = [f"{index}: {visible(text)}" for index, text in enumerate(profile.tokens[:last])]
    ax = heat_map(
        table[:, :last], rows=names, columns=columns, label="injection norm / stream norm", ax=ax, marks=marks,
        centred=False, limit=limit,
    )  # fmt: skip
    if len(profile.names) == 1:
        ax.set_title(f"{_plain(profile.names[0])}, as if added at each layer (◀ its own)", fontsize=9)
    return ax


@as_written
def plot_shift(shift: "NextTokenShift", *, ax: "Axes | None" = None) -> "Axes":
    """Change of the log-probability of the tokens that rise and fall most."""
    tokens = [*shift.rises, *reversed(shift.falls)]
    ax = new_axes(ax, figsize=(5.5, 1.2 + 0.24 * len(tokens)))
    heights = list(range(len(tokens)))[::-1]
    changes = [token.change for token in tokens]
    ax.barh(heights, changes, color=[STEERED if change > 0 else UNSTEERED for change in changes])
    for height, token in zip(heights, tokens, strict=True):
        note = f"{token.unsteered:.2g} → {token.steered:.2g}"
        ax.annotate(note, (0, height), xytext=(-4 if token.change > 0 else 4, 0), textcoords="offset points",
                    ha="right" if token.change > 0 else "left", va="center", fontsize=7)  # fmt: skip
    ax.set_yticks(heights, [visible(token.text) for token in tokens])
    ax.axvline(0, color="black", linewidth=0.8)
    largest = max((abs(change) for change in changes), default=1.0)
    ax.set_xlim(-1.05 * largest, 1.05 * largest)
    ax.set_xlabel("change of log-prob, nats (probability: unsteered → steered)")
    ax.set_title(_plain(f"{shift.name}: KL(steered || unsteered) = {shift.kl.steered:.3g} nats"), fontsize=9)
    return _open(ax)


@as_written
def plot_text_shift(shift: "TextShift", *, ax: "Axes | None" = None) -> "Axes":
    """Q-Q picture of the tokens' mean changes, with the line that a normal distribution would follow."""
    ax = new_axes(ax, figsize=(5.0, 4.2))
    expected, changes = shift.quantiles
    middle, spread = float(np.median(changes)), float(np.subtract(*np.quantile(changes, [0.75, 0.25]))) / 1.349
    ax.plot(expected, middle + spread * expected, color=NULL, linewidth=1, label="normal, of the same middle half")
    ax.scatter(expected, changes, s=10, color=STEERED, linewidths=0, label="tokens")
    ordered = sorted(shift.tokens, key=lambda token: token.change)
    top = [(len(ordered) - 1 - rank, -1) for rank in range(min(_NAMED, len(ordered) // 2))]
    bottom = [(rank, 1) for rank in range(min(_NAMED, len(ordered) // 2))]
    low, high = float(changes.min()), float(changes.max())
    gap = 0.05 * (high - low)
    ax.set_ylim(low - 2 * gap, high + 2 * gap)
    for ends in (top, bottom):
        heights = _apart([changes[index] for index, _ in ends], gap, up=ends is bottom)
        for (index, side), height in zip(ends, heights, strict=True):
            ax.annotate(visible(ordered[index].text), (expected[index], changes[index]),
                        xytext=(expected[index] + 0.8 * side, height), va="center",
                        ha="right" if side < 0 else "left", fontsize=7,
                        arrowprops={"arrowstyle": "-", "color": NULL, "linewidth": 0.5})  # fmt: skip
    ax.set_xlabel("quantile of a normal distribution")
    ax.set_ylabel("mean change of log-prob, nats")
    ax.set_title(_plain(f"{shift.name}: {len(shift.tokens)} tokens"), fontsize=9)
    ax.legend(frameon=False, fontsize="small", loc="upper left")
    return _open(ax)


@as_written
def plot_linearity(result: "Linearity", *, ax: "Axes | None" = None) -> "Axes":
    """Effect and first-order estimate over the coefficient, on the effect's own scale."""
    ax = new_axes(ax, figsize=(5.5, 3.6))
    effects, factors = result.effects, np.array(result.coefficients)
    means = np.array([effect.mean for effect in effects])
    if len(result.nulls):
        ax.plot(factors, result.nulls.T, color=NULL, linewidth=0.7, alpha=0.6)
        ax.plot([], [], color=NULL, linewidth=0.7, label="null vectors of equal norms")
    ends = np.array([factors.min(initial=0.0), factors.max(initial=0.0)])
    ax.plot(ends, ends * result.slope, color="#0072B2", linestyle="--", label="c × first-order estimate")
    errors = np.array([[effect.mean - effect.low, effect.high - effect.mean] for effect in effects]).T
    ax.errorbar(factors, means, yerr=None if np.isnan(errors).any() else errors, color=STEERED, marker="o",
                markersize=4, capsize=2, label="effect")  # fmt: skip
    seen = np.concatenate([means, result.nulls.ravel(), [0.0]])
    room = 0.15 * (float(seen.max() - seen.min()) or 1.0)
    ax.set_ylim(float(seen.min()) - 2 * room, float(seen.max()) + 2 * room)
    ax.axhline(0, color="black", linewidth=0.8)
    ax.axvline(0, color="black", linewidth=0.8)
    ax.set_xlabel(_plain(f"c (times {result.name})"))
    ax.set_ylabel(_plain(f"change of {result.metric.name}" + (f", {result.metric.unit}" if result.metric.unit else "")))
    ax.legend(frameon=False, fontsize="small")
    return _open(ax)


def _open(ax: "Axes") -> "Axes":
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def _apart(heights: list[float], gap: float, *, up: bool) -> list[float]:
    """Heights moved until neighbours are a gap apart: up from the lowest, or down from the highest."""
    if not up:
        return [-height for height in _apart([-height for height in heights], gap, up=True)]
    found, order = list(heights), [int(index) for index in np.argsort(heights)]
    for before, index in pairwise(order):
        found[index] = max(found[index], found[before] + gap)
    return found


def _short(value: float) -> str:
    """A number in a cell, or nothing."""
    if not np.isfinite(value):
        return ""
    return f"{value:.0f}" if value >= 100 or value == 0 else f"{value:.2g}"


def _plain(text: str) -> str:
    """Text without mathematics in dollars."""
    return text.replace("$", r"\$")


def _wrapped(text: str, width: float) -> str:
    import textwrap

    return _plain("\n".join(textwrap.wrap(text, max(30, int(width * 13)))))
