"""Texts that a model continues: checked, and as token ids."""

import reprlib
import warnings
from collections.abc import Iterable, Sequence
from numbers import Integral
from typing import Any

from actadd_lens.checks import check_flags
from actadd_lens.errors import PromptError, SettingError
from actadd_lens.models import Backend


def as_texts(prompts: Any) -> tuple[str, ...]:
    """One prompt or several, as a tuple of texts.

    Raises:
        PromptError: There is none, or one is not text.

    >>> as_texts("The dog")
    ('The dog',)
    """
    try:
        found = (prompts,) if isinstance(prompts, str) else tuple(prompts)
    except TypeError:
        raise not_text(prompts) from None
    if not found:
        raise PromptError("No prompt was given: pass a text, or several.")
    for prompt in found:
        if not isinstance(prompt, str):
            raise not_text(prompt)
    return found


def not_text(prompt: Any) -> PromptError:
    """What is raised for a prompt that is not text."""
    hint = "pass a text."
    if hasattr(prompt, "tolist"):
        hint = "pass a text; tokens are steered by running the model on them inside al.steer."
    elif isinstance(prompt, list | tuple):
        hint = "pass one text here, not a list of them."
    return PromptError(f"The prompt {reprlib.repr(prompt)} is not text: {hint}")


def notice_repeats(texts: Sequence[str]) -> None:
    """Warn of prompts that are given more than once.

    They are not errors: the numbers of each are right. But a repeated text adds no information, so intervals, p-values
    and means count it once.

    Warns:
        UserWarning: A text is repeated.
    """
    repeated = len(texts) - len(set(texts))
    if repeated:
        first = next(text for text in texts if texts.count(text) > 1)
        warnings.warn(
            f"{repeated} of the {len(texts)} prompts are repeats, such as {first[:40]!r}: each counts once, "
            "since repeats add no information.",
            stacklevel=3,
        )


def each_once(texts: Sequence[str]) -> tuple[str, ...]:
    """The texts without repeats, in order, with a warning where there are any.

    Warns:
        UserWarning: A text is repeated.

    >>> each_once(("a", "b"))
    ('a', 'b')
    """
    notice_repeats(texts)
    return tuple(dict.fromkeys(texts))


def encode_prompts(
    backend: Backend, prompts: Sequence[str], *, prepend_bos: bool = True, room: int = 0
) -> list[tuple[int, ...]]:
    """Token ids of prompts, after checking that each leaves room in the context.

    Raises:
        PromptError: There is no prompt, or one is not text, empty, or too long.
    """
    if not prompts:
        raise PromptError("No prompt was given: pass a text, or several.")
    check_flags(prepend_bos=prepend_bos)
    rows = []
    for prompt in prompts:
        if not isinstance(prompt, str):
            raise not_text(prompt)
        row = tuple(backend.encode(prompt, prepend_bos=prepend_bos))
        if not row:
            raise PromptError("An empty prompt without BOS has no tokens: give it a text, or BOS.")
        if len(row) + room > backend.n_ctx:
            more = f" and {room} new ones" if room else ""
            raise PromptError(
                f"The prompt {prompt[:40]!r}... has {len(row)} tokens{more}, but {backend.name} reads at most "
                f"{backend.n_ctx}: shorten it{' or ask for fewer' if room else ''}."
            )
        rows.append(row)
    return rows


def token_id(backend: Backend, token: str | int) -> int:
    """Id of a token given as text or id.

    Raises:
        PromptError: The text is not exactly one token, or there is no such id.
    """
    if isinstance(token, str):
        ids = backend.encode(token, prepend_bos=False)
        if len(ids) != 1:
            pieces = backend.token_strings(ids)
            raise PromptError(
                f"{token!r} is {len(ids)} tokens for {backend.name}: {pieces}. Give a text that is one (with a "
                "leading space for most tokenizers, without one for Llama's), or an id."
            )
        return ids[0]
    size = len(backend.tokenizer)
    if isinstance(token, bool) or not isinstance(token, Integral) or not 0 <= token < size:
        raise PromptError(f"{token!r} is not a token of {backend.name}: ids go from 0 to {size - 1}.")
    return int(token)


def token_ids(backend: Backend, tokens: Any) -> tuple[int, ...]:
    """Ids of several tokens, each given as text or id.

    Raises:
        SettingError: It is one text, or no list.
        PromptError: A text is not exactly one token, or there is no such id.
    """
    if isinstance(tokens, str | bytes) or not isinstance(tokens, Iterable) or getattr(tokens, "ndim", 1) != 1:
        what = f"the text {tokens!r}" if isinstance(tokens, str) else repr(tokens)
        raise SettingError(f"tokens is {what}: pass a list of texts or ids.")
    return tuple(token_id(backend, token) for token in tokens)
