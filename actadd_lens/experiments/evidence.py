"""What an experiment hands over: numbers with their intervals and nulls, and what they say about a claim."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from jaxtyping import Float

from actadd_lens.errors import SettingError
from actadd_lens.statistics import FEWEST_PROMPTS, Effect, monte_carlo_p

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

Verdict = Literal["same direction", "no effect", "opposite", "not testable here"]
Side = Literal["greater", "less"]

_ALPHA = 0.05


@dataclass(frozen=True)
class Estimate:
    """A number with what makes it believable.

    Attributes:
        value: The number.
        low: Lower end of its 95 % interval; NaN where nothing could be resampled.
        high: Upper end.
        n: How many were resampled.
        of: What was resampled, in the plural: `prompts`, `sentences`, `facts`.
        nulls: The same number under each null vector; empty where none was run.
        neutral: The value that means that nothing happened: 0 for a difference, 1 for a ratio.
    """

    value: float
    low: float
    high: float
    n: int
    of: str
    nulls: tuple[float, ...] = ()
    neutral: float = 0.0

    @classmethod
    def from_effect(cls, effect: Effect, *, of: str = "prompts") -> "Estimate":
        """A measured effect: steered minus unsteered."""
        nulls = tuple(float(value) for value in effect.nulls)
        return cls(effect.mean, effect.low, effect.high, effect.n_prompts, of, nulls)

    def p_value(self, side: Side) -> float:
        """Monte Carlo p-value against the nulls; NaN where there are none."""
        return monte_carlo_p(self.value, np.array(self.nulls, dtype=float), side) if self.nulls else math.nan

    def beyond(self, side: Side) -> bool:
        """Whether it stands apart: the whole interval past the neutral value, and past all but 5 % of the nulls.

        With fewer than 19 nulls no p-value reaches 5 %; then it must lie past every one of them.
        """
        past = self.low > self.neutral if side == "greater" else self.high < self.neutral
        return past and (not self.nulls or self.p_value(side) <= max(_ALPHA, 1 / (1 + len(self.nulls))) + 1e-12)

    def record(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "value": self.value, "low": self.low, "high": self.high, "level": 0.95, "n": self.n, "of": self.of,
            "neutral": self.neutral, "nulls": list(self.nulls),
        }  # fmt: skip

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> "Estimate":
        """The way back; JSON has no NaN, so a number that is missing there is one."""
        numbers = {name: _number(record[name]) for name in ("value", "low", "high", "neutral")}
        return cls(**numbers, n=record["n"], of=record["of"], nulls=tuple(map(_number, record["nulls"])))

    def __str__(self) -> str:
        told = f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}] ({self.n} {self.of})"
        if self.nulls:
            told += (
                f"; {len(self.nulls)} nulls {np.mean(self.nulls):.3g} ({min(self.nulls):.3g} to {max(self.nulls):.3g})"
            )
        return told


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def resampled(
    statistic: Callable[[Float[np.ndarray, "units columns"]], float],
    units: Float[np.ndarray, "units columns"],
    *,
    of: str,
    nulls: Sequence[float] = (),
    neutral: float = 0.0,
    resamples: int = 2000,
    seed: int = 0,
) -> Estimate:
    """Any statistic of a table of independent units, with the percentile bootstrap over its rows.

    Args:
        statistic: Table to number, such as a ratio of sums; the columns are what one unit contributes.
        units: One row per independent unit (a prompt, a sentence, a fact).
        of: What the units are, in the plural.
        nulls: The same statistic under each null vector.
        neutral: The value that means that nothing happened.
        resamples: Number of bootstrap resamples.
        seed: Seed of the resampling.

    Raises:
        SettingError: There are no units.

    >>> table = np.array([[1.0, 2.0], [3.0, 6.0]])
    >>> resampled(lambda rows: rows[:, 0].sum() / rows[:, 1].sum(), table, of="texts", neutral=1.0).value
    0.5
    """
    table = np.asarray(units, dtype=float)
    if table.ndim != 2 or not len(table):
        raise SettingError(f"A table of shape {table.shape} holds nothing to resample.")
    random = np.random.default_rng(seed)
    drawn = [statistic(table[random.integers(len(table), size=len(table))]) for _ in range(resamples)]
    low, high = np.nanquantile(drawn, [0.025, 0.975]) if len(table) > 1 else (math.nan, math.nan)
    return Estimate(float(statistic(table)), float(low), float(high), len(table), of, tuple(nulls), neutral)


# -- claims ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Finding:
    """What one experiment says of one of the twelve claims.

    Attributes:
        claim: Number of the claim, from 1.
        about: What was measured, with the settings that matter, in one line.
        verdict: Whether it goes the paper's way.
        estimate: The number; None where there is none.
        paper: The paper's figure for the same, in words; empty where it gives none.
        reason: Why it is not testable, or what limits it; empty where nothing is to be said.
    """

    claim: int
    about: str
    verdict: Verdict
    estimate: Estimate | None = None
    paper: str = ""
    reason: str = ""

    def __post_init__(self) -> None:
        if self.verdict == "not testable here" and not self.reason and self.estimate is not None:
            object.__setattr__(self, "reason", _undecided(self.estimate))

    def record(self) -> dict[str, Any]:
        """For JSON."""
        estimate = None if self.estimate is None else self.estimate.record()
        return {
            "claim": self.claim, "about": self.about, "verdict": self.verdict, "estimate": estimate,
            "paper": self.paper, "reason": self.reason,
        }  # fmt: skip

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> "Finding":
        """The way back."""
        estimate = record["estimate"]
        return cls(**{**record, "estimate": None if estimate is None else Estimate.from_record(estimate)})


def moves(estimate: Estimate, side: Side) -> Verdict:
    """The verdict on a claim that a number moves to one side; under 10 units none is given.

    >>> moves(Estimate(0.9, 0.85, 0.95, 40, "texts", neutral=1.0), "less")
    'same direction'
    >>> moves(Estimate(0.9, 0.75, 1.05, 40, "texts", neutral=1.0), "less")
    'no effect'
    """
    if estimate.n < FEWEST_PROMPTS:
        return "not testable here"
    if estimate.beyond(side):
        return "same direction"
    return "opposite" if estimate.beyond("less" if side == "greater" else "greater") else "no effect"


def stays(estimate: Estimate, margin: float, *, against: Side | None = None) -> Verdict:
    """The verdict on a claim that a number hardly moves: an interval inside the margin says so, one outside denies it.

    An interval across the margin's edge decides nothing: `not testable here`, for want of data; as do fewer than 10
    units. Where nothing varied, the interval is empty and says too much: then the rule of three stands in for it (up to
    3 / n of all cases may be otherwise, with 95 % confidence).

    Args:
        estimate: The number.
        margin: Largest distance from the neutral value that counts as staying.
        against: The side that speaks against the claim, where the other one does not: a cost that falls is no cost.

    >>> stays(Estimate(1.002, 0.995, 1.009, 40, "texts", neutral=1.0), margin=0.01)
    'same direction'
    >>> stays(Estimate(1.02, 0.98, 1.06, 40, "texts", neutral=1.0), margin=0.01)
    'not testable here'
    """
    low, high = estimate.low - estimate.neutral, estimate.high - estimate.neutral
    if estimate.n < FEWEST_PROMPTS or not (math.isfinite(low) and math.isfinite(high)):
        return "not testable here"
    if low == high:
        low, high = low - 3 / estimate.n, high + 3 / estimate.n
    if (against != "less" and low > margin) or (against != "greater" and high < -margin):
        return "opposite"
    inside = (against == "greater" or -margin <= low) and (against == "less" or high <= margin)
    return "same direction" if inside else "not testable here"


def _undecided(estimate: Estimate) -> str:
    if estimate.n < FEWEST_PROMPTS:
        return f"{estimate.n} {estimate.of} are too few: a verdict takes {FEWEST_PROMPTS}"
    if not (math.isfinite(estimate.low) and math.isfinite(estimate.high)):
        return "there is no interval"
    return "the interval is too wide to tell"


# -- results ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, kw_only=True)
class Experiment(ABC):
    """The result of an experiment: a table, a picture, and what it says of the claims.

    Attributes:
        model: Name of the model.
        settings: Everything that the numbers depend on, as JSON takes it: pairs, layers, coefficients, what was chosen
            and on what, sampling, nulls, seed, number of texts and where they are from.
        notes: What a reader must know beside the numbers, a sentence each.
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
        """What it says of the twelve claims; none, if it bears on none."""

    @abstractmethod
    def summary(self) -> str:
        """What was done and what came out, in a few sentences with the numbers in them."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.summary()})"

    def _repr_html_(self) -> str:
        from html import escape

        return f"<p>{escape(self.summary())}</p>" + self.frame().to_html(index=False)
