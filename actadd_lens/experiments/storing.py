"""What a run writes: files that appear complete or not at all, and values in JSON."""

import json
import platform
import re
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from actadd_lens import __version__
from actadd_lens.errors import SettingError


def versions() -> dict[str, str]:
    """What a number was computed with."""
    found = {name: metadata.version(name) for name in ("transformer-lens", "torch", "numpy")}
    return {"actadd-lens": __version__, **found, "python": platform.python_version()}


def write_json(path: Path, value: Any) -> None:
    """Write a file that appears complete or not at all."""
    write_text(path, json.dumps(as_json(value), indent=1, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """The same of a text.

    Raises:
        SettingError: The disk or the folder does not let it.
    """
    draft = path.with_suffix(path.suffix + ".part")
    try:
        draft.write_text(text, encoding="utf-8", errors="backslashreplace")  # a model may write half a surrogate pair
        draft.replace(path)
    except OSError as error:
        raise SettingError(f"{path} could not be written: {error}.") from error


def as_json(value: Any) -> Any:
    """A value as JSON has it; numbers that are none are null.

    >>> as_json({"share": np.float64(0.5), "low": float("nan"), "layers": (1, 2)})
    {'share': 0.5, 'low': None, 'layers': [1, 2]}
    """
    if isinstance(value, Mapping):
        return {str(key): as_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset | range | np.ndarray):
        return [as_json(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    return re.sub(r" at 0x[0-9a-f]+", "", str(value))
