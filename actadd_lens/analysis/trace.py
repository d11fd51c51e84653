"""Trace: which heads and MLPs read an injection, and what each of them adds to a metric."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from actadd_lens.checks import check_run
from actadd_lens.errors import ModelError, SettingError
from actadd_lens.measuring.measure import Arm, ArmRows, null_arms
from actadd_lens.measuring.metrics import BoundMetric, Metric, Reading, as_metric
from actadd_lens.measuring.nulls import NullKind
from actadd_lens.methods.actadd import compute_steering_vectors
from actadd_lens.models import Backend, LensModel, backend_of
from actadd_lens.models.components import Components, components_kept, head_changes
from actadd_lens.models.readout import Readout, readout_of
from actadd_lens.prompts.pairs import PromptPair
from actadd_lens.prompts.positions import Position
from actadd_lens.prompts.texts import as_texts, each_once, encode_prompts
from actadd_lens.statistics import Effect, max_t_p, on_one_scale, paired_effect
from actadd_lens.steering.landings import act, land
from actadd_lens.vectors.vector import SteeringVector, check_coefficient, check_vectors

if TYPE_CHECKING:
    import os
    from pathlib import Path

    import pandas as pd
    from matplotlib.axes import Axes

TraceArm = Literal["unsteered", "steered"]

_ARMS: tuple[TraceArm, TraceArm] = ("steered", "unsteered")

_LARGEST_GAP = 1e-2
"""Share of the change at the last layer that components may leave unexplained: rounding, half precision included."""


@dataclass(frozen=True, eq=False)
class Contributions:
    """Where the change of a metric comes from, in the metric's units; the parts sum to the change.

    Attributes:
        heads: Each head's direct contribution.
        mlps: Each MLP's.
        carried: That of the injection itself, carried along the stream; 0 where it lands on no token that is read.
        higher_orders: What the metric, curved in the logits, adds to its first order; 0 for logits and their
            differences.
        final_norm: What the final norm adds by changing its scale.
    """

    heads: Float[np.ndarray, "layers heads"]
    mlps: Float[np.ndarray, " layers"]
    carried: float
    higher_orders: float
    final_norm: float

    @property
    def direct(self) -> float:
        """The sum over heads, MLPs and the carried injection: the change with the final norm frozen, to first order."""
        return float(self.heads.sum() + self.mlps.sum() + self.carried)

    @property
    def total(self) -> float:
        """The sum of all parts: the change of the metric."""
        return self.direct + self.higher_orders + self.final_norm

    @property
    def by_layer(self) -> Float[np.ndarray, " layers"]:
        """Heads and MLP of each layer together."""
        return np.asarray(self.heads.sum(axis=1) + self.mlps)


@dataclass(frozen=True, eq=False)
class Trace:
    """Who reads an injection, on one prompt.

    Changes are steered minus unsteered. Layers below the injection cannot see it, and hold exact zeros. Norms are of
    what can be read: on LayerNorm models without the mean over `d_model`.

    Attributes:
        prompt: The prompt.
        tokens: Its tokens as texts.
        vectors: What was added.
        metric: What was measured.
        at: The arm whose final norm scale, and whose gradient of the metric, the contributions are taken at.
        injected: Tokens on which a row that is not zero lands.
        steered: The metric, steered.
        unsteered: The metric, unsteered.
        contributions: Where the difference comes from.
        head_change: Norm of the change of what each head writes, at each token.
        mlp_change: The same for MLPs.
        attention_steered: Attention that each token pays to injected tokens before it, by head.
        attention_unsteered: The same, unsteered.
        arrived: Norm of the change of the stream after the last block, at each token.
        nulls: Contributions of each null; none where none was run.
    """

    prompt: str
    tokens: tuple[str, ...]
    vectors: tuple[SteeringVector, ...]
    metric: Metric
    at: TraceArm
    injected: tuple[int, ...]
    steered: float
    unsteered: float
    contributions: Contributions
    head_change: Float[np.ndarray, "layers heads pos"]
    mlp_change: Float[np.ndarray, "layers pos"]
    attention_steered: Float[np.ndarray, "layers heads pos"]
    attention_unsteered: Float[np.ndarray, "layers heads pos"]
    arrived: Float[np.ndarray, " pos"]
    nulls: tuple[Contributions, ...]

    @property
    def change(self) -> float:
        """Steered minus unsteered."""
        return self.steered - self.unsteered

    @property
    def first_layer(self) -> int:
        """The lowest layer that can read the injection: the one that it is added at."""
        return min(vector.layer for vector in self.vectors)

    @property
    def later(self) -> tuple[int, ...]:
        """Tokens after the first injected one on which nothing lands."""
        if not self.injected:
            return ()
        return tuple(index for index in range(self.injected[0], len(self.tokens)) if index not in self.injected)

    def attention(self, arm: TraceArm = "steered") -> Float[np.ndarray, "layers heads"]:
        """Attention that later tokens pay to the injected ones, in the mean over them; NaN where there are none."""
        shown = self.attention_steered if arm == "steered" else self.attention_unsteered
        return shown[:, :, list(self.later)].mean(axis=2) if self.later else np.full(shown.shape[:2], np.nan)

    def frame(self) -> "pd.DataFrame":
        """One row per part of the change; with nulls, each part's standardised contribution.

        `adjusted p` is two-sided and adjusted over all parts, each on one scale with its nulls (max-T): the largest of
        many parts is large in a null vector's trace too.
        """
        import pandas as pd

        rows: list[dict[str, Any]] = []
        steered, unsteered = self.attention("steered"), self.attention("unsteered")
        for layer in range(self.first_layer, len(self.mlp_change)):
            rows += [
                {
                    "layer": layer,
                    "component": f"head {head}",
                    "change norm": np.linalg.norm(self.head_change[layer, head]),
                    "change norm at last token": self.head_change[layer, head, -1],
                    "attention steered": steered[layer, head],
                    "attention unsteered": unsteered[layer, head],
                }
                for head in range(steered.shape[1])
            ]
            norms = self.mlp_change[layer]
            rows.append({"layer": layer, "component": "MLP", "change norm": np.linalg.norm(norms),
                         "change norm at last token": norms[-1]})  # fmt: skip
        rows += [{"component": name} for name in ("carried injection", "higher orders", "final norm")]
        frame = pd.DataFrame(rows).astype({"layer": "Int64"})
        frame.insert(2, "contribution", _listed(self.contributions, self.first_layer))
        if len(self.nulls) > 1:
            frame["adjusted p"] = self._adjusted(np.array(frame["contribution"]))
            nulls = np.stack([_listed(null, self.first_layer) for null in self.nulls])
            mean, spread = nulls.mean(axis=0), nulls.std(axis=0, ddof=1)
            frame.insert(3, "null mean", mean)
            frame.insert(4, "null sd", spread)
            is_noise = spread <= 1e-5 * np.abs(frame["contribution"]).max()
            frame.insert(5, "standardised", (frame["contribution"] - mean) / np.where(is_noise, np.nan, spread))
        return frame

    def _adjusted(self, parts: Float[np.ndarray, " parts"]) -> Float[np.ndarray, " parts"]:
        """Adjusted p-values of all parts; what is rounding in every arm is nothing."""
        arms = np.stack([parts, *(_listed(null, self.first_layer) for null in self.nulls)])
        arms[:, arms.std(axis=0) <= 1e-5 * np.abs(arms).max()] = 0.0
        scaled = on_one_scale(arms)
        return max_t_p(scaled[0], scaled[1:], "two-sided")

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Heat map of the contributions of heads and MLPs, by layer."""
        from actadd_lens.plots.tracing import plot_trace

        return plot_trace(self, ax=ax)

    def plot_attention(self, ax: "Axes | None" = None) -> "Axes":
        """Heat map of the attention that later tokens pay to the injected ones, steered, by layer and head."""
        from actadd_lens.plots.tracing import plot_trace_attention

        return plot_trace_attention(self, ax=ax)

    def page(self, path: "str | os.PathLike[str]", *, title: str = "A trace") -> "Path":
        """Write one HTML file with everything in it, to be mailed or put on the web: it needs no server or network.

        Args:
            path: The file.
            title: Its heading.

        Raises:
            SettingError: It cannot be written there.
        """
        from actadd_lens.pages.html import write_page
        from actadd_lens.pages.tracing import trace_page

        return write_page(trace_page(self, title=title), path)

    def __repr__(self) -> str:
        told = ", ".join(f"{name} {_rounded(part(self.contributions)):+.3g}" for name, part in _PARTS.items())
        return f"Trace({self.metric.name}: {self.change:+.3g} = {told}; at the {self.at} arm)"

    def _repr_html_(self) -> str:
        frame = self.frame()
        largest = frame.reindex(frame["contribution"].abs().sort_values(ascending=False).index).head(10)
        return f"<p>{escape(repr(self))}</p>" + largest.to_html(index=False, na_rep="", float_format="{:.3g}".format)


