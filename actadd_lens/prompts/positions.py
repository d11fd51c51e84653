"""Pure arithmetic of positions: which rows of a vector meet which columns of a forward pass.

Token indices are 0-based and count BOS but not padding. The columns of a forward pass are the new tokens of that pass;
`past` columns lie before them in the KV cache. A position is a place for rows, which land one per token, or a span of
tokens that all receive the same row (see `spans`).
"""

from operator import index as as_index
from typing import Any, SupportsIndex

from actadd_lens.errors import PositionError
from actadd_lens.prompts.spans import NAMED_SPANS, PromptFacts, Reach, Span, as_span

Position = int | str | Span
"""Prompt token that receives row 0: an index, or `front`, `mid`, `back`. Or, for one row, a span of tokens: `all`,
`all+bos`, `prompt`, `prompt+bos`, `generated`, `last`, `since(index)`, `after(mark)`, `first(n)`, a slice, a mask.
"""

PLACES = ("front", "mid", "back")
"""Names of places for rows."""


def check_position(position: Any, *, rows: int, bos: bool | None = None) -> Position:
    """The position in its plain form, after checking it: an index, a name, or a span.

    Args:
        position: An index, a name, a span, a slice, or a boolean mask.
        rows: Number of rows of the vector that goes there.
        bos: For `all` and `prompt`, whether BOS is included; None leaves it to the name.

    Raises:
        PositionError: The position is not an index, a known name or a span, is negative, or is a span for a vector of
            several rows.

    >>> check_position("mid", rows=3), check_position("all", rows=1, bos=True)
    ('mid', 'all+bos')
    """
    span = as_span(position)
    if span is not None:
        if rows != 1:
            raise PositionError(
                f"Position {_told(position)} takes a vector of one row, but this one has {rows}: "
                "choose a row with .row(i), or average them with .mean_rows()."
            )
        return _with_bos(position if isinstance(position, str) else span, bos)
    if bos is not None:
        raise PositionError(f"bos= is for a span such as 'all' or 'prompt', not for position {position!r}.")
    if isinstance(position, str):
        if position not in PLACES:
            raise PositionError(f"Position {position!r} is not known: use {_KNOWN}.")
        return position
    return _index(position)


def own_position(position: Any, *, rows: int, bos: bool | None = None) -> Position | None:
    """A position of an intervention's own, as `check_position` gives it; None for none, which leaves it to the tool."""
    if position is None and bos is None:
        return None
    return check_position(position, rows=rows, bos=bos)


_KNOWN = f"an index from 0, one of {', '.join((*PLACES, *NAMED_SPANS))}, since(index), after(mark), or a slice"


def _told(position: Any) -> str:
    return repr(position) if isinstance(position, str | Span | slice) else "given by a mask"


def _with_bos(position: str | Span, bos: bool | None) -> str | Span:
    if bos is None:
        return position
    if isinstance(position, str) and position.removesuffix("+bos") in ("all", "prompt"):
        return position.removesuffix("+bos") + "+bos" * bos
    if not bos:
        raise PositionError(f"Position {position!r} counts BOS as token 0: begin it at 1 to leave BOS out.")
    return position


def _index(position: Any) -> int:
    try:
        if isinstance(position, bool) or not isinstance(position, SupportsIndex):
            raise TypeError
        number = as_index(position)
    except TypeError:
        raise PositionError(f"Position {position!r} is not an index: use {_KNOWN}.") from None
    if number < 0:
        raise PositionError(
            f"Position {number} is negative: token indices start at 0 (BOS counts); use 'back' for the end."
        )
    return number


def start_of(position: Position, *, length: int, rows: int) -> int:
    """Token index that receives row 0 (the authors' formulas; `length` counts BOS and not padding).

    Args:
        position: An index, `front`, `mid` or `back`.
        length: Number of tokens of the prompt.
        rows: Number of rows of the vector.

    Raises:
        PositionError: The rows would overhang the prompt, or the position is a span, which has no row 0.

    >>> [start_of(position, length=9, rows=4) for position in ("front", "mid", "back", 3)]
    [0, 2, 5, 3]
    """
    starts = {"front": 0, "mid": length // 2 - rows // 2, "back": length - rows}
    start = starts.get(position) if isinstance(position, str) else position
    if not isinstance(start, int):
        raise PositionError(f"Position {position!r} is a span of tokens, which has no row 0.")
    if start < 0 or start + rows > length:
        raise PositionError(
            f"A vector of {rows} rows at position {position!r} does not fit onto a prompt of {length} tokens "
            f"(BOS counted): it would need tokens {start} to {start + rows - 1}. "
            "Use a longer prompt, another position, or fewer rows."
        )
    return start


def reach_of(position: Position, *, rows: int, prompt: PromptFacts) -> Reach:
    """The tokens that rows at a position land on, or that a span covers.

    Args:
        position: In its plain form, as `check_position` gives it.
        rows: Number of rows of the vector.
        prompt: What is known of the prompt.

    Raises:
        PositionError: The rows would overhang the prompt, or the prompt has no such tokens.

    >>> reach_of("back", rows=2, prompt=PromptFacts(length=7))
    Reach(start=5, stop=7, mask=None)
    """
    span = as_span(position)
    if span is not None:
        return span.reach(prompt)
    start = start_of(position, length=prompt.length, rows=rows)
    return Reach(start, start + rows)


def needs_length(position: Position) -> bool:
    """Whether a position depends on where the prompt ends.

    >>> needs_length("back"), needs_length("front"), needs_length("generated"), needs_length("all")
    (True, False, True, False)
    """
    span = as_span(position)
    return position in ("mid", "back") if span is None else span.needs_length


def overlap(start: int, rows: int, *, past: int, seen: int) -> tuple[slice, slice]:
    """Slices of this pass's columns and of the vector's rows that meet in it.

    Args:
        start: Column of row 0, counted from the first column in the cache.
        rows: Number of rows of the vector.
        past: Number of columns that the cache already holds.
        seen: Number of new columns in this pass.

    >>> overlap(2, 4, past=3, seen=5)
    (slice(0, 3, None), slice(1, 4, None))
    """
    first, last = max(start, past), min(start + rows, past + seen)
    if first >= last:
        return slice(0, 0), slice(0, 0)
    return slice(first - past, last - past), slice(first - start, last - start)


def as_position(position: Any) -> Any:
    """A position as it is passed to a tool: slices and masks become spans; the rest is checked with its vector.

    >>> as_position(slice(1, 3)), as_position("front")
    (slice(1, 3), 'front')
    """
    return position if isinstance(position, str) else as_span(position) or position


def plain_position(position: Any) -> Any:
    """A position in a form for tables and JSON files: an index, a name, or a span in words."""
    span = as_span(position)
    return position if span is None or isinstance(position, str) else repr(span)
