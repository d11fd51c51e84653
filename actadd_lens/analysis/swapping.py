"""Metrics of prompts whose components take patterns, values or outputs from the other condition."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float

from actadd_lens.measuring.measure import Condition, ConditionRows, check_finite
from actadd_lens.measuring.metrics import BoundMetric, Metric, Reading
from actadd_lens.measuring.values import check_values
from actadd_lens.models import Backend
from actadd_lens.models.swaps import Sources, with_components_from
from actadd_lens.progress import progress_bar
from actadd_lens.prompts.positions import Position

_REFERENCES = 2
"""Rows of a pass that nothing is changed in, for each prompt: the unsteered one and the steered one."""


@dataclass(frozen=True, eq=False)
class Swap:
    """One more condition: steered or not, with some components as they are in the other condition.

    Attributes:
        steered: Whether the injection acts.
        patterns: Heads that attend where they attend in the other condition.
        values: Heads that mix the values of the other condition.
        outputs: Heads that write what they write in the other condition.
        mlps: MLPs that write what they write in the other condition.
    """

    steered: bool
    patterns: Bool[np.ndarray, "layers heads"]
    values: Bool[np.ndarray, "layers heads"]
    outputs: Bool[np.ndarray, "layers heads"]
    mlps: Bool[np.ndarray, " layers"]


def shape_of(backend: Backend) -> tuple[int, int]:
    """Layers and heads."""
    return backend.n_layers, int(backend.model.cfg.n_heads)


def swap(
    backend: Backend,
    *,
    steered: bool,
    patterns: np.ndarray | bool = False,
    values: np.ndarray | bool = False,
    outputs: np.ndarray | bool = False,
    mlps: np.ndarray | bool = False,
) -> Swap:
    """A swap of some components; True means all of them."""
    shape = shape_of(backend)
    looks, holds, writes = (
        np.broadcast_to(np.asarray(item, dtype=bool), shape) for item in (patterns, values, outputs)
    )
    return Swap(steered, looks, holds, writes, np.broadcast_to(np.asarray(mlps, dtype=bool), shape[:1]))


def one_head(backend: Backend, layer: int, head: int) -> Bool[np.ndarray, "layers heads"]:
    """That head and no other."""
    found = np.zeros(shape_of(backend), dtype=bool)
    found[layer, head] = True
    return found


@torch.no_grad()
def swapped_values(
    backend: Backend,
    prompts: Sequence[Sequence[int]],
    families: Sequence[Condition],
    swaps: Sequence[Swap],
    metric: Metric,
    *,
    measured: Condition,
    position: Position,
    batch_size: int,
    progress: bool = True,
) -> Float[np.ndarray, "families conditions prompts"]:
    """A metric of prompts under each family of vectors: unsteered, steered, then each swap.

    Args:
        backend: The model.
        prompts: Token ids of each prompt.
        families: The vectors, and those of each null.
        swaps: Conditions beside the unsteered and the steered one.
        metric: What is measured.
        measured: Vectors whose landing places count as injected, in every condition.
        position: Prompt token that receives row 0, for vectors without a position of their own.
        batch_size: Maximum number of rows per pass.
        progress: Whether to show a progress bar if it takes more than a moment.

    Raises:
        SettingError: The metric has no value on some prompt.
    """
    bound = metric.bound_to(backend)
    values = np.empty((len(families), _REFERENCES + len(swaps), len(prompts)))
    at_once = max(1, min(len(swaps), batch_size - _REFERENCES))
    chunks = [slice(first, first + at_once) for first in range(0, max(1, len(swaps)), at_once)]
    per_pass = max(1, batch_size // (_REFERENCES + at_once))
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    total = len(families) * len(chunks) * -(-len(prompts) // per_pass)
    with progress_bar(total=total, what=metric.name, unit="pass", shown=progress) as bar:
        for number, family in enumerate(families):
            for first in range(0, len(order), per_pass):
                members = order[first : first + per_pass]
                texts = [prompts[index] for index in members]
                for chunk in chunks:
                    found = _one_pass(backend, texts, family, swaps[chunk], metric, bound, measured, position)
                    values[number, :_REFERENCES, members] = found[:_REFERENCES].T
                    values[
                        number, _REFERENCES + chunk.start : _REFERENCES + chunk.start + len(swaps[chunk]), members
                    ] = found[_REFERENCES:].T
                    bar.update(1)
    check_values(metric.name, values)
    return values


def _one_pass(
    backend: Backend,
    prompts: Sequence[Sequence[int]],
    family: Condition,
    swaps: Sequence[Swap],
    metric: Metric,
    bound: BoundMetric,
    measured: Condition,
    position: Position,
) -> Float[np.ndarray, "conditions prompts"]:
    """All conditions of a few prompts in one pass."""
    count = len(prompts)
    steered = [False, True, *(item.steered for item in swaps)]
    conditions: list[Condition] = [family if is_steered else () for is_steered in steered for _ in prompts]
    rows = ConditionRows(
        backend, [*prompts] * len(steered), conditions, measured, position, [*range(count)] * len(steered)
    )
    run = rows.last_logits if metric.reads == "last" else rows.logits
    logits = with_components_from(backend, sources_of(backend, swaps, count), run)
    check_finite(backend, logits)
    plain = logits[:count].repeat((len(steered),) + (1,) * (logits.ndim - 1))
    reading = Reading(logits, rows.tokens, rows.lengths, rows.injected, plain)
    found: np.ndarray = bound(reading).float().cpu().numpy()
    return found.reshape(len(steered), count)


def sources_of(backend: Backend, swaps: Sequence[Swap], prompts: int) -> Sources:
    """Whose components each row of a pass takes: conditions lie one after the other, each with all its prompts."""
    own = Sources.own(backend, (_REFERENCES + len(swaps)) * prompts)
    for number, item in enumerate(swaps):
        for prompt in range(prompts):
            row = (_REFERENCES + number) * prompts + prompt
            other = prompt if item.steered else prompts + prompt
            for name in ("patterns", "values", "outputs", "mlps"):
                getattr(own, name)[row][torch.from_numpy(getattr(item, name).copy())] = other
    return own
