"""Attribution compared with patching: what gradients say about components and rows, and how wrong they are."""

import dataclasses
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from actadd_lens.analysis.linearity import row_slopes
from actadd_lens.analysis.swapping import one_head, shape_of, swap, swapped_values
from actadd_lens.checks import check_run, is_count, require
from actadd_lens.errors import SettingError
from actadd_lens.measuring.measure import Condition, ConditionRows, measure_conditions
from actadd_lens.measuring.metrics import BoundMetric, Metric, Reading, as_metric
from actadd_lens.measuring.values import check_values
from actadd_lens.models import Backend, LensModel, backend_of
from actadd_lens.models.components import components_kept
from actadd_lens.prompts.positions import Position
from actadd_lens.prompts.texts import as_texts, encode_prompts, notice_repeats
from actadd_lens.statistics import Effect, paired_effect
from actadd_lens.vectors.naming import row_names
from actadd_lens.vectors.vector import SteeringVector, check_vectors

if TYPE_CHECKING:
    import pandas as pd

METHODS = ("gradient", "integrated")
"""The gradient at the unsteered stream (attribution patching), and its mean on the way to the steered one."""


@dataclass(frozen=True, eq=False)
class Attribution:
    """What each component's change does to a metric: measured by patching, and estimated from gradients.

    Attributes:
        metric: What was measured.
        prompts: The prompts.
        vectors: What was added.
        whole: The effect of the injection.
        first_layer: The lowest layer that can read the injection.
        exact: By patching: the change of the metric when one component of the unsteered model gets its steered output;
            the heads of a layer, then its MLP.
        estimates: The same as estimated by `gradient` and `integrated`.
        rows: Names of the vectors' rows.
        dropped: How much of the effect is lost without each row, measured by running the model.
        row_estimates: What `gradient` and `integrated` attribute to each row.
    """

    metric: Metric
    prompts: tuple[str, ...]
    vectors: tuple[SteeringVector, ...]
    whole: Effect
    first_layer: int
    exact: Float[np.ndarray, "prompts layers components"]
    estimates: Float[np.ndarray, "2 prompts layers components"]
    rows: tuple[str, ...]
    dropped: Float[np.ndarray, "prompts rows"]
    row_estimates: Float[np.ndarray, "2 prompts rows"]

    def frame(self) -> "pd.DataFrame":
        """One row per component, means over prompts."""
        import pandas as pd

        layers, components = self.exact.shape[1:]
        names = [f"head {head}" for head in range(components - 1)] + ["MLP"]
        columns = {"exact": self.exact, **dict(zip(METHODS, self.estimates, strict=True))}
        frame = pd.DataFrame(
            {
                "layer": np.repeat(np.arange(layers), components),
                "component": np.tile(np.array(names, dtype=object), layers),
                **{name: values.mean(axis=0).flatten() for name, values in columns.items()},
            }
        )
        return frame[frame["layer"] >= self.first_layer].reset_index(drop=True)

    def row_frame(self) -> "pd.DataFrame":
        """One row per row of the vectors; those of `integrated` add up to the whole effect, except for its gap."""
        import pandas as pd

        estimates = {name: values.mean(axis=0) for name, values in zip(METHODS, self.row_estimates, strict=True)}
        return pd.DataFrame({"row": self.rows, "dropped": self.dropped.mean(axis=0), **estimates})

    @property
    def gap(self) -> float:
        """The part of the whole effect that the rows' integrated gradients miss: 0 with enough steps."""
        return float(self.whole.mean - self.row_estimates[1].sum(axis=-1).mean())

    def errors(self) -> "pd.DataFrame":
        """How far each estimate is from patching, over components and prompts.

        `error` is the root mean square of the difference, divided by that of the exact numbers; `correlation` is over
        the same numbers; `same sign` is the share of them with the right sign, weighted by size.
        """
        import pandas as pd

        exact, lines = self.exact[:, self.first_layer :].flatten(), []
        for name, values in zip(METHODS, self.estimates, strict=True):
            found = values[:, self.first_layer :].flatten()
            varies = exact.std() > 0 and found.std() > 0
            size = float(np.abs(exact).sum())
            lines.append(
                {
                    "estimate": name,
                    "error": float(np.sqrt(((found - exact) ** 2).mean() / max((exact**2).mean(), 1e-30))),
                    "correlation": float(np.corrcoef(found, exact)[0, 1]) if varies else float("nan"),
                    "same sign": float(np.abs(exact)[found * exact > 0].sum()) / size if size else float("nan"),
                }
            )
        return pd.DataFrame(lines)

    def __repr__(self) -> str:
        told = ", ".join(f"{line['estimate']} off by {line['error']:.0%}" for _, line in self.errors().iterrows())
        return (
            f"Attribution({self.metric.name}: effect {self.whole.mean:+.3g}; {told}; gap of the rows {self.gap:+.2g})"
        )

    def _repr_html_(self) -> str:
        tables = (self.errors(), self.row_frame())
        return f"<p>{escape(repr(self))}</p>" + "".join(
            table.to_html(index=False, float_format="{:.3g}".format) for table in tables
        )


