"""Draws images/concepts.svg, what is read and what is added where: `python docs/make_drawing.py`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

OUT = Path(__file__).parent / "images" / "concepts.svg"
LAYERS, LAYER = 5, 2
READ, ADDED, REACHED, PLAIN, INK = "#0072B2", "#D55E00", "#F6CDB0", "#E8E8E8", "#333333"
PAIR = (("BOS", "I", "love", "it"), ("BOS", "I", "hate", "it"))
PROMPT = ("BOS", "The", "girl", "looked", "at", "the")


def main() -> None:
    """Draw and write."""
    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "actadd_lens"
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9.6, 5.2), width_ratios=(9.4, 8.8), layout="constrained")
    draw_reading(left)
    draw_adding(right)
    figure.savefig(OUT, metadata={"Date": None})


def draw_reading(ax: Any) -> None:
    """Both prompts run as far as the layer; the rows are the differences at its input."""
    for column, (tokens, name) in enumerate(zip(PAIR, ("positive prompt", "negative prompt"), strict=True)):
        shades = [[READ if depth == LAYER else PLAIN for _ in tokens] for depth in range(LAYER + 1)]
        draw_stream(ax, 5.0 * column, tokens, shades)
        ax.text(5.0 * column + 1.5, -1.25, name, ha="center", color=INK)
    ax.text(4.0, LAYER, "−", ha="center", va="center", fontsize=20, color=INK)
    names = ("0", "0", "love − hate", "it − it")
    for row, name in enumerate(names):
        zero = name == "0"
        box(ax, 2.05 + 1.3 * row, LAYER + 1.7, PLAIN if zero else ADDED)
        ax.text(2.05 + 1.3 * row, LAYER + 1.7, f"row {row}", ha="center", va="center", fontsize=8.5,
                color=INK if zero else "white")  # fmt: skip
        ax.text(2.05 + 1.3 * row, LAYER + 2.2, name, ha="center", va="center", fontsize=8.5, color=INK)
    for start in (1.5, 6.5):
        arrow(ax, (start, LAYER + 0.45), (4.0, LAYER + 1.3))
    ax.text(4.0, LAYER + 2.8, "the steering vector: one row per token", ha="center", color=INK)
    ax.text(-0.75, LAYER, f"input of\nblock {LAYER}", ha="right", va="center", fontsize=9, color=READ)
    finish(ax, "Read: resid_pre of both prompts, subtracted", (-2.1, 8.6))


def draw_adding(ax: Any) -> None:
    """Rows land on the first tokens of another prompt; all that reads them changes."""
    shades = [[shade_of(depth, token) for token in range(len(PROMPT))] for depth in range(LAYERS)]
    draw_stream(ax, 0.0, PROMPT, shades)
    for row in range(4):
        zero = row < 2
        ax.text(row, LAYER, f"+ c·row {row}" if not zero else "+ 0", ha="center", va="center", fontsize=7,
                color=INK if zero else "white")  # fmt: skip
    ax.text(-0.75, LAYER, f"input of\nblock {LAYER}", ha="right", va="center", fontsize=9, color=ADDED)
    box(ax, 5, LAYERS + 0.35, REACHED)
    ax.text(5, LAYERS + 0.35, "next\ntoken", ha="center", va="center", fontsize=8, color=INK)
    arrow(ax, (5, LAYERS - 0.6), (5, LAYERS - 0.1))
    ax.text(2.5, -1.25, "prompt, position front", ha="center", color=INK)
    told = "light: what attention and MLPs\ncarry on from there"
    ax.text(1.7, LAYERS + 0.35, told, ha="center", va="center", fontsize=9, color=INK)
    finish(ax, "Add: c × row i at token i, once", (-1.7, 5.6))


def shade_of(depth: int, token: int) -> str:
    """Colour of a token's stream at the input of a block: unsteered, injected, or reached from there."""
    if depth == LAYER and token in (2, 3):
        return ADDED
    return REACHED if depth > LAYER and token >= 2 else PLAIN


def draw_stream(ax: Any, left: float, tokens: Sequence[str], shades: Sequence[Sequence[str]]) -> None:
    """The residual stream: a column per token, a row per block's input, from the bottom up."""
    for column, token in enumerate(tokens):
        ax.text(left + column, -0.7, token, ha="center", va="center", fontsize=9.5, family="monospace", color=INK)
        for depth, row in enumerate(shades):
            box(ax, left + column, depth, row[column])
            if depth:
                arrow(ax, (left + column, depth - 0.68), (left + column, depth - 0.32), size=6)


def box(ax: Any, x: float, y: float, colour: str) -> None:
    """One stream vector."""
    ax.add_patch(FancyBboxPatch((x - 0.41, y - 0.24), 0.82, 0.48, boxstyle="round,pad=0,rounding_size=0.1",
                                facecolor=colour, edgecolor="none"))  # fmt: skip


def arrow(ax: Any, start: tuple[float, float], end: tuple[float, float], *, size: int = 10) -> None:
    """From one place to another."""
    ax.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=size, color="#777777", linewidth=1))


def finish(ax: Any, title: str, sides: tuple[float, float]) -> None:
    """The same height for both panels, and no axes."""
    ax.set_title(title, color=INK, fontsize=12)
    ax.set(xlim=sides, ylim=(-1.6, LAYERS + 0.9))
    ax.axis("off")


if __name__ == "__main__":
    main()
