"""What a person sets on the page: read from JSON, checked before anything runs."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from actadd_lens.checks import require
from actadd_lens.errors import SettingError

_NONE = type(None)
_KINDS: dict[str, tuple[tuple[type, ...], str]] = {
    **dict.fromkeys(("prompt", "system", "method", "positive", "negative", "rows"), ((str,), "a text")),
    **dict.fromkeys(("chat", "bos"), ((bool,), "true or false")),
    **dict.fromkeys(("layer", "max_new_tokens", "seed"), ((int,), "an integer")),
    **dict.fromkeys(("coefficient", "temperature", "top_p"), ((int, float), "a number")),
    "norm": ((int, float, _NONE), "a number, or nothing"),
    "vector": ((str, _NONE), "the key of an uploaded vector, or nothing"),
    "position": ((int, str), "a name, a token's index, or a span"),
}
"""What kind of value each setting takes; what else is wrong with it, the tools say."""

MOST_TOKENS = 200
"""Most tokens that one press of the button writes."""


@dataclass(frozen=True)
class Settings:
    """One state of the page's fields.

    Attributes:
        prompt: The prompt, or what a user says where `chat` is set.
        chat: Whether the prompt is written as a chat.
        system: System message of the chat; empty for the model's own.
        method: How the vector is found; a name of `methods.METHODS`.
        positive: The positive prompt, or the texts of the positive class, one a line, as the method asks.
        negative: The same for the negative side; may be empty.
        bos: Whether the pair is read with BOS.
        rows: `all` rows of the vector, or only the `last`.
        norm: Norm that each row is scaled to before the coefficient; None leaves them as they were read.
        vector: A vector that was uploaded, by its key; None to use the method.
        layer: Injection layer.
        coefficient: Injection coefficient.
        position: Where it lands: a name, a token index, or a span.
        max_new_tokens: Maximum number of tokens to write.
        temperature: 0 is greedy.
        top_p: Nucleus.
        seed: Seed of the samples and of the nulls.
    """

    prompt: str = ""
    chat: bool = False
    system: str = ""
    method: str = "actadd"
    positive: str = ""
    negative: str = ""
    bos: bool = True
    rows: str = "all"
    norm: float | None = None
    vector: str | None = None
    layer: int = 0
    coefficient: float = 1.0
    position: int | str = "front"
    max_new_tokens: int = 40
    temperature: float = 1.0
    top_p: float = 0.9
    seed: int = 0

    def __post_init__(self) -> None:
        for name, (kinds, expected) in _KINDS.items():
            value = getattr(self, name)
            fits = isinstance(value, kinds) and (not isinstance(value, bool) or bool in kinds)
            require(fits, name, value, expected)
        require(self.rows in ("all", "last"), "rows", self.rows, "'all' or 'last'")
        require(1 <= self.max_new_tokens <= MOST_TOKENS, "max_new_tokens", self.max_new_tokens, f"1 to {MOST_TOKENS}")

    @classmethod
    def from_json(cls, told: Any) -> "Settings":
        """Settings from what the page sends; what it leaves out has its default.

        Raises:
            SettingError: It is not an object, holds a name that is not known, or a value of another kind.
        """
        if not isinstance(told, Mapping):
            raise SettingError(f"Settings are {told!r}: expected an object with names and values.")
        known = {item.name for item in dataclasses.fields(cls)}
        unknown = sorted(set(told) - known)
        if unknown:
            raise SettingError(f"There is no setting {unknown[0]!r}: known are {', '.join(sorted(known))}.")
        position = told.get("position")
        if isinstance(position, str) and position.strip().removeprefix("-").isdecimal():
            told = {**told, "position": int(position)}
        return cls(**told)
