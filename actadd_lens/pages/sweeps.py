"""The page of a sweep: a map of layers x coefficients, and for each cell its effect with its nulls, and its texts."""

from typing import TYPE_CHECKING, Any

import numpy as np

from actadd_lens.pages.html import one_file, part

if TYPE_CHECKING:
    from actadd_lens.sweeps.results import Sweep

_DIGITS = 5
_MOST_CHARACTERS = 2_000_000
"""Most characters of steered texts on a page; prompts beyond that are left out, which the page says."""


def sweep_page(sweep: "Sweep", *, title: str = "A sweep") -> str:
    """One HTML file of a sweep, as text; it needs neither server nor network.

    Args:
        sweep: The result.
        title: Its heading.
    """
    grid = sweep.grid
    data = {
        "title": title,
        "told": repr(sweep),
        "pairs": grid.labels,
        "layers": grid.layers,
        "coefficients": grid.coefficients,
        "positions": [str(position) for position in grid.positions],
        "prompts": grid.prompts,
        "nulls": grid.nulls,
        "null_kind": grid.null_kind,
        "metrics": [_metric(sweep, index) for index in range(len(sweep.metrics))],
        "texts": _texts(sweep),
    }
    room = "actadd_lens.pages"
    return one_file(title=title, body=part(room, "sweep.html"), script=part(room, "sweep.js"), data=data)


def _metric(sweep: "Sweep", index: int) -> dict[str, Any]:
    """What the page shows of one metric, each table as pairs, layers, coefficients, positions."""
    low, high, covers = sweep.intervals(index)
    return {
        "name": sweep.metrics[index],
        "unit": sweep.units[index],
        "covers": covers,
        "effect": _rounded(sweep.effects[index]),
        "low": _rounded(low),
        "high": _rounded(high),
        "p": _rounded(sweep.p_values(index)),
        "significant": sweep.significant(index),
        "nulls": _rounded(np.moveaxis(sweep.null_effects[index], 0, -1)),
        "by_prompt": _rounded(sweep.by_prompt[index]),
    }


def _texts(sweep: "Sweep") -> dict[str, Any] | None:
    """The first sample of each cell and prompt, for as many prompts as there is room; None for metrics of logits."""
    texts, plain = getattr(sweep, "texts", None), getattr(sweep, "unsteered_texts", None)
    if texts is None or plain is None:
        return None
    first = texts[..., 0]
    sizes = np.vectorize(len)(first).reshape(-1, first.shape[-1]).sum(axis=0).cumsum()
    kept = max(1, int((sizes <= _MOST_CHARACTERS).sum()))
    return {"steered": first[..., :kept], "unsteered": plain[:kept, 0], "left_out": first.shape[-1] - kept}


def _rounded(values: Any) -> Any:
    """Numbers to five digits, which is more than anyone sees."""
    table = np.asarray(values, dtype=float)
    with np.errstate(divide="ignore", invalid="ignore"):
        places = _DIGITS - 1 - np.floor(np.log10(np.abs(table)))
    factor = 10.0 ** np.where(np.isfinite(places), places, 0.0)
    return np.where(np.isfinite(table), np.round(table * factor) / factor, table)
