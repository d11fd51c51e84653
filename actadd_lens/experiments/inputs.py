"""The user's own data: texts, CSV and JSONL with named columns."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from actadd_lens.errors import SettingError

if TYPE_CHECKING:
    import pandas as pd

_TABLES = {".csv": ",", ".tsv": "\t"}
_JSON_LINES = (".jsonl", ".ndjson")


def read_table(path: str | os.PathLike[str], *, columns: dict[str, str] | None = None) -> "pd.DataFrame":
    """A file as a table.

    A text file becomes a table with the one column `text`, a row for each line that is not blank. CSV, TSV and JSONL
    keep their columns; `prompt.text` reaches into nested JSON.

    Args:
        path: A `.csv`, `.tsv` or `.jsonl` file; anything else is read as text.
        columns: What is needed -> the name of the file's column that holds it; only those come back, without empty
            rows, under the names that are needed.

    Raises:
        SettingError: There is no such file, it holds no row, or lacks a column.
    """
    import pandas as pd

    file = Path(path)
    if not file.is_file():
        raise SettingError(f"There is no file {file}: give a text, CSV or JSONL file.")
    try:
        table = _read(file)
    except (ValueError, UnicodeDecodeError) as error:
        raise SettingError(f"{file} cannot be read as {file.suffix or 'text'}: {error}") from error
    if columns is not None:
        missing = [name for name in columns.values() if name not in table.columns]
        if missing:
            raise SettingError(f"{file} has no column {missing[0]!r}: it has {', '.join(map(str, table.columns))}.")
        table = pd.DataFrame({name: table[source] for name, source in columns.items()}).dropna()
    if not len(table):
        raise SettingError(f"{file} holds no row that is not empty.")
    return table.reset_index(drop=True)


def read_texts(path: str | os.PathLike[str], *, column: str = "text") -> tuple[str, ...]:
    """The texts of one column of a file, or the lines of a text file.

    Args:
        path: As in `read_table`.
        column: Name of the column; a text file has none but `text`.

    Raises:
        SettingError: As in `read_table`.
    """
    return tuple(str(text) for text in read_table(path, columns={"text": column})["text"])


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


def _read(file: Path) -> "pd.DataFrame":
    import pandas as pd

    if file.suffix in _TABLES:
        return pd.read_csv(file, sep=_TABLES[file.suffix])
    if file.suffix in _JSON_LINES:
        lines = file.read_text(encoding="utf-8").splitlines()
        return pd.json_normalize([_object(line) for line in lines if line.strip()])
    lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    return pd.DataFrame({"text": [line for line in lines if line]})


def _object(line: str) -> dict[str, object]:
    import json

    value = json.loads(line)
    if not isinstance(value, dict):
        raise ValueError(f"expected an object a line, found {line[:60]!r}")
    return value
