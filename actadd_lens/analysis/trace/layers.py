"""Traces at several injection layers, side by side: why a vector works at one and not at another."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from actadd_lens.analysis.trace.injection import trace_injection
from actadd_lens.analysis.trace.results import ARMS, PARTS, Trace, TraceCondition
from actadd_lens.checks import check_choice, check_run
from actadd_lens.measuring.metrics import Metric, as_metric
from actadd_lens.measuring.nulls import NullKind, check_nulls
from actadd_lens.methods.actadd import compute_steering_vectors
from actadd_lens.models import LensModel, backend_of
from actadd_lens.prompts.pairs import PromptPair
from actadd_lens.prompts.positions import Position, check_position
from actadd_lens.prompts.texts import as_texts, each_once, encode_prompts
from actadd_lens.statistics import Effect, paired_effect
from actadd_lens.vectors.vector import check_coefficient

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


@dataclass(frozen=True, eq=False)
class LayerTraces:
    """A prompt pair traced at several injection layers, over the same prompts.

    Attributes:
        pair: A short label of the prompt pair.
        coefficient: Injection coefficient.
        layers: Injection layers.
        traces: For each layer, the trace on each prompt.
    """

    pair: str
    coefficient: float
    layers: tuple[int, ...]
    traces: tuple[tuple[Trace, ...], ...]

    @property
    def metric(self) -> Metric:
        """What was measured."""
        return self.traces[0][0].metric

    @property
    def effects(self) -> tuple[Effect, ...]:
        """The effect at each layer over the prompts, with its nulls."""
        found = []
        for row in self.traces:
            effect = paired_effect(
                np.array([[trace.steered] for trace in row]),
                np.array([[trace.unsteered] for trace in row]),
                zeros="numbers",
            )
            nulls = np.array([[null.total for null in trace.nulls] for trace in row]).T
            found.append(effect.with_nulls(nulls.mean(axis=1), nulls))
        return tuple(found)

    @property
    def contributions(self) -> Float[np.ndarray, "injection_layers layers"]:
        """What each layer's heads and MLP add directly, averaged over prompts."""
        return np.array([np.mean([trace.contributions.by_layer for trace in row], axis=0) for row in self.traces])

    def attention(self, condition: TraceCondition = "steered") -> Float[np.ndarray, "injection_layers layers"]:
        """Attention of later tokens to the injected ones: mean over heads, tokens and prompts.

        NaN for layers below the injection.
        """
        found = np.array(
            [np.mean([trace.attention(condition).mean(axis=1) for trace in row], axis=0) for row in self.traces]
        )
        for index, layer in enumerate(self.layers):
            found[index, :layer] = np.nan
        return found

    def frame(self) -> "pd.DataFrame":
        """One row per injection layer: the effect, where it comes from, and how much the injection is attended to.

        `attention` sums over the layers that can read the injection; `arrived` is the norm of the change after the
        last block at the last token, in units of the injection's norm.
        """
        import pandas as pd

        frame = pd.DataFrame({"injection layer": self.layers, **self._effect_columns()})
        for name, value_of in PARTS.items():
            frame[name] = [np.mean([value_of(trace.contributions) for trace in row]) for row in self.traces]
        for condition in ARMS:
            frame[f"attention {condition}"] = np.nansum(self.attention(condition), axis=1)
        sizes = [sum(vector.injection.norm() ** 2 for vector in row[0].vectors) ** 0.5 for row in self.traces]
        frame["injection norm"] = [float(size) for size in sizes]
        arrived = np.array([np.mean([trace.arrived[-1] for trace in row]) for row in self.traces])
        frame["arrived"] = arrived / frame["injection norm"]
        return frame

    def _effect_columns(self) -> dict[str, list[float]]:
        columns = {name: [getattr(effect, name) for effect in self.effects] for name in ("mean", "low", "high")}
        columns = {"effect": columns.pop("mean"), **columns}
        if len(self.effects[0].nulls) > 1:
            columns["null sd"] = [float(effect.nulls.std(ddof=1)) for effect in self.effects]
            columns["standardised"] = [effect.standardised for effect in self.effects]
        return columns

    def plot(self, axes: "Sequence[Axes] | None" = None) -> "Sequence[Axes]":
        """Effect by injection layer, with what each later layer adds and how much it attends to the injection."""
        from actadd_lens.plots.tracing import plot_layer_traces

        return plot_layer_traces(self, axes=axes)

    def __repr__(self) -> str:
        told = ", ".join(
            f"{layer}: {effect.mean:+.3g}" for layer, effect in zip(self.layers, self.effects, strict=True)
        )
        return f"LayerTraces({self.coefficient:g} x ({self.pair}), {self.metric.name}; by layer {told})"

    def _repr_html_(self) -> str:
        return f"<p>{escape(repr(self))}</p>" + self.frame().to_html(index=False, float_format="{:.3g}".format)


def trace_layers(
    model: LensModel,
    prompts: str | Sequence[str],
    pair: PromptPair | tuple[str, str | None],
    *,
    layers: Iterable[int],
    metric: Any,
    coefficient: float = 1.0,
    position: Position = "front",
    at: TraceCondition = "unsteered",
    nulls: int = 0,
    null_kind: NullKind = "unrelated_pairs",
    seed: int = 0,
) -> LayerTraces:
    """Trace one prompt pair at several injection layers, to see why it works at one and not at another.

    Args:
        model: The model.
        prompts: One text or several.
        pair: A `PromptPair`, or (positive, negative); read and added at each layer.
        layers: Injection layers.
        metric: As in `trace_injection`.
        coefficient: Injection coefficient, the same at every layer.
        position: Prompt token that receives row 0.
        at: As in `trace_injection`.
        nulls: Number of null vectors at each layer.
        null_kind: As in `null_vectors`.
        seed: Seed of the nulls.

    Raises:
        ActAddError: As `compute_steering_vector` and `trace_injection` do.
    """
    check_run(seed=seed)
    check_nulls(nulls, null_kind)
    check_choice(at, "at", "unsteered", "steered")
    position, metric = check_position(position, rows=1), as_metric(metric)
    texts = each_once(as_texts(prompts))
    encode_prompts(backend_of(model), texts)
    factor = check_coefficient(coefficient)
    vectors = compute_steering_vectors(model, [pair], layers=layers)
    traces = tuple(
        tuple(
            trace_injection(
                model, text, factor * vector, metric=metric, position=position, at=at, nulls=nulls,
                null_kind=null_kind, seed=seed,
            )
            for text in texts
        )
        for vector in vectors
    )  # fmt: skip
    return LayerTraces(vectors.pairs[0].label, factor, vectors.layers, traces)
