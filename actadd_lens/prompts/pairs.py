"""Prompt pairs: two texts as two equally long rows of tokens."""

from dataclasses import dataclass
from numbers import Integral
from typing import Any

from actadd_lens.errors import PromptError
from actadd_lens.models import Backend, LensModel, backend_of

_SPACE_PIECES = ("Ġ", "▁")
"""How byte-level and SentencePiece tokenizers write a bare space."""


@dataclass(frozen=True)
class PairTokens:
    """The padded rows of a prompt pair.

    Attributes:
        positive: Token ids of p+, padding included.
        negative: Token ids of p-, as many; None for an unpaired addition.
        pad_token: Id of the pad that filled the shorter row; None where none was needed.
    """

    positive: tuple[int, ...]
    negative: tuple[int, ...] | None
    pad_token: int | None

    @property
    def shared_prefix(self) -> int:
        """Number of leading tokens that both rows share: there, causality makes the difference exactly zero."""
        if self.negative is None:
            return 0
        pairs = enumerate(zip(self.positive, self.negative, strict=True))
        return next((index for index, (plus, minus) in pairs if plus != minus), len(self.positive))


@dataclass(frozen=True)
class PromptPair:
    """Positive and negative prompt, p+ and p- (section 3 of the paper).

    The shorter one is padded on the right with the bare space token; the pads are real tokens and attended to.

    Attributes:
        positive: The prompt whose activations are added.
        negative: The prompt whose activations are subtracted; `""` means spaces, None means an unpaired addition, whose
            large BOS row stays in.
        pad: Text or token id of exactly one token; by default the tokenizer's bare space.
        prepend_bos: Whether both rows start with BOS.

    Raises:
        PromptError: Both prompts are empty, or one is not text.

    >>> PromptPair("Love", "Hate")
    PromptPair(positive='Love', negative='Hate', pad=None, prepend_bos=True)
    """

    positive: str
    negative: str | None
    pad: str | int | None = None
    prepend_bos: bool = True

    def __post_init__(self) -> None:
        for side, text in (("positive", self.positive), ("negative", self.negative)):
            if not isinstance(text, str) and not (side == "negative" and text is None):
                raise PromptError(f"The {side} prompt is {text!r}: expected a text.")
        if not self.positive and not self.negative:
            raise PromptError("Both prompts are empty, so there is nothing to read: give at least one of them a text.")

    @property
    def label(self) -> str:
        """The pair as a short label, for axes and tables."""
        if self.negative is None:
            return repr(self.positive)
        return f"{self.positive!r} − {self.negative!r}"

    def tokens(self, model: LensModel) -> PairTokens:
        """The two padded rows of token ids.

        Raises:
            PromptError: The pad is not one token, the tokenizer has no bare space, or a row is longer than the context.
        """
        backend = backend_of(model)
        rows = [backend.encode(text, prepend_bos=self.prepend_bos) for text in self._texts]
        length = max(map(len, rows))
        if length > backend.n_ctx:
            raise PromptError(
                f"The pair {self.label} is {length} tokens long, but {backend.name} reads at most {backend.n_ctx}."
            )
        pad = None
        if self.pad is not None or any(len(row) < length for row in rows):
            pad = pad_token_of(backend, self.pad)
        padded = [tuple(row + [pad] * (length - len(row))) if pad is not None else tuple(row) for row in rows]
        return PairTokens(padded[0], None if self.negative is None else padded[1], pad)

    @property
    def _texts(self) -> tuple[str, ...]:
        return (self.positive,) if self.negative is None else (self.positive, self.negative)


def as_pair(pair: Any) -> PromptPair:
    """A prompt pair from a `PromptPair` or a tuple of two texts.

    Raises:
        PromptError: It is neither.

    >>> as_pair(("Love", "Hate")).negative
    'Hate'
    """
    if isinstance(pair, PromptPair):
        return pair
    if isinstance(pair, tuple | list) and len(pair) == 2:
        return PromptPair(*pair)
    raise PromptError(f"{pair!r} is not a prompt pair: pass (positive, negative), or a PromptPair.")


def pad_token_of(backend: Backend, pad: str | int | None) -> int:
    """Id of the pad: the one given, or the tokenizer's bare space.

    Raises:
        PromptError: The pad is not exactly one token, or the tokenizer has no bare space.
    """
    if pad is None:
        return _bare_space(backend)
    if isinstance(pad, str):
        tokens = backend.encode(pad, prepend_bos=False)
        if len(tokens) != 1:
            raise PromptError(
                f"The pad {pad!r} is {len(tokens)} tokens for {backend.name}, but must be exactly one: "
                "choose another text or a token id, or leave it out for the tokenizer's bare space."
            )
        return tokens[0]
    size = len(backend.tokenizer)
    if isinstance(pad, bool) or not isinstance(pad, Integral) or not 0 <= pad < size:
        raise PromptError(f"The pad {pad!r} is not a token id of {backend.name}: ids go from 0 to {size - 1}.")
    return int(pad)


def _bare_space(backend: Backend) -> int:
    for piece in _SPACE_PIECES:
        token = backend.token_id(piece)
        if token is not None:
            return token
    tokens = backend.encode(" ", prepend_bos=False)
    if len(tokens) == 1:
        return tokens[0]
    raise PromptError(
        f"The tokenizer of {backend.name} has no bare space token to pad with: "
        "pass pad= with a text or id that is one token, or prompts of equal length."
    )
