"""Sweeps over texts: what a model generates in every cell of a grid, decoded together, and its scores."""

import dataclasses
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
from jaxtyping import Float

from actadd_lens.checks import is_count, require
from actadd_lens.identity.digests import digest
from actadd_lens.measuring.nulls import NullKind
from actadd_lens.measuring.scorers import Scorer, as_scorers, scorer_name
from actadd_lens.models import Backend, LensModel
from actadd_lens.prompts.positions import Position
from actadd_lens.prompts.texts import notice_repeats
from actadd_lens.sweeps.batches import SweepCost, decoding_rows_from_memory
from actadd_lens.sweeps.grid import Grid, PlacedGrid, place_grid
from actadd_lens.sweeps.keys import SweepKeys
from actadd_lens.sweeps.passes import Item, Row
from actadd_lens.sweeps.plans import Plan
from actadd_lens.sweeps.registering import grid_record
from actadd_lens.sweeps.results import CompletionSweep
from actadd_lens.sweeps.store import ResultStore, check_store_path
from actadd_lens.sweeps.text_batches import UNSTEERED, TextBatch, TextRecipe, Texts
from actadd_lens.workers import Job, done
from actadd_lens.writing.completions import as_stops, score_texts
from actadd_lens.writing.decoding import DecodeSettings
from actadd_lens.writing.sampling import Sampling

_MOST_ROWS = 2**20
"""Maximum number of rows that decode together, even if a larger batch is requested."""


def sweep_completions(
    model: LensModel,
    pairs: Any,
    *,
    layers: Iterable[int] | int,
    coefficients: Iterable[float] | float,
    positions: Iterable[Position] | Position = ("front",),
    prompts: str | Sequence[str],
    scorers: Scorer | Sequence[Scorer],
    n: int = 4,
    max_new_tokens: int = 40,
    nulls: int = 0,
    null_kind: NullKind = "unrelated_pairs",
    seed: int = 0,
    stop: str | Sequence[str] = (),
    prepend_bos: bool = True,
    batch_size: int | None = None,
    path: str | os.PathLike[str] | None = None,
    executor: Any = None,
    progress: bool = True,
    **sampling: Any,
) -> CompletionSweep:
    """Write texts in every cell of a grid, and score them; cells decode together, each row with its own intervention.

    The texts are those of `complete` for the same cell and seed.

    Args:
        model: The model; steering that is open around the call is ignored.
        pairs: As in `sweep`.
        layers: Injection layers.
        coefficients: Injection coefficients.
        positions: Prompt tokens that receive row 0.
        prompts: One text or several, of any lengths.
        scorers: One callable on texts or several.
        n: Samples per cell and prompt.
        max_new_tokens: Maximum number of tokens to add.
        nulls: Null vectors of each pair and layer; each runs through the whole grid.
        null_kind: As in `null_vectors`.
        seed: Seed of samples and nulls.
        stop: Texts that end a continuation.
        prepend_bos: Whether prompts start with BOS.
        batch_size: Maximum number of rows that decode together; by default as memory allows.
        path: An sqlite file that keeps texts as they are written; other scorers can reuse them.
        executor: As in `sweep`; texts are scored here.
        progress: Whether to show a progress bar if it takes more than a moment.
        **sampling: As in `complete`.

    Raises:
        SettingError: A setting is out of range; else the errors of `sweep`.
    """
    plan = plan_sweep_completions(
        model, pairs, layers=layers, coefficients=coefficients, positions=positions, prompts=prompts, scorers=scorers,
        n=n, max_new_tokens=max_new_tokens, nulls=nulls, null_kind=null_kind, seed=seed, stop=stop,
        prepend_bos=prepend_bos, batch_size=batch_size, path=path, **sampling,
    )  # fmt: skip
    return plan.run(executor=executor, progress=progress)


def plan_sweep_completions(
    model: LensModel,
    pairs: Any,
    *,
    layers: Iterable[int] | int,
    coefficients: Iterable[float] | float,
    positions: Iterable[Position] | Position = ("front",),
    prompts: str | Sequence[str],
    scorers: Scorer | Sequence[Scorer],
    n: int = 4,
    max_new_tokens: int = 40,
    nulls: int = 0,
    null_kind: NullKind = "unrelated_pairs",
    seed: int = 0,
    stop: str | Sequence[str] = (),
    prepend_bos: bool = True,
    batch_size: int | None = None,
    path: str | os.PathLike[str] | None = None,
    **sampling: Any,
) -> "CompletionSweepPlan":
    """A sweep over texts, checked but not run: `.cost` says what it takes, `.run()` runs it.

    Arguments and errors are those of `sweep_completions`.
    """
    chosen = as_scorers(scorers)
    require(batch_size is None or is_count(batch_size), "batch_size", batch_size, "an integer from 1, or None")
    if path is not None:
        check_store_path(path)
    settings = DecodeSettings(
        n=n,
        max_new_tokens=max_new_tokens,
        seed=seed,
        stop=as_stops(stop),
        sampling=Sampling.from_options(sampling),
    )
    placed = place_grid(
        model, pairs, layers=layers, coefficients=coefficients, positions=positions, prompts=prompts, nulls=nulls,
        null_kind=null_kind, seed=seed, prepend_bos=prepend_bos, room=settings.max_new_tokens,
    )  # fmt: skip
    notice_repeats(placed.grid.prompts)
    if batch_size is None:
        batch_size = decoding_rows_from_memory(placed.backend, max(map(len, placed.tokens)) + max_new_tokens)
    return CompletionSweepPlan(placed, chosen, settings, max(min(int(batch_size), _MOST_ROWS), n), path)


