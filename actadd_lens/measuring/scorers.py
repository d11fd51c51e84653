"""Scorers: texts to one number per text. Any callable that does that is one."""

import os
import re
import zlib
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actadd_lens.checks import is_count, many, require, takes
from actadd_lens.errors import SettingError
from actadd_lens.extending import finder

Scorer = Callable[[Sequence[str]], list[float]]

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")


def word_share(words: Sequence[str]) -> Scorer:
    """Share of a text's words that are in a list; 0 for a text without words.

    >>> word_share(["bride", "groom"])(["The bride and the groom.", ""])
    [0.4, 0.0]
    """
    words = _whole_words(words)
    chosen = frozenset(word.lower() for word in words)
    return _named(f"share of {_shown(words)}", lambda text: _count(text, chosen) / max(1, len(_words(text))))


def word_count(words: Sequence[str]) -> Scorer:
    """Number of a text's words that are in a list.

    >>> word_count(["bride", "groom"])(["The Bride and the bride's groom"])
    [2.0]
    """
    words = _whole_words(words)
    chosen = frozenset(word.lower() for word in words)
    return _named(f"count of {_shown(words)}", lambda text: float(_count(text, chosen)))


def contains_word(words: Sequence[str]) -> Scorer:
    """1 for a text with any of the words, else 0: its mean is the share of texts on the topic.

    >>> contains_word(["sea"])(["By the sea.", "Seaside"])
    [1.0, 0.0]
    """
    words = _whole_words(words)
    chosen = frozenset(word.lower() for word in words)
    return _named(f"any of {_shown(words)}", lambda text: float(_count(text, chosen) > 0))


def sentiment() -> Scorer:
    """VADER's compound score from -1 to 1 (Hutto and Gilbert 2014; the vaderSentiment library): a lexicon with rules.

    >>> good, bad = sentiment()(["I love it!", "I hate it."])
    >>> good > 0.5 > -0.5 > bad
    True
    """
    analyse = _vader().polarity_scores
    return _named("sentiment (VADER compound)", lambda text: float(analyse(text)["compound"]))


def negativity() -> Scorer:
    """VADER's share of negative words, from 0 to 1, by the same lexicon and rules as `sentiment`.

    >>> calm, angry = negativity()(["We sat by the river.", "You stupid, ugly liar!"])
    >>> calm < 0.1 and angry > 0.5
    True
    """
    analyse = _vader().polarity_scores
    return _named("negativity (VADER)", lambda text: float(analyse(text)["neg"]))


def profanity() -> Scorer:
    """1 for a text with a word or phrase of better-profanity's list, else 0: its mean is the share of such texts.

    The list was made to moderate chats. It holds mild words too, such as "stupid" and "ugly"; its entries are looked up
    as whole words in small letters, without the library's guesses at disguised spellings.

    >>> profanity()(["What a STUPID idea.", "The stupidity of it."])
    [1.0, 0.0]
    """
    pattern = _profane()
    return _named("profanity (better-profanity)", lambda text: float(pattern.search(text.lower()) is not None))


def repetition(words: int = 3) -> Scorer:
    """Share of a text's runs of that many words that also occur earlier in it; 0 for a text without two runs.

    >>> repetition(2)(["the dog and the dog and the dog", "a quiet day"])
    [0.5714285714285714, 0.0]
    """
    require(is_count(words), "words", words, "an integer from 1")
    return _named(f"repetition of {words} words", lambda text: _repeated(_words(text), words))


def compressibility() -> Scorer:
    """Share of a text's bytes (UTF-8) that DEFLATE saves: near 1 for a text that repeats itself again and again.

    Below 0 for a short text, which it cannot shorten; compare texts of similar lengths. 0 for an empty one.

    >>> again, once = compressibility()(["again and again " * 20, "The quick fox jumps over a lazy dog."])
    >>> again > 0.8 > 0.2 > once
    True
    """
    return _named("compressibility", _saved)


