"""Effects: steered minus unsteered, with intervals and nulls that show an effect to be real, or to be small."""

from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float

from actadd_lens.errors import SettingError
from actadd_lens.statistics.intervals import Interval, Kind, paired_interval
from actadd_lens.statistics.outcomes import Outcome, outcome_of
from actadd_lens.statistics.pvalues import (
    LEVEL,
    Alternative,
    monte_carlo_p,
    p_interval,
    standardised_effect,
    verdict_p,
)
from actadd_lens.statistics.quantiles import t_quantile


@dataclass(frozen=True)
class Difference:
    """A difference with its interval.

    Attributes:
        mean: The difference.
        low: Lower end of the interval.
        high: Upper end.
        level: Coverage of the interval.
    """

    mean: float
    low: float
    high: float
    level: float

    def __str__(self) -> str:
        return f"{self.mean:+.3g} [{self.low:.3g}, {self.high:.3g}]"

    __repr__ = __str__


@dataclass(frozen=True, eq=False)
class Effect:
    """An effect with its interval, and its nulls if there are any.

    Attributes:
        mean: Mean over prompts of steered minus unsteered.
        low: Lower end of the interval; NaN if there is nothing to take as a sample.
        high: Upper end.
        level: Coverage of the interval.
        covers: What it covers: `prompts and samples`, `prompts`, `samples only` or `nothing`.
        steered: Mean, steered.
        unsteered: Mean, unsteered.
        n_prompts: Number of prompts.
        n_samples: Samples per prompt.
        by_prompt: Each prompt's own effect.
        nulls: The effect of each null vector; empty if none was run.
        kind: What the numbers are: `shares` (hits and misses), `counts` or `numbers`; it selects the interval's rule.
        caution: A warning if the interval is probably too narrow or too wide; else empty.
        conditions: The steered and unsteered numbers as measured; None if only means were kept.
        null_by_prompt: The nulls' effects on each prompt; None if only their means were kept.
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
    kind: Kind = "numbers"
    caution: str = ""
    conditions: Float[np.ndarray, "conditions prompts samples"] | None = field(default=None, repr=False)
    null_by_prompt: Float[np.ndarray, "nulls prompts"] | None = field(default=None, repr=False)

    def with_nulls(
        self, nulls: Float[np.ndarray, " nulls"], by_prompt: Float[np.ndarray, "nulls prompts"] | None = None
    ) -> "Effect":
        """The same effect with its nulls.

        Args:
            nulls: The effect of each null vector.
            by_prompt: The same on each prompt, if known.

        Raises:
            SettingError: The two differ in number, or the prompts do.
        """
        values = np.asarray(nulls, dtype=float)
        if by_prompt is not None and by_prompt.shape != (len(values), self.n_prompts):
            raise SettingError(
                f"Nulls by prompt of shape {by_prompt.shape} do not match {len(values)} nulls and "
                f"{self.n_prompts} prompts."
            )
        return replace(self, nulls=values, null_by_prompt=by_prompt)

    # -- against zero ------------------------------------------------------------------------------------------

    def interval(self, level: float = 0.95) -> Interval:
        """The interval at another level.

        Args:
            level: Coverage.

        Raises:
            SettingError: The steered and unsteered numbers were not kept.
        """
        if self.conditions is None:
            raise SettingError("The conditions of this effect were not kept, so it has no interval but its own.")
        return paired_interval(self.conditions[0], self.conditions[1], level=level, kind=self.kind)

    def equivalent(self, margin: float, *, level: float = LEVEL) -> bool:
        """Whether the effect is shown to be smaller than a margin, in either direction (two one-sided tests).

        The margin must be fixed before looking. Counts that did not vary at all show nothing, nor do few prompts.

        Args:
            margin: Largest effect that counts as none, above 0, in the effect's unit.
            level: Chance of being wrong at the margin.

        Raises:
            SettingError: The margin is not a positive number, or the steered and unsteered numbers were not kept.
        """
        if not margin > 0:
            raise SettingError(f"The margin is {margin!r}: expected a number above 0, in the effect's unit.")
        found = self.interval(1 - 2 * level)
        varied = found.low < found.high or self.kind == "numbers"
        return bool(self.n_prompts > 1 and varied and -margin < found.low and found.high < margin)

    @property
    def wrong_way(self) -> float:
        """Share of prompts with an effect opposite to the mean effect; NaN if the mean is zero."""
        return float((self.by_prompt * self.mean < 0).mean()) if self.mean else float("nan")

    @property
    def per_prompt(self) -> float:
        """Mean effect in units of its standard deviation over prompts: comparable across metrics and models."""
        spread = float(self.by_prompt.std(ddof=1)) if self.n_prompts > 1 else 0.0
        return self.mean / spread if spread > 0 else float("nan")

    # -- against the nulls -------------------------------------------------------------------------------------

    def p_value(self, alternative: Alternative = "greater") -> float:
        """Monte Carlo p-value against the nulls; NaN where there are none."""
        return monte_carlo_p(self.mean, self.nulls, alternative) if len(self.nulls) else float("nan")

    def p_interval(self, alternative: Alternative = "greater") -> tuple[float, float]:
        """The range that p could have with many more nulls; NaN without nulls."""
        return p_interval(self.mean, self.nulls, alternative) if len(self.nulls) else (float("nan"),) * 2

    @property
    def standardised(self) -> float:
        """(effect - null mean) / null sd; NaN with fewer than two nulls."""
        return standardised_effect(self.mean, self.nulls) if len(self.nulls) > 1 else float("nan")

    @property
    def standardised_by_prompt(self) -> Float[np.ndarray, " prompts"]:
        """The same on each prompt: comparable across models; NaN if nulls by prompt were not kept."""
        nulls = self.null_by_prompt
        if nulls is None or len(nulls) < 2:
            return np.full(self.n_prompts, np.nan)
        spread = nulls.std(axis=0, ddof=1)
        return np.asarray((self.by_prompt - nulls.mean(axis=0)) / np.where(spread > 0, spread, np.nan))

    def above_nulls(self, level: float = 0.95) -> Difference:
        """The effect minus the mean over nulls, with an interval over prompts and over nulls.

        The variances between prompts and between nulls are added, with Welch and Satterthwaite's degrees of freedom.

        Args:
            level: Coverage.

        Raises:
            SettingError: There are fewer than two prompts or nulls, or the nulls' effects by prompt were not kept.
        """
        nulls = self.null_by_prompt
        if nulls is None or len(nulls) < 2 or self.n_prompts < 2:
            raise SettingError("Effect minus nulls needs two prompts and two nulls or more, by prompt: use nulls=20.")
        contrast = self.by_prompt - nulls.mean(axis=0)
        parts = np.array([contrast.var(ddof=1) / self.n_prompts, nulls.mean(axis=1).var(ddof=1) / len(nulls)])
        total, freedom = parts.sum(), np.array([self.n_prompts - 1, len(nulls) - 1])
        degrees = float(total**2 / (parts**2 / freedom).sum()) if total > 0 else float("inf")
        half = t_quantile((1 + level) / 2, degrees) * float(total) ** 0.5
        mean = float(contrast.mean())
        return Difference(mean, mean - half, mean + half, level)

    def outcome(self, margin: float | None = None, *, alternative: Alternative = "two-sided") -> Outcome:
        """`shown`, `shown to be small` (with a margin) or `undecided`, at 5 %.

        `shown` means that the interval excludes zero on the requested side and, if there are nulls, p is at most 0.05.
        With fewer than 39 nulls, the p-value from their mean and spread must be at most 0.05 as well (`verdict_p`);
        with fewer than 19, nothing is shown.

        Args:
            margin: Largest effect that counts as none, fixed before looking; None for no margin.
            alternative: Which effects count.
        """
        p_value = verdict_p(self.mean, self.nulls, alternative) if len(self.nulls) else None
        small = margin is not None and self.equivalent(margin)
        return outcome_of(self.low, self.high, p_value, alternative=alternative, small=small)

    def __str__(self) -> str:
        prompts = "1 prompt" if self.n_prompts == 1 else f"{self.n_prompts} prompts"
        told = f"{self.mean:+.3g} [{self.low:.3g}, {self.high:.3g}]"
        told += f" ({self.level:.0%} interval over {self.covers}; {prompts} x {self.n_samples})"
        if self.covers == "nothing":
            told = f"{self.mean:+.3g} (no interval, because there is only one number)"
        if len(self.nulls):
            spread = self.nulls.std(ddof=min(1, len(self.nulls) - 1))
            told += f"; {len(self.nulls)} nulls {self.nulls.mean():+.3g} ± {spread:.2g}"
        return f"{told}; {self.caution}" if self.caution else told

    __repr__ = __str__


def family_effect(
    steered: Float[np.ndarray, "families prompts"], unsteered: Float[np.ndarray, " prompts"] | float = 0.0
) -> Effect:
    """The effect of the first family of vectors on each prompt, with those of the others as its nulls.

    Args:
        steered: One number per family and prompt.
        unsteered: One number per prompt; 0 where changes are given.

    >>> family_effect(np.array([[3.0, 2.0], [1.0, 0.0]]), np.ones(2)).nulls.tolist()
    [-0.5]
    """
    plain = np.broadcast_to(np.asarray(unsteered, dtype=float), steered.shape[1:])
    nulls = steered[1:] - plain
    return paired_effect(steered[0][:, None], plain[:, None], zeros="numbers").with_nulls(nulls.mean(axis=1), nulls)


def effect_columns(effect: Effect) -> dict[str, float]:
    """An effect as columns of a table: with its interval and, from two nulls on, their summary; p is two-sided."""
    columns = {"effect": effect.mean, "low": effect.low, "high": effect.high}
    if len(effect.nulls) > 1:
        columns |= {
            "null mean": float(effect.nulls.mean()),
            "null sd": float(effect.nulls.std(ddof=1)),
            "p": effect.p_value("two-sided"),
        }
    return columns


def paired_effect(
    steered: Float[np.ndarray, "prompts samples"],
    unsteered: Float[np.ndarray, "prompts samples"],
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
    zeros: Kind = "shares",
) -> Effect:
    """Steered minus unsteered, paired by prompt and random stream, with the interval of its kind of numbers.

    The sample is that of prompts; with a single prompt it is that of its samples, and the result says so.

    Args:
        steered: One number per prompt and sample.
        unsteered: As many.
        level: Coverage of the interval.
        resamples: Unused since 0.2: nothing is resampled.
        seed: Unused as well.
        zeros: The kind of numbers that are all 0: hits (`shares`) for texts, `numbers` for what is read off logits.

    Raises:
        SettingError: The conditions differ in shape, are empty or not finite, or a setting is out of range.

    >>> paired_effect(np.ones((12, 2)), np.zeros((12, 2))).mean
    1.0
    """
    steered, unsteered = np.asarray(steered, dtype=float), np.asarray(unsteered, dtype=float)
    if steered.shape != unsteered.shape or steered.ndim != 2 or 0 in steered.shape:
        raise SettingError(
            f"The shapes of steered and unsteered are {steered.shape} and {unsteered.shape}: expected "
            "[prompts, samples] twice."
        )
    if not (np.isfinite(steered).all() and np.isfinite(unsteered).all()):
        raise SettingError("A condition holds NaN or infinite numbers, so no mean can be taken.")
    if not 0 < level < 1 or resamples < 1:
        raise SettingError(f"level is {level!r}, resamples {resamples!r}: expected 0 < level < 1 and resamples >= 1.")
    found = paired_interval(steered, unsteered, level=level, zeros=zeros)
    difference = steered - unsteered
    return Effect(
        mean=float(difference.mean()),
        low=found.low,
        high=found.high,
        level=level,
        covers=found.covers,
        steered=float(steered.mean()),
        unsteered=float(unsteered.mean()),
        n_prompts=steered.shape[0],
        n_samples=steered.shape[1],
        by_prompt=difference.mean(axis=1),
        nulls=np.zeros(0),
        kind=found.kind,
        caution=found.caution,
        conditions=np.stack([steered, unsteered]),
    )
