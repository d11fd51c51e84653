"""Corpus files to documents: a file's form is seen from its ending and lines, so any folder will do."""

import csv
import dataclasses
import re
from collections.abc import Iterator
from itertools import groupby, pairwise
from pathlib import Path
from typing import Literal

Kind = Literal["document", "dialogue", "sentence", "comment"]

_PLAIN = str.maketrans({"“": '"', "”": '"', "‘": "'", "’": "'", "…": "...", "–": "-", "—": "-", "\u00a0": " "})
_SENTENCE_END = re.compile(r"""(?<=[.!?])["')]*\s+(?=["'(]*[A-Z0-9])""")
_TURN = re.compile(r"^[AB]: ")


@dataclasses.dataclass(frozen=True)
class Document:
    """One text: `kind` decides how it is cut or grouped later, `label` is its emotions where it has any.

    Joined without anything between, the sentences are the text: each keeps the white space that follows it.
    """

    source: str
    kind: Kind
    sentences: tuple[str, ...]
    label: str = ""

    @property
    def text(self) -> str:
        """The whole text, without white space around it."""
        return "".join(self.sentences).strip()


def plain(text: str) -> str:
    """Straight quotes and dashes: a small vocabulary has no room for several of each."""
    return text.translate(_PLAIN).replace("<|eot_id|>", "").strip()


def split_sentences(text: str) -> tuple[str, ...]:
    """Sentences with the white space after them.

    >>> split_sentences('He ran. "Stop!" she said. The end.')
    ('He ran. ', '"Stop!" she said. ', 'The end.')
    """
    cuts = [0, *(match.end() for match in _SENTENCE_END.finditer(text)), len(text)]
    return tuple(text[first:last] for first, last in pairwise(cuts) if first < last)


def unwrap(paragraph: str) -> str:
    """Lines broken in the middle of a sentence joined; lines that end a sentence kept apart."""
    return re.sub(r"(?<=[\w,;'])[ \t]*\n(?=[ \t]*[a-z])", " ", paragraph)


def read_lines(path: Path) -> list[str]:
    """Lines of a file; bytes that are not UTF-8 become the replacement character."""
    return path.read_text(encoding="utf-8", errors="replace").splitlines()


def read_text(path: Path) -> Iterator[Document]:
    """A `.txt` file: dialogues (`A:`, `B:`), documents apart by blank lines, or one sentence a line."""
    lines = [plain(line) for line in read_lines(path)]
    written = [line for line in lines if line]
    if len(written) == len(lines):
        yield from (Document(path.stem, "sentence", (line,)) for line in written)
        return
    turns = sum(bool(_TURN.match(line)) for line in written)
    kind: Kind = "dialogue" if turns > 0.9 * len(written) else "document"
    for full, group in groupby(lines, key=bool):
        if full and kind == "dialogue":
            yield Document(path.stem, kind, tuple(line + "\n" for line in group))
        elif full:
            yield Document(path.stem, kind, split_sentences(unwrap("\n".join(group))))


def read_csv(path: Path) -> Iterator[Document]:
    """A `.csv` file with a column `text`; neighbouring rows with equal other columns are one document."""
    with path.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    for _, group in groupby(rows, key=lambda row: [value for name, value in row.items() if name != "text"]):
        yield Document(path.stem, "document", split_sentences(" ".join(plain(row["text"]) for row in group)))


def read_tsv(path: Path) -> Iterator[Document]:
    """A `.tsv` file of emotions, apart by commas, and a comment."""
    for line in read_lines(path):
        label, _, text = line.partition("\t")
        if text.strip():
            yield Document(path.stem, "comment", (plain(text),), label)


def read_corpora(folders: list[Path], leave_out: list[str]) -> Iterator[Document]:
    """Every document of the folders' files, in the files' order; `leave_out` are globs of file names."""
    readers = {".txt": read_text, ".csv": read_csv, ".tsv": read_tsv}
    for path in sorted(path for folder in folders for path in folder.iterdir()):
        if path.suffix in readers and not any(path.match(pattern) for pattern in leave_out):
            yield from readers[path.suffix](path)
