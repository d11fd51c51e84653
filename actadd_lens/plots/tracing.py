"""Pictures of token ablation and traces: as in `plots`, each takes a result and runs no model."""

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

import numpy as np

from actadd_lens.plots.style import NULL, STEERED, as_written, heat_map, new_axes, visible
from actadd_lens.vectors.naming import html_token, signed_shade

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from actadd_lens.analysis.ablation import Ablation, TokenAblation
    from actadd_lens.analysis.trace import LayerTraces, Trace

_SIGNS = {"positive": "p+", "negative": "p−"}


@as_written
def plot_ablation(result: "TokenAblation", *, ax: "Axes | None" = None) -> "Axes":
    """Drop of the effect for each token of the pair, one line per side and replacement, then for each row.

    Tokens that stay, BOS and pads, are grey.
    """
    width = result.whole.rows
    lines: list[tuple[str, Sequence[str], list[Ablation]]] = [
        (f"{_SIGNS[side]}, {replacement}", texts, _tokens_of(result, side, replacement))
        for replacement in result.replacements
        for side, texts in zip(_SIGNS, result.tokens, strict=False)
    ]
    lines.append(("row dropped", (), list(result.of_kind("row dropped"))))
    values = np.full((len(lines), width), np.nan)
    for row, (_, _, items) in enumerate(lines):
        for item in items:
            values[row, item.start] = item.drop.mean
    marks = [[visible(text) for text in texts] for _, texts, _ in lines[:-1]]
    marks.append([f"row {row}" for row in range(width)])
    longest = max(len(mark) for row in marks for mark in row)
    size = (min(12.0, 3.4 + width * max(0.6, 0.085 * longest)), 1.3 + 0.36 * len(lines))
    unit = f", {result.metric.unit}" if result.metric.unit else ""
    ax = heat_map(
        values, rows=[name for name, _, _ in lines], columns=[str(index) for index in range(width)],
        label=f"drop{unit}", ax=new_axes(ax, figsize=size), marks=marks,
    )  # fmt: skip
    ax.set_xlabel("token (0-based, BOS counted)")
    ax.set_title(f"{result.metric.name}: effect {result.effect.mean:+.3g}, and what each token carries", fontsize=10)
    return ax


def ablation_html(result: "TokenAblation") -> str:
    """The tokens of the pair themselves, coloured by what taking each out costs; the numbers show under the mouse."""
    largest = max((abs(item.drop.mean) for item in result.of_kind("token")), default=0.0)
    blocks = []
    for replacement in result.replacements:
        lines = []
        for side, texts in zip(_SIGNS, result.tokens, strict=False):
            found = {item.start: item for item in _tokens_of(result, side, replacement)}
            tokens = "".join(_coloured(text, found.get(index), largest) for index, text in enumerate(texts))
            lines.append(f"<div><b>{_SIGNS[side]}</b> {tokens}</div>")
        blocks.append(f"<div style='margin:4px 0'>tokens: {escape(replacement)}{''.join(lines)}</div>")
    unit = f" {result.metric.unit}" if result.metric.unit else ""
    key = f"orange: the effect falls without the token, purple: it rises; darkest {largest:.3g}{unit}"
    return "".join(blocks) + f"<div><small>{escape(key)}</small></div>"


@as_written
def plot_trace(trace: "Trace", *, ax: "Axes | None" = None) -> "Axes":
    """Direct contributions of heads and MLPs, by layer."""
    parts, first = trace.contributions, trace.first_layer
    values = np.concatenate([parts.heads, parts.mlps[:, None]], axis=1)[first:]
    unit = f", {trace.metric.unit}" if trace.metric.unit else ""
    columns = [*(str(head) for head in range(parts.heads.shape[1])), "MLP"]
    ax = heat_map(values, rows=_layer_names(first, parts.heads), columns=columns, label=f"contribution{unit}", ax=ax)
    ax.set_xlabel("head, MLP")
    ax.set_ylabel("layer")
    told = f"heads {parts.heads.sum():+.2g}, MLPs {parts.mlps.sum():+.2g}, carried {parts.carried:+.2g}"
    ax.set_title(f"{trace.metric.name}: {trace.change:+.3g}\n{told}", fontsize=10)
    return ax