def text_classifier(folder: str | os.PathLike[str], label: str | int, *, batch_size: int = 32) -> Scorer:
    """Probability that a Hugging Face classifier in a local folder gives to a label; nothing is fetched.

    The scorer's name contains the folder's name and a hash of its weights, so that stores distinguish classifiers.

    Args:
        folder: A folder with a sequence classification model and its tokenizer.
        label: The label, by its name in the model's config or by its number.
        batch_size: Maximum number of texts per pass.

    Raises:
        ModelError: The folder holds no such model.
        SettingError: The model has no such label, or a setting is out of range.
    """
    from actadd_lens.measuring.classifiers import classifier_scorer

    require(is_count(batch_size), "batch_size", batch_size, "an integer from 1")
    return classifier_scorer(Path(folder), label, batch_size)


def scorer_name(scorer: Any) -> str:
    """What axes and tables call a scorer."""
    return str(getattr(scorer, "__name__", type(scorer).__name__))


@cache
def _vader() -> Any:
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    return SentimentIntensityAnalyzer()


@cache
def _profane() -> re.Pattern[str]:
    """The list as one pattern; an entry is not a part of a longer word."""
    from importlib.resources import files

    lines = (files("better_profanity") / "profanity_wordlist.txt").read_text(encoding="utf-8").splitlines()
    entries = sorted({line.strip().lower() for line in lines} - {""}, key=lambda entry: (-len(entry), entry))
    return re.compile(r"(?<!\w)(?:" + "|".join(map(re.escape, entries)) + r")(?!\w)")


def as_scorers(scorers: Any) -> tuple[Scorer, ...]:
    """One scorer or several, as a tuple.

    Raises:
        SettingError: There is none, something else is among them, or one of this module was not called.
    """
    chosen = (scorers,) if callable(scorers) else tuple(many(scorers))
    if not chosen or not all(callable(scorer) for scorer in chosen):
        raise SettingError("A scorer is any callable on texts: pass one or more, such as scorers.sentiment().")
    for scorer in chosen:
        name = scorer_name(scorer)
        if globals().get(name) is scorer:
            raise SettingError(f"scorers.{name} makes a scorer: call it, scorers.{name}(...).")
        if getattr(scorer, "__module__", None) == "actadd_lens.measuring.metrics":
            raise SettingError(f"metrics.{name} reads logits, not texts: use one of actadd_lens.scorers here.")
        if not takes(scorer, 1):
            raise SettingError(
                f"The scorer {name!r} cannot be called with texts alone: a scorer takes a list of texts."
            )
    return chosen


def _named(name: str, score: Callable[[str], float]) -> Scorer:
    def scorer(texts: Sequence[str]) -> list[float]:
        return [score(text) for text in texts]

    scorer.__name__ = name
    return scorer


def _whole_words(words: Sequence[str]) -> tuple[str, ...]:
    """The words, each one that a text can be cut into.

    Raises:
        SettingError: It is not a list of words, or a word is not one that a text could contain.
    """
    found = tuple(many(words))
    if not found or (len(found) == 1 and found[0] is words):
        raise SettingError(f"{words!r} is not a list of words: pass one or more whole words.")
    for word in found:
        if not isinstance(word, str) or _words(word) != [word.lower()]:
            raise SettingError(
                f"{word!r} is not a word: texts are cut into words of letters and digits, with apostrophes inside, so "
                "it would never be found. Give whole words without spaces or other signs."
            )
    return found


def _repeated(words: Sequence[str], length: int) -> float:
    runs = [tuple(words[start : start + length]) for start in range(len(words) - length + 1)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


def _saved(text: str) -> float:
    data = text.encode("utf-8")
    packer = zlib.compressobj(9, wbits=-15)  # bare DEFLATE, without a header that short texts would pay for
    return 1 - len(packer.compress(data) + packer.flush()) / len(data) if data else 0.0


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _count(text: str, chosen: frozenset[str]) -> int:
    return sum(word in chosen for word in _words(text))


def _shown(words: Sequence[str]) -> str:
    return ", ".join(words[:3]) + (", …" if len(words) > 3 else "")


if not TYPE_CHECKING:  # so that a wrong name stays wrong to type checkers
    __getattr__ = finder("scorers", __name__)
