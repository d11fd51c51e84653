"""Adding injections to a running model: the row-wise interventions of a batch, and the hooks that carry them.

An `Addition` says what is to be added to which rows of a batch. Once the prompts of the batch are known, additions
become `Landing`s: columns of the batch and rows of a vector. A forward pass is then pure arithmetic.
"""

import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from actadd_lens.checks import is_count
from actadd_lens.errors import AmbiguousPositionError, PositionError
from actadd_lens.models import Backend, HookHandle, LensModel, PassContext, backend_of
from actadd_lens.prompts.positions import Position, check_position, overlap, start_of
from actadd_lens.vectors.vector import SteeringVector, check_vectors

_SAME_STREAM = 2e-2
"""Relative difference up to which two streams count as those of the same tokens (half precision included)."""

_REMEDY = "Pass prompt_lengths= to steer, or generate with actadd_lens.complete, which knows its prompts."


class SteeringWarning(UserWarning):
    """Steering ended before its `with` block did."""


# -- what is added where ---------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Addition:
    """An injection and its place, for some rows of a batch.

    Attributes:
        injection: Coefficient x activations.
        position: Prompt token that receives row 0, or a name.
        rows: Rows of the batch; None means all.
    """

    injection: Float[Tensor, "pos d_model"]
    position: Position
    rows: tuple[int, ...] | None = None


@dataclass(frozen=True, eq=False)
class Prompts:
    """What is known of the prompts in the rows of a batch.

    Attributes:
        first: Column of each row's first token (the number of paddings to its left).
        lengths: Tokens of each prompt, BOS counted, padding not.
        starts_with_bos: Whether each row's first token is BOS; None where the tokens were not seen.
    """

    first: tuple[int, ...]
    lengths: tuple[int, ...]
    starts_with_bos: tuple[bool, ...] | None


@dataclass(frozen=True, eq=False)
class Landing:
    """Rows of an injection on columns of a batch.

    Attributes:
        injection: Coefficient x activations; one for all rows, or one for each.
        column: Column of the batch that receives row 0; None for every token but BOS.
        rows: Rows of the batch, or all of them.
    """

    injection: Float[Tensor, "*rows pos d_model"]
    column: int | None
    rows: slice | Int[Tensor, " some_rows"]

    @property
    def end(self) -> float:
        """First column after the last row; infinite where every token is meant."""
        return float("inf") if self.column is None else self.column + self.injection.shape[-2]


def land(additions: Sequence[Addition], prompts: Prompts) -> list[Landing]:
    """Columns for additions, once the prompts are known; rows with the same column land together.

    Raises:
        PositionError: An injection overhangs a prompt.
    """
    batch = len(prompts.first)
    landings = []
    for addition in additions:
        rows = range(batch) if addition.rows is None else addition.rows
        if addition.position == "all":
            landings.append(Landing(addition.injection, None, _select(tuple(rows), batch)))
            continue
        columns: dict[int, list[int]] = {}
        for row in rows:
            start = start_of(addition.position, length=prompts.lengths[row], rows=addition.injection.shape[0])
            columns.setdefault(prompts.first[row] + start, []).append(row)
        landings.extend(
            Landing(addition.injection, column, _select(tuple(rows), batch)) for column, rows in columns.items()
        )
    return landings


def _select(rows: tuple[int, ...], batch: int) -> slice | Tensor:
    """All rows as a slice, which adds without an index; some rows as an index."""
    return slice(None) if rows == tuple(range(batch)) else torch.tensor(rows)


def add_landings(
    resid_pre: Float[Tensor, "batch pos d_model"],
    landings: Sequence[Landing],
    *,
    past: int,
    every_token: Bool[Tensor, "batch pos"] | None = None,
) -> Float[Tensor, "batch pos d_model"] | None:
    """The stream with the injections that meet this pass, as a copy; None where none does.

    Args:
        resid_pre: The stream at the hook point.
        landings: What lands where.
        past: Columns in the cache.
        every_token: For landings on every token, which columns of this pass those are.
    """
    steered = None
    for landing in landings:
        if landing.column is None:
            assert every_token is not None
            columns, taken = slice(None), slice(0, 1)
        else:
            columns, taken = overlap(landing.column, landing.injection.shape[-2], past=past, seen=resid_pre.shape[1])
            if columns.start == columns.stop:
                continue
        if steered is None:
            # Half precision would round each term of a sum; the sum is rounded once, at the end.
            steered = resid_pre.float() if resid_pre.dtype in (torch.float16, torch.bfloat16) else resid_pre.clone()
        rows = landing.rows if isinstance(landing.rows, slice) else landing.rows.to(steered.device)
        added = landing.injection[..., taken, :].to(steered)
        if landing.column is None and every_token is not None:
            added = added * every_token[rows].to(steered)[..., None]
        steered[rows, columns] = steered[rows, columns] + added
    return None if steered is None else steered.to(resid_pre.dtype)