def trace_injection(
    model: LensModel,
    prompt: str,
    vectors: SteeringVector | Sequence[SteeringVector],
    *,
    metric: Any,
    position: Position = "front",
    at: TraceArm = "unsteered",
    nulls: int = 0,
    null_kind: NullKind = "unrelated_pairs",
    seed: int = 0,
    prepend_bos: bool = True,
    batch_size: int = 32,
) -> Trace:
    """Find out which heads and MLPs read an injection, and what each of them adds to a metric directly.

    What a component adds directly is the change of its output times the gradient of the metric at the residual
    stream after the last block, with the final norm's scale held (*frozen*) at that of one arm. For a logit or a
    difference of logits that is exact. Any other metric is taken to first order, and the rest is told as
    `higher_orders`; what the final norm's scale does is told as `final_norm`. All parts sum to the change.

    A component that the injection reaches by way of others counts with all that its output changed by. Where a norm
    stands between attention and the stream, a head's output is its part of what the norm scales, by each arm's scale.

    Args:
        model: The model.
        prompt: One text.
        vectors: One steering vector or several.
        metric: A metric, or a function of the last token's logits; it must have a gradient.
        position: Prompt token that receives row 0, for vectors without a position of their own.
        at: The arm whose final norm scale and gradient are used. A KL divergence has no gradient at the unsteered
            one, where it is 0.
        nulls: Number of null vectors to trace beside it.
        null_kind: As in `null_vectors`.
        seed: Seed of the nulls.
        prepend_bos: Whether the prompt starts with BOS.
        batch_size: Most rows in one pass.

    Raises:
        PromptError: The prompt is no text or outgrows the context.
        PositionError: A vector does not fit onto the prompt.
        VectorError: A vector does not go with the model.
        SettingError: The metric has no gradient, or a setting is out of its range.
        ModelError: The model's stream is not the sum of what its heads and MLPs write (norms that take in the stream
            itself), what it makes its logits of is not known, or it does not show its attention.
    """
    check_run(seed=seed, batch_size=batch_size)
    backend, chosen = backend_of(model), as_metric(metric)
    found = check_vectors(backend, vectors, what="the trace of an injection")
    if at not in ("unsteered", "steered"):
        raise SettingError(f"at is {at!r}: expected 'unsteered' or 'steered'.")
    if not isinstance(prompt, str):
        raise SettingError(f"trace_injection takes one text, not {prompt!r}: use trace_layers for several prompts.")
    tokens = encode_prompts(backend, (prompt,), prepend_bos=prepend_bos)[0]
    ArmRows(backend, [tokens], [found], found, position)
    arms = [found, *null_arms(model, found, nulls, null_kind, seed)]
    tracer = _Tracer(backend, readout_of(backend), chosen, chosen.bound_to(backend), tokens, found, position, at)
    step = max(1, batch_size - 1)
    passes = [tracer.run(arms[first : first + step]) for first in range(0, len(arms), step)]
    first_pass, parts = passes[0], [item for run in passes for item in run.contributions]
    return Trace(
        prompt=prompt, tokens=tuple(backend.token_strings(tokens)), vectors=found, metric=chosen, at=at,
        contributions=parts[0], nulls=tuple(parts[1:]), **first_pass.shown(),
    )  # fmt: skip


