"""Statistics: the unit of inference is the prompt.

Effects are steered minus unsteered. Intervals come from a bootstrap over prompts, then over the samples within each;
p-values from null vectors by Monte Carlo, over a grid from each null's maximum (max-T, Westfall and Young 1993).
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Float

from actadd_lens.errors import SettingError

FEWEST_PROMPTS = 10
"""Below this, prompts are too few to resample, and an interval covers the samples only."""

FEWEST_TO_SPLIT = 8
"""Below this, halves are too small for a choice on one and a report on the other."""

_CELLS_AT_ONCE = 500
"""Cells whose resampled means are held together."""

Alternative = Literal["greater", "less", "two-sided"]


@dataclass(frozen=True, eq=False)
class Effect:
    """An effect with its interval, and its null where there is one.

    Attributes:
        mean: Mean over prompts of steered minus unsteered.
        low: Lower end of the interval; NaN where nothing could be resampled.
        high: Upper end.
        level: Coverage of the interval.
        covers: What was resampled: `prompts and samples`, `prompts`, `samples only` or `nothing`.
        steered: Mean of the steered arm.
        unsteered: Mean of the unsteered arm.
        n_prompts: Number of prompts.
        n_samples: Samples per prompt.
        by_prompt: Each prompt's own effect.
        nulls: The same effect of each null vector; empty where none was run.
    """

    mean: float
    low: float
    high: float
    level: float
    covers: str
    steered: float
    unsteered: float
    n_prompts: int
    n_samples: int
    by_prompt: Float[np.ndarray, " prompts"]
    nulls: Float[np.ndarray, " nulls"]

    def with_nulls(self, nulls: Float[np.ndarray, " nulls"]) -> "Effect":
        """The same beside its null."""
        return replace(self, nulls=np.asarray(nulls, dtype=float))

    def p_value(self, alternative: Alternative = "greater") -> float:
        """Monte Carlo p-value against the nulls; NaN where there are none."""
        return monte_carlo_p(self.mean, self.nulls, alternative) if len(self.nulls) else float("nan")

    @property
    def standardised(self) -> float:
        """(effect - null mean) / null sd; NaN where there are fewer than two nulls."""
        return standardised_effect(self.mean, self.nulls) if len(self.nulls) > 1 else float("nan")

    def __str__(self) -> str:
        told = f"{self.mean:+.3g} [{self.low:.3g}, {self.high:.3g}]"
        prompts = "1 prompt" if self.n_prompts == 1 else f"{self.n_prompts} prompts"
        told += f" ({self.level:.0%} interval over {self.covers}; {prompts} x {self.n_samples})"
        if len(self.nulls):
            spread = self.nulls.std(ddof=min(1, len(self.nulls) - 1))
            told += f"; {len(self.nulls)} nulls {self.nulls.mean():+.3g} ± {spread:.2g}"
        return told

    __repr__ = __str__


def paired_effect(
    steered: Float[np.ndarray, "prompts samples"],
    unsteered: Float[np.ndarray, "prompts samples"],
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Effect:
    """Steered minus unsteered, paired by prompt and random stream, with a bootstrap interval (percentile).

    Prompts are resampled first, then samples within each. With fewer than 10 prompts only samples are, and the result
    says so.

    Args:
        steered: One number per prompt and sample.
        unsteered: As many.
        level: Coverage of the interval.
        resamples: Number of bootstrap resamples.
        seed: Seed of the resampling.

    Raises:
        SettingError: The arms differ in shape, are empty or not finite, or a setting is out of range.

    >>> paired_effect(np.ones((12, 2)), np.zeros((12, 2))).mean
    1.0
    """
    steered, unsteered = np.asarray(steered, dtype=float), np.asarray(unsteered, dtype=float)
    if steered.shape != unsteered.shape or steered.ndim != 2 or 0 in steered.shape:
        raise SettingError(
            f"The arms have shapes {steered.shape} and {unsteered.shape}: expected the same [prompts, samples] twice."
        )
    if not (np.isfinite(steered).all() and np.isfinite(unsteered).all()):
        raise SettingError("An arm holds NaN or infinite numbers, of which no mean can be taken.")
    if not 0 < level < 1 or resamples < 1:
        raise SettingError(f"level is {level!r}, resamples {resamples!r}: expected 0 < level < 1 and resamples >= 1.")
    difference = steered - unsteered
    means, covers = _bootstrap_means(difference, resamples, np.random.default_rng(seed))
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2]) if covers != "nothing" else (np.nan, np.nan)
    return Effect(
        mean=float(difference.mean()),
        low=float(low),
        high=float(high),
        level=level,
        covers=covers,
        steered=float(steered.mean()),
        unsteered=float(unsteered.mean()),
        n_prompts=steered.shape[0],
        n_samples=steered.shape[1],
        by_prompt=difference.mean(axis=1),
        nulls=np.zeros(0),
    )


def bootstrap_intervals(
    differences: Float[np.ndarray, "cells prompts samples"],
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[Float[np.ndarray, " cells"], Float[np.ndarray, " cells"], str]:
    """Intervals of many effects at once, the same that `paired_effect` gives each of them.

    Args:
        differences: Steered minus unsteered; a prompt that is not finite is left out of its cell.
        level: Coverage of the intervals.
        resamples: Number of bootstrap resamples.
        seed: Seed of the resampling.

    Returns:
        Lower ends, upper ends, and what was resampled.
    """
    cells, prompts, samples = differences.shape
    ends = np.full((2, cells), np.nan)
    kept = np.isfinite(differences).all(axis=2)
    groups: dict[bytes, list[int]] = {}
    for cell in range(cells):
        groups.setdefault(kept[cell].tobytes(), []).append(cell)
    covers = _bootstrap_means(np.zeros((prompts, samples)), 1, np.random.default_rng(seed))[1]
    for members in groups.values():
        for first in range(0, len(members), _CELLS_AT_ONCE):
            some = members[first : first + _CELLS_AT_ONCE]
            found = differences[some][:, kept[some[0]]]
            means, resampled = _bootstrap_means(found, resamples, np.random.default_rng(seed))
            if resampled != "nothing":
                ends[:, some] = np.quantile(means, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return ends[0], ends[1], covers


def _bootstrap_means(
    difference: Float[np.ndarray, "*cells prompts samples"], resamples: int, random: np.random.Generator
) -> tuple[Float[np.ndarray, "resamples *cells"], str]:
    """Means of resampled tables, and what was resampled; all cells share the resamples."""
    *cells, prompts, samples = difference.shape
    many_prompts, many_samples = prompts >= FEWEST_PROMPTS, samples > 1
    if not prompts or not (many_prompts or many_samples):
        return np.zeros((0, *cells)), "nothing"
    means = np.empty((resamples, *cells))
    for index in range(resamples):
        rows = np.asarray(random.integers(prompts, size=prompts)) if many_prompts else np.arange(prompts)
        if many_samples:
            picks = random.integers(samples, size=(prompts, samples))
            means[index] = difference[..., rows[:, None], picks].mean(axis=(-2, -1))
        else:
            means[index] = difference[..., rows, 0].mean(axis=-1)
    if many_prompts:
        return means, "prompts and samples" if many_samples else "prompts"
    return means, "samples only"


def monte_carlo_p(observed: float, nulls: Float[np.ndarray, " nulls"], alternative: Alternative = "greater") -> float:
    """P = (1 + #{null >= observed}) / (1 + n) (Phipson and Smyth 2010: never zero).

    Args:
        observed: The effect.
        nulls: The same effect of each null vector.
        alternative: `greater`, `less`, or `two-sided` by absolute size.

    >>> monte_carlo_p(3.0, np.array([0.0, 1.0, 4.0]))
    0.5
    """
    values = np.asarray(nulls, dtype=float)
    if values.ndim != 1 or not len(values):
        raise SettingError("A p-value needs nulls: run with nulls=20 or more.")
    directed, values = _directed(np.asarray(observed, dtype=float), values, alternative)
    # What is not smaller counts, so that a null without a value never speaks for the effect.
    return float((1 + np.sum(~(values < directed))) / (1 + len(values)))


def max_t_p(
    observed: Float[np.ndarray, " cells"],
    nulls: Float[np.ndarray, "nulls cells"],
    alternative: Alternative = "greater",
) -> Float[np.ndarray, " cells"]:
    """Adjusted p-values over a grid: each cell against the maximum of every null's whole grid (max-T).

    Args:
        observed: The effect in each cell.
        nulls: The same of each null vector, run through all cells.
        alternative: As in `monte_carlo_p`.

    >>> max_t_p(np.array([3.0, 0.5]), np.array([[0.0, 1.0], [2.0, 0.0], [0.0, 0.0]]))
    array([0.25, 0.75])
    """
    values = np.asarray(nulls, dtype=float)
    if values.ndim != 2 or values.shape[1:] != np.shape(observed) or not len(values):
        raise SettingError(f"Nulls of shape {values.shape} do not go with cells of shape {np.shape(observed)}.")
    directed, values = _directed(np.asarray(observed, dtype=float), values, alternative)
    largest = values.max(axis=1)
    return np.asarray((1 + (~(largest[:, None] < directed[None])).sum(axis=0)) / (1 + len(values)))


def _directed(observed: np.ndarray, nulls: np.ndarray, alternative: Alternative) -> tuple[np.ndarray, np.ndarray]:
    """Observed and nulls so that large means extreme."""
    if alternative == "greater":
        return observed, nulls
    if alternative == "less":
        return np.asarray(-observed), -nulls
    if alternative == "two-sided":
        return np.asarray(np.abs(observed)), np.abs(nulls)
    raise SettingError(f"The alternative {alternative!r} is not known: use 'greater', 'less' or 'two-sided'.")


def standardised_effect(observed: float, nulls: Float[np.ndarray, " nulls"]) -> float:
    """(effect - null mean) / null sd, the sd with n - 1.

    >>> standardised_effect(3.0, np.array([-1.0, 1.0]))
    2.1213203435596424
    """
    values = np.asarray(nulls, dtype=float)
    if values.ndim != 1 or len(values) < 2:
        raise SettingError("A standardised effect needs two nulls or more.")
    spread = float(values.std(ddof=1))
    # Nulls that are one number but for rounding have no spread.
    return float((observed - values.mean()) / spread) if spread > 1e-12 * np.abs(values).max() else float("nan")


def split_prompts(count: int, *, seed: int = 0) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Two random halves: one to choose on, one to report on.

    Raises:
        SettingError: There are fewer than 8 prompts.

    >>> choose, report = split_prompts(9)
    >>> len(choose), len(report), sorted(choose + report) == list(range(9))
    (4, 5, True)
    """
    if count < FEWEST_TO_SPLIT:
        raise SettingError(f"{count} prompts are too few to choose on one half and report on the other: use 8 or more.")
    order = np.random.default_rng(seed).permutation(count).tolist()
    half = count // 2
    return tuple(sorted(order[:half])), tuple(sorted(order[half:]))
