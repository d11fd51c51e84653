"""Sweeps: metrics in every cell of layers x coefficients x pairs x positions, at about the cost of the arithmetic.

The unsteered stream of a few prompts is computed once and kept at every layer. Each cell, prompt and null vector is a
row of a batch that starts at its layer; results are written as they come.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from actadd_lens.checks import is_count, require
from actadd_lens.errors import SettingError
from actadd_lens.identity.digests import digest
from actadd_lens.identity.model_state import callers_hooks
from actadd_lens.measuring.metrics import as_metric
from actadd_lens.measuring.nulls import NullKind
from actadd_lens.models import LensModel
from actadd_lens.prompts.positions import Position
from actadd_lens.prompts.texts import notice_repeats
from actadd_lens.steering.clean import unsteered
from actadd_lens.sweeps.batches import SweepCost, is_out_of_memory, rows_from_memory
from actadd_lens.sweeps.grid import Grid, place_grid
from actadd_lens.sweeps.keys import SweepKeys
from actadd_lens.sweeps.passes import Arms, Item, PromptBatch, Row, SweepPasses
from actadd_lens.sweeps.plans import Plan
from actadd_lens.sweeps.registering import grid_record
from actadd_lens.sweeps.results import Sweep
from actadd_lens.sweeps.store import ResultStore, check_store_path, pack, unpack

_START_BYTES = 2**28
"""Most memory for the streams and logits of a few prompts that are kept for their cells."""

_FEWEST_PROMPTS = 8
"""Prompts that share an unsteered pass, however many rows their cells are."""


def sweep(
    model: LensModel,
    pairs: Any,
    *,
    layers: Iterable[int] | int,
    coefficients: Iterable[float] | float,
    positions: Iterable[Position] | Position = ("front",),
    prompts: str | Sequence[str],
    metric: Any,
    nulls: int = 0,
    null_kind: NullKind = "unrelated_pairs",
    seed: int = 0,
    prepend_bos: bool = True,
    batch_size: int | None = None,
    path: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> Sweep:
    """Measure what steering does in every cell of a grid.

    The numbers are those of steering, running and measuring cell by cell, prompt by prompt.

    Args:
        model: The model; steering that is open around the call is left out, the caller's own hooks act.
        pairs: One prompt pair or several; or vectors, which are added at every layer.
        layers: Injection layers.
        coefficients: Injection coefficients.
        positions: Prompt tokens that receive row 0.
        prompts: One text or several, of any lengths.
        metric: One metric or several, measured in one pass.
        nulls: Null vectors of each pair and layer; each runs through the whole grid.
        null_kind: As in `null_vectors`.
        seed: Seed of the nulls.
        prepend_bos: Whether prompts start with BOS.
        batch_size: Most rows in one pass; by default as memory allows.
        path: An sqlite file that keeps results as they come; what is there already is not computed again.
        progress: Whether to show a bar when it takes more than a moment.

    Raises:
        PromptError: A prompt or pair cannot be used.
        LayerError: A layer does not exist.
        CoefficientError: A coefficient is no number.
        PositionError: A vector does not fit onto a prompt.
        VectorError: A vector does not go with the model.
        SettingError: Another setting is out of its range.
    """
    plan = plan_sweep(
        model, pairs, layers=layers, coefficients=coefficients, positions=positions, prompts=prompts, metric=metric,
        nulls=nulls, null_kind=null_kind, seed=seed, prepend_bos=prepend_bos, batch_size=batch_size, path=path,
    )  # fmt: skip
    return plan.run(progress=progress)


def plan_sweep(
    model: LensModel,
    pairs: Any,
    *,
    layers: Iterable[int] | int,
    coefficients: Iterable[float] | float,
    positions: Iterable[Position] | Position = ("front",),
    prompts: str | Sequence[str],
    metric: Any,
    nulls: int = 0,
    null_kind: NullKind = "unrelated_pairs",
    seed: int = 0,
    prepend_bos: bool = True,
    batch_size: int | None = None,
    path: str | os.PathLike[str] | None = None,
) -> "SweepPlan":
    """A sweep, checked but not run: `.cost` tells what it takes, `.run()` runs it.

    Args and errors are those of `sweep`.
    """
    require(batch_size is None or is_count(batch_size), "batch_size", batch_size, "an integer from 1, or None")
    if path is not None:
        check_store_path(path)
    placed = place_grid(
        model, pairs, layers=layers, coefficients=coefficients, positions=positions, prompts=prompts, nulls=nulls,
        null_kind=null_kind, seed=seed, prepend_bos=prepend_bos,
    )  # fmt: skip
    notice_repeats(placed.grid.prompts)
    many = metric if isinstance(metric, list | tuple) else (metric,)
    chosen = tuple(as_metric(item) for item in many)
    names = [item.name for item in chosen]
    if not chosen or len(set(names)) < len(names):
        raise SettingError(f"The metrics are {names}: give one or more, each with a name of its own.")
    bound = tuple(item.bound_to(placed.backend) for item in chosen)
    passes = SweepPasses(placed, chosen, bound)
    if batch_size is None:
        batch_size = rows_from_memory(placed.backend, max(map(len, placed.tokens)), reads_all=passes.reads_all)
    return SweepPlan(passes, int(batch_size), path)


@dataclass(frozen=True, eq=False)
class SweepPlan(Plan[Sweep]):
    """A sweep that is ready to run.

    Attributes:
        passes: The grid on its model, and what is measured.
        batch_size: Most rows in one pass.
        path: Where results are kept, or None.
    """

    passes: SweepPasses
    batch_size: int
    path: str | os.PathLike[str] | None

    @property
    def record(self) -> dict[str, Any]:
        """Everything that the numbers depend on, as JSON takes it."""
        metrics = [
            {"name": metric.name, "hash": digest((metric.name, metric.reads, metric.bind)).hex()}
            for metric in self.passes.metrics
        ]
        return {**grid_record(self.passes.placed), "metrics": metrics}

    def _begin(self, store: ResultStore | None) -> "_Run":
        return _Run(self, store)

    def prompt_chunks(self, pairs: range) -> list[list[int]]:
        """Prompts that share an unsteered pass: as many as fill a batch of cells, little padding, bounded memory.

        A caller's hook may count columns from the end, so where there are any, prompts of a chunk have one length.
        """
        placed = self.passes.placed
        backend, grid, lengths = placed.backend, placed.grid, [len(row) for row in placed.tokens]
        _, _, coefficients, positions = grid.shape
        rows = len(pairs) * coefficients * positions * (1 + grid.nulls)
        per_logits = 4 * int(backend.model.cfg.d_vocab) if self.passes.reads_all else 0
        per_token = 4 * backend.d_model * len(grid.layers) + per_logits
        same_length = bool(callers_hooks(backend))
        chunks: list[list[int]] = []
        for index in placed.by_length():
            most = max(_FEWEST_PROMPTS, self.batch_size // rows)
            most = max(1, min(most, self.batch_size, _START_BYTES // (per_token * lengths[index])))
            last = chunks[-1] if chunks else []
            if not last or len(last) >= most or (same_length and lengths[last[0]] != lengths[index]):
                chunks.append([])
            chunks[-1].append(index)
        return chunks


# -- the run ---------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class _Run:
    """The results of a sweep as they come in."""

    plan: SweepPlan
    store: ResultStore | None
    passes: SweepPasses = field(init=False)
    grid: Grid = field(init=False)
    keys: SweepKeys = field(init=False)
    steered: np.ndarray = field(init=False)
    unsteered: np.ndarray = field(init=False)
    nulls: np.ndarray = field(init=False)
    batch_size: int = field(init=False)
    partial: list[np.ndarray] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self.passes, self.batch_size = self.plan.passes, self.plan.batch_size
        self.grid = grid = self.passes.placed.grid
        pairs, _, _, positions = grid.shape
        prompts, metrics = len(grid.prompts), len(self.passes.metrics)
        self.steered = np.full((metrics, *grid.shape, prompts), np.nan)
        self.unsteered = np.full((metrics, pairs, positions, prompts), np.nan)
        self.nulls = np.full((metrics, grid.nulls, *grid.shape, prompts), np.nan)
        if self.store is not None:
            self.keys = SweepKeys(self.passes.placed, self.passes.metrics)

    def cost(self) -> SweepCost:
        """What is to be done, from the same chunks that `everything` goes through."""
        grid, plan = self.grid, self.plan
        rows = grid.cells * len(grid.prompts) * (1 + grid.nulls)
        left = passes = 0
        for pairs in self.passes.placed.pair_chunks():
            before = left
            for chunk in plan.prompt_chunks(pairs):
                work = [self._count(items) for items in self._missing(pairs, chunk).values() if items]
                left += sum(work)
                passes += sum(-(-count // self.batch_size) for count in work) + bool(work)
            passes += (1 + bool(grid.nulls)) * (left > before)
        cells, prompts = grid.cells, len(grid.prompts)
        return SweepCost(str(grid), cells, prompts, grid.nulls, 1, rows, rows - left, passes, self.batch_size)

    def _count(self, items: Sequence[Item]) -> int:
        """Rows of items."""
        return sum(self.grid.nulls if item.is_null else 1 for item in items)

    def everything(self, tick: Callable[[int], Any]) -> Sweep:
        """Go through all pairs and prompts."""
        plan, placed = self.plan, self.passes.placed
        for pairs in placed.pair_chunks():
            vectors: Arms = {}
            for chunk in plan.prompt_chunks(pairs):
                missing = self._missing(pairs, chunk)
                if any(missing.values()) or not self._has_unsteered(pairs, chunk):
                    vectors = vectors or placed.vectors(pairs)
                    with torch.no_grad(), unsteered(placed.backend):
                        self._chunk(vectors, pairs, chunk, missing, tick)
        names, units = zip(*((metric.name, metric.unit) for metric in self.passes.metrics), strict=True)
        return Sweep(
            self.grid,
            names,
            units,
            self.steered[..., None],
            self.unsteered[..., None],
            self.nulls,
            plan=self.plan.registered,
        )

    # -- what is there -----------------------------------------------------------------------------------------

    def _missing(self, pairs: range, prompts: Sequence[int]) -> dict[int, list[Item]]:
        """The items of each layer that are not stored; the values of those that are go into the results."""
        _, layers, coefficients, positions = self.grid.shape
        found = {}
        for layer in range(layers):
            items = [
                Item(pair, layer, coefficient, position, prompt, is_null)
                for prompt in prompts
                for pair in pairs
                for position in range(positions)
                for coefficient in range(coefficients)
                for is_null in ((False, True) if self.grid.nulls else (False,))
            ]
            found[layer] = [item for item, known in zip(items, self._recall(items), strict=True) if not known]
        return found

    def _recall(self, items: Sequence[Item]) -> list[bool]:
        """Whether all metrics of each item are stored; those that are get their values."""
        if self.store is None:
            return [False] * len(items)
        keys = [self.keys.item(*item) for item in items]
        stored = self.store.get([key for row in keys for key in row])
        known = [all(key in stored for key in row) for row in keys]
        for item, row, is_known in zip(items, keys, known, strict=True):
            if is_known:
                arms = self.grid.nulls if item.is_null else 1
                self._keep(item, np.stack([unpack(self.store, stored[key], arms) for key in row]))
        return known

    def _keep(self, item: Item, values: Float[np.ndarray, "metrics arms"]) -> None:
        place = (item.pair, item.layer, item.coefficient, item.position, item.prompt)
        if item.is_null:
            self.nulls[(slice(None), slice(None), *place)] = values
        else:
            self.steered[(slice(None), *place)] = values[:, 0]

    def _has_unsteered(self, pairs: range, prompts: Sequence[int]) -> bool:
        """Whether the unsteered values of a few prompts are stored; if so they go into the results."""
        if self.store is None:
            return False
        places = self._unsteered_places(pairs, prompts)
        keys = [self.keys.unsteered(*place) for place in places]
        stored = self.store.get([key for row in keys for key in row])
        if any(key not in stored for row in keys for key in row):
            return False
        for place, row in zip(places, keys, strict=True):
            self.unsteered[(slice(None), *place)] = [unpack(self.store, stored[key], 1)[0] for key in row]
        return True

    def _unsteered_places(self, pairs: range, prompts: Sequence[int]) -> list[tuple[int, int, int]]:
        positions = self.grid.shape[3]
        return [(pair, position, prompt) for pair in pairs for position in range(positions) for prompt in prompts]

    # -- a few prompts -----------------------------------------------------------------------------------------

    def _chunk(
        self,
        vectors: Arms,
        pairs: range,
        members: list[int],
        missing: dict[int, list[Item]],
        tick: Callable[[int], Any],
    ) -> None:
        """The unsteered pass of a few prompts, then every layer; halved where memory does not suffice."""
        prompts: PromptBatch | None = None
        try:
            prompts = self.passes.start(members, [layer for layer, items in missing.items() if items])
        except Exception as error:
            if len(members) == 1 or not is_out_of_memory(error):
                raise
        if prompts is None:  # outside the handler, which would keep the failed pass's tensors alive
            half = len(members) // 2
            for some in (members[:half], members[half:]):
                theirs = {layer: [item for item in found if item.prompt in some] for layer, found in missing.items()}
                self._chunk(vectors, pairs, some, theirs, tick)
            return
        self._unsteered(prompts, pairs)
        for rows, ends in self._ends(vectors, prompts, missing):
            self._arrived(rows, self._values(prompts, rows, ends))
            tick(len(rows))

    def _unsteered(self, prompts: PromptBatch, pairs: range) -> None:
        """The unsteered values; where a vector lands may be left out, so they are read for each place anew."""
        stored = []
        seen: dict[tuple[int, Position], np.ndarray] = {}
        for pair, position in np.ndindex(len(pairs), len(self.grid.positions)):
            place = self.passes.placed.rows[pairs[pair]], self.grid.positions[position]
            if place not in seen:
                seen[place] = self.passes.unsteered(prompts, *place)
            self.unsteered[:, pairs[pair], position, prompts.members] = seen[place]
            if self.store is not None:
                for column, prompt in enumerate(prompts.members):
                    keys = self.keys.unsteered(pairs[pair], position, prompt)
                    stored += [(key, pack(seen[place][metric, [column]])) for metric, key in enumerate(keys)]
        if self.store is not None:
            self.store.put(stored)

    def _ends(
        self, vectors: Arms, prompts: PromptBatch, missing: dict[int, list[Item]]
    ) -> Iterator[tuple[list[Row], Tensor]]:
        """All rows of a few prompts, layer by layer; what their passes end in is handed on as full batches."""
        arms = range(1, 1 + self.grid.nulls)
        waiting: list[Row] = []
        ends: list[Tensor] = []
        for layer, items in missing.items():
            rows = [Row(item, arm) for item in items for arm in (arms if item.is_null else (0,))]
            while rows:
                batch = rows[: self.batch_size]
                if waiting and (self.passes.reads_all or len(waiting) + len(batch) > self.batch_size):
                    yield waiting, torch.cat(ends)
                    waiting, ends = [], []
                found = self._try(vectors, prompts, layer, batch)
                if found is None:
                    self.batch_size = max(1, len(batch) // 2)
                    continue
                waiting, ends, rows = waiting + batch, [*ends, found], rows[len(batch) :]
        if waiting:
            yield waiting, torch.cat(ends)

    def _try(self, vectors: Arms, prompts: PromptBatch, layer: int, rows: Sequence[Row]) -> Tensor | None:
        """The ends of a batch; None where memory does not suffice, and a smaller one is to be tried."""
        try:
            return self.passes.ends(vectors, prompts, layer, rows)
        except Exception as error:
            if len(rows) == 1 or not is_out_of_memory(error):
                raise
            return None

    def _values(
        self, prompts: PromptBatch, rows: Sequence[Row], ends: Float[Tensor, "rows *pos size"]
    ) -> Float[np.ndarray, "metrics rows"]:
        """Every metric of rows; in halves where memory does not suffice."""
        try:
            return self.passes.read(prompts, rows, ends)
        except Exception as error:
            if len(rows) == 1 or not is_out_of_memory(error):
                raise
        half = len(rows) // 2
        halves = ((rows[:half], ends[:half]), (rows[half:], ends[half:]))
        return np.concatenate([self._values(prompts, *some) for some in halves], axis=1)

    def _arrived(self, rows: Sequence[Row], values: Float[np.ndarray, "metrics rows"]) -> None:
        """Keep and store every item whose last row is there."""
        first, finished = 0, []
        for item, members in groupby(rows, key=lambda row: row.item):
            count = len(list(members))
            self.partial.append(values[:, first : first + count])
            first += count
            if sum(part.shape[1] for part in self.partial) == (self.grid.nulls if item.is_null else 1):
                finished.append((item, np.concatenate(self.partial, axis=1)))
                self.partial.clear()
        for item, found in finished:
            self._keep(item, found)
        if self.store is not None:
            self.store.put(
                (key, pack(found[metric]))
                for item, found in finished
                for metric, key in enumerate(self.keys.item(*item))
            )