def _rounded(value: float) -> float:
    """Without what float32 leaves where there is nothing."""
    return value if abs(value) > 1e-5 else 0.0


def _listed(parts: Contributions, first: int) -> Float[np.ndarray, " parts"]:
    """All parts in the order of the frame."""
    by_layer = np.concatenate([parts.heads[first:], parts.mlps[first:, None]], axis=1).flatten()
    return np.concatenate([by_layer, [parts.carried, parts.higher_orders, parts.final_norm]])


# -- one pass --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Run:
    """One pass of arms beside the unsteered one, in row 0."""

    rows: ArmRows
    kept: Components
    changes: "_Changes"
    values: Float[Tensor, " rows"]
    contributions: list[Contributions]

    def shown(self) -> dict[str, Any]:
        """What a `Trace` shows of the first steered row."""
        changes = self.changes
        attention = self._attention(changes.injected)
        return {
            "injected": tuple(changes.injected.nonzero().flatten().tolist()),
            "unsteered": float(self.values[0]),
            "steered": float(self.values[1]),
            "head_change": changes.head_norms.cpu().numpy(),
            "mlp_change": changes.mlp_norms.cpu().numpy(),
            "attention_unsteered": attention[0],
            "attention_steered": attention[1],
            "arrived": changes.arrived.cpu().numpy(),
        }

    def _attention(self, injected: Tensor) -> Float[np.ndarray, "arms layers heads pos"]:
        """Attention of each token to injected tokens before it, unsteered and steered."""
        before = torch.ones(len(injected), len(injected)).tril(-1).to(injected.device) * injected
        layers = [self.kept.patterns[layer][:2].float() for layer in sorted(self.kept.patterns)]
        paid = torch.stack([(pattern * before.to(pattern)).sum(dim=-1).cpu() for pattern in layers], dim=1)
        return paid.numpy()


