"""Sweeps: metrics in every cell of layers x coefficients x pairs x positions, with little overhead.

The unsteered stream of a few prompts is computed once and kept at every layer. Each cell, prompt and null vector is a
row of a batch that starts at its layer; results are written as they come.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import numpy as np
from jaxtyping import Float

from actadd_lens.checks import is_count, require
from actadd_lens.errors import SettingError
from actadd_lens.identity.digests import digest
from actadd_lens.identity.model_state import callers_hooks
from actadd_lens.measuring.metrics import as_metric
from actadd_lens.measuring.nulls import NullKind
from actadd_lens.models import Backend, LensModel
from actadd_lens.prompts.positions import Position
from actadd_lens.prompts.texts import notice_repeats
from actadd_lens.sweeps.batches import SweepCost, rows_from_memory
from actadd_lens.sweeps.chunks import Chunk, Found, Plain, SweepRecipe
from actadd_lens.sweeps.grid import Grid, place_grid
from actadd_lens.sweeps.keys import SweepKeys
from actadd_lens.sweeps.passes import Item, SweepPasses
from actadd_lens.sweeps.plans import Plan
from actadd_lens.sweeps.registering import grid_record
from actadd_lens.sweeps.results import Sweep
from actadd_lens.sweeps.store import ResultStore, check_store_path, pack, unpack
from actadd_lens.workers import Job, done

_START_BYTES = 2**28
"""Maximum memory, in bytes, for the streams and logits of a few prompts that are kept for their cells."""

_FEWEST_PROMPTS = 8
"""Minimum number of prompts that share an unsteered pass, however many rows their cells have."""

_FEWEST_ROWS = 32
"""Minimum number of steered rows per prompt in a piece, if there are enough layers, for one unsteered pass."""


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
    executor: Any = None,
    progress: bool = True,
) -> Sweep:
    """Measure what steering does in every cell of a grid.

    The numbers are the same as from steering and measuring cell by cell, prompt by prompt.

    Args:
        model: The model; steering that is open around the call is ignored, but the caller's own hooks act.
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
        batch_size: Maximum number of rows per pass; by default as memory allows.
        path: An sqlite file that keeps results as they are computed; what is in it is not computed again.
        executor: What runs it: a `worker_pool`, Dask's client, any other object with `submit` as in
            `concurrent.futures`, or a function that makes one. By default it runs in this process.
        progress: Whether to show a progress bar if it takes more than a moment.

    Raises:
        PromptError: A prompt or pair cannot be used.
        LayerError: A layer does not exist.
        CoefficientError: A coefficient is not a number.
        PositionError: A vector does not fit onto a prompt.
        VectorError: A vector does not match the model.
        SettingError: Another setting is out of range.
        WorkerError: Workers keep dying, or would compute other numbers.
    """
    plan = plan_sweep(
        model, pairs, layers=layers, coefficients=coefficients, positions=positions, prompts=prompts, metric=metric,
        nulls=nulls, null_kind=null_kind, seed=seed, prepend_bos=prepend_bos, batch_size=batch_size, path=path,
    )  # fmt: skip
    return plan.run(executor=executor, progress=progress)


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
    """A sweep, checked but not run: `.cost` says what it takes, `.run()` runs it.

    Arguments and errors are those of `sweep`.
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
        raise SettingError(f"The metrics are {names}: give one or more, each with a different name.")
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
        batch_size: Maximum number of rows per pass.
        path: Where results are kept, or None.
    """

    passes: SweepPasses
    batch_size: int
    path: str | os.PathLike[str] | None

    @property
    def record(self) -> dict[str, Any]:
        """Everything that the numbers depend on, as values for JSON."""
        metrics = [
            {"name": metric.name, "hash": digest((metric.name, metric.reads, metric.bind)).hex()}
            for metric in self.passes.metrics
        ]
        return {**grid_record(self.passes.placed), "metrics": metrics}

    @property
    def recipe(self) -> SweepRecipe:
        """What a worker needs to know of it."""
        placed = self.passes.placed
        return SweepRecipe(placed.grid, placed.tokens, placed.rows, self.passes.metrics, self.batch_size)

    @property
    def backend(self) -> Backend:
        """The model."""
        return self.passes.placed.backend

    def _begin(self, store: ResultStore | None, executor: Any = None) -> "_Run":
        return _Run(self, store, executor)

    def layer_chunks(self, pairs: range) -> list[range]:
        """The layers of each piece of a sweep, by their indices; few if each has many rows."""
        grid = self.passes.placed.grid
        _, layers, coefficients, positions = grid.shape
        rows = len(pairs) * coefficients * positions * (1 + grid.nulls)
        step = -(-_FEWEST_ROWS // rows)
        return [range(first, min(first + step, layers)) for first in range(0, layers, step)]

    def prompt_chunks(self, pairs: range) -> list[list[int]]:
        """Prompts that share an unsteered pass: enough to fill a batch of cells, with little padding and memory.

        A caller's hook may count columns from the end, so if there are any, the prompts of a chunk have equal lengths.
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
    """Collects the results of a sweep as they arrive."""

    plan: SweepPlan
    store: ResultStore | None
    executor: Any = None
    passes: SweepPasses = field(init=False)
    grid: Grid = field(init=False)
    keys: SweepKeys = field(init=False)
    steered: np.ndarray = field(init=False)
    unsteered: np.ndarray = field(init=False)
    nulls: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.passes = self.plan.passes
        self.grid = grid = self.passes.placed.grid
        pairs, _, _, positions = grid.shape
        prompts, metrics = len(grid.prompts), len(self.passes.metrics)
        self.steered = np.full((metrics, *grid.shape, prompts), np.nan)
        self.unsteered = np.full((metrics, pairs, positions, prompts), np.nan)
        self.nulls = np.full((metrics, grid.nulls, *grid.shape, prompts), np.nan)
        if self.store is not None:
            self.keys = SweepKeys(self.passes.placed, self.passes.metrics)

    def cost(self) -> SweepCost:
        """The cost of what is left to do, from the same pieces that `everything` goes through."""
        grid, batch_size = self.grid, self.plan.batch_size
        rows = grid.cells * len(grid.prompts) * (1 + grid.nulls)
        left = passes = 0
        for _, by_pairs in groupby(self._chunks(), key=lambda chunk: chunk.pairs):
            before = left
            for _, by_prompts in groupby(by_pairs, key=lambda chunk: chunk.prompts):
                work = [self._count(items) for chunk in by_prompts for _, items in chunk.layers]
                left += sum(work)
                passes += sum(-(-count // batch_size) for count in work) + bool(sum(work))
            passes += (1 + bool(grid.nulls)) * (left > before)
        cells, prompts = grid.cells, len(grid.prompts)
        return SweepCost(str(grid), cells, prompts, grid.nulls, 1, rows, rows - left, passes, batch_size)

    def _count(self, items: Sequence[Item]) -> int:
        """The number of rows of items."""
        return sum(self.grid.nulls if item.is_null else 1 for item in items)

    def everything(self, tick: Callable[[int], Any]) -> Sweep:
        """Go through all pairs, prompts and layers."""
        job = Job(self.passes.placed.backend, self.plan.recipe, self._rows)
        with closing(done(job, self._chunks(), tick, executor=self.executor)) as arriving:
            for _, found in arriving:
                self._arrived(found)
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

    def _rows(self, chunk: Chunk) -> int:
        return sum(self._count(items) for _, items in chunk.layers)

    # -- what is stored -----------------------------------------------------------------------------------------

    def _chunks(self) -> Iterator[Chunk]:
        """The pieces that are not stored; stored values go into the results.

        Pieces do not depend on what is stored or on who runs them. Neighbouring layers are combined until they have
        many more rows than the unsteered pass that a worker has to run for them.
        """
        for pairs in self.passes.placed.pair_chunks():
            for prompts in self.plan.prompt_chunks(pairs):
                missing = self._missing(pairs, prompts)
                reads_unsteered = any(missing.values()) or not self._has_unsteered(pairs, prompts)
                for layers in self.plan.layer_chunks(pairs):
                    some = tuple((layer, tuple(missing[layer])) for layer in layers if missing[layer])
                    if some or reads_unsteered:
                        yield Chunk(pairs, tuple(prompts), some, reads_unsteered)
                    reads_unsteered = False

    def _missing(self, pairs: range, prompts: Sequence[int]) -> dict[int, list[Item]]:
        """The items of each layer that are not stored; stored values go into the results."""
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
        """Whether all metrics of each item are stored; if so, their values go into the results."""
        if self.store is None:
            return [False] * len(items)
        keys = [self.keys.item(*item) for item in items]
        stored = self.store.get([key for row in keys for key in row])
        known = [all(key in stored for key in row) for row in keys]
        for item, row, is_known in zip(items, keys, known, strict=True):
            if is_known:
                conditions = self.grid.nulls if item.is_null else 1
                self._keep(item, np.stack([unpack(self.store, stored[key], conditions) for key in row]))
        return known

    def _keep(self, item: Item, values: Float[np.ndarray, "metrics conditions"]) -> None:
        place = (item.pair, item.layer, item.coefficient, item.position, item.prompt)
        if item.is_null:
            self.nulls[(slice(None), slice(None), *place)] = values
        else:
            self.steered[(slice(None), *place)] = values[:, 0]

    def _has_unsteered(self, pairs: range, prompts: Sequence[int]) -> bool:
        """Whether the unsteered values of a few prompts are stored; if so they go into the results."""
        if self.store is None:
            return False
        positions = range(self.grid.shape[3])
        places = [Plain(pair, position, prompt) for pair in pairs for position in positions for prompt in prompts]
        keys = [self.keys.unsteered(*place) for place in places]
        stored = self.store.get([key for row in keys for key in row])
        if any(key not in stored for row in keys for key in row):
            return False
        for place, row in zip(places, keys, strict=True):
            self.unsteered[(slice(None), *place)] = [unpack(self.store, stored[key], 1)[0] for key in row]
        return True

    # -- what arrives --------------------------------------------------------------------------------------------

    def _arrived(self, found: Found) -> None:
        """Keep and store the results of a batch."""
        for place, values in found.plain:
            self.unsteered[(slice(None), *place)] = values
        for item, values in found.items:
            self._keep(item, values)
        if self.store is not None:
            self.store.put(self._stored(found))

    def _stored(self, found: Found) -> Iterator[tuple[bytes, bytes]]:
        for place, values in found.plain:
            yield from ((key, pack(values[[metric]])) for metric, key in enumerate(self.keys.unsteered(*place)))
        for item, values in found.items:
            yield from ((key, pack(values[metric])) for metric, key in enumerate(self.keys.item(*item)))
