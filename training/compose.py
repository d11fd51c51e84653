"""One epoch of training text: pieces of documents, headers before some, packed into windows.

Each epoch is drawn anew. Every window starts with the text-start mark and a whole piece: the model is used
from position 0 on, so that is where it learns. Long documents are cut between sentences. Short sentences
and comments that share a word, a mood or an emotion often stand together in one text, so that its first
line says something about all of it.
"""

import bisect
import dataclasses
import json
import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from training.headers import Wording, make_header, mood_of
from training.tokenizer import load_tokenizer, start_id

Record = Mapping[str, Any]
HEADER_SHARE = 0.4
STRAY_SHARE = 0.15
"""Of the headers, those that belong to another text: what a first line says is to be weighed against what follows."""
HEADER_ROOM = 10  # tokens


@dataclasses.dataclass(frozen=True)
class Piece:
    """What becomes one text of the epoch; `key` is the word by which sentences were put together."""

    text: str
    mood: str = ""
    emotion: str = ""
    key: str = ""


def read_records(path: Path) -> list[Record]:
    """Documents as `training.prepare` wrote them."""
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def mean_mood(moods: Sequence[float]) -> str:
    """The mood of sentences together."""
    return mood_of(sum(moods) / len(moods))


def cut(rng: random.Random, record: Record, context: int) -> Iterator[Piece]:
    """Pieces of a document of whole sentences, each of at most the context with room for a header."""
    texts: list[str] = []
    moods: list[float] = []
    room = 0
    speakers = record["kind"] != "dialogue" or rng.random() < 0.5
    for sentence, mood, length in zip(record["sentences"], record["moods"], record["lengths"], strict=True):
        if texts and length > room:
            yield Piece("".join(texts).strip(), mean_mood(moods))
            texts, moods = [], []
        if not texts:
            room = rng.randint(context * 5 // 8, context - 1 - HEADER_ROOM)
        texts.append(sentence if speakers else sentence[3:])
        moods.append(mood)
        room -= length
    if texts:
        yield Piece("".join(texts).strip(), mean_mood(moods))


def group(rng: random.Random, records: list[Record], wording: Wording) -> Iterator[Piece]:
    """Short texts, about half alone and half with others that share an emotion, a mood or a content word."""
    alike: dict[tuple[str, str], list[str]] = defaultdict(list)
    for record in records:
        text, mood = "".join(record["sentences"]).strip(), record["moods"][0]
        emotion = record["label"].split(",")[0].replace("neutral", "")
        draw = rng.random()
        words = wording.pick(rng, text, 1) if draw >= 0.45 else []
        if draw < 0.3:
            yield Piece(text, mood_of(mood), emotion)
        elif emotion and draw < 0.9:
            alike["emotion", emotion].append(text)
        elif abs(mood) > 0.5 and draw < 0.6:
            alike["mood", mood_of(mood)].append(text)
        elif words:
            alike["word", words[0]].append(text)
        else:
            yield Piece(text, mood_of(mood), emotion)
    for (what, name), texts in alike.items():
        while texts:
            together = [texts.pop() for _ in range(min(len(texts), rng.randint(2, 8)))]
            yield Piece(rng.choice([" ", "\n"]).join(together), **{"key" if what == "word" else what: name})


class Composer:
    """The windows of any epoch, the same for the same seed."""

    def __init__(self, folder: Path, *, context: int, seed: int, shares: Mapping[str, float]) -> None:
        """Read a prepared folder.

        Args:
            folder: Written by `training.prepare`.
            context: Tokens in a window.
            seed: Decides every draw, together with the number of the epoch.
            shares: How often an epoch holds each document of a source; sources not named count once. With
            0.5, every
                second epoch has the other half.
        """
        self.records = read_records(folder / "train.jsonl")
        self.held_out = read_records(folder / "heldout.jsonl")
        self.tokenizer = load_tokenizer(folder)
        self.wording = Wording(json.loads((folder / "words.json").read_text()), len(self.records))
        self.context, self.seed, self.shares = context, seed, shares

    def drawn(self, epoch: int) -> list[Record]:
        """The epoch's documents: by index and epoch, so that shares under one take turns."""
        counts: dict[str, int] = defaultdict(int)
        drawn = []
        for record in self.records:
            share = self.shares.get(record["source"], 1.0)
            index = counts[record["source"]]
            counts[record["source"]] += 1
            turn = (index * 0.6180339887 + epoch * share) % 1.0
            drawn.extend([record] * int(turn + share))
        return drawn

    def pieces(self, epoch: int) -> list[str]:
        """The epoch's texts, headers included."""
        rng = random.Random(f"{self.seed} {epoch}")
        records = self.drawn(epoch)
        rng.shuffle(records)
        pieces: list[Piece] = []
        short = [record for record in records if record["kind"] in ("sentence", "comment")]
        pieces.extend(group(rng, short, self.wording))
        for record in records:
            if record["kind"] in ("document", "dialogue"):
                pieces.extend(cut(rng, record, self.context))
        rng.shuffle(pieces)
        return [self.opening(rng, piece, pieces) + piece.text for piece in pieces]

    def opening(self, rng: random.Random, piece: Piece, pieces: Sequence[Piece]) -> str:
        """What stands before a text: mostly nothing, else its own header, now and then that of another text."""
        if rng.random() >= HEADER_SHARE:
            return ""
        return self.header(rng, rng.choice(pieces) if rng.random() < STRAY_SHARE else piece)

    def header(self, rng: random.Random, piece: Piece) -> str:
        """A header that is true of the piece; a word that brought its sentences together is named most often."""
        if piece.key and rng.random() < 0.7:
            return make_header(rng, Wording({piece.key: 1}, 3), piece.text, "", "")
        return make_header(rng, self.wording, piece.text, piece.mood, piece.emotion)

    def epoch(self, epoch: int) -> NDArray[np.uint16]:
        """[windows, context] token ids in the order of training."""
        rows = encode(self.tokenizer, self.pieces(epoch), self.context)
        windows = pack(rows, self.context)
        return np.random.default_rng([self.seed, epoch]).permutation(windows)

    def held_out_windows(self, most: int = 32) -> dict[str, NDArray[np.uint16]]:
        """Held-out text by source, without headers and grouping."""
        rng = random.Random(0)
        texts: dict[str, list[str]] = defaultdict(list)
        for record in self.held_out:
            texts[record["source"]].extend(piece.text for piece in cut(rng, record, self.context))
        packed = {
            source: pack(encode(self.tokenizer, some, self.context), self.context) for source, some in texts.items()
        }
        return {source: windows[:most] for source, windows in packed.items() if len(windows)}


def encode(tokenizer: Tokenizer, texts: Sequence[str], context: int) -> list[list[int]]:
    """Token ids of each text, the text-start mark first, cut to the context."""
    bos = start_id(tokenizer)
    encodings = tokenizer.encode_batch(list(texts), add_special_tokens=False)
    return [[bos, *encoding.ids[: context - 1]] for encoding in encodings]


def drawn_shelf(rng: random.Random, lengths: Sequence[int], shelves: Mapping[int, list[list[int]]]) -> int:
    """One of the lengths, counted from 1, by the tokens on its shelf: long texts are not left to the end."""
    return rng.choices(range(1, len(lengths) + 1), [length * len(shelves[length]) for length in lengths])[0]


def pack(rows: Iterable[list[int]], context: int) -> NDArray[np.uint16]:
    """Full windows of rows in random order; the last gap takes the longest that fits, then a cut row."""
    rng = random.Random(context)
    shelves: dict[int, list[list[int]]] = defaultdict(list)
    for row in rows:
        shelves[len(row)].append(row)
    lengths = sorted(shelves)
    filler = list(shelves[lengths[-1]][0]) if lengths else []
    windows = []
    while lengths:
        window: list[int] = []
        while lengths and (room := bisect.bisect_right(lengths, context - len(window))):
            index = room if context - len(window) < 40 else drawn_shelf(rng, lengths[:room], shelves)
            length = lengths[index - 1]
            window.extend(shelves[length].pop())
            if not shelves[length]:
                del shelves[length], lengths[index - 1]
        if len(window) < context // 2:
            break  # the very last, not worth a row
        while len(window) < context:
            window.extend(filler)
        windows.append(window[:context])
    return np.array(windows, dtype=np.uint16).reshape(-1, context)
