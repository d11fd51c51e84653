"""Which dimensions of a vector carry its effect."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from actadd_lens.analysis.lens.jacobian import JacobianLens
from actadd_lens.checks import check_run, is_count, many, require
from actadd_lens.errors import SettingError
from actadd_lens.measuring.measure import Condition, measure_conditions, null_conditions
from actadd_lens.measuring.metrics import Metric, as_metric
from actadd_lens.measuring.nulls import NullKind
from actadd_lens.measuring.values import check_values
from actadd_lens.models import LensModel, backend_of
from actadd_lens.models.readout import centred_rows
from actadd_lens.prompts.positions import Position
from actadd_lens.prompts.texts import as_texts, encode_prompts, notice_repeats
from actadd_lens.statistics import Effect, family_effect, max_t_p, on_one_scale
from actadd_lens.vectors.vector import SteeringVector, as_vectors, check_vectors

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

DimensionOrder = Literal["largest", "random", "jacobian"]


@dataclass(frozen=True, eq=False)
class DimensionAblation:
    """The effect of a vector when only some of its dimensions are kept and the others are set to zero.

    Attributes:
        vector: The vector.
        metric: What was measured.
        prompts: The prompts.
        orders: Which dimensions are kept first.
        keep: Numbers of dimensions that are kept.
        unsteered: The metric of each prompt, unsteered.
        whole: The metric with the whole vector, by family (the vector, then each null).
        steered: The metric with the dimensions that are kept.
        norms: Norm of what is kept, as a share of the whole vector's.
    """

    vector: SteeringVector
    metric: Metric
    prompts: tuple[str, ...]
    orders: tuple[DimensionOrder, ...]
    keep: tuple[int, ...]
    unsteered: Float[np.ndarray, " prompts"]
    whole: Float[np.ndarray, "families prompts"]
    steered: Float[np.ndarray, "families orders keep prompts"]
    norms: Float[np.ndarray, "orders keep"]

    def effect(self, order: DimensionOrder, keep: int) -> Effect:
        """The effect with a number of dimensions kept, and that of each null, cut by its own order.

        Args:
            order: Which dimensions are kept first.
            keep: How many.
        """
        found = self.steered[:, self.orders.index(order), self.keep.index(keep)]
        return family_effect(found, self.unsteered)

    @property
    def whole_effect(self) -> Effect:
        """The effect of the whole vector, with its nulls."""
        return family_effect(self.whole, self.unsteered)

    def frame(self) -> "pd.DataFrame":
        """One row per order and number; `share` is of the whole effect, `adjusted p` is over the table (max-T)."""
        import pandas as pd

        whole, lines = self.whole_effect.mean, []
        for row, order in enumerate(self.orders):
            for column, keep in enumerate(self.keep):
                effect = self.effect(order, keep)
                lines.append({"order": order, "kept": keep, "norm kept": self.norms[row, column], "effect": effect.mean,
                              "low": effect.low, "high": effect.high, "share": effect.mean / whole})  # fmt: skip
        frame = pd.DataFrame(lines)
        if len(self.whole) > 2:
            table = (self.steered - self.unsteered).mean(axis=-1).reshape(len(self.steered), -1)
            scaled = on_one_scale(table)
            frame["null mean"], frame["null sd"] = table[1:].mean(axis=0), table[1:].std(axis=0, ddof=1)
            frame["adjusted p"] = max_t_p(scaled[0], scaled[1:], "two-sided")
        return frame

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """The effect by dimensions kept, a line for each order, compared with the whole vector's."""
        from actadd_lens.plots.second_look import plot_dimensions

        return plot_dimensions(self, ax=ax)

    def __repr__(self) -> str:
        return (
            f"DimensionAblation({self.vector.label}: {self.metric.name}, whole effect {self.whole_effect.mean:+.3g}; "
            f"{', '.join(self.orders)}, keeping {', '.join(map(str, self.keep))})"
        )

    def _repr_html_(self) -> str:
        return f"<p>{escape(repr(self))}</p>" + self.frame().to_html(index=False, float_format="{:.3g}".format)


