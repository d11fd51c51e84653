"""The user's own data: texts, CSV and JSONL with named columns."""

import csv
import dataclasses
import io
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from actadd_lens import storybook
from actadd_lens.checks import is_count, require
from actadd_lens.errors import SettingError
from actadd_lens.prompts.pairs import as_pair
from actadd_lens.storybook import Topic
from actadd_lens.vectors.vector import SteeringVector

if TYPE_CHECKING:
    import pandas as pd

_TABLES = {".csv": ",", ".tsv": "\t"}
_JSON_LINES = (".jsonl", ".ndjson")


def read_table(
    path: str | os.PathLike[str], *, columns: dict[str, str] | None = None, stripped: bool = True
) -> "pd.DataFrame":
    """A file as a table.

    A text file becomes a table with one column `text` and a row for each line that is not blank. CSV, TSV and JSONL
    keep their columns; `prompt.text` reaches into nested JSON, and a `.json` file is a list of what JSONL has line by
    line. Cells are kept as text: `NA`, `None`, `1990` and `007` too. Files are UTF-8, with or without a byte order
    mark.

    Args:
        path: A `.csv`, `.tsv`, `.jsonl` or `.json` file, in upper or lower case; anything else is read as text.
        columns: What is needed -> the name of the file's column that holds it; only those are returned, without empty
            rows, under the names that are needed.
        stripped: Whether spaces around the lines of a text file are removed.

    Raises:
        SettingError: There is no such file, it holds no row, lacks a column, has rows with more or fewer cells than its
            header (a comma in a text needs quotes around it), or holds something other than text where text is needed.
    """
    import pandas as pd

    file = Path(path)
    if not file.is_file():
        raise SettingError(f"There is no file {file}: give a text, CSV or JSONL file.")
    try:
        table = _read(file, stripped=stripped)
    except (ValueError, RecursionError, csv.Error, OSError) as error:
        raise SettingError(f"{file} cannot be read as {file.suffix or 'text'}: {error}") from error
    if columns is not None:
        missing = [name for name in columns.values() if name not in table.columns]
        if missing:
            raise SettingError(f"{file} has no column {missing[0]!r}: it has {', '.join(map(str, table.columns))}.")
        table = pd.DataFrame({name: _texts(file, source, table[source]) for name, source in columns.items()}).dropna()
    if not len(table):
        raise SettingError(f"{file} holds no row that is not empty.")
    return table.reset_index(drop=True)


def read_texts(path: str | os.PathLike[str], *, column: str = "text", stripped: bool = True) -> tuple[str, ...]:
    """The texts of one column of a file, or the lines of a text file.

    Args:
        path: As in `read_table`.
        column: Name of the column; a text file has none but `text`.
        stripped: As in `read_table`.

    Raises:
        SettingError: As in `read_table`.
    """
    return tuple(read_table(path, columns={"text": column}, stripped=stripped)["text"])


def read_labelled(
    path: str | os.PathLike[str], *, column: str = "text", label: str = "label"
) -> dict[str, tuple[str, ...]]:
    """Texts of a file by their label, labels in the order of the file.

    Args:
        path: As in `read_table`.
        column: Name of the column of texts.
        label: Name of the column of labels.

    Raises:
        SettingError: As in `read_table`.
    """
    table = read_table(path, columns={"text": column, "label": label})
    return {str(name): tuple(map(str, rows["text"])) for name, rows in table.groupby("label", sort=False)}


def topic_of(pair: Any, words: Sequence[str] | None) -> Topic:
    """The topic of a prompt pair: the given words, or the package's topic that its positive prompt names.

    Args:
        pair: The prompt pair, or a vector read from one; not looked at where words are given.
        words: Words of the topic; they take precedence, and come without sentences.

    Raises:
        SettingError: The words are not a list, or none are given and the pair is about no topic of the package,
            or about several.

    >>> topic_of((" wedding", ""), None).name, topic_of((" dog", ""), ["dog", "puppy"]).words
    ('weddings', ('dog', 'puppy'))
    """
    if words is not None:
        require(not isinstance(words, str), "words", words, "a list of words")
        return Topic("given words", tuple(words), ())
    known = storybook.topics()
    positive = (pair.provenance.positive or "") if isinstance(pair, SteeringVector) else as_pair(pair).positive
    said = set(re.findall(r"[a-z']+", positive.lower()))
    found = [topic for topic in known.values() if said & set(topic.words)]
    if len(found) != 1:
        about = " and ".join(topic.name for topic in found) or "no topic of the package"
        raise SettingError(
            f"The positive prompt {positive!r} is about {about}, and one of {', '.join(known)} was expected: give the "
            "topic's words as words=, and its texts as on_topic= where there is such an argument."
        )
    return found[0]


