"""The passes of a shift, and the means over prompts that are gathered from them."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from actadd_lens.measuring.measure import Condition, ConditionRows
from actadd_lens.models import Backend
from actadd_lens.progress import tracked
from actadd_lens.prompts.positions import Position
from actadd_lens.statistics import Effect, family_effect


class Sums:
    """Means over prompts of what each condition does to each token, gathered prompt by prompt to save memory."""

    def __init__(
        self,
        backend: Backend,
        conditions: Sequence[Condition],
        prompts: Sequence[Sequence[int]],
        measured: Condition,
        position: Position,
        batch_size: int,
        progress: bool,
    ) -> None:
        self._count = len(prompts)
        self._logs: list[Tensor] = [torch.zeros(0)] * len(conditions)
        self._probabilities: list[Tensor] = [torch.zeros(0)] * len(conditions)
        self._parts: list[Tensor] = [torch.zeros(0)] * len(conditions)
        self._kl = torch.zeros(len(conditions), len(prompts), dtype=torch.float64)
        step = max(1, batch_size // len(conditions))
        for first in tracked(range(0, len(prompts), step), what="next-token shift", unit="batch", shown=progress):
            some = prompts[first : first + step]
            plain = None
            for numbers, rows in passes(backend, some, conditions, measured, position, batch_size):
                by_condition = rows.last_logits().float().log_softmax(dim=-1).unflatten(0, (len(numbers), len(some)))
                plain = by_condition[0] if plain is None else plain
                for number, logs in zip(numbers, by_condition, strict=True):
                    self._add(number, logs, plain, slice(first, first + len(some)))

    def _add(self, number: int, logs: Tensor, plain: Tensor, where: slice) -> None:
        """One condition of a few prompts."""
        part = logs.exp() * (logs - plain)
        self._kl[number, where] = part.sum(dim=-1).double().cpu()
        self._logs[number] = _plus(self._logs[number], logs)
        self._probabilities[number] = _plus(self._probabilities[number], logs.exp())
        self._parts[number] = _plus(self._parts[number], part)

    def facts(self) -> dict[str, np.ndarray]:
        """Numbers of every token; `changes`, `probabilities` and `parts` hold them for each null too."""
        logs = torch.stack(self._logs) / self._count
        changes = (logs[1:] - logs[0]).cpu().numpy()
        probabilities = (torch.stack(self._probabilities) / self._count).cpu().numpy()
        parts = (torch.stack(self._parts[1:]) / self._count).cpu().numpy()
        return {
            "change": changes[0],
            "z": beside_nulls(changes),
            "unsteered": probabilities[0],
            "steered": probabilities[1],
            "kl part": parts[0],
            "changes": changes,
            "probabilities": probabilities,
            "parts": parts,
            "before": logs[0].cpu().numpy(),
            "after": logs[1].cpu().numpy(),
        }

    def kl(self) -> Effect:
        """KL(steered || unsteered) over prompts, and the nulls'."""
        values = self._kl.numpy()
        return family_effect(values[1:], values[0])


def passes(
    backend: Backend,
    prompts: Sequence[Sequence[int]],
    conditions: Sequence[Condition],
    measured: Condition,
    position: Position,
    batch_size: int,
) -> Iterator[tuple[range, ConditionRows]]:
    """A few prompts under all conditions, as many conditions in a pass as fit; with the numbers of those conditions."""
    step = max(1, batch_size // len(prompts))
    for first in range(0, len(conditions), step):
        some = conditions[first : first + step]
        by_row = [condition for condition in some for _ in prompts]
        yield (
            range(first, first + len(some)),
            ConditionRows(backend, [*prompts] * len(some), by_row, measured, position),
        )


def _plus(total: Tensor, rows: Tensor) -> Tensor:
    added = rows.double().sum(dim=0)
    return added if not total.numel() else total + added


def beside_nulls(values: Float[np.ndarray, "conditions tokens"]) -> Float[np.ndarray, " tokens"]:
    """(Value - mean of the nulls) / their standard deviation; all conditions but the first are nulls. NaN with one."""
    nulls = values[1:]
    if len(nulls) < 2:
        return np.full(values.shape[1], np.nan)
    spread = nulls.std(axis=0, ddof=1)
    return np.where(spread > 0, (values[0] - nulls.mean(axis=0)) / np.maximum(spread, 1e-30), np.nan)
