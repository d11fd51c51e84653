"""Pictures of calibration and comparison: effect against damage."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from actadd_lens.plots.style import NULL, STEERED, UNSTEERED, as_written

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from actadd_lens.measuring.calibrate import Calibration
    from actadd_lens.statistics import Effect


@as_written
def plot_calibration(calibration: "Calibration", *, axes: "Sequence[Axes] | None" = None) -> "Sequence[Axes]":
    """Damage, and the effect where there is one, against the coefficient; budget and choice are marked.

    Args:
        calibration: The result.
        axes: One Axes, and a second one where there is an effect.
    """
    has_effect = calibration.effect is not None
    if axes is None:
        import matplotlib.pyplot as plt

        figure = plt.figure(figsize=(6.4, 4.8 if has_effect else 3.0), layout="constrained")
        axes = list(figure.subplots(2 if has_effect else 1, 1, sharex=True, squeeze=False)[:, 0])
    points = [point for point in calibration.curve if point.coefficient]
    sizes = [abs(point.coefficient) for point in points]
    unit = f", {calibration.damage_metric.unit}" if calibration.damage_metric.unit else ""
    _curve(axes[0], sizes, [point.damage for point in points], UNSTEERED)
    axes[0].axhline(calibration.at_most, color="black", linestyle="--", linewidth=0.8, label="budget")
    axes[0].set_ylabel(f"damage: {calibration.damage_metric.name}{unit}", fontsize="small")
    if has_effect and calibration.effect_metric is not None:
        _curve(axes[1], sizes, [point.effect for point in points if point.effect is not None], STEERED)
        nulls = calibration.effect.nulls if calibration.effect is not None else np.zeros(0)
        axes[1].scatter(
            np.abs(calibration.null_coefficients), nulls, s=14, color=NULL, label="nulls at equal damage", zorder=1
        )
        axes[1].axhline(0, color="black", linewidth=0.8)
        axes[1].set_ylabel(f"effect: {calibration.effect_metric.name}", fontsize="small")
    for ax in axes:
        ax.axvline(abs(calibration.coefficient), color="black", linestyle=":", linewidth=1, label="chosen")
        ax.set_xscale("log")
        ax.legend(frameon=False, fontsize="small")
        for side in ("top", "right"):
            ax.spines[side].set_visible(False)
    axes[0].set_title(" + ".join(item.label for item in calibration.interventions), fontsize="medium")
    axes[-1].set_xlabel("coefficient, without its sign")
    return axes


def _curve(ax: "Axes", sizes: Sequence[float], effects: "Sequence[Effect]", colour: str) -> None:
    """Means with their intervals as a band."""
    ax.plot(sizes, [effect.mean for effect in effects], color=colour, marker="o", markersize=4)
    ax.fill_between(
        sizes, [effect.low for effect in effects], [effect.high for effect in effects], color=colour, alpha=0.2,
        linewidth=0,
    )  # fmt: skip
