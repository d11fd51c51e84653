"""Pictures of what attention and values carry, and of what heads see in a vector; none runs a model."""

from typing import TYPE_CHECKING

from actadd_lens.plots.measuring import plot_effects
from actadd_lens.plots.style import NULL, STEERED, as_written, colours, heat_map, new_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from actadd_lens.analysis.dimensions import DimensionAblation
    from actadd_lens.analysis.freezing import AttentionOrValue
    from actadd_lens.analysis.heads import HeadReading
    from actadd_lens.analysis.minimal import MinimalSet


@as_written
def plot_attention_or_value(result: "AttentionOrValue", *, ax: "Axes | None" = None) -> "Axes":
    """The parts of an effect with their intervals, above the same parts of the null vectors."""
    from actadd_lens.analysis.freezing import PARTS

    return plot_effects({part: result.effect(part) for part in PARTS}, unit=result.metric.name, ax=ax)


@as_written
def plot_frozen_heads(result: "AttentionOrValue", *, way: str = "attention", ax: "Axes | None" = None) -> "Axes":
    """What the effect loses when one head keeps its unsteered pattern, its values, or both."""
    frame = result.head_frame()
    table = frame.pivot_table(index="layer", columns="head", values=f"lost, {way}")
    size = (1.8 + 0.55 * table.shape[1], 1.2 + 0.36 * table.shape[0])
    ax = heat_map(
        table.to_numpy(), rows=[str(layer) for layer in table.index], columns=[str(head) for head in table.columns],
        label=f"lost, {result.metric.unit}" if result.metric.unit else "lost", ax=new_axes(ax, figsize=size),
    )  # fmt: skip
    ax.set_xlabel("head")
    ax.set_ylabel("layer")
    ax.set_title(f"{result.metric.name}: effect lost with {way} of one head unsteered", fontsize=9)
    return ax


@as_written
def plot_head_reading(result: "HeadReading", *, ax: "Axes | None" = None) -> "Axes":
    """How much more each head would look at the vector, with the first token that it would write on seeing it."""
    layers, heads = result.looks.shape[1:]
    tokens = [[result.promoted[layer][head][0].text.strip() for head in range(heads)] for layer in range(layers)]
    size = (1.8 + 0.85 * heads, 1.2 + 0.36 * layers)
    ax = heat_map(
        result.looks[0], rows=[str(layer) for layer in result.layers], columns=[str(head) for head in range(heads)],
        label="change of log-odds", ax=new_axes(ax, figsize=size), marks=tokens,
    )  # fmt: skip
    ax.set_xlabel("head")
    ax.set_ylabel("layer")
    ax.set_title(f"heads on {result.vector.label}", fontsize=9)
    return ax


@as_written
def plot_dimensions(result: "DimensionAblation", *, ax: "Axes | None" = None) -> "Axes":
    """The effect by dimensions kept, a line with intervals for each order, above the nulls of the first."""
    ax = new_axes(ax)
    for order, colour in zip(result.orders, colours(len(result.orders)), strict=True):
        effects = [result.effect(order, keep) for keep in result.keep]
        means = [effect.mean for effect in effects]
        ax.plot(result.keep, means, "o-", color=colour, label=order)
        ax.fill_between(result.keep, [effect.low for effect in effects], [effect.high for effect in effects],
                        color=colour, alpha=0.15, linewidth=0)  # fmt: skip
        for null in range(len(effects[0].nulls)):
            ax.plot(result.keep, [effect.nulls[null] for effect in effects], color=NULL, alpha=0.15, linewidth=0.6)
    ax.axhline(result.whole_effect.mean, color="black", linewidth=0.8, linestyle="--", label="whole vector")
    ax.axhline(0, color="black", linewidth=0.8)
    ax.set_xscale("log")
    ax.set_xticks(result.keep, [str(keep) for keep in result.keep])
    ax.minorticks_off()
    ax.set_xlabel(f"dimensions kept, of {result.vector.d_model}")
    ax.set_ylabel(f"effect on {result.metric.name}")
    ax.set_title(result.vector.label, fontsize=9)
    ax.legend(frameon=False, fontsize="small")
    return ax


@as_written
def plot_minimal_set(result: "MinimalSet", *, ax: "Axes | None" = None) -> "Axes":
    """The share of the effect that is kept by the number of components that are free to change."""
    ax = new_axes(ax)
    ax.plot(range(len(result.kept)), result.kept, "-", color=STEERED)
    ax.axhline(0.8, color="black", linewidth=0.8, linestyle="--")
    ax.axhline(0, color="black", linewidth=0.8)
    ax.set_xlabel(f"heads and MLPs that may change, of {len(result.components)}")
    ax.set_ylabel("share of the effect")
    ax.set_title(f"{result.metric.name}: {result.size(0.8)} keep 80 %", fontsize=9)
    return ax