@dataclass(frozen=True, eq=False)
class _Changes:
    """Steered minus unsteered, for each steered row.

    Attributes:
        added: The injections themselves.
        heads: Of what each head writes, times the gradient and summed over tokens.
        mlps: Of what each MLP writes.
        arrived: Norms of the change of the stream after the last block, in the first steered row.
        head_norms: The same of what each head writes.
        mlp_norms: The same of what each MLP writes.
        injected: Tokens on which a row that is not zero lands, in the first steered row.
    """

    added: Float[Tensor, "rows pos d_model"]
    heads: Float[Tensor, "rows layers heads"]
    mlps: Float[Tensor, "layers rows pos d_model"]
    arrived: Float[Tensor, " pos"]
    head_norms: Float[Tensor, "layers heads pos"]
    mlp_norms: Float[Tensor, "layers pos"]
    injected: Bool[Tensor, " pos"]


@dataclass(frozen=True, eq=False)
class _Tracer:
    """What the passes of a trace share."""

    backend: Backend
    readout: Readout
    metric: Metric
    bound: BoundMetric
    tokens: tuple[int, ...]
    vectors: Arm
    position: Position
    at: TraceArm

    @torch.no_grad()
    def run(self, arms: Sequence[Arm]) -> _Run:
        """The unsteered arm and some others in one pass."""
        count = len(arms) + 1
        rows = ArmRows(self.backend, [self.tokens] * count, [(), *arms], self.vectors, self.position)
        with components_kept(self.backend) as kept:
            logits = rows.last_logits() if self.metric.reads == "last" else rows.logits()
        readings = _Readings(self, rows, logits)
        values = readings.metric_of(logits)
        last = kept.last[self.backend.n_layers - 1].float().to(rows.tokens.device)
        gradient, frozen = readings.linearised(last)
        changes = self._changes(rows, kept, last, gradient)
        return _Run(rows, kept, changes, values, self._contributions(changes, gradient, frozen, values))

    def _changes(self, rows: ArmRows, kept: Components, last: Tensor, gradient: Tensor) -> _Changes:
        """What each component's output changed by; layers below the injection are zero by causality."""
        first = min(vector.layer for vector in self.vectors)
        added = _added(rows, last)[1:]
        heads, norms, mlps, explained = [], [], [], added.clone()
        for layer in range(self.backend.n_layers):
            mixed = kept.mixed[layer].float().to(last.device)
            written = head_changes(self.backend, layer, mixed) * (layer >= first)
            mlp = kept.mlps.get(layer, torch.zeros_like(last)).float().to(last.device)
            mlps.append((mlp[1:] - mlp[:1]) * (layer >= first))
            heads.append(torch.einsum("rphd,rpd->rh", written, gradient))
            norms.append(self.readout.centre(written[0]).norm(dim=-1).T)
            explained = explained + written.sum(dim=2) + mlps[-1]
        change = last[1:] - last[:1]
        self._check_explained(explained - added, change - added, last)
        stacked, read = torch.stack(mlps), self.readout.centre
        return _Changes(
            added=added,
            heads=torch.stack(heads, dim=1),
            mlps=stacked,
            arrived=read(change[0]).norm(dim=-1),
            head_norms=torch.stack(norms),
            mlp_norms=read(stacked[:, 0]).norm(dim=-1),
            injected=added[0].norm(dim=-1) > 0,
        )

    def _check_explained(self, explained: Tensor, change: Tensor, last: Tensor) -> None:
        """What components write must be what the stream changed by beside the injection, in each row.

        The injection is left out of both, so that a large one hides nothing; the stream itself only tells how far both
        are rounded.
        """
        gap = (explained - change).flatten(1).norm(dim=1)
        size = explained.flatten(1).norm(dim=1) + change.flatten(1).norm(dim=1)
        rounding = torch.finfo(self.backend.dtype).eps * last.flatten(1).norm(dim=1).max()
        worst = int((gap / size.clamp_min(1e-30)).argmax())
        if bool((gap > _LARGEST_GAP * size + rounding).any()):
            raise ModelError(
                f"The stream of {self.backend.name} is not the sum of what its heads and MLPs write: "
                f"{float(gap[worst] / size[worst]):.1%} of the change is missing. Models with norms between their "
                "components and the stream cannot be traced, nor can streams that other hooks change."
            )

    def _contributions(
        self, changes: _Changes, gradient: Tensor, frozen: Tensor, values: Tensor
    ) -> list[Contributions]:
        mlps = torch.einsum("lrpd,rpd->rl", changes.mlps, gradient)
        carried = (changes.added * gradient).sum(dim=(1, 2))
        direct = changes.heads.sum(dim=(1, 2)) + mlps.sum(dim=1) + carried
        total = values[1:] - values[0]
        return [
            Contributions(
                changes.heads[row].cpu().numpy(),
                mlps[row].cpu().numpy(),
                float(carried[row]),
                float(frozen[row] - direct[row]),
                float(total[row] - frozen[row]),
            )
            for row in range(len(total))
        ]


