"""`actadd show`: the contents of a file with a steering vector or other interventions."""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from actadd_lens.cli.options import loaded, vector_json


def add(commands: Any) -> None:
    """Add the command and its options."""
    show = commands.add_parser("show", help="show the contents of a file with a steering vector or other interventions")
    show.add_argument("file", type=Path)
    show.add_argument("--json", action="store_true", help="print JSON")
    show.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    told = [vector_json(found) for found in loaded(options.file)]
    if options.json:
        print(json.dumps(told[0] if len(told) == 1 else told, indent=2))
        return 0
    print("\n\n".join("\n".join(_lines(values)) for values in told))
    return 0


def _lines(values: dict[str, Any]) -> Iterator[str]:
    provenance = values.pop("provenance")
    fingerprint = provenance.pop("fingerprint") or {}
    fingerprint.pop("weights", None)
    for name, value in {**values, **provenance, **{f"model {key}": item for key, item in fingerprint.items()}}.items():
        if value not in (None, [], ()):
            yield _printable(f"{name.replace('_', ' '):<20} {_shown(value)}")


def _printable(text: str) -> str:
    """A text without control characters, with which a file could manipulate the terminal."""
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {item}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(f"{item:.4g}" if isinstance(item, float) else str(item) for item in value)
    return repr(value) if isinstance(value, str) and value != value.strip() else str(value)
