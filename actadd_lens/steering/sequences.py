"""What a pass reveals: which sequence it belongs to, where that sequence's prompt lies, and how far it has come.

Knowledge belongs to a sequence. With a KV cache, a sequence is identified by the cache object, which comes back with
every pass; without one, each pass is its own sequence. What remains unknown is an error, never a guess.
"""

import hashlib
import threading
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from actadd_lens.errors import AmbiguousPositionError, PositionError
from actadd_lens.models import Backend, PassContext
from actadd_lens.models.protocol import Spot
from actadd_lens.steering.landings import Assignment, Landing, Prompts
from actadd_lens.steering.passes import Pass, same_sizes, sizes_of

REMEDY = "Pass prompt_lengths= to steer, or generate with actadd_lens.complete, which knows its prompts."


@dataclass(eq=False)
class Sequences:
    """What is remembered of one batch of sequences.

    Attributes:
        prompts: Their prompts.
        columns: Columns that went through, cached ones first.
        real: Which of them are tokens and not padding; None where all are.
        is_plain: Whether each row's tokens stand side by side up to the last column.
        mark: What their first pass is remembered by, where a later one may repeat it.
        assignments: What is done where, resolved for these prompts.
        landings: The same on columns, for plain rows.
    """

    prompts: Prompts
    columns: int
    real: Bool[Tensor, "batch columns"] | None
    is_plain: bool
    mark: bytes | None = None
    assignments: Mapping[Spot, Sequence[Assignment]] = field(default_factory=dict)
    landings: dict[Spot, list[Landing]] = field(default_factory=dict)

    def acts_from(self, column: int) -> bool:
        """Whether anything is done at a column or beyond; with padding between tokens, that is checked again."""
        return not self.is_plain or any(item.stop > column for found in self.landings.values() for item in found)


class Memory:
    """Sequences by their cache, and the passes without a cache that a later one may go on from."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[Any, Sequences]] = {}
        self._seen: dict[bytes, tuple[int, int]] = {}
        self._streams: dict[bytes, Tensor] = {}
        self._lone: tuple[Tensor, int] | None = None
        self._lock = threading.Lock()

    def of(self, cache: Any) -> Sequences | None:
        """The sequences of a cache."""
        found = self._known.get(id(cache))
        return found[1] if found is not None and found[0]() is cache else None

    def keep(self, cache: Any, sequences: Sequences) -> None:
        """Remember the sequences of a cache for as long as it lives."""
        key = id(cache)
        self._known[key] = (weakref.ref(cache, lambda _: self._known.pop(key, None)), sequences)

    def repeats(self, step: Pass) -> tuple[int | None, bytes]:
        """Length of an earlier pass that this one repeats and goes on from; and the mark that this one leaves.

        A pass whose cache is gone on with later is not a pass that is repeated: `forget` its mark then.
        """
        with self._lock:
            return self._repeated_stream(step) if step.tokens is None else self._repeated_tokens(step.tokens)

    def _repeated_tokens(self, tokens: Int[Tensor, "batch pos"]) -> tuple[int | None, bytes]:
        batch, length = tokens.shape
        sizes = {size for rows, size in self._seen.values() if rows == batch and size < length}
        found = [size for size in sizes if _hash(tokens[:, :size]) in self._seen]
        mark = _hash(tokens)
        self._seen[mark] = (batch, length)
        return max(found, default=None), mark

    def _repeated_stream(self, step: Pass) -> tuple[int | None, bytes]:
        """Without tokens, the sizes of the stream have to tell."""
        sizes = sizes_of(step.stream).cpu()
        batch, length = sizes.shape
        found = [
            earlier.shape[1]
            for earlier in self._streams.values()
            if len(earlier) == batch and earlier.shape[1] < length and same_sizes(earlier, sizes)
        ]
        mark = _hash(sizes.view(torch.int32))
        self._streams[mark] = sizes
        return max(found, default=None), mark

    def forget(self, mark: bytes | None) -> None:
        """A pass is known to be gone on with in its cache."""
        if mark is not None:
            self._seen.pop(mark, None)
            self._streams.pop(mark, None)

    def with_lone_tokens_shown(self, step: Pass, bos: int | None) -> PassContext:
        """The mask, with a prompt of nothing but BOS in it.

        Where BOS is the pad token, `HookedTransformer.generate` takes such a prompt for padding and hides it, in the
        first pass and, without a cache, in the longer ones that follow.
        """
        context, seen = step.context, step.seen
        real, lone, alone = context.real, self._lone, None
        if real is not None and seen == 1:
            alone = _lone(step.tokens, real, bos)
        elif real is not None and lone is not None and seen == lone[1] + 1 and lone[0].shape == real.shape[:1]:
            alone = lone[0]
        self._lone = None if alone is None else (alone, seen)
        if real is None or alone is None:
            return context
        shown = real.clone()
        shown[alone, 0] = True
        return PassContext(context.past, shown, context.cache)


def _lone(tokens: Tensor | None, real: Bool[Tensor, "batch column"], bos: int | None) -> Bool[Tensor, " batch"]:
    """Rows of one hidden BOS: prompts, unless another row's BOS is shown, as then the mask tells padding apart."""
    hidden = ~real[:, 0]
    if tokens is None:
        return hidden
    begins = (tokens[:, 0] == (-1 if bos is None else bos)).to(hidden.device)
    return hidden & begins & ~(begins & ~hidden).any()


