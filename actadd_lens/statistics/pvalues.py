"""P-values from null vectors, by Monte Carlo; over grids and lists, each null goes through the same selection."""

import itertools
from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float

from actadd_lens.errors import SettingError
from actadd_lens.statistics.quantiles import chance_interval, t_share_below

Alternative = Literal["greater", "less", "two-sided"]

LEVEL = 0.05
"""Largest adjusted p-value that counts as significant."""

FEWEST_NULLS = 39
"""Below this, p <= 0.05 depends on the largest null alone, so a verdict also uses the nulls' mean and spread."""

_FLIPS = 4999
"""Number of random sign flips, if trying all would be too many."""

_ALL_FLIPS = 12
"""Up to this many prompts, all sign flips are tried."""


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
        nulls: The same for each null vector, run through all cells.
        alternative: As in `monte_carlo_p`.

    >>> max_t_p(np.array([3.0, 0.5]), np.array([[0.0, 1.0], [2.0, 0.0], [0.0, 0.0]]))
    array([0.25, 0.75])
    """
    values = np.asarray(nulls, dtype=float)
    if values.ndim != 2 or values.shape[1:] != np.shape(observed) or not len(values):
        raise SettingError(f"Nulls of shape {values.shape} do not match cells of shape {np.shape(observed)}.")
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


def p_interval(
    observed: float,
    nulls: Float[np.ndarray, " nulls"],
    alternative: Alternative = "greater",
    *,
    level: float = 0.95,
) -> tuple[float, float]:
    """The range that p could have with many more nulls (Clopper and Pearson): how much a verdict depends on their draw.

    Args:
        observed: The effect.
        nulls: The same effect of each null vector.
        alternative: As in `monte_carlo_p`.
        level: Coverage.

    >>> tuple(round(end, 2) for end in p_interval(9.0, np.zeros(19)))
    (0.0, 0.18)
    """
    beyond = round(monte_carlo_p(observed, nulls, alternative) * (1 + len(nulls))) - 1
    return chance_interval(beyond, len(nulls), level)


def normal_p(observed: float, nulls: Float[np.ndarray, " nulls"], alternative: Alternative = "greater") -> float:
    """P-value from the nulls' mean and spread, as Student's t of one more draw: correct if nulls are normal.

    It does not depend on the largest of a few nulls, as `monte_carlo_p` does, which it equals if nulls have no spread.

    Args:
        observed: The effect.
        nulls: The same effect of each null vector; three or more.
        alternative: As in `monte_carlo_p`.

    >>> round(normal_p(2.0, np.array([-1.0, 0.0, 1.0])), 3)
    0.113
    """
    values = np.asarray(nulls, dtype=float)
    if values.ndim != 1 or len(values) < 3:
        raise SettingError(f"{values.size} nulls have no spread to speak of: use three or more.")
    spread = float(values.std(ddof=1)) * (1 + 1 / len(values)) ** 0.5
    distance = float(observed - values.mean())
    if not np.isfinite(distance):
        return 1.0
    if spread <= 1e-12 * float(np.abs(values).max()):
        return monte_carlo_p(observed, values, alternative)
    below = t_share_below(distance / spread, len(values) - 1)
    return {"greater": 1 - below, "less": below, "two-sided": 2 * min(below, 1 - below)}[alternative]


def verdict_p(observed: float, nulls: Float[np.ndarray, " nulls"], alternative: Alternative = "greater") -> float:
    """The p-value that a verdict uses.

    With 39 nulls or more it is the Monte Carlo one. With fewer it is the larger of that and the one from the nulls'
    mean and spread, so that no verdict depends on the largest null alone, or on nulls being normal. With fewer than 19
    nulls it is always above 0.05.

    Args:
        observed: The effect.
        nulls: The same effect of each null vector.
        alternative: As in `monte_carlo_p`.

    >>> nulls = np.arange(19.0)
    >>> verdict_p(18.5, nulls) > monte_carlo_p(18.5, nulls) == verdict_p(99.0, nulls) == 0.05
    True
    """
    counted = monte_carlo_p(observed, nulls, alternative)
    if not 3 <= len(nulls) < FEWEST_NULLS:
        return counted
    return max(counted, normal_p(observed, nulls, alternative))


def on_one_scale(values: Float[np.ndarray, "conditions cells"]) -> Float[np.ndarray, "conditions cells"]:
    """Each cell in units of the spread of all conditions, so that no cell dominates by its size; 0 if nothing differs.

    The effect is one of the conditions: only then are null vectors significant as often as they should be.

    Args:
        values: The effect, and that of each null, in each cell.
    """
    spread = values.std(axis=0, ddof=1)
    centred = values - values.mean(axis=0)
    varies = spread > 1e-12 * np.abs(values).max(axis=0)
    return np.asarray(np.where(varies, centred / np.where(varies, spread, 1.0), 0.0))


def adjusted_over_lists(
    lists: Sequence[Float[np.ndarray, " _"]], null_best: Float[np.ndarray, "lists nulls"]
) -> list[Float[np.ndarray, " _"]]:
    """P-values of values that were listed because they are large, adjusted over all lists (min-P, Westfall and Young).

    Each null picks its own largest value for each list. A value is ranked among the nulls of its own list, and that
    rank is compared with the best rank that each null reaches in any list. So a null vector has a value with p <= 0.05
    in 5 % of runs, however many lists there are. Ties, of which there are many since every list has a first rank, are
    broken by size in units of the list's spread.

    Args:
        lists: The values of each list, where large means extreme; the largest must be among them.
        null_best: For each list, the largest value that each null finds by the same selection.

    >>> adjusted_over_lists([np.array([5.0, 1.0])], np.array([[0.0, 2.0, 3.0]]))
    [array([0.25, 0.75])]
    """
    nulls = np.where(np.isnan(null_best), np.inf, np.asarray(null_best, dtype=float))
    best = np.array([values.max() if len(values) else -np.inf for values in lists])
    conditions = np.concatenate([best[:, None], nulls], axis=1)
    first = np.min([_places(row, row) for row in conditions], axis=0)[1:]
    found = [_places(values, row)[:, None] for values, row in zip(lists, conditions, strict=True)]
    return [np.asarray((1 + (first <= own).sum(axis=1)) / conditions.shape[1]) for own in found]


def _places(
    values: Float[np.ndarray, " values"], conditions: Float[np.ndarray, " conditions"]
) -> Float[np.ndarray, " values"]:
    """How many of a list's conditions are at least as large, minus up to a half for the size: small means extreme.

    The size is in units of the conditions' spread; all conditions are treated alike, the effect's own among them.
    """
    known = conditions[np.isfinite(conditions)]
    centre, spread = (known.mean(), known.std()) if len(known) else (0.0, 0.0)
    scaled = (values - centre) / spread if spread > 0 else np.where(np.isfinite(values), 0.0, values)
    return np.asarray((conditions >= values[:, None]).sum(axis=1) - 0.25 - np.arctan(scaled) / (2 * np.pi))


def sign_flip_p(by_prompt: Float[np.ndarray, "cells prompts"], *, seed: int = 0) -> Float[np.ndarray, " cells"]:
    """Adjusted p-values for effects different from zero, without nulls: by flipping each prompt's sign, max-T.

    Exact if effects are symmetric around zero; all cells share the flips. A small p says that steering does something
    on prompts like these, not that it does more than an unrelated vector.

    Args:
        by_prompt: The effect in each cell on each prompt; NaN where a prompt has none.
        seed: Seed of the flips, if there are too many to try all.
    """
    values = np.where(np.isfinite(by_prompt), by_prompt, 0.0)
    prompts = values.shape[1]
    if prompts <= _ALL_FLIPS:
        signs = np.array(list(itertools.product((1.0, -1.0), repeat=prompts)))
    else:
        drawn = np.random.default_rng(seed).choice((-1.0, 1.0), size=(_FLIPS, prompts))
        signs = np.concatenate([np.ones((1, prompts)), drawn])
    size = np.sqrt((values**2).sum(axis=1))
    scaled = values / np.where(size > 0, size, 1.0)[:, None]
    flipped = np.abs(signs @ scaled.T)
    largest = flipped.max(axis=1, initial=0.0)
    found = np.array([(largest >= cell - 1e-12).mean() for cell in flipped[0]])
    return np.where(size > 0, found, np.where(np.isfinite(by_prompt).any(axis=1), 1.0, np.nan))


def significant(p_values: Float[np.ndarray, "*cells"], level: float = LEVEL) -> Bool[np.ndarray, "*cells"]:
    """What is significant: p at most `level`; NaN is not."""
    return np.asarray(p_values <= level)


def benjamini_hochberg(p_values: Float[np.ndarray, " findings"]) -> Float[np.ndarray, " findings"]:
    """P-values adjusted for the false discovery rate (Benjamini and Hochberg 1995); NaN is ignored.

    Args:
        p_values: One for each finding.

    >>> benjamini_hochberg(np.array([0.01, 0.04, 0.03])).round(3)
    array([0.03, 0.04, 0.04])
    """
    values = np.asarray(p_values, dtype=float)
    found = np.full(values.shape, np.nan)
    known = np.flatnonzero(np.isfinite(values))
    order = known[np.argsort(values[known], kind="stable")]
    scaled = values[order] * len(order) / np.arange(1, len(order) + 1)
    found[order] = np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1.0)
    return found
