"""Pictures of a vector, and of where it lands."""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from actadd_lens.steering.preview import Preview
    from actadd_lens.vectors.vector import SteeringVector

from actadd_lens.plots.style import STEERED, as_written, colours, new_axes, visible


@as_written
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


@as_written
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