def _hash(tokens: Int[Tensor, "batch pos"]) -> bytes:
    return hashlib.blake2b(tokens.cpu().contiguous().numpy().tobytes(), digest_size=16).digest()


@dataclass(frozen=True, eq=False)
class Questions:
    """What has to be known of a prompt before it can be steered.

    Attributes:
        length: Whether something depends on where it ends.
        bos: Whether something depends on BOS standing at its start.
        front_with_bos: Label of a vector whose row 0 was read at BOS and lands at the front, or None.
        spans: Whether something is done at a span of tokens.
        fits: The longest place that rows need, from the front.
    """

    length: bool
    bos: bool
    front_with_bos: str | None
    spans: bool
    fits: int


def token_index(real: Bool[Tensor, "batch columns"]) -> Int[Tensor, "batch columns"]:
    """Absolute token index of each column; -1 for padding.

    >>> token_index(torch.tensor([[False, True, False, True]])).tolist()
    [[-1, 0, -1, 1]]
    """
    counted = real.long().cumsum(dim=1) - 1
    return torch.where(real, counted, -1)


def meet(backend: Backend, step: Pass, questions: Questions, memory: Memory, told: tuple[int, ...] | None) -> Sequences:
    """The sequences whose first pass this is.

    Raises:
        AmbiguousPositionError: Mask and tokens leave open where a prompt begins or ends, and it matters.
        PositionError: `prompt_lengths` does not match the batch.
    """
    context = memory.with_lone_tokens_shown(step, backend.bos_token_id)
    step = replace(step, context=context)
    real = None if context.real is None or bool(context.real.all()) else context.real
    firsts, counts, is_plain = _layout(real, step.batch, step.seen)
    rows = _rows_of_tokens(step, real)
    hidden = [False] * step.batch if real is None else (~real.all(dim=1)).tolist()
    if not step.goes_on:  # its second token may be a BOS that was written
        _check_start(backend, step.tokens, firsts, hidden)
    mark = None
    if told is not None:
        lengths = _told_lengths(told, step, counts, backend.n_ctx)
    else:
        lengths = _lengths_so_far(step, counts, questions, backend.n_ctx)
        mark = _check_not_grown(step, memory) if questions.length else None
    may_end_in_padding = step.batch > 1 or (questions.length and _ends_in_padding(backend, step.tokens))
    if told is None and context.real is None and may_end_in_padding:
        _check_ends(backend, questions, step.tokens, counts)
    _check_bos(backend, step, questions, firsts, counts)
    bos = None
    if questions.bos and rows is not None:
        bos = tuple(bool(row and row[0] == backend.bos_token_id) for row in rows)
    whole = rows is not None and all(count >= length for count, length in zip(counts, lengths, strict=True))
    tokens = tuple(row[:length] for row, length in zip(rows, lengths, strict=True)) if rows and whole else None
    return Sequences(Prompts(firsts, tuple(lengths), bos, tokens), step.seen, real, is_plain, mark)


def join(backend: Backend, step: Pass, questions: Questions, told: tuple[int, ...] | None) -> Sequences:
    """Sequences that began before they were watched: only what needs no prompt can be done.

    Raises:
        AmbiguousPositionError: Something else is asked for.
    """
    if told is None and questions.length:
        raise AmbiguousPositionError(
            f"The prompt went through before steering began, so its length is not known. {REMEDY}"
        )
    real = step.context.real
    columns = step.context.past + step.seen
    firsts, counts, is_plain = _layout(real, step.batch, columns)
    # Without lengths, nothing that is counted from the front overhangs.
    lengths = (backend.n_ctx,) * step.batch if told is None else told * step.batch if len(told) == 1 else told
    if len(lengths) != step.batch:
        raise PositionError(f"prompt_lengths {list(lengths)} does not match a batch of {step.batch} rows.")
    bos = _with_late(backend, step, questions, (False,) * step.batch, (firsts, counts))
    return Sequences(Prompts(firsts, tuple(lengths), bos), columns, real, is_plain)