@dataclass(frozen=True, eq=False)
class _Readings:
    """The metric as a function of the stream after the last block."""

    tracer: _Tracer
    rows: ArmRows
    logits: Tensor

    def metric_of(self, logits: Tensor) -> Float[Tensor, " rows"]:
        """The metric of one row of logits per arm."""
        rows = self.rows
        plain = self.logits[:1].expand_as(logits)
        return self.tracer.bound(
            Reading(
                logits, rows.tokens[: len(logits)], rows.lengths[: len(logits)], rows.injected[: len(logits)], plain
            )
        ).float()

    def linearised(
        self, last: Float[Tensor, "rows pos d_model"]
    ) -> tuple[Float[Tensor, "steered pos d_model"], Float[Tensor, " steered"]]:
        """Gradient of the metric for each steered row, and its change, both with the final norm's scale held."""
        reads_last = self.tracer.metric.reads == "last"
        read = last[:, -1] if reads_last else last
        plain, steered = read[:1].expand_as(read[1:]), read[1:]
        base = plain if self.tracer.at == "unsteered" else steered
        readout = self.tracer.readout
        scale = readout.scale(readout.centre(base))
        with torch.enable_grad():
            leaf = base.detach().clone().requires_grad_()
            value = self.metric_of(self._frozen(leaf, scale))
            if not value.requires_grad:
                raise SettingError(f"{self.tracer.metric.name} has no gradient, so its change cannot be shared out.")
            (slope,) = torch.autograd.grad(value.sum(), leaf)
        change = self.metric_of(self._frozen(steered, scale)) - self.metric_of(self._frozen(plain, scale))
        gradient = torch.zeros_like(last[1:])
        gradient[:, -1 if reads_last else slice(None)] = slope
        return gradient, change

    def _frozen(self, residual: Tensor, scale: Tensor) -> Tensor:
        """Logits of streams, the final norm's scale given."""
        readout = self.tracer.readout
        return readout.capped(readout.unembed(readout.centre(residual) / scale))


