"""The embedded model's folder, and the labelled texts that it is measured on.

The texts were written for this package, in the plain English that the model speaks, and are not part of its training
text; `texts/README.md` says how. Each function reads its file every time, so that importing this module costs nothing
and nobody can change what the next caller gets.
"""

import json
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "ClozeFact",
    "Dictionary",
    "Topic",
    "cloze_facts",
    "dictionary",
    "hostile_prompts",
    "model_folder",
    "neutral_prompts",
    "sentiment_sentences",
    "topics",
]


@dataclass(frozen=True)
class Topic:
    """One topic: what it is called, the words that give it away, and sentences about it.

    Attributes:
        name: The topic's name, one lower-case word, as in `topics()["weddings"]`.
        words: Whole lower-case words, inflected forms spelt out; no other topic has any of them.
        sentences: Sentences about the topic, with any number of its words and none of another topic's.
    """

    name: str
    words: tuple[str, ...]
    sentences: tuple[str, ...]


@dataclass(frozen=True)
class ClozeFact:
    """A piece of common knowledge that ends right before its last word.

    Attributes:
        kind: What sort of knowledge it is, such as `opposite` or `color`.
        prompt: The text before the answer, without a trailing space.
        answer: The one word that follows, with the space before it.
    """

    kind: str
    prompt: str
    answer: str


@dataclass(frozen=True, eq=False)
class Dictionary:
    """Named directions of the stream that enters a block of the embedded model.

    Attributes:
        decoder: One direction of length one a row, [features, d_model].
        names: The tokens at which each feature is largest.
        layer: The block whose input the directions belong to.
        shares: The share of tokens at which each feature is active.
        explained: The share of the streams' variance that `k` features of a token explain, on held-out text.
        k: Features of a token.
    """

    decoder: "Tensor"
    names: tuple[str, ...]
    layer: int
    shares: tuple[float, ...]
    explained: float
    k: int


def topics() -> dict[str, Topic]:
    """Topics by name, each with its words and sentences.

    Returns:
        The topics in the order of the file; the paper's topic, weddings, comes first, with the paper's nine
        words.

    Example:
        >>> topics()["weddings"].words
        ('wedding', 'weddings', 'wed', 'marry', 'married', 'marriage', 'bride', 'groom', 'honeymoon')
    """
    words: dict[str, list[str]] = json.loads(_text("topic_words.json"))
    sentences = _texts_by("topic", "topics.jsonl")
    return {name: Topic(name, tuple(words[name]), sentences[name]) for name in words}


def sentiment_sentences() -> dict[str, tuple[str, ...]]:
    """Sentences by their sentiment: `positive`, `negative` and `neutral`.

    Returns:
        Sentences without any topic's words, so that they also serve as off-topic text.

    Example:
        >>> sorted(sentiment_sentences())
        ['negative', 'neutral', 'positive']
    """
    return _texts_by("label", "sentiment.jsonl")


def neutral_prompts() -> tuple[str, ...]:
    """Unfinished beginnings that lean neither to good nor to bad, nor to any topic.

    Returns:
        Prompts of six words or more, none with a space at its end.

    Example:
        >>> neutral_prompts()[1]
        'The girl looked at the dog. She felt'
    """
    return tuple(_text("neutral_prompts.txt").splitlines())


def hostile_prompts() -> tuple[str, ...]:
    """Unfinished beginnings that are rude or hostile, without slurs, in the words of picture books.

    Returns:
        Prompts of four words or more, none with a space at its end.

    Example:
        >>> hostile_prompts()[0]
        'You are so stupid that'
    """
    return tuple(_text("hostile_prompts.txt").splitlines())


def cloze_facts() -> tuple[ClozeFact, ...]:
    """Facts that a reader of picture books can complete, with the one word that completes each.

    Returns:
        The facts, those of one kind together; kept whether or not the embedded model knows them.

    Example:
        >>> cloze_facts()[0]
        ClozeFact(kind='opposite', prompt='The opposite of hot is', answer=' cold')
    """
    return tuple(ClozeFact(**row) for row in _rows("cloze.jsonl"))


def dictionary() -> Dictionary:
    """A dictionary of directions of the embedded model, from a sparse autoencoder at the input of block 3.

    Returns:
        Its decoder and names, for `dictionary_reading`; `training/dictionary.py` makes it.

    Example:
        >>> dictionary().layer
        3
    """
    from safetensors import safe_open

    with safe_open(str(resources.files(__name__) / "dictionary.safetensors"), framework="pt") as file:
        facts = json.loads(file.metadata()["actadd_lens_dictionary"])
        decoder = file.get_tensor("decoder").float()
    return Dictionary(
        decoder,
        tuple(facts["names"]),
        facts["layer"],
        tuple(facts["shares of tokens"]),
        facts["explained variance, held out"],
        facts["k"],
    )


def model_folder() -> Path:
    """Where the embedded model lies: a Hugging Face folder inside the package.

    Returns:
        The path of the folder, on disk: weights are mapped into memory from it.

    Example:
        >>> model_folder().name
        'model'
    """
    return Path(str(resources.files(__name__) / "model"))


def _text(name: str) -> str:
    return (resources.files(__name__) / "texts" / name).read_text(encoding="utf-8")


def _rows(name: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in _text(name).splitlines()]


def _texts_by(key: str, name: str) -> dict[str, tuple[str, ...]]:
    """Texts of a file of labelled rows by their label, in the order of the file."""
    grouped: dict[str, list[str]] = {}
    for row in _rows(name):
        grouped.setdefault(row[key], []).append(row["text"])
    return {label: tuple(texts) for label, texts in grouped.items()}
