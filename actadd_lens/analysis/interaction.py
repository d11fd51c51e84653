"""Interaction: whether the joint effect of several vectors is the sum of their effects alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from actadd_lens.checks import check_run, require
from actadd_lens.measuring.measure import Condition, measure_conditions, null_conditions
from actadd_lens.measuring.metrics import Metric, as_metric
from actadd_lens.measuring.nulls import NullKind
from actadd_lens.measuring.values import check_values
from actadd_lens.models import LensModel, backend_of
from actadd_lens.prompts.positions import Position
from actadd_lens.prompts.texts import as_texts, encode_prompts, notice_repeats
from actadd_lens.statistics import Effect, effect_columns, family_effect
from actadd_lens.vectors.naming import vector_names
from actadd_lens.vectors.vector import SteeringVector, check_vectors

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


@dataclass(frozen=True, eq=False)
class Interaction:
    """Several vectors, together and each alone.

    Attributes:
        metric: What was measured.
        prompts: The prompts.
        vectors: The vectors.
        values: The metric by family (the vectors, then null vectors in all their places) and condition: unsteered, all
            together, then each alone.
    """

    metric: Metric
    prompts: tuple[str, ...]
    vectors: tuple[SteeringVector, ...]
    values: Float[np.ndarray, "families conditions prompts"]

    @property
    def effect(self) -> Effect:
        """The joint effect minus the sum of the effects alone, with the same for null vectors."""
        changes = self.values[:, 1:] - self.values[:, :1]
        return family_effect(changes[:, 0] - changes[:, 1:].sum(axis=1))

    @property
    def joint(self) -> Effect:
        """The effect of all vectors together."""
        return family_effect(self.values[:, 1] - self.values[:, 0])

    @property
    def alone(self) -> tuple[Effect, ...]:
        """The effect of each vector alone."""
        return tuple(family_effect(self.values[:, 2 + place] - self.values[:, 0]) for place in range(len(self.vectors)))

    def _named(self) -> dict[str, Effect]:
        alone = dict(zip(vector_names(self.vectors), self.alone, strict=True))
        return {**alone, "together": self.joint, "together − sum": self.effect}

    def frame(self) -> "pd.DataFrame":
        """One row per vector, then their joint effect, then the joint effect minus the sum."""
        import pandas as pd

        return pd.DataFrame([{"added": name, **effect_columns(effect)} for name, effect in self._named().items()])

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Each effect with its interval, above those of the nulls."""
        from actadd_lens.plots.measuring import plot_effects

        return plot_effects(self._named(), unit=self.metric.name, ax=ax)

    def __repr__(self) -> str:
        return f"Interaction({self.metric.name}: together − sum {self.effect})"

    def _repr_html_(self) -> str:
        return f"<p>{escape(repr(self))}</p>" + self.frame().to_html(index=False, float_format="{:.3g}".format)


def interaction(
    model: LensModel,
    vectors: Sequence[SteeringVector],
    metric: Any,
    prompts: str | Sequence[str],
    *,
    position: Position = "front",
    nulls: int = 0,
    null_kind: NullKind = "unrelated_pairs",
    seed: int = 0,
    prepend_bos: bool = True,
    batch_size: int = 64,
    progress: bool = True,
) -> Interaction:
    """Measure vectors together and each alone: the joint effect minus the sum of effects.

    Args:
        model: The model; steering that is open around the call is ignored.
        vectors: Two steering vectors or more, of any layers and positions.
        metric: A metric, or a function of the last token's logits.
        prompts: One text or several.
        position: Prompt token that receives row 0, for vectors without a position of their own.
        nulls: Number of sets of null vectors, one null for each vector in a set.
        null_kind: As in `null_vectors`.
        seed: Seed of the nulls.
        prepend_bos: Whether prompts start with BOS.
        batch_size: Maximum number of rows per pass.
        progress: Whether to show a progress bar if it takes more than a moment.

    Raises:
        PromptError: A prompt is not text, or is longer than the context.
        PositionError: A vector does not fit onto a prompt.
        VectorError: A vector does not match the model.
        SettingError: There are fewer than two vectors, or a setting is out of range.
    """
    check_run(seed=seed, batch_size=batch_size)
    backend, chosen = backend_of(model), as_metric(metric)
    found = check_vectors(backend, vectors, what="an interaction")
    require(len(found) > 1, "vectors", f"{len(found)} vector", "two or more")
    texts = as_texts(prompts)
    notice_repeats(texts)
    ids = encode_prompts(backend, texts, prepend_bos=prepend_bos)
    conditions: list[Condition] = [()]
    for family in (found, *null_conditions(model, found, nulls, null_kind, seed)):
        conditions += [family, *((vector,) for vector in family)]
    values = measure_conditions(
        backend, ids, conditions, chosen, measured=found, position=position, batch_size=batch_size, progress=progress
    )
    check_values(chosen.name, values)
    table = values[1:].reshape(-1, 1 + len(found), len(ids))
    plain = np.broadcast_to(values[:1], (len(table), 1, len(ids)))
    return Interaction(chosen, texts, found, np.concatenate([plain, table], axis=1))