# -- the hooks -------------------------------------------------------------------------------------------------


class PassReader:
    """Reads what only a block's own arguments tell: past length and mask; and the tokens that were embedded.

    It hangs on the model as module pre-hooks that change nothing, and lets go when it is closed or forgotten.
    """

    def __init__(self, backend: Backend, layers: Sequence[int]) -> None:
        self._contexts: dict[int, PassContext] = {}
        self._latest: Tensor | None = None
        self._running: Tensor | None = None
        reader = weakref.ref(self)
        handles = [
            backend.model.blocks[layer].register_forward_pre_hook(
                _context_hook(reader, backend, layer), with_kwargs=True
            )
            for layer in layers
        ]
        handles.append(backend.model.embed.register_forward_pre_hook(_tokens_hook(reader)))
        self.close = weakref.finalize(self, _remove_all, handles)

    def note_context(self, layer: int, context: PassContext) -> None:
        """Keep what a block was called with."""
        self._contexts[layer] = context

    def note_tokens(self, tokens: Tensor) -> None:
        """Keep tokens that were embedded; single ones may be the next of a generation without a cache."""
        self._latest = tokens
        running = self._running
        grows = running is not None and tokens.shape[1] == 1 and tokens.shape[0] == running.shape[0]
        self._running = torch.cat([running, tokens], dim=1) if grows and running is not None else tokens

    def context(self, layer: int) -> PassContext:
        """What the block that is being run was called with."""
        return self._contexts.get(layer, PassContext(0, None))

    def tokens(self, batch: int, seen: int) -> Int[Tensor, "batch pos"] | None:
        """Tokens of a whole pass of this shape; None where they were not seen."""
        for tokens in (self._latest, self._running):
            if tokens is not None and tuple(tokens.shape) == (batch, seen):
                self._running = tokens
                return tokens
        return None


