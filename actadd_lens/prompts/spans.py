"""Spans: tokens that all receive the same row, as `[start, stop)` of absolute token indices, counted over the KV cache.

Token indices are 0-based and count BOS but not padding. Whether BOS is included depends on the span: names exclude it
unless they end in `+bos`; indices count it as token 0.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from actadd_lens.checks import as_integer
from actadd_lens.errors import AmbiguousPositionError, PositionError
from actadd_lens.models import Backend
from actadd_lens.prompts.chat import ROLES, read_spans


@dataclass(frozen=True)
class PromptFacts:
    """What a span may need to know about a prompt.

    Attributes:
        length: Tokens of the prompt, BOS counted, padding not.
        has_bos: Whether its first token is BOS; None if the tokens were not seen.
        tokens: Its token ids; None if not all of them were seen.
        row: Its row in the batch.
        reader: The model, for marks that are text and parts of a chat; None if it is not known.
    """

    length: int
    has_bos: bool | None = None
    tokens: Sequence[int] | None = None
    row: int = 0
    reader: Backend | None = None


@dataclass(frozen=True)
class Reach:
    """The tokens that a span covers in one prompt and in what is written after it.

    Attributes:
        start: First token index.
        stop: First token index beyond it; infinite if generated tokens are covered.
        mask: For a span with gaps, which tokens from `start` on are covered.
    """

    start: int
    stop: float
    mask: tuple[bool, ...] | None = None


class Span(ABC):
    """Tokens that all receive the same row of a vector, or the same operation."""

    needs_length = False
    """Whether the span depends on where the prompt ends."""
    needs_bos = False
    """Whether the span depends on BOS standing at the start."""
    needs_tokens = False
    """Whether the span depends on what the prompt's tokens are."""

    @property
    def prompts(self) -> int:
        """For how many prompts it is given; one for a span that is the same for all."""
        return 1

    @abstractmethod
    def reach(self, prompt: PromptFacts) -> Reach:
        """The tokens that are covered in one prompt.

        Raises:
            PositionError: The prompt has no such tokens.
        """


@dataclass(frozen=True)
class Named(Span):
    """A span with a name; see `NAMED_SPANS`."""

    name: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "needs_length", self.name.removesuffix("+bos") in ("prompt", "generated", "last"))
        object.__setattr__(self, "needs_bos", self.name in ("all", "prompt"))

    def reach(self, prompt: PromptFacts) -> Reach:
        """From the prompt's start, or its end, or its last token on."""
        if self.needs_bos and prompt.has_bos is None:
            raise AmbiguousPositionError(
                "This pass began from a residual stream, so its tokens were not seen, and which of them is BOS is not "
                f"known, which position {self.name!r} needs. Start from tokens, or name a position."
            )
        start = int(bool(prompt.has_bos)) if self.needs_bos else 0
        match self.name.removesuffix("+bos"):
            case "prompt":
                return Reach(start, prompt.length)
            case "generated":
                return Reach(prompt.length, math.inf)
            case "last":
                return Reach(prompt.length - 1, math.inf)
        return Reach(start, math.inf)


@dataclass(frozen=True)
class Said(Span):
    """What a role says in a chat prompt: the tokens of its last message, without the template's.

    The message is found in the prompt's tokens with the tokenizer's own chat template. `assistant` is the model's own
    turn, which starts after the prompt.
    """

    name: str
    needs_length = True
    needs_tokens = True

    def reach(self, prompt: PromptFacts) -> Reach:
        """The role's last message in this prompt."""
        spans = _spans_of(prompt, self.name)
        if spans is None or self.name not in spans:
            told = (
                "is not a chat prompt" if spans is None else f"is a chat in which only {', '.join(sorted(spans))} speak"
            )
            raise PositionError(
                f"Position {self.name!r} is a part of a chat prompt, but prompt {prompt.row} {told}: make one by "
                "actadd_lens.chat(model, ...), or name another position."
            )
        start, stop = spans[self.name]
        return Reach(start, math.inf if stop is None else stop)


def _spans_of(prompt: PromptFacts, name: str) -> dict[str, tuple[int, int | None]] | None:
    """Where the roles of a chat prompt speak; None where it is not a chat prompt."""
    if prompt.tokens is None or prompt.reader is None:
        raise AmbiguousPositionError(
            f"The part {name!r} of a chat is looked for among the prompt's tokens, but not all were seen: start "
            "from tokens, and pass the prompt in one piece."
        )
    return read_spans(prompt.reader, prompt.tokens)


NAMED_SPANS: dict[str, Span] = {
    **{name: Named(name) for name in ("all", "all+bos", "prompt", "prompt+bos", "generated", "last")},
    **{role: Said(role) for role in ROLES},
}
"""`all`: every token but BOS, generated ones too; `prompt`: those of the prompt; `generated`: those after it;
`last`: the prompt's last token and all generated ones. `all+bos` and `prompt+bos` include BOS. `user`, `system` and
`assistant` are parts of a chat prompt.
"""


