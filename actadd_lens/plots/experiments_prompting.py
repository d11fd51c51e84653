"""Pictures of injection against prompting. Each takes a result and returns the Axes."""

from typing import TYPE_CHECKING

from actadd_lens.plots.style import NULL, STEERED, as_written, heat_map, new_axes, visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from actadd_lens.experiments.prompting import Prompting

PROMPTED = "#0072B2"

PAPER = {
    ("on-topic", "injection"): 0.8749,
    ("on-topic", "prompt"): 0.8904,
    ("off-topic", "injection"): 0.9942,
    ("off-topic", "prompt"): 1.1322,
}
"""Ratios of GPT-2-XL in the paper."""


@as_written
def plot_prompting(result: "Prompting", *, ax: "Axes | None" = None) -> "Axes":
    """Perplexity ratios of injection and prompt on and off the topic, above their nulls, with the paper's values.

    Args:
        result: The result.
        ax: Where to draw.
    """
    ax = new_axes(ax, figsize=(6.8, 3.4))
    conditions = [("injection", result.injection, STEERED), ("prompt", result.prompt, PROMPTED)]
    rows = [
        (texts, how, found[texts], colour) for texts in ("on-topic", "off-topic") for how, found, colour in conditions
    ]
    for row, (texts, how, found, colour) in enumerate(rows):
        height = len(rows) - 1 - row
        first = row == 0
        ax.scatter(found.nulls, [height - 0.2] * len(found.nulls), s=16, color=NULL, alpha=0.7, linewidths=0,
                   label="nulls: unrelated pairs, unrelated words" if first and found.nulls else None)  # fmt: skip
        errors = [[found.value - found.low], [found.high - found.value]]
        ax.errorbar([found.value], [height], xerr=errors, fmt="o", color=colour, capsize=3,
                    label="this model, with 95 % interval" if first else None)  # fmt: skip
        ax.scatter([PAPER[texts, how]], [height + 0.22], marker="D", s=28, facecolors="none", edgecolors="black",
                   label="GPT-2-XL, in the paper" if first else None)  # fmt: skip
    ax.axvline(1, color="black", linewidth=0.8)
    ax.set_yticks(range(len(rows)), [f"{texts}, {how}" for texts, how, _, _ in rows][::-1])
    ax.set_ylim(-0.6, len(rows) - 0.4)
    ax.set_xlabel("perplexity / unsteered perplexity, over the same predictions")
    label = visible(result.pair.positive)
    ax.set_title(
        f"{result.coefficient:g} × ({_label(result)}) at layer {result.layer}, against “{label}” before the text",
        fontsize="small",
    )
    ax.legend(frameon=False, fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=3)
    ax.spines[["top", "right", "left"]].set_visible(False)
    return ax


@as_written
def plot_transplants(result: "Prompting", *, ax: "Axes | None" = None) -> "Axes":
    """Effect on the topic's words by the layer where a vector is read and the layer where it is added.

    Args:
        result: The result.
        ax: Where to draw.
    """
    found = result.transplants
    effects = found.effects[0][:, :, 0, 0]
    layers = [str(layer) for layer in found.grid.layers]
    marks = [[f"{value:+.2f}" for value in row] for row in effects]
    ax = heat_map(effects, rows=layers, columns=layers, marks=marks, ax=ax,
                  label="log-prob of topic words,\nsteered − unsteered (nats)")  # fmt: skip
    ax.set_xlabel("added at layer")
    ax.set_ylabel("read at layer")
    title = f"{found.grid.coefficients[0]:g} × ({_label(result)}), {len(found.grid.prompts)} prompts"
    ax.set_title(title, fontsize="small")
    return ax


def _label(result: "Prompting") -> str:
    return result.pair.label.replace("$", r"\$")
