"""Intervals of means over prompts, with one rule for each kind of number; docs/statistics.md shows their coverage.

Only the kind of number selects the rule, never the result. Numbers and counts: Student's t of prompt means, corrected
for skewness (Hall 1992, *On the removal of skewness by transformation*), which is the bootstrap-t without resampling,
and equals Student's own interval if nothing is skewed. Shares of hits: Newcombe's paired square-and-add of two Wilson
intervals (1998, method 10) with the effective number of samples, which never has zero width. Both use the variance
between prompts as it is, because it already includes the variance of the samples within.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

from actadd_lens.statistics.quantiles import t_quantile

Kind = Literal["shares", "counts", "numbers"]

FEWEST_PROMPTS = 10
"""Below this, an interval is exact for normal effects only, and no verdict is given."""

_FEW_HITS = 6
"""Below this many hits or misses in a condition, an interval of shares may cover more than it says."""

_FEW_FOR_A_TAIL = 20
"""Below this many prompts, a long tail may not have shown up yet."""


@dataclass(frozen=True)
class Interval:
    """An interval, and what to know about it.

    Attributes:
        low: Lower end; NaN if there is nothing to take as a sample.
        high: Upper end.
        covers: What was taken as a sample: `prompts and samples`, `prompts`, `samples only` or `nothing`.
        kind: `shares` (hits and misses), `counts` or `numbers`.
        caution: A warning if the interval is probably too narrow or too wide; else empty.
    """

    low: float
    high: float
    covers: str
    kind: Kind
    caution: str = ""


def kind_of(
    steered: Float[np.ndarray, "*any"], unsteered: Float[np.ndarray, "*any"], *, zeros: Kind = "shares"
) -> Kind:
    """The kind of numbers in two conditions: hits and misses (0 and 1), counts (whole numbers) or any numbers.

    Args:
        steered: The numbers of one condition.
        unsteered: Those of the other.
        zeros: Their kind if all of them are 0, which they do not show.

    >>> kind_of(np.array([0.0, 1.0]), np.array([0.0, 0.0])), kind_of(np.array([2.0]), np.array([0.0]))
    ('shares', 'counts')
    """
    values = np.concatenate([np.ravel(steered), np.ravel(unsteered)])
    values = values[np.isfinite(values)]
    if not values.any():
        return zeros
    if ((values == 0) | (values == 1)).all():
        return "shares"
    return "counts" if (values == np.round(values)).all() else "numbers"


def covered(prompts: int, samples: int) -> str:
    """What an interval over that many prompts and samples covers."""
    if prompts > 1:
        return "prompts and samples" if samples > 1 else "prompts"
    return "samples only" if samples > 1 else "nothing"


def mean_interval(
    values: Float[np.ndarray, "*cells prompts"], *, level: float = 0.95
) -> tuple[Float[np.ndarray, "*cells"], Float[np.ndarray, "*cells"]]:
    """Student's t interval of means, corrected for skewness; two values or more.

    Args:
        values: One number for each prompt; the last axis is that of prompts.
        level: Coverage.

    >>> [float(end.round(3)) for end in mean_interval(np.array([1.0, 2.0, 3.0]))]
    [-0.484, 4.484]
    """
    found = np.asarray(values, dtype=float)[None]
    low, high = _around(found.mean(axis=-1), found, level)
    return np.asarray(low[0]), np.asarray(high[0])


def share_interval(
    steered: Float[np.ndarray, "*cells prompts samples"],
    unsteered: Float[np.ndarray, "*cells prompts samples"],
    *,
    level: float = 0.95,
) -> tuple[Float[np.ndarray, "*cells"], Float[np.ndarray, "*cells"]]:
    """Interval of the difference of two shares on the same prompts; never of zero width.

    Args:
        steered: Hits (1) and misses (0) of one condition.
        unsteered: Those of the other.
        level: Coverage.

    >>> [float(end.round(2)) for end in share_interval(np.zeros((10, 1)), np.zeros((10, 1)))]
    [-0.34, 0.34]
    """
    conditions = [np.asarray(condition, dtype=float)[None] for condition in (steered, unsteered)]
    quantile = t_quantile((1 + level) / 2, conditions[0].shape[-2] - 1)
    by_prompt = [condition.mean(axis=-1) for condition in conditions]
    shares = [means.mean(axis=-1) for means in by_prompt]
    (low, high), (other_low, other_high) = (
        _wilson(share, _effective(condition), quantile) for share, condition in zip(shares, conditions, strict=True)
    )
    (ours, theirs), linked = shares, _correlation(by_prompt[0], by_prompt[1], conditions[0].shape[-1])
    below = _added(ours - low, other_high - theirs, linked)
    above = _added(high - ours, theirs - other_low, linked)
    return np.asarray((ours - theirs - below)[0]), np.asarray((ours - theirs + above)[0])


def one_share_interval(hits: Float[np.ndarray, "prompts samples"], *, level: float = 0.95) -> tuple[float, float]:
    """Interval of one share of hits, by Wilson's score with the effective number of samples; never of zero width.

    Args:
        hits: Hits (1) and misses (0); two prompts or more.
        level: Coverage.

    >>> tuple(round(end, 2) for end in one_share_interval(np.ones((20, 1))))
    (0.82, 1.0)
    """
    found = np.asarray(hits, dtype=float)[None]
    quantile = t_quantile((1 + level) / 2, found.shape[1] - 1)
    low, high = _wilson(found.mean(axis=(1, 2)), _effective(found), quantile)
    return float(low[0]), float(high[0])


def statistic_interval(
    statistic: Callable[[Float[np.ndarray, "units columns"]], float],
    units: Float[np.ndarray, "units columns"],
    *,
    level: float = 0.95,
) -> tuple[float, float]:
    """Interval of any smooth statistic of independent units, by its jackknife pseudo-values; NaN for one unit.

    For a mean it is `mean_interval`. A maximum or a median is not smooth, so a jackknife does not work for it.

    Args:
        statistic: Table to number, such as a ratio of sums.
        units: One row for each unit.
        level: Coverage.
    """
    if len(units) < 2:
        return float("nan"), float("nan")
    low, high = _around(np.array([statistic(units)]), _pseudo_values(statistic, units)[None], level)
    return float(low[0]), float(high[0])


def statistic_caution(
    statistic: Callable[[Float[np.ndarray, "units columns"]], float], units: Float[np.ndarray, "units columns"]
) -> str:
    """A warning if the interval of a statistic is probably too narrow or too wide, as a mean of its pseudo-values.

    Args:
        statistic: As in `statistic_interval`.
        units: Likewise.

    >>> statistic_caution(lambda table: float(table.mean()), np.ones((12, 1)))
    'no variation: do not take the zero-width interval for certainty'
    """
    return "" if len(units) < 2 else _caution_of_means(_pseudo_values(statistic, units))


def paired_interval(
    steered: Float[np.ndarray, "prompts samples"],
    unsteered: Float[np.ndarray, "prompts samples"],
    *,
    level: float = 0.95,
    kind: Kind | None = None,
    zeros: Kind = "shares",
) -> Interval:
    """Interval of steered minus unsteered by the rule of its kind, with any warning about it.

    Args:
        steered: One number for each prompt and sample.
        unsteered: As many.
        level: Coverage.
        kind: The kind of the numbers; by default it is detected.
        zeros: Their kind if all of them are 0.
    """
    kind = kind_of(steered, unsteered, zeros=zeros) if kind is None else kind
    covers = covered(*steered.shape)
    if covers == "nothing":
        return Interval(np.nan, np.nan, covers, kind)
    if covers == "samples only":
        steered, unsteered = steered.T, unsteered.T
    if kind == "shares":
        low, high = share_interval(steered, unsteered, level=level)
    else:
        low, high = mean_interval((steered - unsteered).mean(axis=1), level=level)
    return Interval(float(low), float(high), covers, kind, _caution(steered, unsteered, kind))


def cell_intervals(
    steered: Float[np.ndarray, "cells prompts samples"],
    unsteered: Float[np.ndarray, "cells prompts samples"],
    *,
    level: float = 0.95,
    zeros: Kind = "shares",
) -> tuple[Float[np.ndarray, " cells"], Float[np.ndarray, " cells"], str]:
    """Intervals of many effects of one kind, as `paired_effect` gives them one by one.

    Args:
        steered: One number for each cell, prompt and sample; a prompt that is not finite is left out of its cell.
        unsteered: As many.
        level: Coverage.
        zeros: Their kind if all of them are 0.

    Returns:
        Lower ends, upper ends, and what they cover.
    """
    kept = np.isfinite(steered).all(axis=2) & np.isfinite(unsteered).all(axis=2)
    ends = np.full((2, len(steered)), np.nan)
    kind = kind_of(steered, unsteered, zeros=zeros)
    for cell, which in enumerate(kept):
        if which.any():
            found = paired_interval(steered[cell, which], unsteered[cell, which], level=level, kind=kind)
            ends[:, cell] = found.low, found.high
    return ends[0], ends[1], covered(*steered.shape[1:])


def cell_cautions(
    steered: Float[np.ndarray, "cells prompts samples"],
    unsteered: Float[np.ndarray, "cells prompts samples"],
    *,
    zeros: Kind = "shares",
) -> list[str]:
    """Warnings where the intervals of `cell_intervals` are probably too narrow or too wide; else empty.

    Args:
        steered: As in `cell_intervals`.
        unsteered: Likewise.
        zeros: Likewise.
    """
    kept = np.isfinite(steered).all(axis=2) & np.isfinite(unsteered).all(axis=2)
    kind = kind_of(steered, unsteered, zeros=zeros)
    return [
        paired_interval(steered[cell, which], unsteered[cell, which], kind=kind).caution if which.any() else ""
        for cell, which in enumerate(kept)
    ]


# -- the arithmetic --------------------------------------------------------------------------------------------


def _pseudo_values(
    statistic: Callable[[Float[np.ndarray, "units columns"]], float], units: Float[np.ndarray, "units columns"]
) -> Float[np.ndarray, " units"]:
    """The jackknife's: what each unit contributes to the statistic, as if it were a mean."""
    count = len(units)
    without = np.array([statistic(np.delete(units, index, axis=0)) for index in range(count)])
    return np.asarray(count * statistic(units) - (count - 1) * without)