@dataclass(frozen=True)
class Since(Span):
    """Every token from an index on, generated ones too; see `since`."""

    starts: tuple[int, ...]

    @property
    def prompts(self) -> int:
        """One for each index."""
        return len(self.starts)

    def reach(self, prompt: PromptFacts) -> Reach:
        """From the prompt's own index on."""
        if len(self.starts) > 1 and prompt.row >= len(self.starts):
            raise PositionError(
                f"since() was given {len(self.starts)} indices, but there is a prompt number {prompt.row + 1}: give "
                "one index, or one per prompt."
            )
        return Reach(self.starts[prompt.row if len(self.starts) > 1 else 0], math.inf)

    def __repr__(self) -> str:
        return f"since({self.starts[0] if len(self.starts) == 1 else list(self.starts)})"


def since(index: Any) -> Since:
    """Every token from an index on, generated ones too.

    Args:
        index: A token index from 0, BOS counted; or one per prompt, as a list or a tensor.

    Raises:
        PositionError: It is not an index from 0.

    >>> since(5)
    since(5)
    """
    many = index.tolist() if hasattr(index, "tolist") else index
    many = list(many) if isinstance(many, Iterable) and not isinstance(many, str) else [many]
    if not many:
        raise PositionError("since() was given no index: give one, or one per prompt.")
    return Since(tuple(_whole(item, "since()", "use 'last' for the prompt's last token on") for item in many))


@dataclass(frozen=True)
class After(Span):
    """From the last token of a mark on; see `after`."""

    mark: str | tuple[int, ...]
    needs_length = True
    needs_tokens = True

    def reach(self, prompt: PromptFacts) -> Reach:
        """From the last token of the mark's last occurrence in the prompt on."""
        if prompt.tokens is None:
            raise AmbiguousPositionError(
                f"after({self.mark!r}) looks for its mark among the prompt's tokens, but not all were seen: start "
                "from tokens, pass the prompt in one piece, or use since(index)."
            )
        spans = _spans_of(prompt, self.mark) if self.mark in ROLES and prompt.reader is not None else None
        if spans is not None and self.mark in spans:
            return Reach(max(0, spans[str(self.mark)][0] - 1), math.inf)
        found = self._end(list(prompt.tokens), prompt.reader)
        if found is None:
            raise PositionError(
                f"The mark {self.mark!r} does not occur in prompt {prompt.row}: look at its tokens with preview, or "
                "use since(index)."
            )
        return Reach(found, math.inf)

    def _end(self, tokens: list[int], reader: Backend | None) -> int | None:
        if isinstance(self.mark, str):
            return None if reader is None else _end_of_text(tokens, self.mark, reader.decode)
        size, mark = len(self.mark), list(self.mark)
        ends = [end for end in range(size, len(tokens) + 1) if tokens[end - size : end] == mark]
        return ends[-1] - 1 if ends else None

    def __repr__(self) -> str:
        return f"after({self.mark if isinstance(self.mark, tuple) else repr(self.mark)})"


def after(mark: Any) -> After:
    """From the last token of a text mark on, generated tokens too: for example where a chat model's turn begins.

    The last occurrence counts, and its last token is included. A text is looked for in the prompt's text, so it does
    not matter how it would be tokenised alone; token ids are looked for as they are.

    Args:
        mark: A text, or token ids: a list or a tensor. In a chat prompt, `user`, `system` and `assistant` are the
            roles: the span starts at the last token before the role's last message, which for `assistant` is the
            prompt's last.

    Raises:
        PositionError: The mark is empty, or neither text nor token ids.

    >>> after("[/INST]")
    after('[/INST]')
    """
    if isinstance(mark, str) and mark:
        return After(str(mark))
    ids = mark.tolist() if hasattr(mark, "tolist") else mark
    if not isinstance(ids, str) and isinstance(ids, Iterable):
        found = tuple(_whole(item, "after()", "give a text, or token ids") for item in ids)
        if found:
            return After(found)
    raise PositionError(f"after({mark!r}) has no mark: give a text that is not empty, or token ids.")


@dataclass(frozen=True)
class Window(Span):
    """The tokens of a slice: negative bounds count from the prompt's end; without a stop, generated tokens too."""

    start: int
    stop: int | None

    def __post_init__(self) -> None:
        object.__setattr__(self, "needs_length", self.start < 0 or (self.stop is not None and self.stop < 0))

    def reach(self, prompt: PromptFacts) -> Reach:
        """The slice of this prompt."""
        start, stop = self.start, math.inf if self.stop is None else self.stop
        start = start + prompt.length if start < 0 else start
        stop = stop + prompt.length if stop < 0 else stop
        if start < 0 or stop <= start:
            raise PositionError(
                f"The slice {self.start}:{'' if self.stop is None else self.stop} covers no token of a prompt of "
                f"{prompt.length} tokens (BOS counted): choose other bounds."
            )
        return Reach(int(start), stop)

    def __repr__(self) -> str:
        return f"slice({self.start}, {self.stop})"


