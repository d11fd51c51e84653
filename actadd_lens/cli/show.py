"""`actadd show`: what a steering vector's file holds."""

import argparse
import json
from pathlib import Path
from typing import Any

from actadd_lens.cli.options import vector_json


def add(commands: Any) -> None:
    """Add the command and its options."""
    show = commands.add_parser("show", help="what a steering vector's file holds, and where it comes from")
    show.add_argument("file", type=Path)
    show.add_argument("--json", action="store_true", help="print JSON")
    show.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    from actadd_lens.vectors.vector import SteeringVector

    vector = SteeringVector.load(options.file)
    told = vector_json(vector)
    if options.json:
        print(json.dumps(told, indent=2))
        return 0
    provenance = told.pop("provenance")
    fingerprint = provenance.pop("fingerprint") or {}
    fingerprint.pop("weights", None)
    for name, value in {**told, **provenance, **{f"model {key}": item for key, item in fingerprint.items()}}.items():
        if value not in (None, [], ()):
            print(_printable(f"{name.replace('_', ' '):<20} {_shown(value)}"))
    return 0


def _printable(text: str) -> str:
    """A text without the control characters by which a file could steer the terminal that shows it."""
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {item}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(f"{item:.4g}" if isinstance(item, float) else str(item) for item in value)
    return repr(value) if isinstance(value, str) and value != value.strip() else str(value)