# -- what an experiment takes from files -----------------------------------------------------------------------

Columns = Mapping[str, str]
"""What is needed of a file -> the name of its column."""


@dataclass(frozen=True)
class Role:
    """A place for the user's data in an experiment.

    Attributes:
        keyword: Keyword of the experiment that gets what was read.
        about: What the file is to hold, in a few words.
        read: A path, and what is needed of it -> the name of the column, to what the keyword takes.
        columns: What is needed, each under the name that its column has by default.
    """

    keyword: str
    about: str
    read: Callable[[Path, Columns], Any]
    columns: tuple[str, ...] = ("text",)


def texts_of(path: Path, columns: Columns) -> tuple[str, ...]:
    """A text a line, or of one column."""
    return read_texts(path, column=columns.get("text", "text"))


def words_of(path: Path, columns: Columns) -> tuple[str, ...]:
    """Words, one a line or several between commas, in lower case."""
    found = [word.strip().lower() for text in texts_of(path, columns) for word in text.split(",")]
    return tuple(dict.fromkeys(word for word in found if word))


def labelled_of(path: Path, columns: Columns) -> dict[str, tuple[str, ...]]:
    """Texts by their label."""
    return read_labelled(path, column=columns.get("text", "text"), label=columns.get("label", "label"))


def read_roles(
    roles: Mapping[str, Mapping[str, Role]],
    files: Sequence[str],
    columns: Sequence[str] = (),
    *,
    most: int | None = None,
) -> dict[str, dict[str, Any]]:
    """What files hold, for the experiments that take it: `ROLE=FILE`, or `EXPERIMENT.ROLE=FILE` for one of several.

    Args:
        roles: Each experiment's roles by their names.
        files: Which file plays which role; a role without an experiment is played in all that have it.
        columns: Which column holds what, as `ROLE.WHAT=COLUMN` or `EXPERIMENT.ROLE.WHAT=COLUMN`.
        most: Most rows of a file, or of each of its labels, taken evenly; by default all.

    Returns:
        By experiment, what each keyword gets.

    Raises:
        SettingError: No experiment has the role, or the file cannot be read as what it needs.
    """
    require(most is None or is_count(most), "most", most, "an integer from 1, or None")
    named: dict[tuple[str, str], dict[str, str]] = {}
    for told in columns:
        left, column = _parted(told, "ROLE.WHAT=COLUMN")
        where, _, what = left.rpartition(".")
        for place in _places(roles, where):
            known = roles[place[0]][place[1]].columns
            if what not in known:
                raise SettingError(f"{told!r}: {place[1]} needs no {what!r} of a file, but {' and '.join(known)}.")
            named.setdefault(place, {})[what] = column
    found: dict[str, dict[str, Any]] = {}
    for told in files:
        left, file = _parted(told, "ROLE=FILE")
        for experiment, name in _places(roles, left):
            role = roles[experiment][name]
            value = _evenly(role.read(Path(file), named.get((experiment, name), {})), most)
            own = found.setdefault(experiment, {})
            own[role.keyword] = _joined(own.get(role.keyword), value, told)
    idle = [place for place in named if roles[place[0]][place[1]].keyword not in found.get(place[0], {})]
    if idle:
        raise SettingError(f"Columns were given for {'.'.join(idle[0])}, but no file: add --data ROLE=FILE.")
    return found