class InjectionHook:
    """The hook function at one layer: finds out where its additions land, and returns the steered copy.

    Args:
        backend: The model.
        layer: The layer whose hook point this is.
        additions: What is added; rows count from the prompts that are given, or met.
        reader: What tells past length, mask and tokens.
        prompts: The prompts of the batch, where they are known beforehand.
        prompt_lengths: Only their lengths, where the caller told those.
    """

    def __init__(
        self,
        backend: Backend,
        layer: int,
        additions: Sequence[Addition],
        reader: PassReader,
        *,
        prompts: Prompts | None = None,
        prompt_lengths: Sequence[int] | None = None,
    ) -> None:
        self.paused = False
        self._backend = backend
        self._layer = layer
        self._additions = [addition for addition in additions if bool((addition.injection != 0).any())]
        self._reader = reader
        self._given = prompts
        self._lengths = None if prompt_lengths is None else tuple(prompt_lengths)
        self._prompts = prompts
        self._landings = [] if prompts is None else land(self._additions, prompts)
        self._end: float = max((landing.end for landing in self._landings), default=0)
        self._last_stream: Tensor | None = None
        self._lone_rows: Tensor | None = None
        self._lone_length = 0
        self.__name__ = f"injection at layer {layer}"

    def __call__(self, resid_pre: Tensor, hook: Any) -> Tensor | None:
        """Steered copy of the stream, or None where nothing of ours meets this pass."""
        if self.paused or not self._additions:
            return None
        context = self._reader.context(self._layer)
        if self._given is None:
            self._meet(resid_pre, context)
        if context.past >= self._end:
            return None
        every_token = None
        if self._end == float("inf"):
            every_token = self._tokens_but_bos(resid_pre, context)
        return add_landings(resid_pre, self._landings, past=context.past, every_token=every_token)

    def _meet(self, resid_pre: Tensor, context: PassContext) -> None:
        """Learn the prompts from a first pass; keep them for the passes that follow in the cache."""
        if context.past == 0:
            context = self._with_lone_tokens_shown(context, resid_pre.shape[1])
            self._check_not_grown(resid_pre)
            self._prompts = _prompts_of_pass(
                self._backend,
                self._additions,
                self._reader,
                context,
                batch=resid_pre.shape[0],
                seen=resid_pre.shape[1],
                told=self._lengths,
            )
            self._landings = land(self._additions, self._prompts)
        elif self._prompts is None:
            self._prompts = self._join(resid_pre, context)
        self._end = max((landing.end for landing in self._landings), default=0)

    def _join(self, resid_pre: Tensor, context: PassContext) -> Prompts:
        """Steering that opens after the prompt was cached: only places that need no prompt are known."""
        batch = resid_pre.shape[0]
        first = (0,) * batch if context.real is None else tuple(_first_real(context.real))
        lengths = self._lengths
        if lengths is None:
            if any(addition.position in ("mid", "back") for addition in self._additions):
                raise AmbiguousPositionError(
                    f"The prompt went through before steering began, so its length is not known. {_REMEDY}"
                )
            lengths = (self._backend.n_ctx,) * batch  # nothing that is counted from the front overhangs
        prompts = Prompts(first, tuple(lengths), (False,) * batch)
        self._landings = land(self._additions, prompts)
        return prompts

    def _with_lone_tokens_shown(self, context: PassContext, seen: int) -> PassContext:
        """The mask, with a prompt of nothing but BOS in it.

        Where BOS is the pad token, `HookedTransformer.generate` takes such a prompt for padding and hides it, in the
        first pass and, without a cache, in the longer ones that follow.
        """
        real, alone = context.real, self._lone_rows
        if real is not None and seen == 1:
            self._lone_rows = ~real.any(dim=1)
        elif real is None or alone is None or seen != self._lone_length + 1 or alone.shape != real.shape[:1]:
            self._lone_rows = None
        self._lone_length = seen
        if real is None or self._lone_rows is None:
            return context
        shown = real.clone()
        shown[self._lone_rows, 0] = True
        return PassContext(context.past, shown)

    def _check_not_grown(self, resid_pre: Tensor) -> None:
        """A pass without cache that repeats the last one and adds tokens may be generation, or a longer prompt."""
        counted_from_end = any(addition.position in ("mid", "back") for addition in self._additions)
        if self._lengths is not None or not counted_from_end:
            return
        last, self._last_stream = self._last_stream, resid_pre.detach()
        if last is None or last.shape[0] != resid_pre.shape[0] or last.shape[1] >= resid_pre.shape[1]:
            return
        change = (resid_pre[:, : last.shape[1]] - last).float().norm()
        if change <= _SAME_STREAM * last.float().norm():
            raise AmbiguousPositionError(
                f"This pass of {resid_pre.shape[1]} tokens repeats the one of {last.shape[1]} tokens before it: is it "
                f"generation without the KV cache, or a longer prompt? 'mid' and 'back' depend on that. {_REMEDY}"
            )

    def _tokens_but_bos(self, resid_pre: Tensor, context: PassContext) -> Tensor:
        """Which columns of this pass are neither padding nor BOS."""
        seen = resid_pre.shape[1]
        prompts = self._prompts
        assert prompts is not None
        columns = context.past + torch.arange(seen, device=resid_pre.device)
        first = torch.tensor(prompts.first, device=resid_pre.device)[:, None]
        bos = torch.tensor(prompts.starts_with_bos, device=resid_pre.device)[:, None]
        keep = (columns >= first) & ~(bos & (columns == first))
        if context.real is not None:
            keep = keep & context.real[:, context.past :].to(keep.device)
        return keep