@dataclass(frozen=True, eq=False)
class CompletionSweepPlan(Plan[CompletionSweep]):
    """A sweep over texts that is ready to run.

    Attributes:
        placed: The grid on its model.
        scorers: What the texts are scored by.
        settings: How they are decoded.
        batch_size: Maximum number of rows that decode together.
        path: Where texts are kept, or None.
    """

    placed: PlacedGrid
    scorers: tuple[Scorer, ...]
    settings: DecodeSettings
    batch_size: int
    path: str | os.PathLike[str] | None

    @property
    def record(self) -> dict[str, Any]:
        """Everything that the numbers depend on, as values for JSON."""
        judges = [{"name": scorer_name(scorer), "hash": digest(scorer).hex()} for scorer in self.scorers]
        settings = {**dataclasses.asdict(self.settings), "use_past_kv_cache": None}  # which changes no text
        return {**grid_record(self.placed), "scorers": judges, "decoding": settings}

    @property
    def recipe(self) -> TextRecipe:
        """What a worker needs to know of it."""
        placed = self.placed
        return TextRecipe(placed.grid, placed.tokens, placed.rows, self.settings)

    @property
    def backend(self) -> Backend:
        """The model."""
        return self.placed.backend

    def _begin(self, store: ResultStore | None, executor: Any = None) -> "_Run":
        return _Run(self, store, executor)