def attribute_injection(
    model: LensModel,
    prompts: str | Sequence[str],
    vectors: SteeringVector | Sequence[SteeringVector],
    metric: Any,
    *,
    steps: int = 16,
    position: Position = "front",
    prepend_bos: bool = True,
    batch_size: int = 64,
    progress: bool = True,
) -> Attribution:
    """Attribute an effect to components and rows by gradients, and report how far off that is.

    Each component's steered minus unsteered output is multiplied by the gradient of the metric with respect to that
    output: once at the unsteered stream (attribution patching), and once averaged over injections of (i + 1/2) / steps
    of the full size (integrated gradients along the injection, Sundararajan et al. 2017). Both are compared with
    patching itself.

    Args:
        model: The model; steering that is open around the call is ignored.
        prompts: One text or several.
        vectors: One steering vector or several, all added together.
        metric: A metric with a gradient, or a differentiable function of the last token's logits.
        steps: Points on the way from no injection to the whole one.
        position: Prompt token that receives row 0, for vectors without a position of their own.
        prepend_bos: Whether prompts start with BOS.
        batch_size: Maximum number of rows per pass.
        progress: Whether to show a progress bar if it takes more than a moment.

    Raises:
        PromptError: A prompt is not text, or is longer than the context.
        PositionError: A vector does not fit onto a prompt.
        VectorError: A vector does not match the model.
        SettingError: The metric has no gradient, or a setting is out of range.
        ModelError: The model does not show what its heads write.
    """
    check_run(batch_size=batch_size)
    require(is_count(steps), "steps", steps, "an integer from 1")
    backend, chosen = backend_of(model), as_metric(metric)
    found = check_vectors(backend, vectors, what="attribution")
    texts = as_texts(prompts)
    notice_repeats(texts)
    ids = encode_prompts(backend, texts, prepend_bos=prepend_bos)
    without, names = _without_rows(backend, found)
    values = measure_conditions(
        backend, ids, [(), found, *without], chosen, measured=found, position=position, batch_size=batch_size,
        progress=progress,
    )  # fmt: skip
    check_values(chosen.name, values)
    attributor = _Attributor(backend, chosen, chosen.bound_to(backend), found, position)
    estimates, row_estimates = [], []
    for row in ids:
        by_component, by_row = attributor.of_prompt(row, int(steps))
        estimates.append(by_component)
        row_estimates.append(by_row)
    exact = _patched(backend, ids, found, chosen, position=position, batch_size=batch_size, progress=progress)
    effect = paired_effect(values[1][:, None], values[0][:, None], zeros="numbers")
    return Attribution(
        chosen, texts, found, effect, attributor.first, exact,
        np.stack(estimates, axis=1), names, (values[1] - values[2:]).T, np.stack(row_estimates, axis=1),
    )  # fmt: skip


def _without_rows(backend: Backend, vectors: Sequence[SteeringVector]) -> tuple[list[Condition], tuple[str, ...]]:
    """For each row of each vector, all vectors without that row; and the names of the rows."""
    conditions: list[Condition] = []
    names: list[str] = []
    for place, vector in enumerate(vectors):
        for row, name in enumerate(row_names(backend, vector)):
            activations = vector.activations.clone()
            activations[row] = 0.0
            others = list(vectors)
            others[place] = dataclasses.replace(vector, activations=activations)
            conditions.append(tuple(others))
            names.append(f"{vector.label}, {name}" if len(vectors) > 1 else name)
    return conditions, tuple(names)


def _patched(
    backend: Backend,
    ids: Sequence[Sequence[int]],
    vectors: tuple[SteeringVector, ...],
    metric: Metric,
    *,
    position: Position,
    batch_size: int,
    progress: bool,
) -> Float[np.ndarray, "prompts layers components"]:
    """The change of the metric when one component of the unsteered model gets its steered output."""
    layers, heads = shape_of(backend)
    swaps = []
    for layer in range(layers):
        swaps += [swap(backend, steered=False, outputs=one_head(backend, layer, head)) for head in range(heads)]
        swaps.append(swap(backend, steered=False, mlps=np.arange(layers) == layer))
    values = swapped_values(
        backend, ids, [vectors], swaps, metric, measured=vectors, position=position, batch_size=batch_size,
        progress=progress,
    )[0]  # fmt: skip
    first = min(vector.layer for vector in vectors)
    found: np.ndarray = (values[2:] - values[0]).T.reshape(len(ids), layers, heads + 1)
    found[:, :first] = 0.0
    return found