def _context_hook(reader: "weakref.ref[PassReader]", backend: Backend, layer: int) -> Callable[..., None]:
    def note(module: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        alive = reader()
        if alive is not None:
            alive.note_context(layer, backend.context(layer, args, kwargs))

    return note


def _tokens_hook(reader: "weakref.ref[PassReader]") -> Callable[..., None]:
    def note(module: Any, args: tuple[Any, ...]) -> None:
        alive = reader()
        if alive is not None and args and isinstance(args[0], Tensor) and args[0].ndim == 2:
            alive.note_tokens(args[0].detach())

    return note


def _remove_all(handles: Sequence[Any]) -> None:
    for handle in handles:
        handle.remove()


# -- meeting prompts -------------------------------------------------------------------------------------------


def _prompts_of_pass(
    backend: Backend,
    additions: Sequence[Addition],
    reader: PassReader,
    context: PassContext,
    *,
    batch: int,
    seen: int,
    told: tuple[int, ...] | None,
) -> Prompts:
    """The prompts of a first pass, from its mask and its tokens.

    Raises:
        AmbiguousPositionError: Mask and tokens leave open where a prompt begins or ends, and it matters.
        PositionError: `prompt_lengths` does not go with the batch.
    """
    tokens = reader.tokens(batch, seen)
    if context.real is not None:
        first, lengths = _first_real(context.real), [int(count) for count in context.real.sum(dim=1)]
    else:
        first, lengths = [0] * batch, [seen] * batch
        _check_not_left_padded(backend, tokens)
    if told is not None:
        told = told * batch if len(told) == 1 else told
        if len(told) != batch or any(count > most for count, most in zip(told, lengths, strict=True)):
            raise PositionError(
                f"prompt_lengths {list(told)} does not go with a batch of {batch} rows of {lengths} tokens: "
                "give one length per row, BOS counted and padding not."
            )
        lengths = list(told)
    elif context.real is None and batch > 1:
        _check_ends(backend, additions, tokens, lengths)
    starts_with_bos = None
    if any(addition.position == "all" for addition in additions):  # nothing else asks, and looking takes time
        starts_with_bos = _starts_with_bos(backend, tokens, first)
    return Prompts(tuple(first), tuple(lengths), starts_with_bos)


def _starts_with_bos(backend: Backend, tokens: Tensor | None, first: Sequence[int]) -> tuple[bool, ...]:
    if tokens is None:
        raise AmbiguousPositionError(
            "This pass began from a residual stream, so its tokens were not seen and BOS cannot be told from the rest, "
            "which position 'all' needs. Start from tokens, or name a position."
        )
    return tuple(int(tokens[row, column]) == backend.bos_token_id for row, column in enumerate(first))


def _first_real(real: Bool[Tensor, "batch columns"]) -> list[int]:
    return [int(column) for column in real.int().argmax(dim=1)]


def _check_not_left_padded(backend: Backend, tokens: Tensor | None) -> None:
    """Left padding without a mask: the model itself takes the padding for text, and so would we."""
    pad, bos = backend.pad_token_id, backend.bos_token_id
    if tokens is None or pad is None or tokens.shape[0] == 1:
        return
    starts = tokens[:, 0] == pad
    if pad == bos and tokens.shape[1] > 1:
        starts = starts & (tokens[:, 1] == pad)
    if bool(starts.any()):
        raise AmbiguousPositionError(
            f"Rows {starts.nonzero().flatten().tolist()} seem to be padded on the left, but no attention mask came "
            "with them, so the model takes the padding for text. Pass attention_mask=, or use actadd_lens.complete."
        )


def _check_ends(backend: Backend, additions: Sequence[Addition], tokens: Tensor | None, lengths: Sequence[int]) -> None:
    """Without a mask, trailing pad tokens may be padding or text; it matters unless every row fits before them."""
    sure = list(lengths)
    if tokens is not None and backend.pad_token_id is not None:
        is_text = tokens != backend.pad_token_id
        is_text[:, 0] = True
        counts = torch.arange(1, tokens.shape[1] + 1, device=tokens.device)
        sure = (is_text * counts).amax(dim=1).tolist()
    if tokens is not None and sure == list(lengths):
        return
    for addition in additions:
        position = addition.position
        if isinstance(position, str) and position != "front":
            raise AmbiguousPositionError(
                f"Some rows of this batch may end in padding, but no attention mask came with it, so {position!r} "
                f"cannot be told. {_REMEDY}"
            )
        needed = (0 if position == "front" else int(position)) + addition.injection.shape[0]
        if needed > min(sure):
            raise AmbiguousPositionError(
                f"The rows would need {needed} tokens, but row {sure.index(min(sure))} of this batch may have only "
                f"{min(sure)} before its padding, and no attention mask came with it. {_REMEDY}"
            )


# -- the verbs -------------------------------------------------------------------------------------------------


def additions_by_layer(
    vectors: Sequence[SteeringVector], position: Position, rows: tuple[int, ...] | None = None
) -> dict[int, list[Addition]]:
    """Vectors as additions, by layer; a vector's own position wins over the one given.

    Raises:
        PositionError: The position is none, or does not go with a vector's rows.
    """
    found: dict[int, list[Addition]] = {}
    for vector in vectors:
        place = check_position(position if vector.position is None else vector.position, rows=vector.rows)
        found.setdefault(vector.layer, []).append(Addition(vector.injection, place, rows))
    return found


def injection_hooks(
    backend: Backend,
    additions: Mapping[int, Sequence[Addition]],
    *,
    prompts: Prompts | None = None,
    prompt_lengths: Sequence[int] | None = None,
) -> tuple[PassReader, dict[int, InjectionHook]]:
    """One hook function per layer, and the reader that they share."""
    reader = PassReader(backend, sorted(additions))
    hooks = {
        layer: InjectionHook(backend, layer, found, reader, prompts=prompts, prompt_lengths=prompt_lengths)
        for layer, found in additions.items()
    }
    return reader, hooks


@contextmanager
def injected(backend: Backend, additions: Mapping[int, Sequence[Addition]], prompts: Prompts) -> Iterator[None]:
    """The model with additions at rows of a batch whose prompts are known: what every tool runs in.

    Raises:
        PositionError: An injection overhangs a prompt; nothing has run then.
    """
    reader, hooks = injection_hooks(backend, additions, prompts=prompts)
    with _hung(backend, reader, hooks):
        yield


@contextmanager
def _hung(backend: Backend, reader: PassReader, hooks: Mapping[int, InjectionHook]) -> Iterator[list[HookHandle]]:
    with ExitStack() as stack:
        stack.callback(reader.close)
        handles = []
        for layer, hook in hooks.items():
            handle = backend.add_hook(backend.hook_name(layer), hook)
            stack.callback(handle.remove)
            handles.append(handle)
        yield handles


@contextmanager
def steer(
    model: LensModel,
    *vectors: SteeringVector | Sequence[SteeringVector],
    position: Position = "front",
    prompt_lengths: Sequence[int] | None = None,
) -> Iterator[LensModel]:
    """Steer whatever runs inside: any TransformerLens call, with or without the KV cache.

    Each injection is added once per token, at `blocks.{layer}.hook_resid_pre`, to a copy. The prompt is learnt from
    the first pass; where that leaves it open, an error says so and nothing is guessed.

    Args:
        model: The model to steer.
        *vectors: One or several, or a list of them; at one layer they add up.
        position: Prompt token that receives row 0: an index, `front`, `mid`, `back`, or `all` for one-row vectors.
        prompt_lengths: Tokens of each prompt, BOS counted and padding not, where passes alone do not tell.

    Yields:
        The model itself.

    Raises:
        VectorError: A vector does not go with the model.
        LayerError: The model has no such layer.
        PositionError: A vector does not fit onto a prompt.
        AmbiguousPositionError: The prompt cannot be told from the pass.
    """
    backend = backend_of(model)
    found = check_vectors(backend, vectors[0] if len(vectors) == 1 else vectors)
    additions = additions_by_layer(found, position)
    reader, hooks = injection_hooks(backend, additions, prompt_lengths=_check_lengths(prompt_lengths))
    with _hung(backend, reader, hooks) as handles:
        yield model
        if not all(handle.is_alive for handle in handles):
            warnings.warn(
                "Steering had ended before its block did: model.reset_hooks() inside it took the hooks away.",
                SteeringWarning,
                stacklevel=3,
            )


def fwd_hooks(
    model: LensModel,
    vectors: SteeringVector | Sequence[SteeringVector],
    *,
    position: Position = "front",
    prompt_lengths: Sequence[int] | None = None,
) -> list[tuple[str, Callable[..., Any]]]:
    """Hooks for `model.run_with_hooks(..., fwd_hooks=...)` or `model.hooks(...)`, one per layer.

    While the list lives, a reader hangs on the model beside it: it changes nothing, and tells the hooks of past
    length and mask. It goes when the list goes.

    Args:
        model: The model to steer.
        vectors: One or several.
        position: As in `steer`.
        prompt_lengths: As in `steer`.

    Returns:
        Hook names and hook functions.

    Raises:
        VectorError: A vector does not go with the model.
        LayerError: The model has no such layer.
        PositionError: A position is none, or does not go with a vector.
    """
    backend = backend_of(model)
    additions = additions_by_layer(check_vectors(backend, vectors), position)
    _, hooks = injection_hooks(backend, additions, prompt_lengths=_check_lengths(prompt_lengths))
    return [(backend.hook_name(layer), hook) for layer, hook in hooks.items()]


@contextmanager
def unsteered(backend: Backend) -> Iterator[None]:
    """The model without any steering that is open, the caller's own hooks left in place."""
    points = (backend.hook_name(layer) for layer in range(backend.n_layers))
    ours = [
        hook
        for name in points
        for hook in backend.hooks_at(name)
        if isinstance(hook, InjectionHook) and not hook.paused
    ]
    try:
        for hook in ours:
            hook.paused = True
        yield
    finally:
        for hook in ours:
            hook.paused = False


def _check_lengths(lengths: Sequence[int] | None) -> tuple[int, ...] | None:
    if lengths is None:
        return None
    found = list(lengths) if isinstance(lengths, Iterable) else [lengths]
    if not found or not all(is_count(item) for item in found):
        raise PositionError(f"prompt_lengths {lengths!r} is no list of token counts: give one integer from 1 per row.")
    return tuple(int(item) for item in found)
