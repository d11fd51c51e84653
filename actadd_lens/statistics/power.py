"""Power: what a run could show, computed before it is made."""

import math
from dataclasses import dataclass

import numpy as np

from actadd_lens.errors import SettingError
from actadd_lens.statistics.effects import Effect
from actadd_lens.statistics.quantiles import NORMAL, t_quantile

_MOST_PROMPTS = 1_000_000
_STEPS = 60


@dataclass(frozen=True)
class Power:
    """What a planned run can show.

    Attributes:
        smallest_effect: The smallest effect that it would show with 80 % power.
        effect: The effect in question, or the pilot's own.
        power: How often such an effect would be shown.
        prompts_needed: Prompts that would show it with 80 % power.
        n_prompts: Prompts of the run.
        spread: Standard deviation of effects over prompts, as in the pilot.
        smallest_p: The smallest p-value that its nulls allow; NaN without nulls.
    """

    smallest_effect: float
    effect: float
    power: float
    prompts_needed: int
    n_prompts: int
    spread: float
    smallest_p: float

    def __str__(self) -> str:
        told = (
            f"{self.n_prompts} prompts show an effect of {self.smallest_effect:.3g} in 80 of 100 runs, and one of "
            f"{self.effect:.3g} in {100 * self.power:.0f}; for 80 of 100 that would take {self.prompts_needed} prompts"
        )
        return told if math.isnan(self.smallest_p) else f"{told}. The smallest p-value is {self.smallest_p:.2g}"

    __repr__ = __str__


def effect_power(effect: float, spread: float, prompts: int, *, level: float = 0.05) -> float:
    """How often a two-sided t-test over prompts shows an effect; within 0.01 of the noncentral t for 5 prompts or more.

    Args:
        effect: Mean effect.
        spread: Its standard deviation over prompts.
        prompts: Number of prompts, from 2.
        level: Level of the test.

    >>> round(effect_power(0.0, 1.0, 20), 2), effect_power(1.0, 1.0, 20) > 0.98
    (0.05, True)
    """
    if prompts < 2 or not spread > 0:
        raise SettingError(f"{prompts} prompts with a spread of {spread!r}: expected two or more, and one above 0.")
    degrees = prompts - 1
    bound, shift = t_quantile(1 - level / 2, degrees), abs(effect) * prompts**0.5 / spread

    def beyond(where: float) -> float:
        """Share of the noncentral t above a value (Johnson and Welch)."""
        return NORMAL.cdf((shift - where * (1 - 1 / (4 * degrees))) / (1 + where**2 / (2 * degrees)) ** 0.5)

    return beyond(bound) + 1 - beyond(-bound)


def smallest_effect(spread: float, prompts: int, *, power: float = 0.8, level: float = 0.05) -> float:
    """The smallest mean effect that is shown with a given power.

    Args:
        spread: Standard deviation of effects over prompts.
        prompts: Number of prompts.
        power: How often it should be shown.
        level: Level of the test.

    >>> round(smallest_effect(1.0, 20), 2)
    0.66
    """
    low, high = 0.0, spread
    while effect_power(high, spread, prompts, level=level) < power:
        high *= 2
    for _ in range(_STEPS):
        middle = (low + high) / 2
        enough = effect_power(middle, spread, prompts, level=level) >= power
        low, high = (low, middle) if enough else (middle, high)
    return high


def prompts_needed(effect: float, spread: float, *, power: float = 0.8, level: float = 0.05) -> int:
    """Prompts that show a mean effect with a given power; at most a million.

    Args:
        effect: Mean effect.
        spread: Its standard deviation over prompts.
        power: How often it should be shown.
        level: Level of the test.

    >>> prompts_needed(0.66, 1.0)
    21
    """
    low, high = 1, 2
    while high < _MOST_PROMPTS and effect_power(effect, spread, high, level=level) < power:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        enough = effect_power(effect, spread, middle, level=level) >= power
        low, high = (low, middle) if enough else (middle, high)
    return min(high, _MOST_PROMPTS)


def power_of(pilot: Effect, prompts: int, *, nulls: int = 0, effect: float | None = None) -> Power:
    """What a run over a number of prompts can show, given the spread over prompts in a pilot.

    A pilot that was chosen for its large effect overstates it: say which effect would matter instead.

    Args:
        pilot: An effect on a few prompts that the run will not use.
        prompts: Number of prompts of the run.
        nulls: Null vectors of the run.
        effect: The effect that would matter; by default the pilot's own.

    Raises:
        SettingError: The pilot has fewer than two prompts, or nothing varies in it.
    """
    if pilot.n_prompts < 2 or not float(np.ptp(pilot.by_prompt)) > 0:
        raise SettingError(f"A pilot of {pilot.n_prompts} prompts without spread gives no power: use 5 or more.")
    spread, asked = float(pilot.by_prompt.std(ddof=1)), pilot.mean if effect is None else effect
    return Power(
        smallest_effect(spread, prompts), asked, effect_power(asked, spread, prompts), prompts_needed(asked, spread),
        prompts, spread, 1 / (1 + nulls) if nulls else float("nan"),
    )  # fmt: skip
