"""The page of a trace: which heads and MLPs read an injection, token by token."""

from typing import TYPE_CHECKING, Any

import numpy as np

from actadd_lens.pages.html import one_file, part

if TYPE_CHECKING:
    from actadd_lens.analysis.trace import Trace


def trace_page(trace: "Trace", *, title: str = "A trace") -> str:
    """One HTML file of a trace, as text; it needs neither server nor network.

    Args:
        trace: The result.
        title: Its heading.
    """
    first, parts = trace.first_layer, trace.contributions
    data = {
        "title": title,
        "metric": trace.metric.name,
        "unit": trace.metric.unit,
        "at": trace.at,
        "vectors": [f"{vector.coefficient:g} × {vector.label}, layer {vector.layer}" for vector in trace.vectors],
        "tokens": trace.tokens,
        "injected": trace.injected,
        "steered": trace.steered,
        "unsteered": trace.unsteered,
        "first": first,
        "nulls": len(trace.nulls),
        "rest": {
            "carried injection": parts.carried,
            "higher orders": parts.higher_orders,
            "final norm": parts.final_norm,
        },
        "parts": _parts(trace),
        "head_change": trace.head_change[first:],
        "mlp_change": trace.mlp_change[first:],
        "attention_steered": trace.attention_steered[first:],
        "attention_unsteered": trace.attention_unsteered[first:],
    }
    room = "actadd_lens.pages"
    return one_file(title=title, body=part(room, "trace.html"), script=part(room, "trace.js"), data=data)


def _parts(trace: "Trace") -> list[list[dict[str, Any]]]:
    """Each layer's heads and, last, its MLP: contribution, and where nulls were run how it compares with theirs."""
    frame = trace.frame()
    rows = frame[frame["layer"].notna()]
    columns = {"contribution": "value", "null mean": "null_mean", "null sd": "null_sd", "standardised": "z",
               "adjusted p": "p"}  # fmt: skip
    kept = {name: short for name, short in columns.items() if name in rows}
    found: dict[int, list[dict[str, Any]]] = {}
    for layer, values in zip(rows["layer"], rows[list(kept)].to_numpy(dtype=float), strict=True):
        told = {
            short: None if np.isnan(value) else float(value) for short, value in zip(kept.values(), values, strict=True)
        }
        found.setdefault(int(layer), []).append(told)
    return [found[layer] for layer in sorted(found)]
