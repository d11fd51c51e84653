"""Chat prompts: messages, formatted by the tokenizer's own template, and where each of them lies among the tokens."""

import difflib
import itertools
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from actadd_lens.errors import PromptError
from actadd_lens.models import Backend, LensModel, backend_of

TEMPLATE = "template"
"""What tokens that nobody says belong to."""

ROLES = ("system", "user", "assistant")
"""Whose messages can be named as positions."""

_MARK = "\ue000message\ue000"
"""Stands for a message while it is looked for: of a private area of Unicode, which no template treats specially."""


@dataclass(frozen=True)
class Part:
    """A stretch of a chat prompt's text, counted in characters.

    Attributes:
        name: Who speaks: `system`, `user`, `assistant`, or another role of the template.
        start: First character of what is said.
        stop: The character after it; None for the model's own turn, which is still to be written.
    """

    name: str
    start: int
    stop: int | None


class ChatPrompt(str):
    """A conversation as the model reads it: a text like any other prompt that also knows its parts.

    Attributes:
        messages: The messages, as pairs of role and content.
        parts: Where each of them lies in the text, and where the model's own turn begins.
    """

    __slots__ = ("messages", "parts")

    messages: tuple[tuple[str, str], ...]
    parts: tuple[Part, ...]

    def __new__(cls, text: str, messages: tuple[tuple[str, str], ...], parts: tuple[Part, ...]) -> "ChatPrompt":
        """A text with its parts."""
        prompt = super().__new__(cls, text)
        prompt.messages, prompt.parts = messages, parts
        return prompt

    # What pickling calls __new__ with, which takes more than that of a plain str, as whose override it is typed.
    def __getnewargs__(self) -> tuple[str, tuple[tuple[str, str], ...], tuple[Part, ...]]:  # type: ignore[override]
        return str(self), self.messages, self.parts


def chat(model: LensModel, messages: str | Sequence[Mapping[str, str]], *, system: str | None = None) -> ChatPrompt:
    """A chat prompt, formatted by the tokenizer's own template, up to where the model's turn begins.

    It is a text that can be used wherever a prompt can. If the template begins with BOS, as most do, `complete` and
    similar functions add no second one.

    Args:
        model: The model.
        messages: What the user says; or the whole conversation, a mapping with `role` and `content` for each message.
        system: The system message; by default the template's own, if it has one.

    Raises:
        PromptError: The tokenizer has no chat template, there is no message, one is not a role and a text, or the
            template rejects the conversation.
    """
    backend = backend_of(model)
    said = _checked(messages, system)
    if not getattr(backend.tokenizer, "chat_template", None):
        raise PromptError(
            f"The tokenizer of {backend.name} has no chat template that says how a conversation is written: "
            "write the prompt as a text, or set tokenizer.chat_template."
        )
    text = _rendered(backend, said)
    parts = [_part(backend, said, index, text) for index in range(len(said))]
    return ChatPrompt(text, said, (*parts, Part("assistant", len(text), None)))


def token_spans(model: LensModel, prompt: str, *, prepend_bos: bool = True) -> dict[str, tuple[int, int | None]]:
    """Where the parts of a chat prompt lie among its tokens, BOS counted.

    A token with characters of both a message and the template counts as the message's.

    Args:
        model: The model.
        prompt: What `chat` returns.
        prepend_bos: As in `complete`.

    Returns:
        For each role the first token of its last message, and the token after that message. If a role speaks several
        times, `user 1`, `user 2` and so on are its messages from the first. `assistant` is the model's own turn: it
        starts after the last token of the prompt and has no end.

    Raises:
        PromptError: The prompt is not a chat prompt, or its tokenizer does not report which characters a token covers.
    """
    if not isinstance(prompt, ChatPrompt):
        raise PromptError(
            f"The prompt {str(prompt)[:40]!r} is not a chat prompt, so it has no parts: make one by chat()."
        )
    backend = backend_of(model)
    tokens, covered = _covered(backend, prompt, prepend_bos=prepend_bos)
    by_role: dict[str, list[tuple[int, int | None]]] = {}
    for part in prompt.parts:
        span: tuple[int, int | None] = (len(tokens), None)
        if part.stop is not None:
            inside = [at for at, (start, stop) in covered.items() if start < part.stop and stop > part.start]
            span = (min(inside), max(inside) + 1) if inside else (0, 0)
        by_role.setdefault(part.name, []).append(span)
    spans = {role: found[-1] for role, found in by_role.items()}
    for role, found in by_role.items():
        if len(found) > 1:
            spans.update({f"{role} {number}": span for number, span in enumerate(found, start=1)})
    return spans


def read_spans(backend: Backend, tokens: Sequence[int]) -> dict[str, tuple[int, int | None]] | None:
    """Where the parts of a chat prompt lie, from its tokens alone; `token_spans` finds the same from the prompt.

    The tokens are cut where the tokenizer's template writes something between messages. A result counts only if the
    template, given these messages, writes the same text again. Messages that contain the template's own marks are as
    ambiguous here as they are for the model.

    Args:
        backend: The model.
        tokens: The prompt's token ids.

    Returns:
        As `token_spans`; None where the tokens are not a chat prompt of this tokenizer.
    """
    if backend.model.tokenizer is None or not getattr(backend.tokenizer, "chat_template", None):
        return None
    text = backend.decode(tokens)
    for has_system in (False, True):
        said = _cut(backend, text, has_system=has_system)
        if said is None:
            continue
        with suppress(PromptError):  # the template refuses the messages: then they were not these
            if _rendered(backend, said) == text:
                parts = [_part(backend, said, index, text) for index in range(len(said))]
                prompt = ChatPrompt(text, said, (*parts, Part("assistant", len(text), None)))
                if tuple(backend.encode(prompt)) == tuple(tokens):
                    return token_spans(backend.model, prompt)
    return None


