"""Student's t and the binomial distribution, without another dependency."""

import math
from functools import lru_cache
from statistics import NormalDist

NORMAL = NormalDist()
"""The standard normal distribution."""

_STEPS = 80
"""Halvings of a bracket: far below rounding."""


def t_share_below(t: float, degrees: int) -> float:
    """Share of Student's t below a value (Abramowitz and Stegun 26.7.3 and 26.7.4).

    Args:
        t: The value.
        degrees: Degrees of freedom, from 1.

    >>> round(t_share_below(2.262157, 9), 4)
    0.975
    """
    angle = math.atan2(t, math.sqrt(degrees))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = degrees % 2
    term = total = cosine if odd else 1.0
    for step in range(2 + odd, degrees - 1, 2):
        term *= cosine * cosine * (step - 1) / step
        total += term
    if not odd:
        return 0.5 + sine * total / 2
    return 0.5 + (angle + (sine * total if degrees > 1 else 0.0)) / math.pi


@lru_cache(maxsize=1024)
def t_quantile(share: float, degrees: float) -> float:
    """The value below which a share of Student's t lies; non-integer degrees are interpolated in 1 / degrees.

    Args:
        share: From above 0 to below 1.
        degrees: Degrees of freedom, from 1; infinite for the normal distribution.

    >>> round(t_quantile(0.975, 9), 3), round(t_quantile(0.025, 9), 3), round(t_quantile(0.975, float("inf")), 3)
    (2.262, -2.262, 1.96)
    """
    if degrees > 1000:
        return NORMAL.inv_cdf(share)
    below = int(max(1.0, math.floor(degrees)))
    if below < degrees:
        nearer = (1 / below - 1 / degrees) / (1 / below - 1 / (below + 1))
        return (1 - nearer) * t_quantile(share, below) + nearer * t_quantile(share, below + 1)
    if share < 0.5:
        return -t_quantile(1 - share, below)
    low, high = 0.0, 1.0
    while t_share_below(high, below) < share:
        high *= 2
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if t_share_below(middle, below) < share else (low, middle)
    return (low + high) / 2


def binomial_share_to(count: int, trials: int, chance: float) -> float:
    """Probability of at most that many hits.

    Args:
        count: Hits.
        trials: Trials.
        chance: Of one hit.

    >>> round(binomial_share_to(1, 3, 0.5), 3)
    0.5
    """
    if chance in (0.0, 1.0):
        return float(chance == 0.0 or count >= trials)
    logs = (
        math.lgamma(trials + 1) - math.lgamma(hits + 1) - math.lgamma(trials - hits + 1)
        + hits * math.log(chance) + (trials - hits) * math.log1p(-chance)
        for hits in range(count + 1)
    )  # fmt: skip
    return min(1.0, math.fsum(map(math.exp, logs)))


def chance_interval(count: int, trials: int, level: float = 0.95) -> tuple[float, float]:
    """Clopper and Pearson's interval of a chance, from hits in trials: it covers at least as often as it says.

    Args:
        count: Hits.
        trials: Trials.
        level: Coverage.

    >>> tuple(round(end, 3) for end in chance_interval(0, 19))
    (0.0, 0.176)
    """
    tail = (1 - level) / 2

    def solved(hits: int, wanted: float) -> float:
        low, high = 0.0, 1.0
        for _ in range(_STEPS):
            middle = (low + high) / 2
            low, high = (middle, high) if binomial_share_to(hits, trials, middle) > wanted else (low, middle)
        return (low + high) / 2

    lowest = 0.0 if count == 0 else solved(count - 1, 1 - tail)
    return lowest, 1.0 if count == trials else solved(count, tail)
