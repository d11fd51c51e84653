"""A sweep's work in pieces: a few pairs, prompts and layers at a time; the pieces are the same for any workers."""

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from actadd_lens.measuring.metrics import Metric
from actadd_lens.models import Backend
from actadd_lens.steering.clean import unsteered
from actadd_lens.sweeps.batches import is_out_of_memory
from actadd_lens.sweeps.grid import Grid, PlacedGrid
from actadd_lens.sweeps.passes import Conditions, Item, PromptBatch, Row, SweepPasses


class Chunk(NamedTuple):
    """One piece of a sweep.

    Attributes:
        pairs: Indices of the pairs whose vectors are computed together.
        prompts: Indices of the prompts that share an unsteered pass.
        layers: For each layer, by its index, what is to be measured there.
        reads_unsteered: Whether the unsteered values belong to this piece.
    """

    pairs: range
    prompts: tuple[int, ...]
    layers: tuple[tuple[int, tuple[Item, ...]], ...]
    reads_unsteered: bool


class Plain(NamedTuple):
    """Unsteered values of one prompt, for a pair and a position."""

    pair: int
    position: int
    prompt: int


@dataclass(frozen=True, eq=False)
class Found:
    """The results of a batch.

    Attributes:
        items: Every metric of each item, for each of its vectors.
        plain: Every metric of prompts, unsteered.
    """

    items: list[tuple[Item, Float[np.ndarray, "metrics _"]]]
    plain: list[tuple[Plain, Float[np.ndarray, " metrics"]]]


@dataclass(frozen=True, eq=False)
class SweepRecipe:
    """What a worker needs to know of a sweep.

    Attributes:
        grid: The axes.
        tokens: Token ids of each prompt.
        rows: Number of rows of each pair's vectors.
        metrics: What is measured.
        batch_size: Maximum number of rows per pass.
    """

    grid: Grid
    tokens: tuple[tuple[int, ...], ...]
    rows: tuple[int, ...]
    metrics: tuple[Metric, ...]
    batch_size: int

    def desk(self, backend: Backend) -> "SweepDesk":
        """The sweep on a model."""
        placed = PlacedGrid(self.grid, backend.model, backend, self.tokens, self.rows)
        bound = tuple(metric.bound_to(backend) for metric in self.metrics)
        return SweepDesk(SweepPasses(placed, self.metrics, bound), self.batch_size)