def _added(rows: ArmRows, like: Float[Tensor, "rows pos d_model"]) -> Float[Tensor, "rows pos d_model"]:
    """What is added to each row at any layer, by the arithmetic that the hooks use."""
    real = torch.arange(like.shape[1], device=like.device) < rows.lengths[:, None].to(like.device)
    total = torch.zeros_like(like)
    for items in rows.assignments.values():
        landed = act(torch.zeros_like(like), land(items, rows.prompts), past=0, real=real)
        total = total if landed is None else total + landed
    return total


_PARTS: dict[str, Callable[[Contributions], float]] = {
    "heads": lambda parts: float(parts.heads.sum()),
    "MLPs": lambda parts: float(parts.mlps.sum()),
    "carried injection": lambda parts: parts.carried,
    "higher orders": lambda parts: parts.higher_orders,
    "final norm": lambda parts: parts.final_norm,
}

# -- several layers side by side ---------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class LayerTraces:
    """A prompt pair traced at several injection layers, over the same prompts.

    Attributes:
        pair: The prompt pair in a few characters.
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
        """The effect at each layer over the prompts, beside its nulls."""
        found = []
        for row in self.traces:
            effect = paired_effect(
                np.array([[trace.steered] for trace in row]), np.array([[trace.unsteered] for trace in row])
            )
            nulls = np.array([[null.total for null in trace.nulls] for trace in row]).T
            found.append(effect.with_nulls(nulls.mean(axis=1), nulls))
        return tuple(found)

    @property
    def contributions(self) -> Float[np.ndarray, "injection_layers layers"]:
        """What each layer's heads and MLP add directly, in the mean over prompts."""
        return np.array([np.mean([trace.contributions.by_layer for trace in row], axis=0) for row in self.traces])

    def attention(self, arm: TraceArm = "steered") -> Float[np.ndarray, "injection_layers layers"]:
        """Attention of later tokens to the injected ones: mean over heads, tokens and prompts.

        NaN for layers below the injection.
        """
        found = np.array([np.mean([trace.attention(arm).mean(axis=1) for trace in row], axis=0) for row in self.traces])
        for index, layer in enumerate(self.layers):
            found[index, :layer] = np.nan
        return found

    def frame(self) -> "pd.DataFrame":
        """One row per injection layer: the effect, where it comes from, and how much of the injection is looked at.

        `attention` sums over the layers that can read the injection; `arrived` is the norm of the change after the
        last block at the last token, in units of the injection's norm.
        """
        import pandas as pd

        frame = pd.DataFrame({"injection layer": self.layers, **self._effect_columns()})
        for name, value_of in _PARTS.items():
            frame[name] = [np.mean([value_of(trace.contributions) for trace in row]) for row in self.traces]
        for arm in _ARMS:
            frame[f"attention {arm}"] = np.nansum(self.attention(arm), axis=1)
        sizes = [sum(vector.injection.norm() ** 2 for vector in row[0].vectors) ** 0.5 for row in self.traces]
        frame["injection norm"] = [float(size) for size in sizes]
        arrived = np.array([np.mean([trace.arrived[-1] for trace in row]) for row in self.traces])
        frame["arrived"] = arrived / frame["injection norm"]
        return frame.assign(**self._cautions())

    def _effect_columns(self) -> dict[str, list[float]]:
        columns = {name: [getattr(effect, name) for effect in self.effects] for name in ("mean", "low", "high")}
        columns = {"effect": columns.pop("mean"), **columns}
        if len(self.effects[0].nulls) > 1:
            columns["null sd"] = [float(effect.nulls.std(ddof=1)) for effect in self.effects]
            columns["standardised"] = [effect.standardised for effect in self.effects]
        return columns

    def _cautions(self) -> dict[str, list[str]]:
        """Where an interval covers more or less than it says; no column where none does."""
        told = [effect.caution for effect in self.effects]
        return {"caution": told} if any(told) else {}

    def plot(self, axes: "Sequence[Axes] | None" = None) -> "Sequence[Axes]":
        """Effect by injection layer, beside what each later layer adds and how much it looks at the injection."""
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
    at: TraceArm = "unsteered",
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
