"""How large an intervention may be: the largest factor whose damage to some texts stays within a budget."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from actadd_lens.errors import CoefficientError
from actadd_lens.measuring.measure import Condition, measure_conditions
from actadd_lens.measuring.metrics import Metric
from actadd_lens.measuring.values import with_value
from actadd_lens.models import LensModel, backend_of
from actadd_lens.prompts.positions import Position
from actadd_lens.prompts.texts import encode_prompts
from actadd_lens.statistics import Effect, paired_effect
from actadd_lens.steering.sizes import relative_sizes
from actadd_lens.vectors.vector import SteeringVector, as_interventions

RUNGS = tuple(2.0**power for power in range(-4, 5))
"""Sizes that are tried first, in units of the stream: from 1/16 to 16."""

HALVINGS = 4
"""How often the step from the last size within the budget to the first beyond is halved, on a log scale."""


@dataclass(frozen=True)
class Choice:
    """What was chosen for one condition.

    Attributes:
        factor: The largest factor within the budget; 0 if even the smallest that was tried exceeds it.
        is_top: Whether the largest that was tried is still within it.
    """

    factor: float
    is_top: bool


Dose = Callable[[float], Condition]
"""What is done, at a multiple of the coefficient that was given."""


def dose_of(given: Any) -> Dose:
    """The dose of one intervention or of several, which grow together; of what a method made, as the method says."""

    def dose(factor: float) -> Condition:
        found = given.times(factor) if hasattr(given, "times") else [item.times(factor) for item in given]
        return as_interventions(found)

    return dose


@dataclass(frozen=True, eq=False)
class Ruler:
    """Measures conditions on texts: damage, for a choice, and effects.

    Attributes:
        model: The model.
        position: Where row 0 lands, for what has no position of its own.
        prepend_bos: Whether texts start with BOS.
        batch_size: Maximum number of rows per pass.
        progress: Whether to show bars.
    """

    model: LensModel
    position: Position
    prepend_bos: bool = True
    batch_size: int = 64
    progress: bool = True

    def values(
        self, texts: Sequence[str], metric: Metric, conditions: Sequence[Condition], measured: Condition
    ) -> Float[np.ndarray, "conditions texts"]:
        """A metric of texts, unsteered first, then in each condition."""
        backend = backend_of(self.model)
        tokens = encode_prompts(backend, texts, prepend_bos=self.prepend_bos)
        return measure_conditions(
            backend, tokens, [(), *conditions], metric, measured=measured, position=self.position,
            batch_size=self.batch_size, progress=self.progress,
        )  # fmt: skip

    def effects(
        self, texts: Sequence[str], metric: Metric, conditions: Sequence[Condition], measured: Condition
    ) -> list[Effect]:
        """Steered minus unsteered in each condition; texts without a value are left out."""
        found = self.values(texts, metric, conditions, measured)
        kept = with_value(metric.name, found)
        return [paired_effect(row[kept, None], found[0][kept, None], zeros="numbers") for row in found[1:]]

    def unit(self, texts: Sequence[str], condition: Condition) -> float:
        """Size of a condition as it was given, in units of the stream: that of its largest intervention.

        Raises:
            CoefficientError: One has no coefficient, or all are zero.
        """
        sizes = []
        for item in condition:
            item.times(2.0)  # raises where there is no coefficient
            vector = item if isinstance(item, SteeringVector) else item.vector
            if not isinstance(vector, SteeringVector):
                raise CoefficientError(f"{item.label} has no size in units of the stream, so it cannot be calibrated.")
            if bool(vector.injection.any()):
                place = dataclasses.replace(vector, position=item.position)
                sizes.append(relative_sizes(self.model, place, texts, self.position, self.prepend_bos))
        if not sizes:
            raise CoefficientError("What should be calibrated is zero, so no coefficient gives it a size.")
        return max(sizes)

    def choose(
        self, texts: Sequence[str], damage: Metric, at_most: float, doses: Sequence[Dose], factors: Sequence[float]
    ) -> list[Choice]:
        """For each dose the largest factor within the budget, all by the same steps.

        Args:
            texts: Texts that the damage is measured on.
            damage: What counts as damage, steered minus unsteered, as a mean over texts.
            at_most: The budget.
            doses: What is done, at any factor.
            factors: The factors that are tried first, each larger than the one before.
        """
        conditions = [dose(factor) for dose in doses for factor in factors]
        marked = doses[0](factors[0])
        hurt = self._damages(texts, damage, conditions, marked).reshape(len(doses), len(factors))
        within: list[float] = []
        beyond: list[float] = []
        for row in hurt:
            first = next((index for index, value in enumerate(row) if not value <= at_most), len(factors))
            within.append(factors[first - 1] if first else 0.0)
            beyond.append(factors[first] if 0 < first < len(factors) else math.nan)
        for _ in range(HALVINGS):
            still = [index for index, high in enumerate(beyond) if math.isfinite(high)]
            middles = [math.sqrt(within[index] * beyond[index]) for index in still]
            some = [doses[index](middle) for index, middle in zip(still, middles, strict=True)]
            for index, middle, value in zip(still, middles, self._damages(texts, damage, some, marked), strict=True):
                (within if value <= at_most else beyond)[index] = middle
        return [Choice(factor, factor == factors[-1]) for factor in within]

    def _damages(
        self, texts: Sequence[str], damage: Metric, conditions: Sequence[Condition], marked: Condition
    ) -> Float[np.ndarray, " conditions"]:
        if not conditions:
            return np.zeros(0)
        found = self.values(texts, damage, conditions, marked)
        return np.asarray((found[1:] - found[0]).mean(axis=1))
