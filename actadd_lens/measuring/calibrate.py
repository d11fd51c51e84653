"""`calibrate`: the largest coefficient whose damage to other text stays within a budget."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from actadd_lens.checks import check_run, require
from actadd_lens.errors import SettingError
from actadd_lens.measuring.budget import RUNGS, Ruler, dose_of
from actadd_lens.measuring.measure import null_conditions
from actadd_lens.measuring.metrics import Metric, as_metric, kl_divergence
from actadd_lens.measuring.nulls import NullKind
from actadd_lens.models import LensModel, backend_of
from actadd_lens.prompts.positions import as_position
from actadd_lens.prompts.texts import as_texts, notice_repeats
from actadd_lens.statistics import Effect, split_prompts
from actadd_lens.vectors.interventions import Intervention
from actadd_lens.vectors.vector import SteeringVector, check_interventions

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


@dataclass(frozen=True, eq=False)
class CurvePoint:
    """What one coefficient does, on held-out texts and prompts.

    Attributes:
        coefficient: The coefficient; for several vectors, the factor that multiplies all of them.
        size: Norm of the injection in units of the stream.
        damage: Damage to other text.
        effect: The effect; None if none was requested.
    """

    coefficient: float
    size: float
    damage: Effect
    effect: Effect | None


@dataclass(frozen=True, eq=False)
class Calibration:
    """A coefficient chosen within a budget of damage on one half of the texts, and reported on the held-out half.

    Attributes:
        coefficient: The largest within the budget; 0 if even the smallest that was tried exceeds it. For several
            vectors, the factor that multiplies all of them.
        is_top: Whether the largest that was tried is still within the budget.
        at_most: The budget, in the damage's unit.
        damage_metric: What counts as damage.
        effect_metric: What counts as effect; None if none was requested.
        interventions: What was calibrated, with its coefficient.
        damage: Damage on the held-out half, with its interval.
        effect: The effect with its nulls, each calibrated by the same steps; None if none was requested.
        curve: What each size does, including the chosen one, in order.
        null_coefficients: The coefficient that was chosen for each null.
        chosen_on: Texts that the choice was made on.
        reported_on: Texts that the damage is reported on.
    """

    coefficient: float
    is_top: bool
    at_most: float
    damage_metric: Metric
    effect_metric: Metric | None
    interventions: tuple[Intervention, ...]
    damage: Effect
    effect: Effect | None
    curve: tuple[CurvePoint, ...]
    null_coefficients: Float[np.ndarray, " nulls"]
    chosen_on: tuple[str, ...]
    reported_on: tuple[str, ...]

    @property
    def vector(self) -> Any:
        """The one intervention that was calibrated, with its coefficient.

        Raises:
            SettingError: There were several: see `interventions`.
        """
        if len(self.interventions) != 1:
            raise SettingError(f"{len(self.interventions)} vectors were calibrated together: use .interventions.")
        return self.interventions[0]

    @property
    def is_within(self) -> bool | None:
        """Whether the damage is within the budget on held-out texts; None if that is undecided."""
        if self.damage.high <= self.at_most:
            return True
        return False if self.damage.low > self.at_most else None

    def frame(self) -> "pd.DataFrame":
        """One row per coefficient of the curve, the chosen one marked."""
        import pandas as pd

        rows = []
        for point in self.curve:
            row: dict[str, Any] = {
                "coefficient": point.coefficient, "size": point.size, "chosen": point.coefficient == self.coefficient,
                "damage": point.damage.mean, "damage low": point.damage.low, "damage high": point.damage.high,
            }  # fmt: skip
            if point.effect is not None:
                row |= {"effect": point.effect.mean, "effect low": point.effect.low, "effect high": point.effect.high}
            rows.append(row)
        return pd.DataFrame(rows)

    def plot(self, axes: "Sequence[Axes] | None" = None) -> "Sequence[Axes]":
        """Damage, and the effect if there is one, against the coefficient, with the budget and the choice."""
        from actadd_lens.plots.calibrating import plot_calibration

        return plot_calibration(self, axes=axes)

    def __repr__(self) -> str:
        top = " (the largest that was tried)" if self.is_top else ""
        effect = f"; {self.effect_metric.name} {self.effect}" if self.effect_metric is not None else ""
        return (
            f"Calibration(coefficient {self.coefficient:.3g}{top}, chosen for {self.damage_metric.name} of at most "
            f"{self.at_most:g} {self.damage_metric.unit}; on held-out texts: {self.damage}{effect})"
        )


def calibrate(
    model: LensModel,
    vectors: Any,
    prompts: Sequence[str],
    *,
    damage: Any = None,
    at_most: float = 1.0,
    effect: Any = None,
    on: Sequence[str] | None = None,
    position: Any = "front",
    nulls: int = 0,
    null_kind: NullKind = "unrelated_pairs",
    seed: int = 0,
    prepend_bos: bool = True,
    batch_size: int = 64,
    progress: bool = True,
) -> Calibration:
    """The largest coefficient whose damage to other text stays within a budget.

    The texts are split into random halves. On one half, sizes from 1/16 of the stream to 16 times the stream are tried,
    each twice the one before; then the step from the last size within the budget to the first beyond it is halved four
    times. The damage is reported on the other, held-out half. Each null is calibrated by the same steps, and so
    compared at equal damage, which keeps the p-value valid. The effect is measured on held-out prompts.

    Args:
        model: The model.
        vectors: One steering vector or other intervention with a coefficient, or several, whose coefficients grow
            together. A negative one stays negative.
        prompts: Eight texts or more that the vector is not meant for.
        damage: What counts as damage: a metric, steered minus unsteered; by default the KL divergence `unsteered ||
            steered` of the next token.
        at_most: The budget, in the damage's unit, as a mean over texts.
        effect: What counts as effect: a metric; None for no effect.
        on: Prompts that the effect is measured on; by default the half that the damage is reported on.
        position: Where row 0 lands, for vectors without a position of their own.
        nulls: Number of null vectors.
        null_kind: As in `null_vectors`.
        seed: Seed of the halves and the nulls.
        prepend_bos: Whether prompts start with BOS.
        batch_size: Maximum number of rows per pass.
        progress: Whether to show a progress bar if it takes more than a moment.

    Raises:
        SettingError: There are fewer than 8 texts, or a setting is out of range.
        CoefficientError: An intervention has no coefficient, or is zero.
        PositionError: A vector does not fit onto a prompt.
    """
    check_run(seed=seed, batch_size=batch_size)
    check_budget(at_most)
    texts = as_texts(prompts)
    notice_repeats(texts)
    condition = check_interventions(backend_of(model), vectors)
    hurt = as_metric(kl_divergence("unsteered || steered") if damage is None else damage)
    metric = None if effect is None else as_metric(effect)
    chosen_on, reported_on = (tuple(texts[index] for index in half) for half in split_prompts(len(texts), seed=seed))
    ruler = Ruler(model, as_position(position), prepend_bos, batch_size, progress)
    unit = ruler.unit(chosen_on, condition)
    drawn = null_conditions(model, condition, nulls if metric is not None else 0, null_kind, seed)
    rungs, dose = [rung / unit for rung in RUNGS], dose_of(condition)
    doses = [dose, *map(dose_of, drawn)]
    choice, *of_nulls = ruler.choose(chosen_on, hurt, at_most, doses, rungs)
    factors = sorted({choice.factor, *rungs})
    conditions = [dose(factor) for factor in factors]
    damages = ruler.effects(reported_on, hurt, conditions, condition)
    effects: list[Effect | None] = [None] * len(conditions)
    if metric is not None:
        under_nulls = [null(item.factor) for null, item in zip(doses[1:], of_nulls, strict=True)]
        measured = ruler.effects(
            reported_on if on is None else as_texts(on), metric, [*conditions, *under_nulls], condition
        )
        place, beside = factors.index(choice.factor), measured[len(conditions) :]
        measured[place] = with_nulls(measured[place], beside)
        effects = list(measured[: len(conditions)])
    base = _coefficient(condition)
    place = factors.index(choice.factor)
    curve = [
        CurvePoint(base * factor, factor * unit, hurts, does)
        for factor, hurts, does in zip(factors, damages, effects, strict=True)
    ]
    return Calibration(
        base * choice.factor, choice.is_top, float(at_most), hurt, metric, dose(choice.factor), damages[place],
        effects[place], tuple(curve), base * np.array([item.factor for item in of_nulls]), chosen_on, reported_on,
    )  # fmt: skip


def check_budget(at_most: Any) -> None:
    """Check that a budget is valid.

    Raises:
        SettingError: It is not a finite number above 0.
    """
    good = isinstance(at_most, int | float) and not isinstance(at_most, bool) and 0 < at_most < math.inf
    require(good, "at_most", at_most, "a finite number above 0, in the damage's unit")


def with_nulls(effect: Effect, nulls: Sequence[Effect]) -> Effect:
    """An effect with those of its nulls on the same prompts."""
    by_prompt = np.array([null.by_prompt for null in nulls]).reshape(len(nulls), effect.n_prompts)
    return effect.with_nulls(by_prompt.mean(axis=1), by_prompt)


def _coefficient(condition: Sequence[Intervention]) -> float:
    """What a factor is multiplied by to give the coefficient of the one vector; 1 if there are several."""
    only = condition[0] if len(condition) == 1 else None
    return only.coefficient if isinstance(only, SteeringVector) else 1.0
