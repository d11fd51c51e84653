"""The passes of a sweep: a few prompts unsteered, and batches of rows that start at a layer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from actadd_lens.measuring.measure import check_finite
from actadd_lens.measuring.metrics import BoundMetric, Metric, Reading
from actadd_lens.models.protocol import Spot, Start
from actadd_lens.prompts.positions import Position, reach_of
from actadd_lens.steering.clean import prompts_of, resolved
from actadd_lens.steering.hooks import injected
from actadd_lens.steering.landings import Assignment, Prompts
from actadd_lens.sweeps.grid import PlacedGrid
from actadd_lens.vectors.interventions import Intervention
from actadd_lens.vectors.operations import Add
from actadd_lens.vectors.vector import SteeringVector

Conditions = Mapping[tuple[int, int], Sequence[Intervention]]
"""For each pair and layer, by their indices, its vector and its nulls, at coefficient 1."""


class Item(NamedTuple):
    """A cell on one prompt: its own vector, or all of its nulls."""

    pair: int
    layer: int
    coefficient: int
    position: int
    prompt: int
    is_null: bool


class Row(NamedTuple):
    """One row of a batch: an item with one of its vectors; condition 0 is the vector itself, others its nulls."""

    item: Item
    condition: int


@dataclass(frozen=True, eq=False)
class PromptBatch:
    """A few prompts that share an unsteered pass.

    Attributes:
        members: Their indices in the grid.
        tokens: Token ids, padded on the right.
        lengths: Number of tokens of each.
        starts: What passes of each layer start from, by the layer's index.
        logits: The unsteered logits.
    """

    members: list[int]
    tokens: Int[Tensor, "prompts pos"]
    lengths: Int[Tensor, " prompts"]
    starts: dict[int, Start]
    logits: Float[Tensor, "prompts *pos d_vocab"]


@dataclass(frozen=True, eq=False)
class SweepPasses:
    """Runs the passes of a sweep and computes the metrics.

    Attributes:
        placed: The grid on its model.
        metrics: What is measured.
        bound: The same, bound to the model.
    """

    placed: PlacedGrid
    metrics: tuple[Metric, ...]
    bound: tuple[BoundMetric, ...]

    @property
    def reads_all(self) -> bool:
        """Whether a metric reads every column."""
        return any(metric.reads == "all" for metric in self.metrics)

    def start(self, members: list[int], layers: list[int]) -> PromptBatch:
        """The unsteered pass of a few prompts, with a start kept for each layer, given by its index."""
        backend, grid = self.placed.backend, self.placed.grid
        rows = [self.placed.tokens[index] for index in members]
        longest, filler = max(map(len, rows)), backend.pad_token_id or 0
        tokens = torch.tensor([[*row, *[filler] * (longest - len(row))] for row in rows], device=backend.device)
        lengths = torch.tensor([len(row) for row in rows], device=backend.device)
        columns = None if self.reads_all else lengths - 1
        starts, logits = backend.starts(tokens, [grid.layers[layer] for layer in layers], columns)
        return PromptBatch(members, tokens, lengths, {layer: starts[grid.layers[layer]] for layer in layers}, logits)

    def unsteered(self, prompts: PromptBatch, rows: int, position: Position) -> Float[np.ndarray, "metrics prompts"]:
        """Every metric without steering; tokens where a vector of this many rows lands may be left out."""
        everyone = torch.arange(len(prompts.members), device=prompts.tokens.device)
        marks = self._marks(prompts, everyone, [(rows, position)] * len(everyone))
        return self._read(prompts, everyone, prompts.logits, marks)

    def ends(
        self, conditions: Conditions, prompts: PromptBatch, layer: int, rows: Sequence[Row]
    ) -> Float[Tensor, "rows *pos size"]:
        """The ends of the passes of a batch of rows, all of one layer."""
        placed = self.placed
        backend, number = placed.backend, placed.grid.layers[layer]
        picks = self._picks(prompts, rows)
        columns = None if self.reads_all else prompts.lengths[picks] - 1
        with injected(backend, self._assignments(conditions, rows), self._prompts(rows)):
            return backend.ends_from(prompts.starts[layer][picks], number, columns)

    def read(
        self, prompts: PromptBatch, rows: Sequence[Row], ends: Float[Tensor, "rows *pos size"]
    ) -> Float[np.ndarray, "metrics rows"]:
        """Every metric of rows, of any layers, from the ends of their passes."""
        picks = self._picks(prompts, rows)
        marks = self._marks(prompts, picks, self._places(rows))
        logits = self.placed.backend.read_out(ends)
        check_finite(self.placed.backend, logits)
        return self._read(prompts, picks, logits, marks)

    def _picks(self, prompts: PromptBatch, rows: Sequence[Row]) -> Int[Tensor, " rows"]:
        """The index of each row's prompt in the batch."""
        where = {prompt: row for row, prompt in enumerate(prompts.members)}
        return torch.tensor([where[row.item.prompt] for row in rows], device=prompts.tokens.device)

    def _places(self, rows: Sequence[Row]) -> list[tuple[int, Position]]:
        """The number of rows of each vector, and its position."""
        placed = self.placed
        return [(placed.rows[row.item.pair], placed.grid.positions[row.item.position]) for row in rows]

    def _prompts(self, rows: Sequence[Row]) -> Prompts:
        """What is known about each row's prompt."""
        tokens, numbers = self.placed.tokens, [row.item.prompt for row in rows]
        return prompts_of(self.placed.backend, [tokens[number] for number in numbers], numbers=numbers)

    def _assignments(self, conditions: Conditions, rows: Sequence[Row]) -> dict[Spot, list[Assignment]]:
        """What is done to each row; vectors of equal length at one position are added in one step."""
        grid, backend = self.placed.grid, self.placed.backend
        groups: dict[tuple[Spot, type, int, Position], list[int]] = {}
        made = [conditions[row.item.pair, row.item.layer][row.condition] for row in rows]
        for place, (row, item) in enumerate(zip(rows, made, strict=True)):
            key = (item.spot, type(item), item.rows, grid.positions[row.item.position])
            groups.setdefault(key, []).append(place)
        found: dict[Spot, list[Assignment]] = {}
        for (spot, kind, _, position), members in groups.items():
            scales = [grid.coefficients[rows[place].item.coefficient] for place in members]
            if kind is SteeringVector:
                first = made[members[0]]
                together = Add(_stacked([made[place] for place in members], scales))
                found.setdefault(spot, []).append(Assignment(first, position, tuple(members), together))
                continue
            scaled = [made[place].times(scale) for place, scale in zip(members, scales, strict=True)]
            some = [Assignment(item, position, (place,)) for item, place in zip(scaled, members, strict=True)]
            found.setdefault(spot, []).extend(some)
        return resolved(backend, found, self._prompts(rows))

    def _marks(
        self, prompts: PromptBatch, picks: Tensor, places: Sequence[tuple[int, Position]]
    ) -> Bool[Tensor, "rows pos"]:
        """Columns on which a vector lands, including rows of the vector that are zero."""
        marks = torch.zeros(len(picks), prompts.tokens.shape[1], dtype=torch.bool)
        numbers = [prompts.members[pick] for pick in picks.tolist()]
        known = prompts_of(self.placed.backend, [self.placed.tokens[number] for number in numbers], numbers=numbers)
        for row, (count, position) in enumerate(places):
            facts = known.facts(row, self.placed.backend)
            found = reach_of(position, rows=count, prompt=facts)
            stop = int(min(found.stop, facts.length))
            marks[row, found.start : stop] = True if found.mask is None else torch.tensor(found.mask)
        return marks.to(prompts.tokens.device)

    def _read(
        self, prompts: PromptBatch, picks: Tensor, logits: Tensor, marks: Bool[Tensor, "rows pos"]
    ) -> Float[np.ndarray, "metrics rows"]:
        """Every metric of every row."""
        tokens, lengths = prompts.tokens[picks], prompts.lengths[picks]
        plain = prompts.logits[picks.to(prompts.logits.device)]
        whole = Reading(logits, tokens, lengths, marks, plain)
        last = whole
        if self.reads_all:
            rows = torch.arange(len(picks), device=logits.device)
            ends = lengths.to(logits.device) - 1
            last = Reading(logits[rows, ends], tokens, lengths, marks, plain[rows, ends])
        found = [
            bound(whole if metric.reads == "all" else last).float().cpu().numpy()
            for metric, bound in zip(self.metrics, self.bound, strict=True)
        ]
        return np.stack(found)


def _stacked(vectors: Sequence[Intervention], scales: Sequence[float]) -> Float[Tensor, "rows pos d_model"]:
    """Injections of vectors of equal length, each with its coefficient."""
    stack = torch.stack([vector.injection for vector in vectors if isinstance(vector, SteeringVector)])
    return stack * torch.tensor(scales).to(stack)[:, None, None]