def _cut(backend: Backend, text: str, *, has_system: bool) -> tuple[tuple[str, str], ...] | None:
    """Messages between what the template writes around them, user and assistant in turns; None where that is not there.

    Args:
        backend: The model.
        text: The prompt.
        has_system: Whether the first message is one of the system's; a template may write one of its own otherwise.
    """
    turns = [("user", _MARK), ("assistant", _MARK), ("user", _MARK)]
    try:
        pieces = _rendered(backend, [("system", _MARK), *turns] if has_system else turns).split(_MARK)
    except PromptError:  # a template that knows no system message
        return None
    if len(pieces) != 4 + has_system or not all(pieces):
        return None
    head, *between, to_model, to_user, tail = pieces
    if not (text.startswith(head) and text.endswith(tail)):
        return None
    found: list[tuple[str, str]] = []
    rest = text[len(head) :]
    if has_system:
        content, mark, rest = rest.partition(between[0])
        if not mark:
            return None
        found.append(("system", content))
    rest = rest.removesuffix(tail)
    for role, mark in itertools.cycle((("user", to_model), ("assistant", to_user))):
        content, more, rest = rest.partition(mark)
        found.append((role, content))
        if not more:
            return tuple(found) if role == "user" else None
    return None


def token_parts(model: LensModel, prompt: ChatPrompt, *, prepend_bos: bool = True) -> tuple[str, ...]:
    """For each token of a chat prompt who says it: a role, or `template`."""
    tokens, covered = _covered(backend_of(model), prompt, prepend_bos=prepend_bos)
    names = []
    for index in range(len(tokens)):
        start, stop = covered.get(index, (0, 0))
        speaking = [
            part.name for part in prompt.parts if part.stop is not None and start < part.stop and stop > part.start
        ]
        names.append(speaking[0] if speaking else TEMPLATE)
    return tuple(names)


def _checked(messages: Any, system: str | None) -> tuple[tuple[str, str], ...]:
    if not isinstance(messages, Iterable):
        raise PromptError(f"{messages!r} is not a conversation: pass what the user says, or a list of messages.")
    given = [{"role": "user", "content": messages}] if isinstance(messages, str) else list(messages)
    if not given:
        raise PromptError("The conversation is empty: pass what the user says, or messages with role and content.")
    for message in given:
        if not isinstance(message, Mapping) or not all(
            isinstance(message.get(key), str) for key in ("role", "content")
        ):
            raise PromptError(f"{message!r} is not a message: expected a mapping with the texts 'role' and 'content'.")
    said = tuple((message["role"], message["content"]) for message in given)
    for role, _ in said:
        near = difflib.get_close_matches(role.lower(), ROLES, n=1, cutoff=0.75)
        if near and role != near[0]:
            raise PromptError(f"{role!r} is no role, and a template would write it as it is: did you mean {near[0]!r}?")
    if system is None:
        return said
    if not isinstance(system, str):
        raise PromptError(f"The system message is {system!r}: expected a text.")
    if said[0][0] == "system":
        raise PromptError("The conversation begins with a system message, and system= gives another: leave one out.")
    return (("system", system), *said)


def _rendered(backend: Backend, said: Sequence[tuple[str, str]]) -> str:
    conversation = [{"role": role, "content": content} for role, content in said]
    try:
        text = backend.tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True)
    except Exception as error:  # a template raises whatever its author wrote, by way of jinja
        raise PromptError(f"The chat template of {backend.name} rejects this conversation: {error}") from error
    return str(text)


def _part(backend: Backend, said: tuple[tuple[str, str], ...], index: int, text: str) -> Part:
    """Where a message lies: the template is written out once more with a mark in its place."""
    role, content = said[index]
    marked = _rendered(backend, [*said[:index], (role, _MARK), *said[index + 1 :]])
    before, found, after = marked.partition(_MARK)
    stop = len(text) - len(after)
    same = found and text.startswith(before) and text.endswith(after) and len(before) <= stop
    if not same or text[len(before) : stop].strip() != content.strip():
        raise PromptError(
            f"The chat template of {backend.name} does not write message {index} ({role}) as it is, so its parts "
            "cannot be found: write the prompt as a text."
        )
    return Part(role, len(before), stop)


def _covered(backend: Backend, prompt: str, *, prepend_bos: bool) -> tuple[tuple[int, ...], dict[int, tuple[int, int]]]:
    """Token ids of a prompt, and the characters that each of them covers; a BOS put before the text covers none."""
    tokens = tuple(backend.encode(prompt, prepend_bos=prepend_bos))
    if not getattr(backend.tokenizer, "is_fast", False):
        raise PromptError(f"The tokenizer of {backend.name} does not report which characters a token covers.")
    plain = backend.tokenizer(str(prompt), add_special_tokens=False, return_offsets_mapping=True)
    shift = len(tokens) - len(plain["input_ids"])
    if shift not in (0, 1) or list(tokens[shift:]) != list(plain["input_ids"]):
        raise PromptError(f"The tokens of {str(prompt)[:40]!r} cannot be matched with its characters.")
    return tokens, {shift + at: (int(start), int(stop)) for at, (start, stop) in enumerate(plain["offset_mapping"])}
