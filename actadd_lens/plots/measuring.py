"""Pictures of effects with their nulls."""

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from actadd_lens.errors import SettingError
from actadd_lens.statistics import Effect
from actadd_lens.vectors import naming

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from actadd_lens.experiments.demonstration import Demonstration
    from actadd_lens.measuring.measure import CompletionMeasurement, Measurement

from actadd_lens.plots.style import NULL, STEERED, as_written, new_axes


@as_written
def plot_effects(effects: dict[str, Effect], *, unit: str = "", title: str = "", ax: "Axes | None" = None) -> "Axes":
    """Effects with their intervals, each above the effects of its null vectors.

    Args:
        effects: Effects by name, drawn from the top.
        unit: What was measured.
        title: Title of the picture.
        ax: Where to draw.

    Raises:
        SettingError: It is not a dictionary of effects.
    """
    if not isinstance(effects, dict) or not all(isinstance(effect, Effect) for effect in effects.values()):
        raise SettingError("plot_effects takes effects by name, such as {'4 × love': measured.effect}.")
    ax = new_axes(ax, figsize=(6.4, 0.9 + 0.6 * len(effects)))
    spread = np.random.default_rng(0)
    labelled = False
    for row, effect in enumerate(effects.values()):
        height = len(effects) - 1 - row
        if len(effect.nulls):
            jitter = height - 0.18 + spread.uniform(-0.06, 0.06, len(effect.nulls))
            ax.scatter(effect.nulls, jitter, s=14, color=NULL, alpha=0.8, linewidths=0,
                       label=None if labelled else "null vectors of equal norms")  # fmt: skip
            labelled = True
        errors = [[effect.mean - effect.low], [effect.high - effect.mean]]
        error = None if np.isnan(errors).any() else errors
        ax.errorbar([effect.mean], [height + 0.1], xerr=error, fmt="o", color=STEERED, capsize=3,
                    label="steering vector" if row == 0 else None)  # fmt: skip
    ax.axvline(0, color="black", linewidth=0.8)
    cautions, names = _cautions(effects)
    ax.set_yticks(range(len(effects)), [_wrapped(names[name], 36) for name in effects][::-1])
    ax.set_ylim(-0.6, len(effects) - 0.4)
    ax.set_xlabel(f"steered − unsteered{f', {unit}' if unit else ''}{cautions}")
    # The key stands above the picture, where no null or interval can be.
    ax.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0, ncols=2, fontsize="small")
    ax.set_title(title, pad=22)
    for side in ("top", "right", "left"):
        ax.spines[side].set_visible(False)
    return ax


def _cautions(effects: dict[str, Effect]) -> tuple[str, dict[str, str]]:
    """Warnings about the intervals, as further lines; and each name with the mark of its warning.

    A warning that concerns all effects needs no mark.
    """
    kinds = list(dict.fromkeys(effect.caution for effect in effects.values() if effect.caution))
    if len(kinds) == 1 and all(effect.caution for effect in effects.values()):
        return "\n" + _wrapped(kinds[0]), {name: name for name in effects}
    marks = dict(zip(kinds, _MARKS, strict=False))
    lines = "".join("\n" + _wrapped(f"{mark} {caution}") for caution, mark in marks.items())
    return lines, {name: f"{name} {marks.get(effect.caution, '')}".rstrip() for name, effect in effects.items()}


_MARKS = "†‡§¶‖"  # stars would be read as significance


def _wrapped(text: str, width: int = 60) -> str:
    """A text in lines; one that is too long for the picture's side would leave no room for the picture."""
    return "\n".join(textwrap.wrap(text, width))


@as_written
def plot_measurement(measurement: "Measurement | CompletionMeasurement", *, ax: "Axes | None" = None) -> "Axes":
    """One effect with its interval, above the effects of its null vectors."""
    from actadd_lens.measuring.measure import Measurement

    if isinstance(measurement, Measurement):
        vectors, unit = measurement.vectors, measurement.metric.name
    else:
        vectors, unit = measurement.completions.vectors, measurement.scorer
    return plot_effects({" + ".join(naming.vector_names(vectors)): measurement.effect}, unit=unit, ax=ax)


@as_written
def plot_demonstration(demonstration: "Demonstration", *, axes: "Sequence[Axes] | None" = None) -> "Sequence[Axes]":
    """Effects of each chapter in an Axes of its own."""
    chapters = demonstration.chapters
    if axes is None:
        import matplotlib.pyplot as plt

        heights = [0.9 + 0.6 * len(chapter.measurements) for chapter in chapters]
        figsize = (7.0, sum(heights) + 0.8)
        _, axes = plt.subplots(len(chapters), 1, figsize=figsize, height_ratios=heights, layout="constrained")
    for chapter, ax in zip(chapters, axes, strict=True):
        effects = {name: measurement.effect for name, measurement in chapter.measurements.items()}
        unit = next(iter(chapter.measurements.values())).scorer
        title = f"{chapter.name}: {chapter.vector.label} at layer {chapter.vector.layer}"
        plot_effects(effects, unit=unit, title=title, ax=ax)
    return axes