def _around(
    centre: Float[np.ndarray, "*cells"], values: Float[np.ndarray, "*cells prompts"], level: float
) -> tuple[Float[np.ndarray, "*cells"], Float[np.ndarray, "*cells"]]:
    """Hall's interval around a centre, from the spread and skewness of values."""
    count = values.shape[-1]
    spread, skew = values.std(axis=-1, ddof=1), skewness(values)
    reach = t_quantile((1 + level) / 2, count - 1) / count**0.5
    return np.asarray(centre - spread * _bent(reach, skew, count)), np.asarray(
        centre - spread * _bent(-reach, skew, count)
    )


def _bent(reach: float, skew: Float[np.ndarray, "*cells"], count: int) -> Float[np.ndarray, "*cells"]:
    """Hall's transformation turned back: the t value (over the root of the count) whose transform is `reach`."""
    safe = np.where(np.abs(skew) > 1e-6, skew, 1.0)
    bent = 3 / safe * (np.cbrt(1 + safe * (reach - safe / (6 * count))) - 1)
    return np.where(np.abs(skew) > 1e-6, bent, reach)


def skewness(values: Float[np.ndarray, "*cells prompts"]) -> Float[np.ndarray, "*cells"]:
    """Third moment in units of the standard deviation; 0 where nothing varies.

    >>> skewness(np.array([[0.0, 0.0, 3.0]])).round(3)
    array([0.707])
    """
    centred = values - values.mean(axis=-1, keepdims=True)
    second = (centred**2).mean(axis=-1)
    varies = second > 1e-24 * (values**2).mean(axis=-1)
    return np.asarray(np.where(varies, (centred**3).mean(axis=-1) / np.where(varies, second, 1.0) ** 1.5, 0.0))