def ablate_dimensions(
    model: LensModel,
    prompts: str | Sequence[str],
    vector: SteeringVector,
    metric: Any,
    *,
    keep: int | Sequence[int],
    orders: str | Sequence[str] = ("largest", "random"),
    through: JacobianLens | None = None,
    position: Position = "front",
    nulls: int = 0,
    null_kind: NullKind = "unrelated_pairs",
    seed: int = 0,
    prepend_bos: bool = True,
    batch_size: int = 64,
    progress: bool = True,
) -> DimensionAblation:
    """Measure a vector with only some dimensions of the stream kept: how sparse is the part that works?

    `largest` keeps the dimensions in which the vector's rows are longest; `random` keeps random ones, the same for all
    nulls; `jacobian` keeps those that a J-lens carries farthest: the vector's length in a dimension times that of the
    dimension's column. Each null is cut in the same way, by its own values. What is kept is not rescaled. Dimensions
    are those of the model as it was loaded; on LayerNorm models, vectors are used without their mean.

    Args:
        model: The model; steering that is open around the call is ignored.
        prompts: One text or several.
        vector: The vector.
        metric: A metric, or a function of the last token's logits.
        keep: Numbers of dimensions to keep.
        orders: Which dimensions are kept first.
        through: The J-lens for the order `jacobian`.
        position: Prompt token that receives row 0, for a vector without a position of its own.
        nulls: Number of null vectors that are cut and measured in the same way.
        null_kind: As in `null_vectors`.
        seed: Seed of the nulls and of the random order.
        prepend_bos: Whether prompts start with BOS.
        batch_size: Maximum number of rows per pass.
        progress: Whether to show a progress bar if it takes more than a moment.

    Raises:
        PromptError: A prompt is not text, or is longer than the context.
        PositionError: The vector does not fit onto a prompt.
        VectorError: The vector does not match the model.
        SettingError: A setting is out of range, or the order `jacobian` has no J-lens.
        LayerError: The J-lens was not fitted at the vector's layer.
    """
    check_run(seed=seed, batch_size=batch_size)
    backend, chosen = backend_of(model), as_metric(metric)
    (found,) = check_vectors(backend, [vector], what="dimensions")
    counts = tuple(sorted({_count(item, backend.d_model) for item in many(keep)}))
    require(bool(counts), "keep", keep, "one number of dimensions or more")
    named = _orders(orders, through)
    matrix = None if through is None else through.at(found.layer)
    if through is not None:
        through.check_model(backend)
    texts = as_texts(prompts)
    notice_repeats(texts)
    ids = encode_prompts(backend, texts, prepend_bos=prepend_bos)
    families = [
        found,
        *(as_vectors(condition)[0] for condition in null_conditions(model, (found,), nulls, null_kind, seed)),
    ]
    conditions: list[Condition] = [()]
    for family in families:
        rows = centred_rows(backend, family.activations.float())
        conditions.append((family,))
        for order in named:
            ranked = _ranked(order, rows, matrix, seed)
            conditions += [(_kept(family, ranked[:count]),) for count in counts]
    values = measure_conditions(
        backend, ids, conditions, chosen, measured=(found,), position=position, batch_size=batch_size, progress=progress
    )
    check_values(chosen.name, values)
    table = values[1:].reshape(len(families), 1 + len(named) * len(counts), len(ids))
    steered = table[:, 1:].reshape(len(families), len(named), len(counts), len(ids))
    size = float(found.activations.float().norm())
    sizes = [
        float(as_vectors(condition)[0].activations.float().norm()) / size
        for condition in conditions[2 : 2 + steered[0, ..., 0].size]
    ]
    norms = np.array(sizes).reshape(len(named), len(counts))
    return DimensionAblation(found, chosen, texts, named, counts, values[0], table[:, 0], steered, norms)


def _count(value: Any, d_model: int) -> int:
    require(is_count(value) and value <= d_model, "keep", value, f"integers from 1 to {d_model}")
    return int(value)


def _orders(orders: str | Sequence[str], through: JacobianLens | None) -> tuple[DimensionOrder, ...]:
    """The orders, each known, and none without what it needs.

    Raises:
        SettingError: One is not known, or has no J-lens.
    """
    known: tuple[DimensionOrder, ...] = get_args(DimensionOrder)
    asked = list(many(orders))
    if not asked or not all(isinstance(order, str) and order in known for order in asked):
        raise SettingError(f"orders is {orders!r}: expected one or more of {', '.join(known)}.")
    if "jacobian" in asked and not isinstance(through, JacobianLens):
        raise SettingError("The order 'jacobian' needs a J-lens: pass through=al.fit_jacobian(...).")
    return tuple(order for order in known if order in asked)


def _ranked(order: DimensionOrder, rows: Float[Tensor, "pos d_model"], matrix: Tensor | None, seed: int) -> list[int]:
    """Dimensions in the order in which they are kept."""
    if order == "random":
        return [int(place) for place in np.random.default_rng(seed).permutation(rows.shape[1])]
    sizes = rows.norm(dim=0)
    if order == "jacobian" and matrix is not None:
        sizes = sizes * matrix.to(sizes).norm(dim=0)
    return [int(place) for place in sizes.argsort(descending=True, stable=True)]


def _kept(vector: SteeringVector, dimensions: Sequence[int]) -> SteeringVector:
    mask: Bool[Tensor, " d_model"] = torch.zeros(vector.d_model, dtype=torch.bool)
    mask[list(dimensions)] = True
    return dataclasses.replace(vector, activations=vector.activations * mask.to(vector.activations))
