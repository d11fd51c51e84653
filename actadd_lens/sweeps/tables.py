"""What the results of sweeps share: cells by their indices, means without NaN, and the side of a test."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from actadd_lens.errors import SettingError
from actadd_lens.statistics import Alternative
from actadd_lens.sweeps.grid import Grid

Place = tuple[int, int, int, int]
"""A cell by its indices on the axes: pair, layer, coefficient, position."""


def cells_of(grid: Grid) -> Iterator[tuple[Place, dict[str, Any]]]:
    """Every cell, by its indices and by its values."""
    for pair, layer, coefficient, position in np.ndindex(*grid.shape):
        told = {
            "pair": grid.labels[pair],
            "layer": grid.layers[layer],
            "coefficient": grid.coefficients[coefficient],
            "position": grid.positions[position],
        }
        yield (pair, layer, coefficient, position), told


def place_of(name: str, value: Any, axis: Any) -> int:
    """The index of a value on an axis; None stands for the only value."""
    values = list(axis)
    if value is None and len(values) == 1:
        return 0
    if value not in values:
        shown = ", ".join(map(str, values))
        problem = f"No {name} was named" if value is None else f"There is no {name} {value!r} in this sweep"
        raise SettingError(f"{problem}: it has {shown}.")
    return values.index(value)


def finite(values: np.ndarray) -> np.ndarray:
    """The same values with NaN for infinite ones."""
    return np.where(np.isfinite(values), values, np.nan)


def mean_of(values: np.ndarray) -> np.ndarray:
    """Mean over the last axis, without NaN; NaN if there is no other value."""
    kept = ~np.isnan(values)
    counts = kept.sum(axis=-1)
    total = np.where(kept, values, 0.0).sum(axis=-1)
    return np.asarray(np.where(counts > 0, total / np.maximum(counts, 1), np.nan))


def directed(values: np.ndarray, alternative: Alternative) -> np.ndarray:
    """The same values, transformed so that large ones are extreme on the side of the test."""
    if alternative not in ("greater", "less", "two-sided"):
        raise SettingError(f"The alternative {alternative!r} is not known: use 'greater', 'less' or 'two-sided'.")
    return values if alternative == "greater" else -values if alternative == "less" else np.abs(values)