def _wilson(
    share: Float[np.ndarray, "*cells"], count: Float[np.ndarray, "*cells"], quantile: float
) -> tuple[Float[np.ndarray, "*cells"], Float[np.ndarray, "*cells"]]:
    """Wilson's score interval of one share."""
    added = quantile**2 / count
    centre = (share + added / 2) / (1 + added)
    half = quantile / (1 + added) * np.sqrt(share * (1 - share) / count + added / (4 * count))
    return np.minimum(centre - half, share), np.maximum(centre + half, share)


def _effective(hits: Float[np.ndarray, "*cells prompts samples"]) -> Float[np.ndarray, "*cells"]:
    """How many independent samples the samples are worth: between one for each prompt and all of them."""
    prompts, samples = hits.shape[-2:]
    by_prompt = hits.mean(axis=-1)
    share, variance = by_prompt.mean(axis=-1), by_prompt.var(axis=-1, ddof=1) / prompts
    worth = np.divide(share * (1 - share), variance, out=np.full_like(share, prompts), where=variance > 0)
    return np.asarray(np.clip(worth, prompts, prompts * samples))


def _correlation(
    ours: Float[np.ndarray, "*cells prompts"], theirs: Float[np.ndarray, "*cells prompts"], samples: int
) -> Float[np.ndarray, "*cells"]:
    """Correlation of the conditions over prompts; 0 where one does not vary.

    Newcombe's correction for continuity, that of as many hits as there are samples, keeps it below 1, and so the
    interval from being empty.
    """
    product = ((ours - ours.mean(-1, keepdims=True)) * (theirs - theirs.mean(-1, keepdims=True))).mean(axis=-1)
    product = np.where(product > 0, np.maximum(product - 0.5 / (ours.shape[-1] * samples**2), 0.0), product)
    size = ours.std(axis=-1) * theirs.std(axis=-1)
    return np.asarray(np.divide(product, size, out=np.zeros_like(product), where=size > 0))


