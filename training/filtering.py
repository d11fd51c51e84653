"""What stays out of the training text: slurs, abuse, sexual words, and text that is hardly English.

The words come from `better-profanity`'s list. That list is written for chat moderation and holds many
ordinary words; `kept_words.txt` names those that do no harm in a story. `blocked_words.txt` adds what the
list lacks.
"""

import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from training.readers import Document

_HERE = Path(__file__).parent
_WORD = re.compile(r"[\w'*@$+-]+")
_BLANK = re.compile(r"[\[(<{][^\])}>]{0,12}(?i:name|user|insert)")  # "(your name)", never filled in
_NAMES = ("Anna", "Ben", "Sam", "Lucy", "Tom", "Mary", "Jack", "Ella", "Max", "Rosa", "Peter", "Maria")


def read_words(name: str) -> frozenset[str]:
    """The words of a list beside this file, in small letters; lines that start with # are remarks."""
    lines = (_HERE / name).read_text(encoding="utf-8").splitlines()
    return frozenset(word.lower() for line in lines if not line.startswith("#") for word in line.split())


@cache
def blocked_words() -> tuple[frozenset[str], re.Pattern[str]]:
    """Single words to look up, and a pattern for those of several words."""
    package = find_spec("better_profanity")
    if package is None or package.origin is None:
        raise ModuleNotFoundError("The word list comes from better-profanity: pip install -r training/requirements.txt")
    lines = (Path(package.origin).parent / "profanity_wordlist.txt").read_text(encoding="utf-8").splitlines()
    words = ({line.strip().lower() for line in lines} - {""} - read_words("kept_words.txt")) | read_words(
        "blocked_words.txt"
    )
    phrases = sorted(word for word in words if not _WORD.fullmatch(word))
    return frozenset(words), re.compile(r"\b(?:" + "|".join(map(re.escape, phrases)) + r")\b")


def is_abusive(text: str) -> bool:
    """Whether a text holds a word of the list; `f**k` and the like count."""
    words, phrases = blocked_words()
    lowered = text.lower()
    if phrases.search(lowered) or re.search(r"\b\w\*+\w*|fuck|nigg|cunt|rapist", lowered):
        return True
    return any(word.strip("'-") in words for word in _WORD.findall(lowered))


def clean(document: Document) -> Document | None:
    """The document as it is trained on, or nothing if it is left out."""
    text = document.text
    letters = sum(character.isascii() for character in text)
    if len(text) < 8 or letters < 0.98 * len(text) or is_abusive(text):
        return None
    if document.kind == "comment":
        return clean_comment(document)
    if _BLANK.search(text) or "http" in text:
        return None
    return document


def clean_comment(document: Document) -> Document | None:
    """Comments name no one: the corpus' marks for names are filled in, those about a religion left out."""
    text = document.text
    if "[RELIGION]" in text or "http" in text or "r/" in text or text.isupper() or text.startswith((">", "&")):
        return None
    start = len(text)  # fixed by the text itself: the same corpus gives the same training text
    for count in range(text.count("[NAME]")):
        text = text.replace("[NAME]", _NAMES[(start + 5 * count) % len(_NAMES)], 1)
    text = re.sub(r"\s+", " ", text.encode("ascii", "ignore").decode()).strip()
    return Document(document.source, document.kind, (text,), document.label) if len(text) >= 8 else None
