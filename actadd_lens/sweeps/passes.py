"""The passes of a sweep: a few prompts unsteered, and batches of rows that start at a layer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from actadd_lens.measuring.metrics import BoundMetric, Metric, Reading
from actadd_lens.prompts.positions import Position, start_of
from actadd_lens.steering.engine import Landing, add_landings
from actadd_lens.sweeps.grid import PlacedGrid

Injections = Mapping[tuple[int, int], Float[Tensor, "arms pos d_model"]]
"""For each pair and layer, by their places, what its vector and its nulls add at coefficient 1."""


class Item(NamedTuple):
    """A cell on one prompt: its own vector, or all of its nulls."""

    pair: int
    layer: int
    coefficient: int
    position: int
    prompt: int
    is_null: bool


class Row(NamedTuple):
    """One row of a batch: an item under one arm of its pair and layer, 0 for the vector itself."""

    item: Item
    arm: int


@dataclass(frozen=True, eq=False)
class PromptBatch:
    """A few prompts that share an unsteered pass.

    Attributes:
        members: Their places in the grid.
        tokens: Padded on the right.
        lengths: Tokens of each.
        starts: What passes of each layer start from, by the layer's place.
        logits: The unsteered logits.
    """

    members: list[int]
    tokens: Int[Tensor, "prompts pos"]
    lengths: Int[Tensor, " prompts"]
    starts: dict[int, Tensor]
    logits: Float[Tensor, "prompts *pos d_vocab"]


@dataclass(frozen=True, eq=False)
class SweepPasses:
    """Runs the passes of a sweep and reads the metrics.

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
        """The unsteered pass of a few prompts, with a start kept for each layer that is named by its place."""
        backend, grid = self.placed.backend, self.placed.grid
        rows = [self.placed.tokens[index] for index in members]
        longest, filler = max(map(len, rows)), backend.pad_token_id or 0
        tokens = torch.tensor([[*row, *[filler] * (longest - len(row))] for row in rows], device=backend.device)
        lengths = torch.tensor([len(row) for row in rows], device=backend.device)
        columns = None if self.reads_all else lengths - 1
        starts, logits = backend.starts(tokens, [grid.layers[layer] for layer in layers], columns)
        return PromptBatch(members, tokens, lengths, {layer: starts[grid.layers[layer]] for layer in layers}, logits)

    def unsteered(self, prompts: PromptBatch, rows: int, position: Position) -> Float[np.ndarray, "metrics prompts"]:
        """Every metric without steering; a vector of so many rows there may leave something out of it."""
        everyone = torch.arange(len(prompts.members), device=prompts.tokens.device)
        marks = self._marks(prompts, everyone, [(rows, position)] * len(everyone))
        return self._read(prompts, everyone, prompts.logits, marks)

    def ends(
        self, injections: Injections, prompts: PromptBatch, layer: int, rows: Sequence[Row]
    ) -> Float[Tensor, "rows *pos size"]:
        """What the passes of a batch of rows end in, all of one layer."""
        placed = self.placed
        backend, number = placed.backend, placed.grid.layers[layer]
        picks, places = self._picks(prompts, rows), self._places(rows)
        landings = self._landings(injections, rows, places, prompts.lengths[picks].tolist())
        every_token = self._every_token(prompts, picks) if any(name == "all" for _, name in places) else None

        def add(resid_pre: Tensor, hook: Any) -> Tensor | None:
            return add_landings(resid_pre, landings, past=0, every_token=every_token)

        columns = None if self.reads_all else prompts.lengths[picks] - 1
        handle = backend.add_hook(backend.hook_name(number), add)
        try:
            start = prompts.starts[layer]
            return backend.ends_from(start[picks.to(start.device)], number, columns)
        finally:
            handle.remove()

    def read(
        self, prompts: PromptBatch, rows: Sequence[Row], ends: Float[Tensor, "rows *pos size"]
    ) -> Float[np.ndarray, "metrics rows"]:
        """Every metric of rows, of whatever layers, from what their passes ended in."""
        picks = self._picks(prompts, rows)
        marks = self._marks(prompts, picks, self._places(rows))
        return self._read(prompts, picks, self.placed.backend.read_out(ends), marks)

    def _picks(self, prompts: PromptBatch, rows: Sequence[Row]) -> Int[Tensor, " rows"]:
        """Which of the prompts each row is."""
        where = {prompt: row for row, prompt in enumerate(prompts.members)}
        return torch.tensor([where[row.item.prompt] for row in rows], device=prompts.tokens.device)

    def _places(self, rows: Sequence[Row]) -> list[tuple[int, Position]]:
        """Rows of each one's vector, and where it goes."""
        placed = self.placed
        return [(placed.rows[row.item.pair], placed.grid.positions[row.item.position]) for row in rows]

    def _landings(
        self,
        injections: Injections,
        rows: Sequence[Row],
        places: Sequence[tuple[int, Position]],
        lengths: Sequence[int],
    ) -> list[Landing]:
        """What lands where: rows of equally long vectors at one column land together, each with its own injection."""
        coefficients = self.placed.grid.coefficients
        groups: dict[tuple[int, int | None], list[int]] = {}
        for row, ((count, name), length) in enumerate(zip(places, lengths, strict=True)):
            column = None if name == "all" else start_of(name, length=length, rows=count)
            groups.setdefault((count, column), []).append(row)
        landings = []
        for (_, column), members in groups.items():
            items = [rows[row] for row in members]
            stack = torch.stack([injections[row.item.pair, row.item.layer][row.arm] for row in items])
            scale = torch.tensor([coefficients[row.item.coefficient] for row in items]).to(stack)
            landings.append(Landing(stack * scale[:, None, None], column, torch.tensor(members)))
        return landings

    def _every_token(self, prompts: PromptBatch, picks: Tensor) -> Bool[Tensor, "rows pos"]:
        """Columns that are neither padding nor BOS."""
        tokens, bos = prompts.tokens[picks], self.placed.backend.bos_token_id
        columns = torch.arange(tokens.shape[1], device=tokens.device)
        is_bos = (columns == 0) & (tokens == (-1 if bos is None else bos))
        return (columns < prompts.lengths[picks][:, None]) & ~is_bos

    def _marks(
        self, prompts: PromptBatch, picks: Tensor, places: Sequence[tuple[int, Position]]
    ) -> Bool[Tensor, "rows pos"]:
        """Columns that a vector lands on, rows that are all zero included."""
        device = prompts.tokens.device
        columns = torch.arange(prompts.tokens.shape[1], device=device)
        spans = [
            (1, len(columns)) if name == "all" else (start := start_of(name, length=length, rows=rows), start + rows)
            for (rows, name), length in zip(places, prompts.lengths[picks].tolist(), strict=True)
        ]
        ends = torch.tensor(spans, device=device)
        return (columns >= ends[:, :1]) & (columns < ends[:, 1:])

    def _read(
        self, prompts: PromptBatch, picks: Tensor, logits: Tensor, marks: Bool[Tensor, "rows pos"]
    ) -> Float[np.ndarray, "metrics rows"]:
        """Every metric of every row."""
        tokens, lengths = prompts.tokens[picks], prompts.lengths[picks]
        plain = prompts.logits[picks]
        whole = Reading(logits, tokens, lengths, marks, plain)
        last = whole
        if self.reads_all:
            rows = torch.arange(len(picks), device=logits.device)
            last = Reading(logits[rows, lengths - 1], tokens, lengths, marks, plain[rows, lengths - 1])
        found = [
            bound(whole if metric.reads == "all" else last).float().cpu().numpy()
            for metric, bound in zip(self.metrics, self.bound, strict=True)
        ]
        return np.stack(found)
