"""Pure arithmetic of positions: which rows of a vector meet which columns of a forward pass.

Token indices are 0-based and count BOS but not padding. The columns of a forward pass are the new tokens of that
pass; `past` columns lie before them in the KV cache.
"""

from operator import index as as_index
from typing import Literal, SupportsIndex

from actadd_lens.errors import PositionError

Named = Literal["front", "mid", "back", "all"]
Position = int | Named
"""Prompt token that receives row 0: an index, or `front`, `mid`, `back`; or every token, `all`."""

NAMED: tuple[Named, ...] = ("front", "mid", "back", "all")


def check_position(position: object, *, rows: int) -> Position:
    """The position as given, once it is known to be one.

    Args:
        position: An index, or one of `front`, `mid`, `back`, `all`.
        rows: Number of rows of the vector that goes there.

    Raises:
        PositionError: The position is no index and no known name, is negative, or is `all` for a vector of
            several rows.

    >>> check_position("mid", rows=3)
    'mid'
    """
    if isinstance(position, str):
        if position not in NAMED:
            raise PositionError(
                f"Position {position!r} is not known: use an index from 0, or one of {', '.join(NAMED)}."
            )
        if position == "all" and rows != 1:
            raise PositionError(
                f"Position 'all' takes a vector of one row, but this one has {rows}: "
                "choose a row with .row(i), or average them with .mean_rows()."
            )
        return position
    try:
        if isinstance(position, bool) or not isinstance(position, SupportsIndex):
            raise TypeError
        number = as_index(position)
    except TypeError:
        raise PositionError(
            f"Position {position!r} is not an index: use an integer from 0, or one of {', '.join(NAMED)}."
        ) from None
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
        PositionError: The rows would overhang the prompt.

    >>> [start_of(position, length=9, rows=4) for position in ("front", "mid", "back", 3)]
    [0, 2, 5, 3]
    """
    starts = {"front": 0, "mid": length // 2 - rows // 2, "back": length - rows}
    start = starts[position] if isinstance(position, str) else position
    if start < 0 or start + rows > length:
        raise PositionError(
            f"A vector of {rows} rows at position {position!r} does not fit onto a prompt of {length} tokens "
            f"(BOS counted): it would need tokens {start} to {start + rows - 1}. "
            "Use a longer prompt, another position, or fewer rows."
        )
    return start


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