@dataclass(frozen=True, eq=False)
class _Attributor:
    """Gradients of the metric with respect to what components write, one prompt at a time."""

    backend: Backend
    metric: Metric
    bound: BoundMetric
    vectors: tuple[SteeringVector, ...]
    position: Position

    @property
    def first(self) -> int:
        """The lowest layer that can read the injection."""
        return min(vector.layer for vector in self.vectors)

    def of_prompt(
        self, tokens: Sequence[int], steps: int
    ) -> tuple[Float[np.ndarray, "2 layers components"], Float[np.ndarray, "2 rows"]]:
        """Estimates for each component and each row, by the gradient and by its mean along the way."""
        rows = ConditionRows(self.backend, [tokens] * 2, [(), self.vectors], self.vectors, self.position)
        with torch.no_grad(), components_kept(self.backend) as kept:
            rows.last_logits()
        places = [0.0, *((step + 0.5) / steps for step in range(steps))]
        by_component, by_row = [], []
        for place in places:
            gradients = self._gradients(tokens, place)
            layers = []
            for layer in range(self.backend.n_layers):
                mixed = (kept.mixed[layer][1] - kept.mixed[layer][0]).float()
                heads = shape_of(self.backend)[1]
                product = (mixed * gradients["mixed", layer][0].to(mixed)).reshape(len(tokens), heads, -1)
                mlp = kept.mlps.get(layer)
                moved = torch.zeros(1) if mlp is None else (mlp[1] - mlp[0]).float()
                change = (moved * gradients["mlps", layer][0].to(moved)).sum() if mlp is not None else moved.sum()
                parts = torch.cat([product.sum(dim=(0, 2)), change.to(product).reshape(1)])
                layers.append(parts.cpu() * (layer >= self.first))
            by_component.append(torch.stack(layers).numpy())
            by_row.append(self._rows(rows, gradients))
        components, rows_found = (np.stack([found[0], np.mean(found[1:], axis=0)]) for found in (by_component, by_row))
        return components, rows_found

    def _rows(self, rows: ConditionRows, gradients: dict[tuple[str, int], Tensor]) -> Float[np.ndarray, " rows"]:
        parts = [
            row_slopes(self.backend, gradients["stream", vector.layer], vector, rows, self.position)
            for vector in self.vectors
        ]
        found: np.ndarray = torch.cat(parts, dim=1)[0].double().cpu().numpy()
        return found

    def _gradients(self, tokens: Sequence[int], place: float) -> dict[tuple[str, int], Tensor]:
        """Gradients at components and injection layers, with that share of the injection added.

        Raises:
            SettingError: The metric does not depend smoothly on the logits.
        """
        condition = tuple(vector.times(place) for vector in self.vectors)
        rows = ConditionRows(self.backend, [tokens], [condition], self.vectors, self.position)
        probes: dict[tuple[str, int], Tensor] = {}
        with torch.inference_mode(False), torch.enable_grad(), rows.steered(), ExitStack() as stack:
            for name, hook in self._probes(probes):
                stack.callback(self.backend.add_hook(name, hook).remove)
            logits = self._logits(rows)
            values = self.bound(Reading(logits, rows.tokens, rows.lengths, rows.injected, logits.detach()))
            if not values.requires_grad:
                raise SettingError(f"{self.metric.name} has no gradient, so nothing can be attributed by it.")
            keys = list(probes)
            found = torch.autograd.grad(values.sum(), [probes[key] for key in keys], allow_unused=True)
        zeros = [torch.zeros_like(probes[key]) for key in keys]
        return {
            key: zero if gradient is None else gradient for key, zero, gradient in zip(keys, zeros, found, strict=True)
        }

    def _logits(self, rows: ConditionRows) -> Tensor:
        if self.metric.reads == "last":
            return self.backend.logits_at(rows.tokens, rows.lengths - 1)
        return self.backend.logits(rows.tokens)

    def _probes(self, probes: dict[tuple[str, int], Tensor]) -> list[tuple[str, Callable[..., Tensor]]]:
        """Hooks that add zeros, by which the derivative is taken."""

        def probe(key: tuple[str, int]) -> Callable[..., Tensor]:
            def add(value: Tensor, hook: Any) -> Tensor:
                probes[key] = torch.zeros_like(value, requires_grad=True)
                return value + probes[key]

            return add

        known, found = self.backend.model.hook_dict, []
        for layer in range(self.backend.n_layers):
            found.append((f"blocks.{layer}.attn.hook_z", probe(("mixed", layer))))
            if f"blocks.{layer}.hook_mlp_out" in known:
                found.append((f"blocks.{layer}.hook_mlp_out", probe(("mlps", layer))))
        layers = sorted({vector.layer for vector in self.vectors})
        found += [(self.backend.hook_name(layer), probe(("stream", layer))) for layer in layers]
        return found