def read_settings(told: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Settings written as `EXPERIMENT.SETTING=VALUE`, the value as JSON, or else as a text.

    Raises:
        SettingError: One is not of that form.

    >>> read_settings(["topics.n=4", 'sentiment.pair=["Love", "Hate"]'])
    {'topics': {'n': 4}, 'sentiment': {'pair': ('Love', 'Hate')}}
    """
    found: dict[str, dict[str, Any]] = {}
    for one in told:
        left, text = _parted(one, "EXPERIMENT.SETTING=VALUE")
        experiment, _, name = left.partition(".")
        if not name:
            raise SettingError(f"{one!r} is not EXPERIMENT.SETTING=VALUE.")
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        found.setdefault(experiment, {})[name.replace("-", "_")] = _tupled(value)
    return found


def _tupled(value: Any) -> Any:
    """JSON's lists as tuples, which is how pairs are written."""
    return tuple(map(_tupled, value)) if isinstance(value, list) else value


def merged(*settings: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Settings of experiments together; later ones win.

    >>> merged({"topics": {"n": 1}}, {"topics": {"n": 2, "seed": 0}})
    {'topics': {'n': 2, 'seed': 0}}
    """
    found: dict[str, dict[str, Any]] = {}
    for some in settings:
        for name, own in some.items():
            found.setdefault(name, {}).update(own)
    return found


def _joined(first: Any, second: Any, told: str) -> Any:
    """What several files in one role hold together."""
    if first is None:
        return second
    if isinstance(first, dict) and not set(first) & set(second):
        return {**first, **second}
    if isinstance(first, tuple):
        return first + second
    raise SettingError(f"{told!r} brings what another file in its role has brought: rename it, or leave one out.")


def evenly(rows: Sequence[Any], most: int) -> tuple[Any, ...]:
    """So many of some rows at most, spread evenly.

    >>> evenly("abcdefg", 3)
    ('a', 'd', 'g')
    """
    picks = np.unique(np.linspace(0, len(rows) - 1, min(most, len(rows))).round().astype(int))
    return tuple(rows[pick] for pick in picks)


def _evenly(value: Any, most: int | None) -> Any:
    """The same of what a role reads: rows, rows by label, or facts with what is to be told of them."""
    if most is None:
        return value
    if isinstance(value, dict):
        return {name: evenly(rows, most) for name, rows in value.items()}
    if isinstance(value, tuple):
        return evenly(value, most)
    return dataclasses.replace(value, facts=evenly(value.facts, most))


def _parted(told: str, form: str) -> tuple[str, str]:
    left, mark, right = told.partition("=")
    if not (left and mark and right):
        raise SettingError(f"{told!r} is not {form}.")
    return left, right


def _places(roles: Mapping[str, Mapping[str, Role]], where: str) -> list[tuple[str, str]]:
    """Experiments and roles that `ROLE` or `EXPERIMENT.ROLE` means."""
    experiment, _, name = where.rpartition(".")
    found = [(one, name) for one, own in roles.items() if name in own and experiment in ("", one)]
    if not found:
        known = sorted(f"{one}.{role}" for one, own in roles.items() for role in own)
        raise SettingError(f"There is no {where!r} to give a file to. The experiments here take: {', '.join(known)}.")
    return found


def _read(file: Path, *, stripped: bool) -> "pd.DataFrame":
    import pandas as pd

    content, ending = file.read_bytes(), file.suffix.lower()
    if b"\0" in content:
        raise ValueError("it holds zero bytes, so it is not UTF-8 text")
    text = content.decode("utf-8-sig")
    if ending in _TABLES:
        return _read_cells(text, _TABLES[ending])
    if ending in _JSON_LINES:
        return pd.json_normalize([_object(line) for line in text.split("\n") if line.strip()])
    if ending == ".json":
        found = json.loads(text, parse_int=_Number, parse_float=_Number, parse_constant=_Number)
        if not isinstance(found, list):
            raise ValueError("expected a list of objects, as [{...}, {...}]")
        return pd.json_normalize([_as_object(item) for item in found])
    lines = [line.strip() if stripped else line for line in io.StringIO(text, newline=None)]
    return pd.DataFrame({"text": [line.removesuffix("\n") for line in lines if line.strip()]}, dtype=object)


def _read_cells(text: str, comma: str) -> "pd.DataFrame":
    """Cells as they stand, an empty one as none. A row that is longer than its head has commas that no one quoted."""
    import pandas as pd

    head, *rows = [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=comma, strict=True) if row] or [
        []
    ]
    if len(set(head)) < len(head):
        raise ValueError(f"its columns are {', '.join(head)}: expected each name once")
    for number, row in enumerate(rows, start=2):
        if len(row) != len(head):
            raise ValueError(
                f"row {number}, {comma.join(row)[:60]!r}, has {len(row)} cells, but the head has {len(head)}: put a "
                f"text that holds {comma!r} in double quotes"
            )
    return pd.DataFrame([[cell if cell.strip() else None for cell in row] for row in rows], columns=head, dtype=object)


def _texts(file: Path, column: str, cells: "pd.Series") -> "pd.Series":
    """A column as texts; JSON's numbers as they were written, its lists and truth values refused."""
    for cell in cells:
        is_missing = cell is None or isinstance(cell, float)  # NaN, where a line lacks the column
        if not (is_missing or isinstance(cell, str)):
            raise SettingError(f"{file} holds {cell!r} in column {column!r}: expected a text.")
    return cells.map(lambda cell: str(cell) if isinstance(cell, str) and cell.strip() else None)


class _Number(str):
    """A number of JSON as it was written: 007 would be no JSON, but 1990 stays 1990 and 0.10 stays 0.10."""


def _object(line: str) -> dict[str, object]:
    return _as_object(json.loads(line, parse_int=_Number, parse_float=_Number, parse_constant=_Number))


def _as_object(value: Any) -> dict[str, object]:
    if not isinstance(value, dict):
        raise ValueError(f"expected an object a line, found {str(value)[:60]!r}")
    return value