def go_on(
    backend: Backend, found: Sequences, step: Pass, questions: Questions, told: tuple[int, ...] | None
) -> Sequences:
    """The sequences after one more pass in their cache.

    Raises:
        AmbiguousPositionError: Several tokens came at once, and whether they belong to the prompt matters.
    """
    if told is None and questions.length and step.seen > 1:
        raise AmbiguousPositionError(
            f"After {found.columns} tokens this sequence goes on with {step.seen} more at once: are they the rest of "
            f"its prompt, or text after it? What is steered depends on that. {REMEDY}"
        )
    columns, real = found.columns + step.seen, None
    if step.context.real is not None or found.real is not None:
        # What was a token when it came stays one, whatever a later mask says of it.
        device = step.stream.device
        old = torch.ones(step.batch, found.columns, dtype=torch.bool) if found.real is None else found.real
        new = torch.ones(step.batch, step.seen, dtype=torch.bool)
        new = new if step.context.real is None else step.context.real[:, found.columns :]
        real = torch.cat([old.to(device), new.to(device)], dim=1)
        real = None if bool(real.all()) else real
    prompts, is_plain = found.prompts, found.is_plain
    if real is not None:
        firsts, counts, is_plain = _layout(real, step.batch, columns)
        bos = _with_late(backend, step, questions, prompts.starts_with_bos, (firsts, counts))
        prompts = Prompts(firsts, prompts.lengths, bos, prompts.tokens)
    return Sequences(prompts, columns, real, is_plain)


def _with_late(
    backend: Backend,
    step: Pass,
    questions: Questions,
    bos: tuple[bool | None, ...] | None,
    layout: tuple[Sequence[int], Sequence[int]],
) -> tuple[bool | None, ...] | None:
    """Which rows begin with BOS, also those whose prompt begins only now, behind padding that filled earlier passes."""
    places = [first - step.context.past for first in layout[0]]
    begins = [int(place >= 0 and count > 0) for place, count in zip(places, layout[1], strict=True)]
    if not any(begins):
        return bos
    _check_bos(backend, step, questions, places, begins)
    if bos is None or step.tokens is None:
        return None
    starts = [int(step.tokens[row, place]) if begins[row] else None for row, place in enumerate(places)]
    return tuple(
        known if token is None else token == backend.bos_token_id for known, token in zip(bos, starts, strict=True)
    )


def _layout(real: Tensor | None, batch: int, columns: int) -> tuple[tuple[int, ...], list[int], bool]:
    """First column and number of tokens of each row, and whether they stand side by side up to the last column."""
    if real is None:
        return (0,) * batch, [columns] * batch, True
    counts = real.sum(dim=1)
    firsts = torch.where(counts > 0, real.int().argmax(dim=1), columns)
    is_plain = bool((counts == columns - firsts).all()) and bool((counts > 0).all())
    return tuple(firsts.tolist()), counts.tolist(), is_plain


def _rows_of_tokens(step: Pass, real: Tensor | None) -> list[tuple[int, ...]] | None:
    """The tokens of each row, padding left out."""
    if step.tokens is None:
        return None
    if real is None:
        return [tuple(row) for row in step.tokens.tolist()]
    marks = real.to(step.tokens.device)
    return [tuple(row[kept].tolist()) for row, kept in zip(step.tokens, marks, strict=True)]


def _lengths_so_far(step: Pass, counts: list[int], questions: Questions, n_ctx: int) -> list[int]:
    """Tokens of each prompt; of a row of nothing but padding, the prompt may come in a later pass of its cache."""
    empty = [row for row, count in enumerate(counts) if not count]
    if not empty or step.context.cache is None:
        return counts
    if questions.length:
        raise AmbiguousPositionError(
            f"Rows {empty} of this batch are nothing but padding in the first pass, so where their prompts end is not "
            f"known. {REMEDY}"
        )
    return [count or n_ctx for count in counts]


def _told_lengths(told: tuple[int, ...], step: Pass, counts: Sequence[int], n_ctx: int) -> list[int]:
    """Lengths that the caller told; with a cache the rest of a prompt may come later."""
    lengths = told * step.batch if len(told) == 1 else told
    most = [n_ctx] * step.batch if step.context.cache is not None else counts
    too_long = any(length > longest for length, longest in zip(lengths, most, strict=False))
    if len(lengths) != step.batch or too_long:
        raise PositionError(
            f"prompt_lengths {list(told)} does not match a batch of {step.batch} rows of {list(counts)} tokens: "
            "give one length per row, BOS counted and padding not."
        )
    return list(lengths)


