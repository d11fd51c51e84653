"""Pictures of what was learnt: losses by step, scalars by layer and token, effect against side effect."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from actadd_lens.plots.style import STEERED, UNSTEERED, as_written, heat_map, new_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from actadd_lens.measuring.tradeoff import AdapterTradeoff
    from actadd_lens.methods.scaling import ActivationScaling


@as_written
def plot_history(history: Sequence[Mapping[str, float]], *, title: str = "", ax: "Axes | None" = None) -> "Axes":
    """The loss before each step, and the held-out loss where there was one.

    Args:
        history: A row for each step.
        title: Title of the picture.
        ax: Where to draw.
    """
    ax = new_axes(ax, figsize=(6.0, 3.2))
    ax.plot([row["loss"] for row in history], color=UNSTEERED, linewidth=1, label="training")
    held_out = [(step, row["held out"]) for step, row in enumerate(history, 1) if "held out" in row]
    if held_out:
        ax.plot(*zip(*held_out, strict=True), color=STEERED, marker="o", markersize=3, label="held out")
        ax.legend(frameon=False)
    ax.set(xlabel="step", ylabel="loss", title=title)
    return ax


@as_written
def plot_tradeoff(tradeoff: "AdapterTradeoff", ax: "Axes | None" = None) -> "Axes":
    """Side effect over effect: the model at many coefficients, and the same with the adapter on.

    Args:
        tradeoff: What was measured.
        ax: Where to draw.
    """
    ax = new_axes(ax, figsize=(6.0, 4.0))
    frame = tradeoff.frame().sort_values("coefficient")
    for condition, colour, label in (("model", UNSTEERED, "the model alone"), ("adapter", STEERED, "with the adapter")):
        rows = frame[frame["condition"] == condition]
        ax.plot(rows["effect"], rows["side effect"], color=colour, marker="o", markersize=4, label=label)
        for _, row in rows.iterrows():
            ax.annotate(f"{row['coefficient']:g}", (row["effect"], row["side effect"]), xytext=(4, 3),
                        textcoords="offset points", fontsize=7, color=colour)  # fmt: skip
    ax.set(xlabel=f"effect: {tradeoff.metric.name}, change", ylabel="side effect: KL on benign text, nats a token")
    ax.legend(frameon=False)
    return ax


@as_written
def plot_scaling(scaling: "ActivationScaling", ax: "Axes | None" = None) -> "Axes":
    """Scalars, or norms of vectors and probes, by site, layer and token.

    Args:
        scaling: What was learnt.
        ax: Where to draw.
    """
    frame = scaling.frame()
    places = list(dict.fromkeys(zip(frame["site"], frame["layer"], strict=True)))
    table = np.array(
        [values for _, values in frame.groupby(["site", "layer"], sort=False)["value"].apply(list).items()]
    )
    ax = heat_map(
        table, rows=[f"{site} {layer}" for site, layer in places], columns=list(map(str, range(table.shape[1]))),
        label="factor - 1" if scaling.kind == "scalars" else "norm", ax=ax, centred=scaling.kind == "scalars",
    )  # fmt: skip
    ax.set_xlabel("token of the prompt; 0 is BOS")
    return ax
