"""What an experiment returns: numbers with their intervals and nulls, and what they say about a claim."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from jaxtyping import Float

from actadd_lens.errors import SettingError
from actadd_lens.statistics import (
    FEWEST_PROMPTS,
    LEVEL,
    Effect,
    monte_carlo_p,
    one_share_interval,
    p_interval,
    paired_effect,
    statistic_caution,
    statistic_interval,
    verdict_p,
)
from actadd_lens.statistics.quantiles import t_quantile, t_share_below

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

Verdict = Literal["same direction", "shown to be small", "opposite", "undecided", "not testable here"]
"""Shown (in one direction or the other), shown to be small, undecided, or not testable in this run."""

Side = Literal["greater", "less"]

TENTH = 0.1
"""Part of the paper's own effect that counts as none, unless stated otherwise.

The paper calls a change of "about a percent" no change, compared with falls of 8 to 12 percent: about a tenth.
"""


@dataclass(frozen=True)
class Estimate:
    """A number with its interval and nulls.

    Attributes:
        value: The number.
        low: Lower end of its 95 % interval; NaN where nothing could be resampled.
        high: Upper end.
        n: How many were resampled.
        of: What was resampled, in the plural: `prompts`, `sentences`, `facts`.
        nulls: The same number under each null vector; empty if none was run.
        neutral: The value that means no effect: 0 for a difference, 1 for a ratio.
        caution: A warning if the interval is probably too narrow or too wide; else empty.
    """

    value: float
    low: float
    high: float
    n: int
    of: str
    nulls: tuple[float, ...] = ()
    neutral: float = 0.0
    caution: str = ""

    @classmethod
    def from_effect(cls, effect: Effect, *, of: str = "prompts") -> "Estimate":
        """A measured effect: steered minus unsteered."""
        nulls = tuple(float(value) for value in effect.nulls)
        return cls(effect.mean, effect.low, effect.high, effect.n_prompts, of, nulls, caution=effect.caution)

    @classmethod
    def paired(
        cls,
        steered: Float[np.ndarray, "prompts samples"],
        unsteered: Float[np.ndarray, "prompts samples"],
        *,
        of: str = "prompts",
        nulls: Sequence[float] = (),
    ) -> "Estimate":
        """Steered minus unsteered, with the interval for its kind of numbers.

        Args:
            steered: One number for each prompt and sample.
            unsteered: As many.
            of: What the prompts are, in the plural.
            nulls: The same difference under each null vector.
        """
        return replace(cls.from_effect(paired_effect(steered, unsteered), of=of), nulls=tuple(map(float, nulls)))

    @classmethod
    def share(
        cls,
        hits: Float[np.ndarray, "prompts samples"],
        *,
        of: str,
        nulls: Sequence[float] = (),
        neutral: float = 0.0,
    ) -> "Estimate":
        """One share of hits, with an interval that never has zero width.

        Args:
            hits: Hits (1) and misses (0), for each unit and sample.
            of: What the units are, in the plural.
            nulls: The same share under each null vector.
            neutral: The share that means that nothing happened.
        """
        low, high = one_share_interval(hits) if len(hits) > 1 else (math.nan, math.nan)
        return cls(float(np.mean(hits)), low, high, len(hits), of, tuple(map(float, nulls)), neutral)

    def p_value(self, side: Side) -> float:
        """Monte Carlo p-value against the nulls; NaN where there are none."""
        return monte_carlo_p(self.value, np.array(self.nulls, dtype=float), side) if self.nulls else math.nan

    def p_interval(self, side: Side) -> tuple[float, float]:
        """The range that p could have with many more nulls; NaN without nulls."""
        return p_interval(self.value, np.array(self.nulls, dtype=float), side) if self.nulls else (math.nan, math.nan)

    def judged_p(self, side: Side) -> float:
        """The p-value that a verdict uses, as in `verdict_p`; NaN without nulls."""
        return verdict_p(self.value, np.array(self.nulls, dtype=float), side) if self.nulls else math.nan

    def beyond(self, side: Side) -> bool:
        """Whether it is significant: the interval lies past the neutral value and, with nulls, p is at most 0.05."""
        past = self.low > self.neutral if side == "greater" else self.high < self.neutral
        return past and (not self.nulls or self.judged_p(side) <= LEVEL)

    def p_moves(self, side: Side) -> float:
        """One-sided p of the claim that it moves: the larger of the interval's and the nulls'."""
        alone = self._beyond_p(self.neutral, side)
        beside = self.judged_p(side) if self.nulls else 0.0
        return math.nan if math.isnan(alone + beside) else max(alone, beside)

    def p_stays(self, margin: float, *, against: Side | None = None) -> float:
        """P of the claim that it stays within a margin: the larger of the two one-sided ones."""
        found = self.not_empty()
        below, above = found._beyond_p(self.neutral + margin, "less"), found._beyond_p(self.neutral - margin, "greater")
        if against is not None:
            return below if against == "greater" else above
        return math.nan if math.isnan(below + above) else max(below, above)

    def _beyond_p(self, edge: float, side: Side) -> float:
        """One-sided p of lying beyond an edge: .025 where the interval's end lies on it; NaN without an interval.

        The interval's half on the side of the edge is a quantile of Student's t wide.
        """
        ahead, half = (self.value - edge, self.value - self.low) if side == "greater" else (
            edge - self.value, self.high - self.value
        )  # fmt: skip
        if not (math.isfinite(half) and math.isfinite(ahead)) or half <= 0 or self.n < 2:
            return math.nan
        return 1 - t_share_below(ahead / half * t_quantile(0.975, self.n - 1), self.n - 1)

    def not_empty(self) -> "Estimate":
        """The same, with the rule of three for an interval of zero width, which would claim too much.

        Up to 3 / n of all cases may differ, with 95 % confidence.
        """
        if self.low < self.high or not self.n:
            return self
        return replace(self, low=self.low - 3 / self.n, high=self.high + 3 / self.n)

    def record(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "value": self.value, "low": self.low, "high": self.high, "level": 0.95, "n": self.n, "of": self.of,
            "neutral": self.neutral, "nulls": list(self.nulls), "caution": self.caution,
        }  # fmt: skip

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> "Estimate":
        """The way back; JSON has no NaN, so a number that is missing there is one."""
        numbers = {name: _number(record[name]) for name in ("value", "low", "high", "neutral")}
        nulls = tuple(map(_number, record["nulls"]))
        return cls(**numbers, n=record["n"], of=record["of"], nulls=nulls, caution=record.get("caution", ""))

    def __str__(self) -> str:
        told = f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}] ({self.n} {self.of})"
        if self.nulls:
            told += (
                f"; {len(self.nulls)} nulls {np.mean(self.nulls):.3g} ({min(self.nulls):.3g} to {max(self.nulls):.3g})"
            )
        return f"{told}; {self.caution}" if self.caution else told


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def resampled(
    statistic: Callable[[Float[np.ndarray, "units columns"]], float],
    units: Float[np.ndarray, "units columns"],
    *,
    of: str,
    nulls: Sequence[float] = (),
    neutral: float = 0.0,
    smooth: bool = True,
    resamples: int = 2000,
    seed: int = 0,
) -> Estimate:
    """Any statistic of a table of independent units, with an interval over its rows.

    The interval of a smooth statistic uses its jackknife values, like that of a mean; for others, such as a median, it
    is a percentile bootstrap, which is too narrow with few units.

    Args:
        statistic: Table to number, such as a ratio of sums; the columns are what one unit contributes.
        units: One row per independent unit (a prompt, a sentence, a fact).
        of: What the units are, in the plural.
        nulls: The same statistic under each null vector.
        neutral: The value that means that nothing happened.
        smooth: Whether small changes in a unit change the statistic only a little.
        resamples: Number of bootstrap resamples, if it is not smooth.
        seed: Their seed.

    Raises:
        SettingError: There are no units.

    >>> table = np.array([[1.0, 2.0], [3.0, 6.0]])
    >>> resampled(lambda rows: rows[:, 0].sum() / rows[:, 1].sum(), table, of="texts", neutral=1.0).value
    0.5
    """
    table, caution = np.asarray(units, dtype=float), ""
    if table.ndim != 2 or not len(table):
        raise SettingError(f"A table of shape {table.shape} holds nothing to resample.")
    if smooth or len(table) < 2:
        low, high = statistic_interval(statistic, table)
        caution = statistic_caution(statistic, table)
    else:
        random = np.random.default_rng(seed)
        drawn = [statistic(table[random.integers(len(table), size=len(table))]) for _ in range(resamples)]
        low, high = map(float, np.nanquantile(drawn, [0.025, 0.975]))
    return Estimate(float(statistic(table)), low, high, len(table), of, tuple(nulls), neutral, caution)


# -- claims ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Finding:
    """What one experiment says about one of the twelve claims.

    Attributes:
        claim: Number of the claim, from 1.
        about: What was measured, with the settings that matter, in one line.
        verdict: Whether it agrees with the paper.
        estimate: The number; None if there is none.
        paper: The paper's figure for the same, in words; empty if it gives none.
        reason: Why it is not testable, or what limits it; may be empty.
        margin: Largest distance from the neutral value that counts as nothing, fixed in advance; None for no margin.
    """

    claim: int
    about: str
    verdict: Verdict
    estimate: Estimate | None = None
    paper: str = ""
    reason: str = ""
    margin: float | None = None

    @classmethod
    def of_move(
        cls,
        claim: int,
        about: str,
        estimate: Estimate,
        side: Side,
        paper: str = "",
        limits: str = "",
        *,
        margin: float | None = None,
    ) -> "Finding":
        """That a number moves to one side.

        Args:
            claim: Number of the claim.
            about: What was measured.
            estimate: The number.
            side: Where it is claimed to move.
            paper: The paper's figure.
            limits: What limits a verdict; if it is undecided, the finding itself says what is lacking.
            margin: As in `moves`.
        """  # fmt: skip
        verdict = moves(estimate, side, margin=margin)
        return cls(claim, about, verdict, estimate, paper, "" if verdict == "undecided" else limits, margin)

    def __post_init__(self) -> None:
        if self.verdict == "undecided" and not self.reason and self.estimate is not None:
            object.__setattr__(self, "reason", _undecided(self.estimate))

    def record(self) -> dict[str, Any]:
        """For JSON."""
        estimate = None if self.estimate is None else self.estimate.record()
        return {
            "claim": self.claim, "about": self.about, "verdict": self.verdict, "estimate": estimate,
            "paper": self.paper, "reason": self.reason, "margin": self.margin,
        }  # fmt: skip

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> "Finding":
        """The way back; what was called `no effect` in 0.1 was not shown, which is undecided."""
        estimate = None if record["estimate"] is None else Estimate.from_record(record["estimate"])
        verdict = "undecided" if record["verdict"] == "no effect" else record["verdict"]
        return cls(**{**record, "verdict": verdict, "estimate": estimate})


def moves(estimate: Estimate, side: Side, *, margin: float | None = None) -> Verdict:
    """The verdict on a claim that a number moves to one side; under 10 units it is undecided.

    Args:
        estimate: The number.
        side: Where it is claimed to move.
        margin: Largest distance from the neutral value that counts as not moving, fixed in advance; None for no margin.

    >>> moves(Estimate(0.9, 0.85, 0.95, 40, "texts", neutral=1.0), "less")
    'same direction'
    >>> moves(Estimate(0.9, 0.75, 1.05, 40, "texts", neutral=1.0), "less")
    'undecided'
    >>> moves(Estimate(1.001, 0.998, 1.004, 40, "texts", neutral=1.0), "less", margin=0.01)
    'shown to be small'
    """
    if estimate.n < FEWEST_PROMPTS:
        return "undecided"
    if margin is not None and stays(estimate, margin) == "same direction":
        return "shown to be small"
    if estimate.beyond(side):
        return "same direction"
    return "opposite" if estimate.beyond("less" if side == "greater" else "greater") else "undecided"


def stays(estimate: Estimate, margin: float, *, against: Side | None = None) -> Verdict:
    """The verdict on a claim that a number hardly moves: an interval inside the margin confirms it.

    An interval across the margin's edge decides nothing, nor do fewer than 10 units. If nothing varied, the interval
    has no width and claims too much, so the rule of three replaces it (up to 3 / n of all cases may differ, with 95 %
    confidence).

    Args:
        estimate: The number.
        margin: Largest distance from the neutral value that counts as staying, fixed in advance.
        against: The side that speaks against the claim, if only one does: a cost that falls is not a cost.

    >>> stays(Estimate(1.002, 0.995, 1.009, 40, "texts", neutral=1.0), margin=0.01)
    'same direction'
    >>> stays(Estimate(1.02, 0.98, 1.06, 40, "texts", neutral=1.0), margin=0.01)
    'undecided'
    """
    found = estimate.not_empty()
    low, high = found.low - found.neutral, found.high - found.neutral
    if estimate.n < FEWEST_PROMPTS or not (math.isfinite(low) and math.isfinite(high)):
        return "undecided"
    if (against != "less" and low > margin) or (against != "greater" and high < -margin):
        return "opposite"
    inside = (against == "greater" or -margin <= low) and (against == "less" or high <= margin)
    return "same direction" if inside else "undecided"


def _undecided(estimate: Estimate) -> str:
    if estimate.n < FEWEST_PROMPTS:
        return f"{estimate.n} {estimate.of} are too few: a verdict needs {FEWEST_PROMPTS}"
    if not (math.isfinite(estimate.low) and math.isfinite(estimate.high)):
        return "there is no interval"
    if estimate.low <= estimate.neutral <= estimate.high:
        return f"the interval contains {estimate.neutral:g}: neither shown nor shown to be small"
    if estimate.nulls:
        side: Side = "greater" if estimate.value > estimate.neutral else "less"
        least = 1 / (1 + len(estimate.nulls))
        if least > LEVEL:
            return f"{len(estimate.nulls)} nulls are too few: p cannot be below {least:.2g}"
        low, high = estimate.p_interval(side)
        told = f"p = {estimate.judged_p(side):.2g} ({low:.2g} to {high:.2g} with more nulls)"
        return f"null vectors may do as much: {told}"
    return "the interval is too wide to decide"


# -- results ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, kw_only=True)
class Experiment(ABC):
    """The result of an experiment: a table, a picture, and what it says about the claims.

    Attributes:
        model: Name of the model.
        settings: Everything that the numbers depend on, as plain values: pairs, layers, coefficients, what was chosen
            and on what, sampling, nulls, seed, number of texts and where they come from.
        notes: What a reader must know besides the numbers, a sentence each.
    """

    name: ClassVar[str]
    """As the command line has it."""

    title: ClassVar[str]
    """As the report has it."""

    model: str
    settings: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @abstractmethod
    def frame(self) -> "pd.DataFrame":
        """The table."""

    @abstractmethod
    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """The picture."""

    def pictures(self) -> "dict[str, Callable[[], Axes]]":
        """Every picture by its name, each drawn when it is called; the first is that of `plot`."""
        return {"": self.plot}

    @abstractmethod
    def findings(self) -> tuple[Finding, ...]:
        """What it says about the twelve claims; empty if it concerns none of them."""

    @abstractmethod
    def summary(self) -> str:
        """What was done and what was found, in a few sentences with the numbers."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.summary()})"

    def _repr_html_(self) -> str:
        from html import escape

        return f"<p>{escape(self.summary())}</p>" + self.frame().to_html(index=False)