class SweepDesk:
    """A sweep on one model, piece by piece; vectors and unsteered passes are kept while pieces share them.

    Args:
        passes: The passes of the sweep.
        batch_size: Maximum number of rows per pass; halved if there is not enough memory.
    """

    def __init__(self, passes: SweepPasses, batch_size: int) -> None:
        self._passes = passes
        self._batch_size = batch_size
        self._vectors: tuple[range | None, Conditions] = (None, {})
        self._prompts: PromptBatch | None = None

    def parts(self, chunk: Chunk, tick: Callable[[int], Any]) -> Generator[Found, None, None]:
        """Values as they come, batch by batch."""
        placed = self._passes.placed
        if any(items for _, items in chunk.layers) and self._vectors[0] != chunk.pairs:
            self._vectors = (None, {})  # to free memory before the next ones are made
            self._vectors = (chunk.pairs, placed.vectors(chunk.pairs))
        with torch.no_grad(), unsteered(placed.backend):
            yield from self._chunk(chunk, tick)

    def _chunk(self, chunk: Chunk, tick: Callable[[int], Any]) -> Iterator[Found]:
        """The unsteered pass of a few prompts, then every layer; in halves if there is not enough memory."""
        prompts = self._started(chunk)
        if prompts is None:
            half = len(chunk.prompts) // 2
            for some in (chunk.prompts[:half], chunk.prompts[half:]):
                theirs = tuple(
                    (layer, tuple(item for item in items if item.prompt in some)) for layer, items in chunk.layers
                )
                yield from self._chunk(chunk._replace(prompts=some, layers=theirs), tick)
            return
        if chunk.reads_unsteered:
            yield Found([], self._plain(prompts, chunk.pairs))
        partial: list[np.ndarray] = []
        for rows, ends in self._ends(prompts, chunk):
            yield Found(self._finished(rows, self._values(prompts, rows, ends), partial), [])
            tick(len(rows))

    def _started(self, chunk: Chunk) -> PromptBatch | None:
        """The unsteered pass of a piece's prompts, shared by pieces of other layers; None if memory is too small."""
        layers = range(len(self._passes.placed.grid.layers)) if any(items for _, items in chunk.layers) else ()
        kept = self._prompts
        if kept is not None and tuple(kept.members) == chunk.prompts and kept.starts.keys() >= set(layers):
            return kept
        kept = self._prompts = None
        try:
            self._prompts = self._passes.start(list(chunk.prompts), list(layers))
        except Exception as error:
            if len(chunk.prompts) == 1 or not is_out_of_memory(error):
                raise
        return self._prompts

    def _plain(self, prompts: PromptBatch, pairs: range) -> list[tuple[Plain, np.ndarray]]:
        """The unsteered values, read for each position, because metrics may leave out the tokens of the vector."""
        grid, rows = self._passes.placed.grid, self._passes.placed.rows
        seen: dict[tuple[int, Any], np.ndarray] = {}
        found = []
        for pair in pairs:
            for position, landing in enumerate(grid.positions):
                place = rows[pair], landing
                if place not in seen:
                    seen[place] = self._passes.unsteered(prompts, *place)
                found += [
                    (Plain(pair, position, prompt), seen[place][:, column])
                    for column, prompt in enumerate(prompts.members)
                ]
        return found

    def _ends(self, prompts: PromptBatch, chunk: Chunk) -> Iterator[tuple[list[Row], Tensor]]:
        """All rows of a few prompts, layer by layer; the ends of their passes are yielded in full batches."""
        conditions = range(1, 1 + self._passes.placed.grid.nulls)
        waiting: list[Row] = []
        ends: list[Tensor] = []
        for layer, items in chunk.layers:
            rows = [Row(item, condition) for item in items for condition in (conditions if item.is_null else (0,))]
            while rows:
                batch = rows[: self._batch_size]
                if waiting and (self._passes.reads_all or len(waiting) + len(batch) > self._batch_size):
                    yield waiting, torch.cat(ends)
                    waiting, ends = [], []
                found = self._try(prompts, layer, batch)
                if found is None:
                    self._batch_size = max(1, len(batch) // 2)
                    continue
                waiting, ends, rows = waiting + batch, [*ends, found], rows[len(batch) :]
        if waiting:
            yield waiting, torch.cat(ends)

    def _try(self, prompts: PromptBatch, layer: int, rows: Sequence[Row]) -> Tensor | None:
        """The ends of a batch; None if there is not enough memory, so that a smaller one is needed."""
        try:
            return self._passes.ends(self._vectors[1], prompts, layer, rows)
        except Exception as error:
            if len(rows) == 1 or not is_out_of_memory(error):
                raise
            return None

    def _values(
        self, prompts: PromptBatch, rows: Sequence[Row], ends: Float[Tensor, "rows *pos size"]
    ) -> Float[np.ndarray, "metrics rows"]:
        """Every metric of rows; in halves if there is not enough memory."""
        try:
            return self._passes.read(prompts, rows, ends)
        except Exception as error:
            if len(rows) == 1 or not is_out_of_memory(error):
                raise
        half = len(rows) // 2
        halves = ((rows[:half], ends[:half]), (rows[half:], ends[half:]))
        return np.concatenate([self._values(prompts, *some) for some in halves], axis=1)

    def _finished(
        self, rows: Sequence[Row], values: Float[np.ndarray, "metrics rows"], partial: list[np.ndarray]
    ) -> list[tuple[Item, np.ndarray]]:
        """Every item whose last row has been computed; the rows of an unfinished item wait in `partial`."""
        first, nulls, finished = 0, self._passes.placed.grid.nulls, []
        for item, members in groupby(rows, key=lambda row: row.item):
            count = len(list(members))
            partial.append(values[:, first : first + count])
            first += count
            if sum(part.shape[1] for part in partial) == (nulls if item.is_null else 1):
                finished.append((item, np.concatenate(partial, axis=1)))
                partial.clear()
        return finished