@as_written
def plot_trace_attention(trace: "Trace", *, ax: "Axes | None" = None) -> "Axes":
    """Attention that later tokens pay to the injected ones, steered, by layer and head."""
    values = trace.attention("steered")[trace.first_layer :]
    names = [str(head) for head in range(values.shape[1])]
    ax = heat_map(
        values, rows=_layer_names(trace.first_layer, trace.mlp_change), columns=names, label="attention", ax=ax,
        centred=False,
    )  # fmt: skip
    ax.set_xlabel("head")
    ax.set_ylabel("layer")
    shown = " ".join(visible(trace.tokens[index]) for index in trace.injected)
    ax.set_title(f"attention of later tokens to the injected: {shown}", fontsize=10)
    return ax


@as_written
def plot_layer_traces(traces: "LayerTraces", *, axes: "Sequence[Axes] | None" = None) -> "Sequence[Axes]":
    """Per injection layer: the effect, what each layer adds directly, and how much it looks at the injection."""
    if axes is None:
        import matplotlib.pyplot as plt

        size = (12.0, 1.6 + 0.34 * len(traces.layers))
        axes = list(plt.subplots(1, 3, figsize=size, width_ratios=[1.0, 1.5, 1.5], layout="constrained")[1])
    names = [str(layer) for layer in traces.layers]
    unit = f", {traces.metric.unit}" if traces.metric.unit else ""
    _effect_bars(traces, axes[0])
    axes[0].set_xlabel(f"effect{unit}")
    attention = traces.attention("steered")
    columns = [str(layer) for layer in range(attention.shape[1])]
    contributions = np.where(np.isnan(attention), np.nan, traces.contributions)
    heat_map(contributions, rows=names, columns=columns, label=f"contribution{unit}", ax=axes[1])
    heat_map(attention, rows=names, columns=columns, label="attention to the injection", ax=axes[2], centred=False)
    for ax in axes:
        ax.set_ylabel("injection layer")
    for ax in axes[1:]:
        ax.set_xlabel("reading layer")
    axes[0].set_title(f"{traces.coefficient:g} × ({traces.pair})".replace("$", r"\$"), fontsize=10)
    axes[1].set_title(traces.metric.name, fontsize=10)
    axes[2].set_title("later tokens, mean over heads", fontsize=10)
    return axes


def _effect_bars(traces: "LayerTraces", ax: "Axes") -> None:
    """Effects from the top down, with their intervals and nulls."""
    for row, effect in enumerate(traces.effects):
        ax.barh(row, effect.mean, color=STEERED, height=0.6)
        if len(effect.nulls):
            ax.scatter(effect.nulls, np.full(len(effect.nulls), row), s=10, color=NULL, zorder=3, linewidths=0)
        if not np.isnan(effect.low):
            ax.plot([effect.low, effect.high], [row, row], color="black", linewidth=1.2)
    ax.axvline(0, color="black", linewidth=0.8)
    ax.set_yticks(range(len(traces.layers)), [str(layer) for layer in traces.layers])
    ax.set_ylim(len(traces.layers) - 0.5, -0.5)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)


def _tokens_of(result: "TokenAblation", side: str, replacement: str) -> "list[Ablation]":
    return [item for item in result.of_kind("token") if item.side == side and item.replacement == replacement]


def _coloured(text: str, item: "Ablation | None", largest: float) -> str:
    if item is None:
        return html_token(text, title="stays")
    told = (
        f"effect {item.effect.mean:+.3g} without it, drop {item.drop.mean:+.3g}, cosine to the whole {item.cosine:.2f}"
    )
    return html_token(text, title=told, shade=signed_shade(item.drop.mean, largest))


def _layer_names(first: int, by_layer: np.ndarray) -> list[str]:
    return [str(layer) for layer in range(first, len(by_layer))]
