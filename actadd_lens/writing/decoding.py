"""The one decode loop: rows of any lengths, each with its own intervention and its own random stream."""

import dataclasses
import hashlib
import itertools
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from actadd_lens.checks import check_flags, is_count, is_whole, require, why_not_finite
from actadd_lens.errors import NonFiniteError
from actadd_lens.models import Backend
from actadd_lens.models.protocol import Spot
from actadd_lens.progress import progress_bar
from actadd_lens.prompts.positions import Position
from actadd_lens.steering.clean import check_fits, prompts_of, resolved, unsteered
from actadd_lens.steering.hooks import Told, injected
from actadd_lens.steering.landings import Assignment, Prompts, assign
from actadd_lens.vectors.interventions import Intervention
from actadd_lens.workers import Job, done
from actadd_lens.writing.kept import KeptStreams
from actadd_lens.writing.sampling import Sampling, choose_tokens


@dataclass(frozen=True)
class Continuation:
    """What a model wrote after a prompt.

    Attributes:
        text: The text, without the stop string or the end-of-text token.
        tokens: Token ids, with whatever ended them.
        finish: `length`, `stop` (a stop string) or `end of text`.
        streams: The residual stream of the prompt's tokens and the new ones by layer, as steered, if it was kept; the
            last new token has none, because no pass read it.
    """

    text: str
    tokens: tuple[int, ...]
    finish: str
    streams: Mapping[int, Float[Tensor, "pos d_model"]] = dataclasses.field(
        default_factory=dict, compare=False, repr=False
    )


Watch = Callable[[Sequence[int], Sequence[tuple[Continuation, ...]]], None]
"""What looks on while cells are written."""


def continuation_texts(table: tuple[tuple[Continuation, ...], ...]) -> tuple[tuple[str, ...], ...]:
    """The texts alone."""
    return tuple(tuple(continuation.text for continuation in row) for row in table)


@dataclass(frozen=True)
class DecodeSettings:
    """What all rows of a decoding share.

    Attributes:
        n: Samples per cell.
        max_new_tokens: Maximum number of tokens to add.
        seed: Seed of all random streams.
        stop: Texts that end a continuation.
        stop_at_eos: Whether the end-of-text token does.
        use_past_kv_cache: Whether to keep keys and values.
        sampling: How tokens are chosen.
    """

    n: int = 1
    max_new_tokens: int = 40
    seed: int = 0
    stop: tuple[str, ...] = ()
    stop_at_eos: bool = True
    use_past_kv_cache: bool = True
    sampling: Sampling = dataclasses.field(default_factory=Sampling)

    def __post_init__(self) -> None:
        require(is_count(self.n), "n", self.n, "an integer from 1")
        require(is_count(self.max_new_tokens), "max_new_tokens", self.max_new_tokens, "an integer from 1")
        require(is_whole(self.seed), "seed", self.seed, "an integer from 0")
        check_flags(stop_at_eos=self.stop_at_eos, use_past_kv_cache=self.use_past_kv_cache)
        for name in ("n", "max_new_tokens", "seed"):  # numpy's integers become Python's, which JSON knows
            object.__setattr__(self, name, int(getattr(self, name)))
        require(
            all(isinstance(text, str) and text for text in self.stop),
            "stop",
            self.stop,
            "texts that are not empty",
        )


@dataclass(frozen=True, eq=False)
class Cell:
    """One prompt and what is added to it; its samples share the pass over the prompt.

    Attributes:
        prompt: Token ids.
        vectors: Steering vectors and other interventions; none for the unsteered condition.
        number: Which of the caller's prompts it is.
    """

    prompt: tuple[int, ...]
    vectors: tuple[Intervention, ...]
    number: int = 0


