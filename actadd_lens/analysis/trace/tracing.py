"""One pass of a trace: what components wrote in each condition, and what that adds to a metric."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from actadd_lens.analysis.trace.results import Contributions, TraceCondition
from actadd_lens.errors import ModelError, SettingError
from actadd_lens.measuring.measure import Condition, ConditionRows
from actadd_lens.measuring.metrics import BoundMetric, Metric, Reading
from actadd_lens.models import Backend
from actadd_lens.models.components import Components, components_kept, head_changes
from actadd_lens.models.readout import Readout
from actadd_lens.models.swaps import Sources, by_heads, is_mix, mix, with_components_from
from actadd_lens.prompts.positions import Position
from actadd_lens.steering.landings import act, land

Freeze = Literal["attention"]

_LARGEST_GAP = 1e-2
"""Share of the change at the last layer that components may leave unexplained: rounding, half precision included."""


@dataclass(frozen=True, eq=False)
class Run:
    """One pass of conditions beside the unsteered one, in row 0."""

    rows: ConditionRows
    kept: Components
    changes: "_Changes"
    values: Float[Tensor, " rows"]
    contributions: list[Contributions]
    freeze: Freeze | None

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

    def _attention(self, injected: Tensor) -> Float[np.ndarray, "conditions layers heads pos"]:
        """Attention of each token to injected tokens before it, unsteered and steered."""
        before = torch.ones(len(injected), len(injected)).tril(-1).to(injected.device) * injected
        conditions = [0, 1] if self.freeze is None else [0, 0]
        layers = [self.kept.patterns[layer][conditions].float() for layer in sorted(self.kept.patterns)]
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
class Tracer:
    """What the passes of a trace share."""

    backend: Backend
    readout: Readout
    metric: Metric
    bound: BoundMetric
    tokens: tuple[int, ...]
    vectors: Condition
    position: Position
    at: TraceCondition
    freeze: Freeze | None = None

    @torch.no_grad()
    def run(self, conditions: Sequence[Condition]) -> Run:
        """The unsteered condition and some others in one pass."""
        count = len(conditions) + 1
        rows = ConditionRows(self.backend, [self.tokens] * count, [(), *conditions], self.vectors, self.position)

        def one_pass() -> tuple[Components, Tensor]:
            with components_kept(self.backend) as kept:
                return kept, rows.last_logits() if self.metric.reads == "last" else rows.logits()

        frozen_rows = self._sources(count)
        found = one_pass() if self.freeze is None else with_components_from(self.backend, frozen_rows, one_pass)
        kept, logits = found
        readings = _Readings(self, rows, logits)
        values = readings.metric_of(logits)
        last = kept.last[self.backend.n_layers - 1].float().to(self.readout.unembedding.device)
        gradient, frozen = readings.linearised(last)
        changes = self._changes(rows, kept, last, gradient)
        parts = self._by_pattern_and_values(kept, gradient)
        return Run(
            rows, kept, changes, values, self._contributions(changes, gradient, frozen, values, parts), self.freeze
        )

    def _sources(self, rows: int) -> Sources:
        """Every head looks where it looks in the unsteered row."""
        own = Sources.own(self.backend, rows)
        return replace(own, patterns=torch.zeros_like(own.patterns))

    def _by_pattern_and_values(self, kept: Components, gradient: Tensor) -> Float[Tensor, "parts rows layers heads"]:
        """What heads would add by their changed patterns alone, and by their changed values alone.

        Only columns that the metric reads are mixed. Layers below the injection are zero by causality.
        """
        first, columns = min(vector.layer for vector in self.vectors), gradient.abs().sum(dim=(0, 2)) > 0
        found = []
        for layer in range(self.backend.n_layers):
            mixed = kept.mixed[layer].float()
            heads = kept.patterns[layer].shape[1]
            mixed = by_heads(mixed, mixed[0, 0].numel() // heads)
            pattern, values = kept.patterns[layer].float(), kept.values.get(layer)
            if self.freeze is not None:
                pattern = pattern[:1].expand_as(pattern)
            if values is None or not is_mix(pattern, values, mixed):
                found.append(torch.full((2, len(gradient), heads), torch.nan))
                continue
            split, read = by_heads(values.float(), mixed.shape[-1]), columns.to(pattern.device)
            pattern = pattern[:, :, read]
            parts = []
            for looks, holds in ((pattern[1:], split[:1]), (pattern[:1], split[1:])):
                count = len(gradient)
                hybrid = mix(looks.expand(count, -1, -1, -1), holds.expand(count, -1, -1, -1))
                written = head_changes(self.backend, layer, torch.cat([mixed[:1, read], hybrid]))
                parts.append(torch.einsum("rphd,rpd->rh", written.to(gradient), gradient[:, columns]).cpu())
            found.append(torch.stack(parts) * (layer >= first))
        return torch.stack(found, dim=2)

    def _changes(self, rows: ConditionRows, kept: Components, last: Tensor, gradient: Tensor) -> _Changes:
        """What each component's output changed by; layers below the injection are zero by causality."""
        first = min(vector.layer for vector in self.vectors)
        added = _added(rows, last)[1:]
        heads, norms, mlps, explained = [], [], [], added.clone()
        for layer in range(self.backend.n_layers):
            mixed = kept.mixed[layer].float()
            written = head_changes(self.backend, layer, mixed).to(last.device) * (layer >= first)
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
        self, changes: _Changes, gradient: Tensor, frozen: Tensor, values: Tensor, parts: Tensor
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
                parts[0, row].numpy(),
                parts[1, row].numpy(),
            )
            for row in range(len(total))
        ]


@dataclass(frozen=True, eq=False)
class _Readings:
    """The metric as a function of the stream after the last block."""

    tracer: Tracer
    rows: ConditionRows
    logits: Tensor

    def metric_of(self, logits: Tensor) -> Float[Tensor, " rows"]:
        """The metric of one row of logits per condition."""
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


def _added(rows: ConditionRows, like: Float[Tensor, "rows pos d_model"]) -> Float[Tensor, "rows pos d_model"]:
    """What is added to each row at any layer, by the arithmetic that the hooks use."""
    real = torch.arange(like.shape[1], device=like.device) < rows.lengths[:, None].to(like.device)
    total = torch.zeros_like(like)
    for items in rows.assignments.values():
        landed = act(torch.zeros_like(like), land(items, rows.prompts), past=0, real=real)
        total = total if landed is None else total + landed
    return total