def _check_not_grown(step: Pass, memory: Memory) -> bytes:
    """A pass from the start that repeats an earlier one and adds tokens may be generation, or a longer prompt."""
    earlier, mark = memory.repeats(step)
    if earlier is not None:
        raise AmbiguousPositionError(
            f"This pass of {step.seen} tokens repeats the one of {earlier} tokens before it: is it "
            f"generation without the KV cache, or a longer prompt? What is steered depends on that. {REMEDY}"
        )
    return mark


def _check_start(backend: Backend, tokens: Tensor | None, firsts: Sequence[int], hidden: Sequence[bool]) -> None:
    """Left padding without a mask: the model itself takes the padding for text, and so would we."""
    if tokens is None or not tokens.shape[1]:
        return
    pad, bos = backend.pad_token_id, backend.bos_token_id
    rows = torch.arange(len(firsts), device=tokens.device)
    last = tokens.shape[1] - 1
    places = torch.tensor(firsts, device=tokens.device)
    one, two = tokens[rows, places.clamp_max(last)], tokens[rows, (places + 1).clamp_max(last)]
    begins_twice = (one == bos) & (two == bos) & (places < last) if bos is not None else torch.zeros_like(rows).bool()
    padded = torch.zeros_like(begins_twice)
    if pad is not None and pad != bos:
        padded = (one == pad) & ~torch.tensor(hidden, device=tokens.device)
    if pad == bos:
        padded, begins_twice = begins_twice & ~torch.tensor(hidden, device=tokens.device), torch.zeros_like(padded)
    if bool(padded.any()):
        raise AmbiguousPositionError(
            f"Rows {padded.nonzero().flatten().tolist()} seem to be padded on the left, but no attention mask says so, "
            "so the model takes the padding for text. Pass attention_mask=, or use "
            "actadd_lens.complete. (A text that already contains BOS looks the same after getting another: then pass "
            "prepend_bos=False.)"
        )
    if bool(begins_twice.any()):
        raise AmbiguousPositionError(
            f"Rows {begins_twice.nonzero().flatten().tolist()} begin with two BOS tokens: a text that already contains "
            "BOS got another, so every row would land one token early. Pass prepend_bos=False."
        )


def _ends_in_padding(backend: Backend, tokens: Tensor | None) -> bool:
    """Whether one row ends in what can hardly be text: two pad tokens, or one that neither begins nor ends texts."""
    pad = backend.pad_token_id
    if tokens is None or pad is None:
        return False
    count = 2 if pad in (backend.bos_token_id, backend.eos_token_id) else 1
    return tokens.shape[1] > count and bool((tokens[:, -count:] == pad).all())


def _check_ends(backend: Backend, questions: Questions, tokens: Tensor | None, lengths: Sequence[int]) -> None:
    """Without a mask, trailing pad tokens may be padding or text; it matters unless every row fits before them."""
    sure = list(lengths)
    if tokens is not None and backend.pad_token_id is not None:
        is_text = tokens != backend.pad_token_id
        is_text[:, 0] = True
        counts = torch.arange(1, tokens.shape[1] + 1, device=tokens.device)
        sure = (is_text * counts).amax(dim=1).tolist()
    if tokens is not None and sure == list(lengths):
        return
    if questions.length or questions.spans:
        raise AmbiguousPositionError(
            "Some rows of this batch may end in padding, but no attention mask came with it, so where their tokens end "
            f"is not known. {REMEDY}"
        )
    if questions.fits > min(sure):
        raise AmbiguousPositionError(
            f"The rows would need {questions.fits} tokens, but row {sure.index(min(sure))} of this batch may have only "
            f"{min(sure)} before its padding, and no attention mask came with it. {REMEDY}"
        )


def _check_bos(
    backend: Backend, step: Pass, questions: Questions, firsts: Sequence[int], counts: Sequence[int]
) -> None:
    """A vector that begins with BOS goes to the front of a prompt that does not: each row would be one token off."""
    if questions.front_with_bos is None or step.tokens is None or backend.bos_token_id is None:
        return
    starts = [int(step.tokens[row, column]) for row, column in enumerate(firsts) if counts[row]]
    if any(token != backend.bos_token_id for token in starts):
        raise AmbiguousPositionError(
            f"The rows of {questions.front_with_bos} begin with BOS, but this prompt does not, so each of them would "
            "land one token off. Pass prepend_bos=True to the model, read the vector with prepend_bos=False, or pass "
            "position=0 if that is intended."
        )
