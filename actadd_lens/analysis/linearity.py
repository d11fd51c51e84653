"""Linearity: the effect at each coefficient, compared with what the gradient at coefficient zero predicts."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from actadd_lens.checks import check_run, require
from actadd_lens.errors import SettingError
from actadd_lens.measuring.measure import Condition, ConditionRows, measure_conditions, null_conditions
from actadd_lens.measuring.metrics import Metric, Reading, as_metric
from actadd_lens.measuring.nulls import NullKind, check_nulls
from actadd_lens.measuring.values import with_value
from actadd_lens.models import Backend, LensModel, backend_of
from actadd_lens.prompts.positions import Position
from actadd_lens.prompts.texts import as_texts, each_once, encode_prompts
from actadd_lens.statistics import Effect, paired_effect
from actadd_lens.steering.landings import touched
from actadd_lens.vectors.naming import row_names, vector_names
from actadd_lens.vectors.vector import SteeringVector, as_vectors, check_coefficient, check_vectors

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

COEFFICIENTS = (-8.0, -4.0, -2.0, -1.0, -0.5, 0.5, 1.0, 2.0, 4.0, 8.0)


@dataclass(frozen=True, eq=False)
class Linearity:
    """The effect of c times the vectors, compared with c times the first-order estimate.

    Attributes:
        metric: What was measured.
        prompts: The prompts.
        coefficients: The factors c, in ascending order.
        steered: The metric at each c and prompt.
        unsteered: The metric of each prompt.
        slopes: For each prompt the derivative of the metric with respect to c at c = 0.
        row_slopes: The part of the mean slope that each row carries; None for a row that lands on every token.
        row_names: What those rows are called.
        nulls: The mean effect of each null at each c.
        name: A short label of the vectors.
    """

    metric: Metric
    prompts: tuple[str, ...]
    coefficients: tuple[float, ...]
    steered: Float[np.ndarray, "coefficients prompts"]
    unsteered: Float[np.ndarray, " prompts"]
    slopes: Float[np.ndarray, " prompts"]
    row_slopes: tuple[float, ...]
    row_names: tuple[str, ...]
    nulls: Float[np.ndarray, "nulls coefficients"]
    name: str

    @property
    def slope(self) -> float:
        """Mean over prompts of the derivative: the first-order effect of one times the vectors."""
        return float(self.slopes[self._kept].mean())

    @property
    def _kept(self) -> np.ndarray:
        """Prompts that have a value in every condition."""
        return with_value(self.metric.name, np.concatenate([self.steered, self.unsteered[None]]))

    @property
    def estimates(self) -> Float[np.ndarray, " coefficients"]:
        """C times the slope."""
        return np.asarray(self.coefficients) * self.slope

    @property
    def effects(self) -> tuple[Effect, ...]:
        """The effect at each c with its interval over prompts, and the nulls'."""
        kept = self._kept
        return tuple(
            paired_effect(row[kept, None], self.unsteered[kept, None], zeros="numbers").with_nulls(nulls)
            for row, nulls in zip(self.steered, self.nulls.T, strict=True)
        )

    def frame(self) -> "pd.DataFrame":
        """One line per coefficient."""
        import pandas as pd

        effects = self.effects
        columns: dict[str, Any] = {
            "coefficient": self.coefficients,
            "effect": [effect.mean for effect in effects],
            "low": [effect.low for effect in effects],
            "high": [effect.high for effect in effects],
            "first-order estimate": self.estimates,
        }
        if len(self.nulls):
            columns |= {
                "null mean": self.nulls.mean(axis=0),
                "null sd": self.nulls.std(axis=0, ddof=len(self.nulls) > 1),
            }
        if any(effect.caution for effect in effects):
            columns["caution"] = [effect.caution for effect in effects]
        return pd.DataFrame(columns)

    def row_frame(self) -> "pd.DataFrame":
        """How much of the mean slope each row carries."""
        import pandas as pd

        return pd.DataFrame({"row": self.row_names, "slope": self.row_slopes})

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Both curves over the coefficient, and the spread of the nulls."""
        from actadd_lens.plots.analysis import plot_linearity

        return plot_linearity(self, ax=ax)

    def __repr__(self) -> str:
        return f"Linearity({self.name}; {self.metric.name}: slope {self.slope:+.3g} {self.metric.unit} per coefficient)"

    def _repr_html_(self) -> str:
        from html import escape

        caption = f"{self.metric.name}: effect of c × {self.name}, and its first-order estimate"
        return f"<p>{escape(caption)}</p>" + self.frame().to_html(index=False, float_format="{:.3g}".format)


def linearity(
    model: LensModel,
    prompts: str | Sequence[str],
    vectors: SteeringVector | Sequence[SteeringVector],
    metric: Any,
    *,
    coefficients: Sequence[float] = COEFFICIENTS,
    position: Position = "front",
    nulls: int = 0,
    null_kind: NullKind = "unrelated_pairs",
    seed: int = 0,
    prepend_bos: bool = True,
    batch_size: int = 64,
    progress: bool = True,
) -> Linearity:
    """Measure the effect of c times the vectors for several c, and compare it with the first-order estimate.

    The estimate is the gradient of the metric at `resid_pre`, in the unsteered model, times the injection: one backward
    pass. Where the curves agree, the model reads the vector as a linear direction; where they diverge, its response is
    not linear.

    Args:
        model: The model; steering that is open around the call is ignored.
        prompts: One text or several.
        vectors: One steering vector or several, all added together.
        metric: A metric with a gradient, or a differentiable function of the last token's logits.
        coefficients: Factors c, on top of the vectors' own coefficients.
        position: Prompt token that receives row 0, for vectors without a position of their own.
        nulls: Number of null vectors that are measured at every c.
        null_kind: As in `null_vectors`.
        seed: Seed of the nulls.
        prepend_bos: Whether prompts start with BOS.
        batch_size: Maximum number of rows per pass.
        progress: Whether to show a progress bar if it takes more than a moment.

    Raises:
        CoefficientError: A coefficient is not a finite number.
        PromptError: A prompt is not text, or is longer than the context.
        PositionError: A vector does not fit onto a prompt.
        VectorError: A vector does not match the model.
        SettingError: A setting is out of range, or the metric has no gradient.
    """
    check_run(seed=seed, batch_size=batch_size)
    backend = backend_of(model)
    found, chosen = check_vectors(backend, vectors, what="the first-order estimate"), as_metric(metric)
    factors = tuple(sorted({check_coefficient(factor) for factor in coefficients}))
    require(bool(factors), "coefficients", coefficients, "one number or more")
    check_nulls(nulls, null_kind)
    texts = each_once(as_texts(prompts))
    ids = encode_prompts(backend, texts, prepend_bos=prepend_bos)
    slopes, by_row = _slopes(backend, ids, found, chosen, position=position, batch_size=batch_size)
    families = [found, *null_conditions(model, found, nulls, null_kind, seed)]
    conditions: list[Condition] = [()]
    conditions += [tuple(vector.times(factor) for vector in condition) for condition in families for factor in factors]
    values = measure_conditions(
        backend, ids, conditions, chosen, measured=found, position=position, batch_size=batch_size, progress=progress
    )
    unsteered, table = values[0], values[1:].reshape(len(families), len(factors), len(ids))
    kept = with_value(chosen.name, np.concatenate([table[0], unsteered[None]]))
    null_effects = (table[1:] - unsteered)[..., kept].mean(axis=-1)
    named = zip(vector_names(found), found, strict=True)
    rows = [f"{name}, {row}" if len(found) > 1 else row for name, vector in named for row in row_names(backend, vector)]
    return Linearity(
        chosen, texts, factors, table[0], unsteered, slopes, tuple(by_row[kept].mean(axis=0)), tuple(rows),
        null_effects, " and ".join(vector_names(found)),
    )  # fmt: skip


# -- the estimate ----------------------------------------------------------------------------------------------


def _slopes(
    backend: Backend,
    prompts: Sequence[Sequence[int]],
    vectors: Condition,
    metric: Metric,
    *,
    position: Position,
    batch_size: int,
) -> tuple[Float[np.ndarray, " prompts"], Float[np.ndarray, "prompts rows"]]:
    """The derivative of the metric with respect to c at 0, of each prompt, in whole and by row."""
    bound = metric.bound_to(backend)
    parts = []
    for first in range(0, len(prompts), batch_size):
        some = prompts[first : first + batch_size]
        rows = ConditionRows(backend, some, [()] * len(some), vectors, position)
        gradients = _gradients(backend, rows, metric, bound, sorted({vector.layer for vector in vectors}))
        parts.append(
            torch.cat(
                [
                    row_slopes(backend, gradients[vector.layer], vector, rows, position).cpu()
                    for vector in as_vectors(vectors)
                ],
                1,
            )
        )
    by_row = torch.cat(parts).double().cpu().numpy()
    return by_row.sum(axis=1), by_row


def _gradients(
    backend: Backend, rows: ConditionRows, metric: Metric, bound: Any, layers: Sequence[int]
) -> dict[int, Float[Tensor, "rows pos d_model"]]:
    """Gradient of the metric at `resid_pre` of each layer: zeros are added there, and the derivative taken by them.

    Raises:
        SettingError: The metric does not depend smoothly on the logits.
    """
    probes: dict[int, Tensor] = {}

    def probe(layer: int) -> Any:
        def add(resid_pre: Tensor, hook: Any) -> Tensor:
            probes[layer] = torch.zeros_like(resid_pre, requires_grad=True)
            return resid_pre + probes[layer]

        return add

    with torch.inference_mode(False), torch.enable_grad(), rows.steered(), ExitStack() as stack:
        for layer in layers:
            stack.callback(backend.add_hook(backend.hook_name(layer), probe(layer)).remove)
        if metric.reads == "last":
            logits = backend.logits_at(rows.tokens, rows.lengths - 1)
        else:
            logits = backend.logits(rows.tokens)
        values = bound(Reading(logits, rows.tokens, rows.lengths, rows.injected, logits.detach()))
        if not values.requires_grad:
            raise SettingError(
                f"{metric.name} has no gradient, so there is no first-order estimate: use a metric that changes "
                "smoothly with the logits, such as next_token_logprob."
            )
        total = values[torch.isfinite(values)].sum()
        found = torch.autograd.grad(total, [probes[layer] for layer in layers])
    return dict(zip(layers, found, strict=True))


def row_slopes(
    backend: Backend,
    gradient: Float[Tensor, "prompts pos d_model"],
    vector: SteeringVector,
    rows: ConditionRows,
    position: Position,
) -> Float[Tensor, "prompts rows"]:
    """Gradient times injection, where each row lands."""
    injection = vector.injection.to(gradient.device).float()
    slopes = torch.zeros(len(gradient), vector.rows, device=gradient.device)
    for prompt in range(len(gradient)):
        for row, token in touched(vector, position, rows.prompts.facts(prompt, backend)):
            slopes[prompt, row] += gradient[prompt, token].float() @ injection[row]
    return slopes