@dataclass(eq=False)
class _Run:
    """Collects texts and scores as they arrive."""

    plan: CompletionSweepPlan
    store: ResultStore | None
    executor: Any = None
    placed: PlacedGrid = field(init=False)
    grid: Grid = field(init=False)
    keys: SweepKeys = field(init=False)
    batch_size: int = field(init=False)
    steered: np.ndarray = field(init=False)
    unsteered: np.ndarray = field(init=False)
    nulls: np.ndarray = field(init=False)
    texts: np.ndarray = field(init=False)
    unsteered_texts: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.placed, self.batch_size = self.plan.placed, self.plan.batch_size
        self.grid = grid = self.placed.grid
        scorers, prompts, n = len(self.plan.scorers), len(grid.prompts), self.plan.settings.n
        self.steered = np.full((scorers, *grid.shape, prompts, n), np.nan)
        self.unsteered = np.full((scorers, prompts, n), np.nan)
        self.nulls = np.full((scorers, grid.nulls, *grid.shape, prompts), np.nan)
        self.texts = np.full((*grid.shape, prompts, n), "", dtype=object)
        self.unsteered_texts = np.full((prompts, n), "", dtype=object)
        if self.store is not None:
            told = {**dataclasses.asdict(self.plan.settings), "use_past_kv_cache": None}  # which changes no text
            self.keys = SweepKeys(self.placed, [told])

    def cost(self) -> SweepCost:
        """The cost of what is left to do."""
        grid, n, steps = self.grid, self.plan.settings.n, self.plan.settings.max_new_tokens
        rows = grid.cells * len(grid.prompts) * (1 + grid.nulls) * n
        left, per_batch, passes = 0, max(1, self.batch_size // n), 0
        for pairs in self._chunks():
            items = list(self._missing(pairs))
            cells = sum(self._conditions(item) for item in items)
            steered = cells - sum(item.pair == UNSTEERED for item in items)
            left += steered * n
            passes += -(-cells // per_batch) * steps + (1 + bool(grid.nulls)) * bool(steered)
        prompts = len(grid.prompts)
        return SweepCost(str(grid), grid.cells, prompts, grid.nulls, n, rows, rows - left, passes, self.batch_size)

    def everything(self, tick: Callable[[int], Any]) -> CompletionSweep:
        """Go through all pairs; the unsteered texts belong to the first batch."""
        pending: dict[Item, dict[int, tuple[str, ...]]] = {}
        job = Job(self.plan.backend, self.plan.recipe, lambda batch: batch.rows * self.plan.settings.n)
        with closing(done(job, self._batches(), tick, executor=self.executor)) as arriving:
            for _, found in arriving:
                for row, texts in found:
                    pending.setdefault(row.item, {})[row.condition] = texts
                whole = [item for item in pending if len(pending[item]) == self._conditions(item)]
                self._finish([(item, [texts for _, texts in sorted(pending.pop(item).items())]) for item in whole])
        return self._result()

    def _result(self) -> CompletionSweep:
        grid, names = self.grid, tuple(scorer_name(scorer) for scorer in self.plan.scorers)
        pair_count, _, _, positions = grid.shape
        shape = (len(names), pair_count, positions, len(grid.prompts), self.plan.settings.n)
        unsteered = np.broadcast_to(self.unsteered[:, None, None], shape)
        units = ("",) * len(names)
        return CompletionSweep(
            grid,
            names,
            units,
            self.steered,
            unsteered,
            self.nulls,
            self.texts,
            self.unsteered_texts,
            plan=self.plan.registered,
        )

    def _chunks(self) -> list[tuple[int, ...]]:
        """Pairs that decode together; unsteered texts join the first, because a batch of their own would cost more."""
        first, *others = self.placed.pair_chunks()
        return [(UNSTEERED, *first), *map(tuple, others)]

    # -- what is stored -----------------------------------------------------------------------------------------

    def _conditions(self, item: Item) -> int:
        return self.grid.nulls if item.is_null else 1

    def _key(self, item: Item) -> bytes:
        return (self.keys.plain(item.prompt) if item.pair == UNSTEERED else self.keys.item(*item))[0]

    def _items(self, pairs: Sequence[int], prompt: int) -> list[Item]:
        """Everything that is to be generated for one prompt."""
        _, layers, coefficients, positions = self.grid.shape
        found = [Item(UNSTEERED, 0, 0, 0, prompt, is_null=False)] if UNSTEERED in pairs else []
        return found + [
            Item(pair, layer, coefficient, position, prompt, is_null)
            for pair in pairs
            if pair != UNSTEERED
            for layer, coefficient, position in np.ndindex(layers, coefficients, positions)
            for is_null in ((False, True) if self.grid.nulls else (False,))
        ]

    def _missing(self, pairs: Sequence[int]) -> Iterator[Item]:
        """Items that are not stored, beginning with the shortest prompt; stored ones go into the results."""
        for prompt in self.placed.by_length():
            items = self._items(pairs, prompt)
            keys = [self._key(item) for item in items] if self.store is not None else []
            stored = {} if self.store is None else self.store.get(keys)
            known = dict(zip(items, keys, strict=False))
            self._keep([(item, self._stored(item, stored[key])) for item, key in known.items() if key in stored])
            yield from (item for item in items if known.get(item) not in stored)

    def _stored(self, item: Item, value: bytes) -> Texts:
        """Texts from their packed form, after checking it."""
        try:
            found = [tuple(samples) for samples in json.loads(value)]
        except (ValueError, TypeError, RecursionError):
            found = []
        n = self.plan.settings.n
        sound = all(len(condition) == n and all(isinstance(text, str) for text in condition) for condition in found)
        if self.store is not None and not (sound and len(found) == self._conditions(item)):
            raise self.store.damaged(f"no texts of {self._conditions(item)} conditions and {n} samples")
        return found

    def _batches(self) -> Iterator[TextBatch]:
        """All cells that are not stored, a few pairs and one batch of rows at a time."""
        conditions = range(1, 1 + self.grid.nulls)
        size = max(1, self.batch_size // self.plan.settings.n)
        for pairs in self._chunks():
            missing = self._missing(pairs)
            rows = (Row(item, condition) for item in missing for condition in (conditions if item.is_null else (0,)))
            while batch := tuple(islice(rows, size)):
                yield TextBatch(tuple(pair for pair in pairs if pair != UNSTEERED), batch)

    # -- what arrives --------------------------------------------------------------------------------------------

    def _finish(self, finished: Sequence[tuple[Item, Texts]]) -> None:
        """Keep and store items for which all texts have been generated."""
        self._keep(finished)
        if self.store is not None:
            self.store.put((self._key(item), _pack(texts)) for item, texts in finished)

    def _keep(self, found: Sequence[tuple[Item, Texts]]) -> None:
        """Score texts and put them into the results; for nulls, only the scores are kept."""
        if not found:
            return
        flat = [texts for _, conditions in found for texts in conditions]
        scores = np.stack([score_texts(scorer, flat) for scorer in self.plan.scorers])
        first = 0
        for item, conditions in found:
            mine: Float[np.ndarray, "scorers conditions n"] = scores[:, first : first + len(conditions)]
            first += len(conditions)
            place = (item.pair, item.layer, item.coefficient, item.position, item.prompt)
            if item.pair == UNSTEERED:
                self.unsteered[:, item.prompt] = mine[:, 0]
                self.unsteered_texts[item.prompt] = conditions[0]
            elif item.is_null:
                self.nulls[(slice(None), slice(None), *place)] = mine.mean(axis=-1)
            else:
                self.steered[(slice(None), *place)] = mine[:, 0]
                self.texts[place] = conditions[0]


def _pack(texts: Texts) -> bytes:
    return json.dumps(texts, ensure_ascii=True).encode()  # a model may generate half of a surrogate pair
