"""Positions as other libraries define them: every token including BOS, or rows at absolute token indices."""

from actadd_lens.errors import PositionError
from actadd_lens.prompts.positions import Position
from actadd_lens.prompts.spans import Span, Window, as_span
from actadd_lens.vectors.vector import SteeringVector


def covers_all(position: Position | None) -> bool:
    """Whether a position is every token, BOS too."""
    span = as_span(position) if position is not None else None
    return position == "all+bos" or (isinstance(span, Window) and span.start == 0 and span.stop is None)


def everywhere(vector: SteeringVector, library: str) -> list[str]:
    """What is lost when one row is added at every token, BOS too.

    Raises:
        PositionError: The vector is for some tokens only.
    """
    if covers_all(vector.position):
        return []
    if vector.position is None:
        return [
            f"{library} adds the row at every token, BOS too, where tools here would add it at the front: "
            "v.at(position='all+bos') does the same here"
        ]
    if vector.position == "all":
        return [
            f"{library} adds the row at BOS too, which position 'all' leaves out: "
            "v.at(position='all+bos') does the same here"
        ]
    told = vector.position if isinstance(vector.position, str | int) else repr(vector.position)
    raise PositionError(
        f"{library} adds one row at every token, BOS too, but {vector.label} is for position {told!r}: use "
        "v.at(position='all+bos') if that is intended, or export to vllm-lens (.json), which holds places."
    )


def places_of(vector: SteeringVector) -> list[int]:
    """The absolute token index of each row, or of each copy of one row.

    Raises:
        PositionError: The position depends on the prompt, so that it is not an index.
    """
    position = 0 if vector.position in (None, "front") else vector.position
    if isinstance(position, int):
        return list(range(position, position + vector.rows))
    span = as_span(position)
    if isinstance(span, Window) and span.stop is not None:
        return list(range(span.start, span.stop))
    told = repr(span) if isinstance(span, Span) and not isinstance(position, str) else repr(position)
    raise PositionError(
        f"Position {told} depends on the prompt, and the file holds token indices: look at the prompt with preview, "
        "and use v.at(position=3), or v.at(position='all+bos') for one row at every token."
    )