def first(n: int) -> Window:
    """The first n tokens, BOS counted.

    Raises:
        PositionError: It is not an integer from 1.

    >>> first(3)
    slice(0, 3)
    """
    count = _whole(n, "first()", "give an integer from 1")
    if count == 0:
        raise PositionError("first(0) covers no token: give an integer from 1.")
    return Window(0, count)


@dataclass(frozen=True)
class Mask(Span):
    """Some tokens of the prompt, marked one by one: one mask for all prompts, or one per prompt."""

    table: tuple[tuple[bool, ...], ...]

    @property
    def prompts(self) -> int:
        """One for each row."""
        return len(self.table)

    def reach(self, prompt: PromptFacts) -> Reach:
        """The tokens that the mask marks; it may end before the prompt does, and covers no generated tokens."""
        if len(self.table) > 1 and prompt.row >= len(self.table):
            raise PositionError(
                f"The mask has {len(self.table)} rows, but there is a prompt number {prompt.row + 1}: give one row, or "
                "one per prompt."
            )
        row = self.table[prompt.row if len(self.table) > 1 else 0]
        marked = max((index + 1 for index, is_meant in enumerate(row) if is_meant), default=0)
        if marked > prompt.length:
            raise PositionError(
                f"The mask marks token {marked - 1}, but prompt {prompt.row} has {prompt.length} tokens (BOS counted)."
            )
        return Reach(0, marked, row[:marked])

    def __repr__(self) -> str:
        return f"mask of {sum(map(sum, self.table))} tokens"


def as_span(position: Any) -> Span | None:
    """A span from a name, a span, a slice, or a boolean mask; None if it is none of these.

    Raises:
        PositionError: A slice has steps, or a mask is not one of booleans.
    """
    if isinstance(position, Span):
        return position
    if isinstance(position, str):
        return NAMED_SPANS.get(position)
    if isinstance(position, slice):
        if position.step not in (None, 1):
            raise PositionError(f"The slice {position!r} has steps of {position.step}: use a boolean mask.")
        start = 0 if position.start is None else _integer(position.start)
        return Window(start, None if position.stop is None else _integer(position.stop))
    values = position.tolist() if hasattr(position, "tolist") else position
    if not isinstance(values, list | tuple) or not values:
        return None
    rows = values if isinstance(values[0], list | tuple) else [values]
    if not all(isinstance(row, list | tuple) and all(isinstance(item, bool) for item in row) for row in rows):
        raise PositionError(
            f"{position!r} is not a boolean mask, with one entry per token, or rows of them. For one token pass an "
            "integer, for several in a row a slice."
        )
    return Mask(tuple(tuple(row) for row in rows))


def span_to_json(span: Span) -> Any:
    """A span as plain values, for a file's header."""
    match span:
        case Since(starts):
            return {"since": list(starts)}
        case After(mark):
            return {"after": mark if isinstance(mark, str) else list(mark)}
        case Window(start, stop):
            return {"slice": [start, stop]}
        case Mask(table):
            return {"mask": [list(row) for row in table]}
    assert isinstance(span, Named | Said)
    return span.name


def span_from_json(data: Any) -> Span:
    """The way back from `span_to_json`.

    Raises:
        PositionError: It is not a span.
    """
    if isinstance(data, dict) and len(data) == 1:
        ((kind, value),) = data.items()
        if kind == "since" and isinstance(value, list):
            return since(value)
        if kind == "after" and isinstance(value, str | list):
            return after(value)
        if kind == "slice" and isinstance(value, list) and len(value) == 2:
            found = as_span(slice(*value))
            assert found is not None
            return found
        if kind == "mask" and isinstance(value, list) and (span := as_span(value)) is not None:
            return span
    raise PositionError(f"{str(data)[:60]} is not a span.")


def _whole(value: Any, what: str, remedy: str) -> int:
    number = _integer(value, what, remedy)
    if number < 0:
        raise PositionError(f"{what} was given {number}, which is negative: {remedy}.")
    return number


def _integer(value: Any, what: str = "The slice", remedy: str = "give integers") -> int:
    number = as_integer(value)
    if number is None:
        raise PositionError(f"{what} was given {value!r}, which is not an integer: {remedy}.")
    return number


def _end_of_text(tokens: list[int], mark: str, decode: Callable[[Sequence[int]], str]) -> int | None:
    """The token in which the last occurrence of a text ends."""
    place = decode(tokens).rfind(mark)
    if place < 0:
        return None
    end = place + len(mark)
    low, high = 1, len(tokens)
    while low < high:  # the text of the first tokens grows with their number
        middle = (low + high) // 2
        if len(decode(tokens[:middle])) >= end:
            high = middle
        else:
            low = middle + 1
    return low - 1
