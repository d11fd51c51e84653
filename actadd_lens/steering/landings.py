"""What lands where: interventions on rows of a batch, its columns once the prompts are known, and the arithmetic.

An `Assignment` says what is done to which rows of a batch. Once the prompts are known it becomes `Landing`s: an
operation on columns. A forward pass is then pure arithmetic.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from actadd_lens.errors import AmbiguousPositionError
from actadd_lens.models import Backend
from actadd_lens.models.protocol import Spot
from actadd_lens.prompts.positions import Position, reach_of
from actadd_lens.prompts.spans import PromptFacts, Reach
from actadd_lens.steering.interventions import placed
from actadd_lens.vectors.interventions import CleanReads, Intervention
from actadd_lens.vectors.operations import Operation


@dataclass(frozen=True, eq=False)
class Assignment:
    """An intervention and its place, for some rows of a batch.

    Attributes:
        intervention: What is done.
        position: Where its row 0 lands, or a span.
        rows: Rows of the batch; None means all.
        operation: Its operation, once what it reads is known.
    """

    intervention: Intervention
    position: Position
    rows: tuple[int, ...] | None = None
    operation: Operation | None = None

    def members(self, batch: int) -> tuple[int, ...]:
        """The rows, by number."""
        return tuple(range(batch)) if self.rows is None else self.rows


Assignments = Mapping[Spot, Sequence[Assignment]]
"""What is done at each hook point, in the order in which it is done."""


def assign(
    interventions: Sequence[Intervention], position: Position, rows: tuple[int, ...] | None = None
) -> dict[Spot, list[Assignment]]:
    """Interventions at their hook points; one's own position wins over the one given.

    Raises:
        PositionError: The position is invalid, or does not fit an intervention's rows.
    """
    found: dict[Spot, list[Assignment]] = {}
    for intervention in interventions:
        place = placed(intervention, position)
        found.setdefault(intervention.spot, []).append(Assignment(intervention, place, rows))
    return found


@dataclass(frozen=True, eq=False)
class Prompts:
    """What is known of the prompts in the rows of a batch.

    Attributes:
        first: Column of each row's first token (the number of paddings to its left).
        lengths: Tokens of each prompt, BOS counted, padding not.
        starts_with_bos: Whether each row's first token is BOS; None where the tokens were not seen.
        tokens: Token ids of each prompt; None where they were not seen.
        numbers: Which of the caller's prompts each row is; None where rows are prompts.
    """

    first: tuple[int, ...]
    lengths: tuple[int, ...]
    starts_with_bos: tuple[bool | None, ...] | None
    tokens: tuple[tuple[int, ...], ...] | None = None
    numbers: tuple[int, ...] | None = None

    def facts(self, row: int, reader: Backend | None = None) -> PromptFacts:
        """What a span may ask of one prompt."""
        has_bos = None if self.starts_with_bos is None else self.starts_with_bos[row]
        tokens = None if self.tokens is None else self.tokens[row]
        number = row if self.numbers is None else self.numbers[row]
        return PromptFacts(self.lengths[row], has_bos, tokens, number, reader)


@dataclass(frozen=True, eq=False)
class Landing:
    """An operation on columns of a batch.

    Attributes:
        operation: What is done; its row 0 belongs to column `origin`.
        column: First column that it acts on.
        stop: First column beyond; infinite where generated tokens are meant.
        origin: The column of row 0.
        rows: Rows of the batch, or all of them.
        mask: For a span with gaps, which columns from `column` on are meant.
    """

    operation: Operation
    column: int
    stop: float
    origin: int
    rows: slice | Int[Tensor, " some_rows"]
    mask: Bool[Tensor, " columns"] | None = None


def land(assignments: Sequence[Assignment], prompts: Prompts, *, reader: Backend | None = None) -> list[Landing]:
    """Columns for assignments, once the prompts are known; rows with the same columns land together.

    Args:
        assignments: What is done at one hook point, with operations, in order.
        prompts: The prompts, whose tokens stand side by side from their first column on.
        reader: The model, for marks that are text and parts of a chat.

    Raises:
        PositionError: Rows overhang a prompt, or a prompt has no such tokens.
    """
    batch, landings = len(prompts.first), []
    for assignment in assignments:
        operation = assignment.operation
        assert operation is not None
        groups: dict[tuple[int, Reach], list[int]] = {}
        for place, row in enumerate(assignment.members(batch)):
            groups.setdefault((prompts.first[row], reach(assignment, prompts.facts(row, reader))), []).append(place)
        numbers = torch.tensor(assignment.members(batch))
        for (column, found), members in groups.items():
            taken = operation if len(members) == len(numbers) else operation.of_batch(torch.tensor(members))
            mask = None if found.mask is None else torch.tensor(found.mask)
            origin = column if assignment.intervention.follows_prompt else column + found.start
            landings.append(
                Landing(taken, column + found.start, column + found.stop, origin, _rows(numbers[members], batch), mask)
            )
    return landings


def reach(assignment: Assignment, prompt: PromptFacts) -> Reach:
    """The tokens that an assignment acts on in one prompt."""
    found = reach_of(assignment.position, rows=assignment.intervention.rows, prompt=prompt)
    if assignment.intervention.follows_prompt and found.stop > prompt.length:
        return Reach(found.start, max(prompt.length, found.start), found.mask)
    return found


def touched(intervention: Intervention, position: Position, prompt: PromptFacts) -> list[tuple[int, int]]:
    """Which row meets which token of a prompt, as (row, token); of a span, row 0 meets them all.

    Raises:
        PositionError: Rows overhang the prompt, or it has no such tokens.
    """
    found = reach(Assignment(intervention, placed(intervention, position)), prompt)
    tokens = [
        token
        for token in range(found.start, int(min(found.stop, prompt.length)))
        if found.mask is None or found.mask[token - found.start]
    ]
    return [(token - found.start if intervention.rows > 1 else 0, token) for token in tokens]


def _rows(rows: Int[Tensor, " some_rows"], batch: int) -> slice | Tensor:
    """All rows as a slice, which needs no index; some rows as an index."""
    return slice(None) if rows.tolist() == list(range(batch)) else rows


def act(
    stream: Float[Tensor, "batch pos *width"],
    landings: Sequence[Landing],
    *,
    past: int,
    real: Bool[Tensor, "batch pos"] | None = None,
) -> Float[Tensor, "batch pos *width"] | None:
    """The stream with the operations that meet this pass, as a copy; None where none does.

    Args:
        stream: The activations at the hook point.
        landings: What lands where, in the order in which it is done.
        past: Columns in the cache.
        real: Where columns of this pass may be padding on the right, which ones are not.
    """
    seen, steered = stream.shape[1], None
    for landing in landings:
        start, stop = max(landing.column, past), min(landing.stop, past + seen)
        if start >= stop:
            continue
        steered = _copy(stream) if steered is None else steered
        rows = landing.rows if isinstance(landing.rows, slice) else landing.rows.to(steered.device)
        columns = slice(start - past, int(stop) - past)
        before = steered[rows, columns]
        if torch.is_grad_enabled():  # what a gradient is computed from must not change in place
            before = before.clone()
        operation = landing.operation.of_tokens(slice(start - landing.origin, int(stop) - landing.origin))
        after = operation.like(steered)(before)
        if landing.mask is not None:
            meant = landing.mask[start - landing.column : int(stop) - landing.column].to(steered.device)
            after = torch.where(meant[None, :, None], after, before)
        if real is not None and landing.stop == math.inf:
            after = torch.where(real[rows, columns][..., None].to(steered.device), after, before)
        steered[rows, columns] = after
    return None if steered is None else steered.reshape(stream.shape).to(stream.dtype)


def act_on_tokens(
    stream: Float[Tensor, "batch pos *width"],
    assignments: Sequence[Assignment],
    prompts: Prompts,
    index: Int[Tensor, "batch pos"],
    *,
    reader: Backend | None = None,
) -> Float[Tensor, "batch pos *width"]:
    """The same where padding stands between tokens, so that each column's token index has to be looked at.

    Args:
        stream: The activations at the hook point.
        assignments: What is done, in order.
        prompts: The prompts; their first columns are not read.
        index: Absolute token index of each column of this pass; -1 for padding.
        reader: The model, for marks that are text and parts of a chat.
    """
    steered, batch = _copy(stream), stream.shape[0]
    index = index.to(steered.device)
    for assignment in assignments:
        assert assignment.operation is not None
        members = assignment.members(batch)
        found = [reach(assignment, prompts.facts(row, reader)) for row in members]
        rows, token = torch.tensor(members, device=steered.device), index[list(members)]
        starts = torch.tensor([[item.start] for item in found], device=index.device)
        stops = torch.tensor([[float(item.stop)] for item in found], device=index.device)
        meant = (token >= 0) & (token >= starts) & (token < stops) & _marked(found, token)
        origin = 0 if assignment.intervention.follows_prompt else starts
        wanted = (token - origin).clamp(0, assignment.operation.rows - 1)
        before = steered[rows]
        after = assignment.operation.of_tokens(wanted).like(steered)(before)
        steered = steered.index_copy(0, rows, torch.where(meant[..., None], after, before))
    return steered.reshape(stream.shape).to(stream.dtype)


def _marked(found: Sequence[Reach], token: Int[Tensor, "rows pos"]) -> Tensor:
    """For spans with gaps, which tokens are meant."""
    meant = torch.ones_like(token, dtype=torch.bool)
    for row, item in enumerate(found):
        if item.mask is not None:
            marks = torch.tensor(item.mask or (False,), device=token.device)
            meant[row] = marks[(token[row] - item.start).clamp(0, len(marks) - 1)]
    return meant


def _copy(stream: Tensor) -> Tensor:
    """The stream as [batch, pos, width], to be changed; half precision would round at each operation, so it waits."""
    is_half = stream.dtype in (torch.float16, torch.bfloat16)
    copied = stream.float() if is_half else stream.clone()
    return copied.flatten(2)


def resolve(
    backend: Backend,
    assignments: Assignments,
    prompts: Prompts,
    read: Callable[[Sequence[Sequence[int]], Sequence[Spot]], CleanReads],
) -> dict[Spot, list[Assignment]]:
    """Assignments with their operations; what they read of the prompts is read in one unsteered pass.

    What changes nothing is left out, unless it is being learnt.

    Args:
        backend: The model.
        assignments: What is done where.
        prompts: The prompts of the batch.
        read: Reads prompts, unsteered.

    Raises:
        AmbiguousPositionError: Something has to be read of prompts whose tokens were not seen.
    """
    spots = [spot for found in assignments.values() for item in found for spot in item.intervention.reads]
    clean: CleanReads | None = None
    if spots:
        if prompts.tokens is None:
            raise AmbiguousPositionError(
                "A gate or a clean value is read from the prompt in a pass of its own, but not all of the prompt's "
                "tokens were seen: start from tokens, and pass the prompt in one piece."
            )
        clean = read(prompts.tokens, spots)
    found = {
        spot: [_resolved(backend, item, clean, len(prompts.first)) for item in items]
        for spot, items in assignments.items()
    }
    return {spot: [item for item in items if _acts(item)] for spot, items in found.items()}


def _resolved(backend: Backend, item: Assignment, clean: CleanReads | None, batch: int) -> Assignment:
    if item.operation is not None:
        return item
    members = item.members(batch)
    if clean is not None and item.intervention.reads and item.rows is not None:
        picks = torch.tensor(members)
        values = {spot: value[picks.to(value.device)] for spot, value in clean.values.items()}
        clean = CleanReads(values, tuple(clean.lengths[row] for row in members))
    operation = item.intervention.operation(backend, clean)
    return Assignment(item.intervention, item.position, item.rows, operation)


def _acts(item: Assignment) -> bool:
    assert item.operation is not None
    return item.operation.learns or not item.operation.changes_nothing