def decode_cells(
    backend: Backend,
    cells: Sequence[Cell],
    settings: DecodeSettings,
    *,
    position: Position = "front",
    batch_size: int = 256,
    executor: Any = None,
    progress: bool = False,
    watch: Watch | None = None,
    keep_streams: Sequence[int] = (),
) -> list[tuple[Continuation, ...]]:
    """Continuations of every cell, decoded together, each row with its own intervention.

    Cells are sorted by length, so that a batch holds little padding. All are placed before any is run. `watch` is
    called after each token, with the cells that are being written and their samples so far; an exception from it ends
    the decoding. Streams are kept for the requested layers.

    Raises:
        PositionError: A vector does not fit onto its prompt.
        SettingError: The batch size is out of range.
    """
    require(is_count(batch_size), "batch_size", batch_size, "an integer from 1")
    order = sorted(range(len(cells)), key=lambda index: len(cells[index].prompt))
    step = max(1, batch_size // settings.n)
    tasks = [tuple(order[first : first + step]) for first in range(0, len(order), step)]
    desk = DecodeDesk(DecodeRecipe(tuple(cells), settings, position, tuple(keep_streams)), backend, watch)
    for task in tasks:
        desk.place(task)
    job = Job(backend, desk.recipe, lambda task: settings.max_new_tokens)
    written: dict[int, tuple[Continuation, ...]] = {}
    total = len(tasks) * settings.max_new_tokens
    with (
        progress_bar(total=total, what="decoding", unit="pass", shown=progress) as bar,
        closing(done(job, tasks, bar.update, executor=executor, desk=desk)) as arriving,
    ):
        for members, found in arriving:
            written.update(zip(members, found, strict=True))
    return [written[index] for index in range(len(cells))]


@dataclass(frozen=True, eq=False)
class DecodeRecipe:
    """What a worker needs to write texts.

    Attributes:
        cells: All cells.
        settings: What their rows share.
        position: Prompt token that receives row 0, for vectors without a position of their own.
        keep_streams: Layers whose streams are kept.
    """

    cells: tuple[Cell, ...]
    settings: DecodeSettings
    position: Position
    keep_streams: tuple[int, ...] = ()

    def desk(self, backend: Backend) -> "DecodeDesk":
        """The cells on a model."""
        return DecodeDesk(self, backend)


class DecodeDesk:
    """Cells that a model writes after, one batch at a time.

    Args:
        recipe: The cells.
        backend: The model.
        watch: Told of each token as it is written; in this process only.
    """

    def __init__(self, recipe: DecodeRecipe, backend: Backend, watch: Watch | None = None) -> None:
        self.recipe = recipe
        self._backend = backend
        self._watch = watch
        self._placed: dict[tuple[int, ...], _Batch] = {}

    def place(self, members: tuple[int, ...]) -> None:
        """See where everything in a batch lands.

        Raises:
            PositionError: A vector does not fit onto its prompt.
        """
        cells = [self.recipe.cells[index] for index in members]
        self._placed[members] = _Batch(self._backend, cells, self.recipe.position)

    def parts(
        self, members: tuple[int, ...], tick: Callable[[int], Any]
    ) -> Generator[list[tuple[Continuation, ...]], None, None]:
        """The samples of each cell of a batch, by their places among all."""
        if members not in self._placed:
            self.place(members)
        shown = None if self._watch is None else partial(self._watch, members)
        batch, settings = self._placed.pop(members), self.recipe.settings
        kept = KeptStreams(self._backend, self.recipe.keep_streams, settings.n)
        with unsteered(self._backend):
            found = _decode(self._backend, batch, settings, tick, kept, shown)
            yield kept.given_to(found, [len(cell.prompt) for cell in batch.cells])


class _Batch:
    """Cells that decode together: left-padded tokens, their mask, and what lands where."""

    def __init__(self, backend: Backend, cells: Sequence[Cell], position: Position) -> None:
        lengths = [len(cell.prompt) for cell in cells]
        self.longest = max(lengths)
        filler = backend.pad_token_id or 0
        paddings = [self.longest - length for length in lengths]
        rows = [[filler] * padding + list(cell.prompt) for padding, cell in zip(paddings, cells, strict=True)]
        self.cells = cells
        self.tokens = torch.tensor(rows, device=backend.device)
        columns = torch.arange(self.longest, device=backend.device)
        self.mask = (
            (columns >= torch.tensor(paddings, device=backend.device)[:, None]).long() if any(paddings) else None
        )
        tokens, numbers = [cell.prompt for cell in cells], [cell.number for cell in cells]
        self.prompts = prompts_of(backend, tokens, first=paddings, numbers=numbers)
        self.assignments: dict[Spot, list[Assignment]] = {}
        for rows_of_one, vectors in _rows_by_vectors(cells):
            check_fits(backend, vectors, position, _some(self.prompts, rows_of_one))
            for spot, items in assign(vectors, position, rows=rows_of_one).items():
                self.assignments.setdefault(spot, []).extend(items)

    def resolve(self, backend: Backend) -> None:
        """Read what gates and clean values ask for."""
        self.assignments = resolved(backend, self.assignments, self.prompts)

    def repeated(self, times: int) -> tuple[dict[Spot, list[Assignment]], Prompts]:
        """Assignments and prompts once each cell is `times` rows, side by side."""
        spread = {
            spot: [_spread(item, times) for item in assignments] for spot, assignments in self.assignments.items()
        }
        return spread, _some(self.prompts, [row for row in range(len(self.cells)) for _ in range(times)])


def _rows_by_vectors(cells: Sequence[Cell]) -> list[tuple[tuple[int, ...], tuple[Intervention, ...]]]:
    """Rows that get the same vectors, which are then added in one step and not row by row."""
    found: dict[tuple[int, ...], tuple[list[int], tuple[Intervention, ...]]] = {}
    for row, cell in enumerate(cells):
        found.setdefault(tuple(map(id, cell.vectors)), ([], cell.vectors))[0].append(row)
    return [(tuple(rows), vectors) for rows, vectors in found.values()]


def _spread(item: Assignment, times: int) -> Assignment:
    """An assignment once each row is `times` rows, side by side."""
    rows = tuple(row * times + copy for row in item.rows or () for copy in range(times))
    operation = None if item.operation is None else item.operation.repeated(times)
    return dataclasses.replace(item, rows=rows, operation=operation)


def _some(prompts: Prompts, rows: Sequence[int]) -> Prompts:
    """Some of the prompts, in any order."""

    def pick(values: Any) -> Any:
        return None if values is None else tuple(values[row] for row in rows)

    return Prompts(*(pick(getattr(prompts, item.name)) for item in dataclasses.fields(prompts)))


def _repeat(values: tuple[Any, ...], times: int) -> tuple[Any, ...]:
    return tuple(value for value in values for _ in range(times))


@torch.inference_mode()
def _decode(
    backend: Backend,
    batch: _Batch,
    settings: DecodeSettings,
    tick: Callable[[int], Any],
    kept: KeptStreams,
    shown: Callable[[list[tuple[Continuation, ...]]], None] | None = None,
) -> list[tuple[Continuation, ...]]:
    """Decode one batch; returns the samples of each cell.

    In inference mode, as `generate` is: on a small model that saves a twentieth of the time, and only numbers leave.
    """
    batch.resolve(backend)
    writers = _Writers(backend, batch, settings)
    for step, logits in enumerate(_logits(backend, batch, settings, writers, kept)):
        writers.write(logits)
        tick(1)
        if shown is not None:
            shown(writers.samples())
        if writers.all_finished or step + 1 == settings.max_new_tokens:
            tick(settings.max_new_tokens - step - 1)
            break
    writers.check_sound()
    return writers.samples()


def _logits(
    backend: Backend, batch: _Batch, settings: DecodeSettings, writers: "_Writers", kept: KeptStreams
) -> Iterator[Float[Tensor, "rows d_vocab"]]:
    """Logits after each token: of the prompts once per cell, then of the new tokens of all samples.

    The prompt's pass is shared by the samples of a cell: its keys and values are repeated, not computed again. Hooks
    hang only while they have something to add.
    """
    n = settings.n
    with injected(backend, batch.assignments, batch.prompts), kept.of_pass(first=True):
        first, cache = backend.last_logits(batch.tokens, mask=batch.mask, use_cache=settings.use_past_kv_cache)
    if settings.use_past_kv_cache and settings.max_new_tokens > 1:
        cache = backend.repeat_cache(cache, n)
    yield first.repeat_interleave(n, dim=0)
    assignments, prompts = batch.repeated(n)
    mask = None if batch.mask is None else batch.mask.repeat_interleave(n, dim=0)
    tokens = batch.tokens.repeat_interleave(n, dim=0)
    with ExitStack() as stack:
        told = Told(backend, assignments, prompts)
        if told.acts_from(batch.longest) or not settings.use_past_kv_cache:
            told = stack.enter_context(injected(backend, assignments, prompts))
        stack.enter_context(kept.of_pass(first=False))
        for past in itertools.count(batch.longest):
            told.past, told.grows = past if settings.use_past_kv_cache else 0, True
            new = writers.latest[:, None]
            tokens = new if settings.use_past_kv_cache else torch.cat([tokens, new], dim=1)
            if mask is not None:
                mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
            logits, cache = backend.last_logits(tokens, mask=mask, cache=cache, use_cache=settings.use_past_kv_cache)
            yield logits


class _Writers:
    """The samples of a batch as they grow."""

    def __init__(self, backend: Backend, batch: _Batch, settings: DecodeSettings) -> None:
        self._backend = backend
        self._batch = batch
        self._settings = settings
        prompts = _repeat(tuple(cell.prompt for cell in batch.cells), settings.n)
        self._prompts = prompts
        self._finish = [""] * len(prompts)
        self._steps: list[Tensor] = []
        self._lengths = [0] * len(prompts)
        self._recent: list[list[int]] = []
        self._counts: Tensor | None = None
        self._uniforms: Tensor | None = None
        self._is_sound: Tensor | None = None
        if settings.sampling.temperature > 0:
            self._uniforms = _uniforms(batch.cells, settings)

    @property
    def latest(self) -> Int[Tensor, " rows"]:
        """The token that each row wrote last, where tokens go in; logits may come out on another device."""
        return self._steps[-1].to(self._batch.tokens.device)

    @property
    def all_finished(self) -> bool:
        """Whether every row has come to its end."""
        return all(self._finish)

    def write(self, logits: Float[Tensor, "rows d_vocab"]) -> None:
        """Choose the next token of every row."""
        sampling = self._settings.sampling
        sound = torch.isfinite(logits.amax(dim=-1))  # of a row of NaN and infinite numbers, the largest is not finite
        self._is_sound = sound if self._is_sound is None else self._is_sound & sound
        if sampling.counts_tokens and self._counts is None:
            self._counts = _token_counts(self._prompts, logits)
        if self._uniforms is not None and not self._steps:
            self._uniforms = self._uniforms.to(logits.device)
        uniforms = None if self._uniforms is None else self._uniforms[:, len(self._steps)]
        chosen = choose_tokens(logits, sampling, uniforms, self._counts)
        if self._counts is not None:
            self._counts.scatter_add_(1, chosen[:, None], torch.ones_like(chosen[:, None], dtype=self._counts.dtype))
        self._steps.append(chosen)
        self._note_ends(chosen)

    def _note_ends(self, chosen: Tensor) -> None:
        eos = self._backend.eos_token_id if self._settings.stop_at_eos else None
        if eos is None and not self._settings.stop:
            self._lengths = [len(self._steps)] * len(self._lengths)
            if len(self._steps) == self._settings.max_new_tokens:
                self._finish = ["length"] * len(self._finish)
            return
        tokens = chosen.tolist()
        self._recent.append(tokens)
        for row, token in enumerate(tokens):
            if self._finish[row]:
                continue
            self._lengths[row] += 1
            if token == eos:
                self._finish[row] = "end of text"
            elif self._settings.stop and self._has_stopped(row):
                self._finish[row] = "stop"
            elif self._lengths[row] == self._settings.max_new_tokens:
                self._finish[row] = "length"

    def _has_stopped(self, row: int) -> bool:
        """Whether a stop text has appeared; every token writes a character or more, so the tail is enough."""
        tail = max(map(len, self._settings.stop)) + 8
        text = self._backend.decode([tokens[row] for tokens in self._recent[-tail:]])
        return any(stop in text for stop in self._settings.stop)

    def check_sound(self) -> None:
        """See that every logit was a number; asked once, at the end, for on a GPU each question waits for the device.

        Raises:
            NonFiniteError: The model's numbers overflowed.
        """
        if self._is_sound is None or bool(self._is_sound.all()):
            return
        row = int((~self._is_sound).nonzero()[0]) // self._settings.n
        condition = "steered" if self._batch.cells[row].vectors else "unsteered"
        prompt = self._backend.decode(self._batch.cells[row].prompt)
        raise NonFiniteError(
            f"The {condition} logits after {prompt[:40]!r} are not finite, so nothing can be written with them. "
            f"{why_not_finite(self._backend.name, self._backend.dtype)}"
        )

    def samples(self) -> list[tuple[Continuation, ...]]:
        """What every cell wrote, its samples together."""
        written, n = self._continuations(), self._settings.n
        return [tuple(written[first : first + n]) for first in range(0, len(written), n)]

    def _continuations(self) -> list[Continuation]:
        table = torch.stack(self._steps, dim=1).tolist()
        return [
            self._continuation(prompt, tuple(tokens[:length]), finish or "length")
            for prompt, tokens, length, finish in zip(self._prompts, table, self._lengths, self._finish, strict=True)
        ]

    def _continuation(self, prompt: tuple[int, ...], tokens: tuple[int, ...], finish: str) -> Continuation:
        """Text is what the new tokens add to the prompt's: some tokenizers drop a leading space of a bare tail."""
        kept = tokens[:-1] if finish == "end of text" else tokens
        before, whole = self._backend.decode(prompt), self._backend.decode((*prompt, *kept))
        text = whole[len(before) :] if whole.startswith(before) else self._backend.decode(kept)
        if finish == "stop":
            text = text[: min(text.find(stop) for stop in self._settings.stop if stop in text)]
        return Continuation(text, tokens, finish)


def _token_counts(prompts: Sequence[Sequence[int]], logits: Tensor) -> Float[Tensor, "rows d_vocab"]:
    counts = torch.zeros_like(logits, dtype=torch.float32)
    for row, prompt in enumerate(prompts):
        counts[row] = torch.bincount(torch.tensor(prompt), minlength=logits.shape[1])[: logits.shape[1]].to(counts)
    return counts


def _uniforms(cells: Sequence[Cell], settings: DecodeSettings) -> Float[Tensor, "rows steps"]:
    """One stream of uniform numbers per seed, prompt and sample: the same alone, in a batch, and in both conditions."""
    streams: dict[tuple[int, ...], np.ndarray] = {}
    for cell in cells:
        if cell.prompt not in streams:
            digest = hashlib.sha256(np.asarray(cell.prompt, dtype="<i8").tobytes()).digest()
            words = np.frombuffer(digest, dtype="<u4").tolist()
            streams[cell.prompt] = np.stack(
                [
                    np.random.default_rng([settings.seed, sample, *words]).random(settings.max_new_tokens)
                    for sample in range(settings.n)
                ]
            )
    return torch.from_numpy(np.concatenate([streams[cell.prompt] for cell in cells])).float()
