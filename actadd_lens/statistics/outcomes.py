"""Outcomes: shown, shown to be small, or undecided. What is not shown is not shown to be absent."""

from typing import Literal

from actadd_lens.statistics.pvalues import LEVEL, Alternative

Outcome = Literal["shown", "shown to be small", "undecided"]


def outcome_of(
    low: float,
    high: float,
    p_value: float | None = None,
    *,
    alternative: Alternative = "two-sided",
    small: bool = False,
    neutral: float = 0.0,
) -> Outcome:
    """What an interval shows, together with a p-value if there are nulls.

    Args:
        low: Lower end of the interval; NaN decides nothing.
        high: Upper end.
        p_value: P-value against the nulls; None without nulls.
        alternative: Which side counts.
        small: Whether the effect was shown to be within a margin that was fixed before looking.
        neutral: The value that means no effect.

    >>> outcome_of(0.1, 0.3), outcome_of(0.1, 0.3, 0.2), outcome_of(-0.1, 0.1, small=True)
    ('shown', 'undecided', 'shown to be small')
    """
    above, below = low > neutral and alternative != "less", high < neutral and alternative != "greater"
    if not small and (above or below) and (p_value is None or p_value <= LEVEL):
        return "shown"
    return "shown to be small" if small else "undecided"
