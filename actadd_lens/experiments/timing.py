"""Two calls timed in turns, and the ratio of their running times with its interval."""

import gc
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

_RESAMPLES = 2000


@dataclass(frozen=True)
class Condition:
    """One side of a comparison.

    Attributes:
        call: What is timed.
        around: Opened before the call and closed after it, neither of which is timed.
    """

    call: Callable[[], object]
    around: Callable[[], AbstractContextManager[object]] = nullcontext

    def seconds(self) -> float:
        """Time of one call."""
        with self.around():
            start = time.perf_counter()
            self.call()
            return time.perf_counter() - start


@dataclass(frozen=True)
class Measured:
    """Running times of both conditions, repeat by repeat.

    Attributes:
        seconds: Times of the condition that is judged.
        reference_seconds: Times of the condition that it is judged by, from the same repeats.
    """

    seconds: tuple[float, ...]
    reference_seconds: tuple[float, ...]

    @property
    def milliseconds(self) -> float:
        """Median time of the condition that is judged."""
        return 1e3 * statistics.median(self.seconds)

    @property
    def reference_milliseconds(self) -> float:
        """Median time of the condition that it is judged by."""
        return 1e3 * statistics.median(self.reference_seconds)

    @property
    def ratio(self) -> float:
        """Median of the repeats' ratios: what slows a whole repeat down falls out of it."""
        return float(np.median(self.ratios))

    def interval(self, *, level: float = 0.95, seed: int = 0) -> tuple[float, float]:
        """Percentile bootstrap interval of the median ratio, repeats resampled."""
        ratios = self.ratios
        picks = np.random.default_rng(seed).integers(len(ratios), size=(_RESAMPLES, len(ratios)))
        medians = np.median(ratios[picks], axis=1)
        low, high = np.quantile(medians, [(1 - level) / 2, (1 + level) / 2])
        return float(low), float(high)

    @property
    def ratios(self) -> Float[np.ndarray, " repeats"]:
        """Each repeat's ratio."""
        ratios: np.ndarray = np.asarray(self.seconds) / np.asarray(self.reference_seconds)
        return ratios


def measure(condition: Condition, reference: Condition, *, repeats: int, warmup: int = 2) -> Measured:
    """Time both conditions in turns; which one goes first alternates, and no garbage is collected in between.

    Args:
        condition: The condition that is judged.
        reference: The condition that it is compared with.
        repeats: Timed repeats; each runs both conditions once.
        warmup: Repeats before them that are not kept.
    """
    times: dict[int, list[float]] = {0: [], 1: []}
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        for repeat in range(-warmup, repeats):
            for side in (0, 1) if repeat % 2 else (1, 0):
                seconds = (condition, reference)[side].seconds()
                if repeat >= 0:
                    times[side].append(seconds)
    finally:
        if was_enabled:
            gc.enable()
    return Measured(tuple(times[0]), tuple(times[1]))