def _added(
    ours: Float[np.ndarray, "*cells"], theirs: Float[np.ndarray, "*cells"], linked: Float[np.ndarray, "*cells"]
) -> Float[np.ndarray, "*cells"]:
    """Two distances squared and added, less what the conditions have in common."""
    return np.asarray(np.sqrt(np.maximum(ours**2 - 2 * linked * ours * theirs + theirs**2, 0.0)))


def _caution(
    steered: Float[np.ndarray, "prompts samples"], unsteered: Float[np.ndarray, "prompts samples"], kind: Kind
) -> str:
    """A warning where simulation shows that the interval is too narrow or too wide."""
    if kind == "shares":
        fewest = min(float(part.sum()) for condition in (steered, unsteered) for part in (condition, 1 - condition))
        return "few hits or misses: the interval may be too wide" if fewest < _FEW_HITS else ""
    return _caution_of_means((steered - unsteered).mean(axis=1))


def _caution_of_means(values: Float[np.ndarray, " prompts"]) -> str:
    """The same for numbers of which a mean is taken."""
    count = len(values)
    if values.std() <= 1e-12 * np.abs(values).max():
        return "no variation: do not take the zero-width interval for certainty"
    expected = (6 * (count - 2) / ((count + 1) * (count + 3))) ** 0.5
    if abs(float(skewness(values[None])[0])) > 2 * expected > 0:
        return "long tail: the interval is probably too narrow"
    return "few prompts: too narrow if effects have a long tail" if count < _FEW_FOR_A_TAIL else ""
