"""`steer` and `fwd_hooks`: steering of whatever runs; where each prompt ends is learnt from its own passes."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import torch
from torch import Tensor

from actadd_lens.checks import is_count
from actadd_lens.errors import AmbiguousPositionError, PositionError, SteeringError
from actadd_lens.models import Backend, LensModel, backend_of
from actadd_lens.models.protocol import Spot
from actadd_lens.prompts.positions import Position, as_position, needs_length
from actadd_lens.prompts.spans import as_span
from actadd_lens.steering.clean import read_clean
from actadd_lens.steering.hooks import InjectionHook, Session, compiled_code_off, hung
from actadd_lens.steering.interventions import PerPrompt, per_prompt
from actadd_lens.steering.landings import Assignment, act, act_on_tokens, assign, land, resolve
from actadd_lens.steering.passes import Pass, Watch
from actadd_lens.steering.sequences import Memory, Questions, Sequences, go_on, join, meet, token_index
from actadd_lens.vectors.interventions import CleanReads, Intervention
from actadd_lens.vectors.vector import SteeringVector, check_interventions


class SteeringWarning(UserWarning):
    """Steering ended before its `with` block did."""


class Watched(Session):
    """Steering of passes that are not announced: each is observed as it goes through the blocks.

    Args:
        backend: The model.
        rows: For each row of a batch, what is done; one entry for all rows.
        position: For interventions without a position of their own.
        lengths: Tokens of each prompt, if the caller passed them.
        is_strict: Whether a block that ran without its hook being called is an error.
    """

    def __init__(
        self, backend: Backend, rows: PerPrompt, position: Any, lengths: tuple[int, ...] | None, *, is_strict: bool
    ) -> None:
        super().__init__(backend)
        self._rows = rows
        self._position = as_position(position)
        self._lengths = lengths
        self._is_strict = is_strict
        self._memory = Memory()
        self._step: Pass | None = None
        self._now: tuple[Sequences, int] | None = None
        self._short: dict[int, int] = {}
        self._fixed: dict[int, dict[Spot, list[Assignment]]] = {}
        found = [item for row in rows.items for items in assign(row, self._position).values() for item in items]
        self._questions = _questions(found)
        self.spots = list(dict.fromkeys(item.intervention.spot for item in found))
        self._reads = any(item.intervention.reads for item in found)
        self._learns = any(_learns(item.intervention) for item in found)
        blocks = sorted({self._block(spot) for spot in self.spots})
        self._watch = Watch(backend, blocks, self)
        self.close = self._watch.close

    @property
    def looks_away(self) -> bool:
        """Whether passes of this thread are none of its business for now."""
        return not self.is_open or self.is_paused

    def _block(self, spot: Spot) -> int:
        """The block in which a hook point is."""
        return min(spot.layer, self.backend.n_layers - 1)

    def enters(self, block: int, step: Pass | None) -> None:
        """A block is about to run; with the first of a pass comes what the pass tells."""
        if not self.is_mine:
            if self._is_strict:
                self._refuse_thread()
            return
        self.called.clear()
        if step is not None:
            self._step, self._now = step, None
            if self._is_strict:  # hooks that are only listed may not hang at all, so they look when they are called
                self._look()

    def _look(self) -> tuple[Sequences, int]:
        """What the pass that is running tells."""
        if self._now is None:
            assert self._step is not None
            self._now = (self._sequences(self._step), self._step.context.past)
            self._step = None
        return self._now

    def _refuse_thread(self) -> NoReturn:
        raise SteeringError(
            f"{self.backend.name} is being steered by another thread than the one that runs it, so it cannot be "
            "known whether this pass is to be steered. Open steer in the thread that runs the model, or use "
            "actadd_lens.complete, which steers its own passes only."
        )

    def leaves(self, block: int) -> None:
        """A block has run: its hooks must have been called."""
        for spot in self.spots if self._is_strict else ():
            gone = not all(handle.is_alive for handle in self.handles)  # by reset_hooks, which ends steering
            if self._block(spot) == block and spot not in self.called and not gone:
                raise SteeringError(
                    f"Block {block} of {self.backend.name} ran, but {self.backend.hook_name(*spot)} was not reached, "
                    "so nothing was done there: another module, such as a sparse autoencoder, stands in its place, or "
                    "the hook was taken away. Take that module away, or steer at another layer."
                )

    def _sequences(self, step: Pass) -> Sequences:
        """The sequences that a pass belongs to, with what is done to them."""
        context, known = step.context, None
        if context.cache is not None and context.past > 0:
            known = self._memory.of(context.cache)
            if known is not None and (known.columns != context.past or len(known.prompts.first) != step.batch):
                known = None
        if context.past == 0:
            found = meet(self.backend, step, self._questions, self._memory, self._lengths)
            if self._reads:
                _check_side_by_side(found)
                _check_counted_on(found, step)
        elif known is None:
            found = join(self.backend, step, self._questions, self._lengths)
        else:
            self._memory.forget(known.mark)
            found = go_on(self.backend, known, step, self._questions, self._lengths)
        if context.past > 0 and known is None:
            self._note_taken_up(context.past)
        self._note_short(context.cache, found)
        if known is not None and not self._learns:
            found.assignments = known.assignments
            found.landings = known.landings if known.prompts is found.prompts else {}
        else:
            found.assignments = self._resolved(found, step.batch)
        self._place(found)
        if context.cache is not None:
            self._memory.keep(context.cache, found)
        return found

    def _note_short(self, cache: Any, found: Sequences) -> None:
        """Of a prompt whose length was told, not everything may have come yet."""
        if self._lengths is not None and found.columns < max(found.prompts.lengths):
            self._short[id(cache)] = found.columns
        else:
            self._short.pop(id(cache), None)

    def _note_taken_up(self, past: int) -> None:
        """A sequence that goes on in another cache may be the copy of a prefix, which then needs not end itself."""
        for key in [key for key, columns in self._short.items() if columns == past]:
            del self._short[key]

    def check_complete(self) -> None:
        """See that the prompts whose lengths were told went through whole.

        Raises:
            PositionError: One ended before its length.
        """
        for columns in self._short.values():
            raise PositionError(
                f"prompt_lengths {list(self._lengths or ())} does not match what ran: a sequence ended after "
                f"{columns} columns. Give one length per row, BOS counted and padding not."
            )

    def _resolved(self, found: Sequences, batch: int) -> dict[Spot, list[Assignment]]:
        """What is done, with operations; where these depend neither on prompts nor on training, they are kept."""
        if batch in self._fixed:
            return self._fixed[batch]
        assignments = self._assignments(batch)
        _check_spans(assignments, batch)
        resolved = resolve(self.backend, assignments, found.prompts, self._read)
        if not self._learns and not self._reads:
            self._fixed[batch] = resolved
        return resolved

    def _assignments(self, batch: int) -> dict[Spot, list[Assignment]]:
        if len(self._rows) == 1:
            return assign(self._rows.items[0], self._position)
        if len(self._rows) != batch:
            raise PositionError(
                f"per_prompt has {len(self._rows)} entries, but this batch has {batch} rows: give one for each."
            )
        found: dict[Spot, list[Assignment]] = {}
        for row, items in enumerate(self._rows.items):
            for spot, assignments in assign(items, self._position, rows=(row,)).items():
                found.setdefault(spot, []).extend(assignments)
        return found

    def _place(self, found: Sequences) -> None:
        """Columns for plain rows, and a look at whether everything fits before anything is changed."""
        if found.landings:
            return
        for spot, items in found.assignments.items():
            landings = land(items, found.prompts, reader=self.backend)
            if found.is_plain:
                found.landings[spot] = landings

    def _read(self, prompts: Sequence[Sequence[int]], spots: Sequence[Spot]) -> CleanReads:
        return read_clean(self.backend, prompts, spots)

    def steered(self, spot: Spot, stream: Tensor) -> Tensor | None:
        """What the pass that is running asks for at a hook point."""
        if not self._watch.is_here:  # a copy of the model, which carries the same hook functions
            return None
        if not self.is_mine:
            self._refuse_thread()
        self.called.add(spot)
        found, past = self._look()
        if not found.acts_from(past) or not found.assignments.get(spot):
            return None
        if found.is_plain:
            return act(stream, found.landings[spot], past=past)
        assert found.real is not None
        index = token_index(found.real)[:, past:]
        return act_on_tokens(stream, found.assignments[spot], found.prompts, index, reader=self.backend)


def _check_side_by_side(found: Sequences) -> None:
    """Prompts are read with their tokens side by side; where some attend over a hole, that is another pass."""
    if found.real is None:
        return
    columns = torch.arange(found.real.shape[1], device=found.real.device)
    ends = torch.where(found.real, columns + 1, 0).amax(dim=1)
    firsts = torch.tensor(found.prompts.first, device=ends.device)
    holes = (ends > 0) & (ends - firsts != found.real.sum(dim=1))
    if bool(holes.any()):
        raise AmbiguousPositionError(
            "A gate or a clean value is read from the prompt in a pass of its own, without what the mask hides, but "
            f"the masks of rows {holes.nonzero().flatten().tolist()} have holes, across which tokens are further apart "
            "than in that pass: leave the hidden tokens out of the prompt."
        )


def _check_counted_on(found: Sequences, step: Pass) -> None:
    """Prompts are read with positions from 0 on; where the pass has others, a model may give other values."""
    if step.positions is None:
        return
    given = step.positions.expand(step.batch, -1)
    real = torch.ones_like(given, dtype=torch.bool) if found.real is None else found.real.to(given.device)
    if given.shape != real.shape or bool((given != real.cumsum(dim=1) - 1)[real].any()):
        raise AmbiguousPositionError(
            "A gate or a clean value is read from the prompt in a pass of its own, with positions that count from 0, "
            "but this pass was given other position_ids: leave them out, so that the model counts."
        )


def _check_spans(assignments: Mapping[Spot, Sequence[Assignment]], batch: int) -> None:
    """Rows of a pass have no other numbers than their places: a span for each prompt is one for each row."""
    for item in (item for items in assignments.values() for item in items):
        span = as_span(item.position)
        if span is not None and span.prompts not in (1, batch):
            raise PositionError(
                f"Position {span!r} is given for {span.prompts} prompts, but this batch has {batch} rows: give one for "
                "all, or one for each."
            )


def _questions(found: Sequence[Assignment]) -> Questions:
    spans = [as_span(item.position) for item in found]
    rows = [item for item, span in zip(found, spans, strict=True) if span is None]
    needed = [
        (0 if isinstance(item.position, str) else _index(item.position)) + item.intervention.rows
        for item in rows
        if item.position == "front" or not isinstance(item.position, str)
    ]
    begun = [
        item.intervention.label
        for item in rows
        if item.position == "front" and isinstance(item.intervention, SteeringVector) and item.intervention.has_bos_row
    ]
    return Questions(
        length=any(needs_length(item.position) or bool(item.intervention.reads) for item in found),
        bos=any(span is not None and span.needs_bos for span in spans),
        front_with_bos=begun[0] if begun else None,
        spans=any(span is not None for span in spans),
        fits=max(needed, default=0),
    )


def _index(position: Position) -> int:
    assert isinstance(position, int)
    return position


def _learns(intervention: Intervention) -> bool:
    values = [getattr(intervention, name, None) for name in ("activations", "factor", "values", "value")]
    inner = [getattr(intervention, name, None) for name in ("inner", "direction")]
    return any(isinstance(value, Tensor) and value.requires_grad for value in values) or any(
        _learns(item) for item in inner if isinstance(item, Intervention)
    )


@contextmanager
def steer(
    model: LensModel,
    *vectors: Any,
    position: Any = "front",
    prompt_lengths: Any = None,
) -> Iterator[LensModel]:
    """Steer whatever runs inside: any TransformerLens call, with or without the KV cache.

    Each intervention acts once per token, at its hook point, on a copy. Where a prompt begins and ends is learnt for
    each sequence from its own passes; a sequence is recognised by its KV cache. If that does not settle it, an error
    says so, and nothing is guessed.

    Steering belongs to the thread that opened it: a pass of another thread is an error, except for those of tools such
    as `complete`, which steer their own passes only. Compiled models run uncompiled while it is open.

    Args:
        model: The model to steer.
        *vectors: Steering vectors or other interventions, one or several, or a list of them, or `per_prompt([...])`.
            At one hook point they act in the order given.
        position: Prompt token that receives row 0, or a span for one row, for those without a position of their own.
        prompt_lengths: Number of tokens of each prompt, BOS counted and padding not, if it is not clear from the
            passes: one number, a list, or a tensor.

    Yields:
        The model itself.

    Raises:
        VectorError: A vector does not match the model.
        LayerError: The model has no such layer.
        PositionError: A vector does not fit onto a prompt.
        AmbiguousPositionError: Where the prompt begins or ends is not clear from the pass.
        SteeringError: Another thread runs the model, or a block ran and its hook was not called.
    """
    backend = backend_of(model)
    rows = _by_row(backend, vectors[0] if len(vectors) == 1 else vectors)
    session = Watched(backend, rows, position, _check_lengths(prompt_lengths), is_strict=True)
    try:
        with compiled_code_off(), hung(session, session.spots) as handles:
            yield model
            session.check_complete()
            if not all(handle.is_alive for handle in handles):
                warnings.warn(
                    "Steering ended before its `with` block did: model.reset_hooks() inside it took the hooks away.",
                    SteeringWarning,
                    stacklevel=3,
                )
    finally:
        session.close()


def fwd_hooks(
    model: LensModel,
    vectors: Any,
    *,
    position: Any = "front",
    prompt_lengths: Any = None,
) -> list[tuple[str, Callable[..., Any]]]:
    """Hooks for `model.run_with_hooks(..., fwd_hooks=...)` or `model.hooks(...)`, one per hook point.

    While the list exists, module hooks observe the model: they change nothing, and give the hooks the past length, mask
    and tokens. They are removed with the list.

    Args:
        model: The model to steer.
        vectors: As in `steer`.
        position: As in `steer`.
        prompt_lengths: As in `steer`.

    Returns:
        Hook names and hook functions.

    Raises:
        VectorError: A vector does not match the model.
        LayerError: The model has no such layer.
        PositionError: A position is invalid, or does not fit a vector.
    """
    backend = backend_of(model)
    rows = _by_row(backend, vectors)
    session = Watched(backend, rows, position, _check_lengths(prompt_lengths), is_strict=False)
    return [(backend.hook_name(*spot), InjectionHook(session, spot, keeps_session=True)) for spot in session.spots]


def _by_row(backend: Backend, vectors: Any) -> PerPrompt:
    """What is done to each row of a batch; one entry where all rows are alike."""
    if isinstance(vectors, PerPrompt):
        vectors.check(backend)
        return vectors
    return per_prompt([check_interventions(backend, vectors)])


def _check_lengths(lengths: Any) -> tuple[int, ...] | None:
    if lengths is None:
        return None
    lengths = lengths.tolist() if hasattr(lengths, "tolist") else lengths
    found = list(lengths) if isinstance(lengths, Iterable) else [lengths]
    if not found or not all(is_count(item) for item in found):
        raise PositionError(
            f"prompt_lengths {lengths!r} is not a list of token counts: give one integer from 1 per row."
        )
    return tuple(int(item) for item in found)
