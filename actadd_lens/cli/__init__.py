"""The command line: parses, calls, prints. `actadd --help` loads neither torch nor TransformerLens."""

import argparse
import os
import sys
from collections.abc import Sequence

from actadd_lens import __version__
from actadd_lens.cli import check, compare, demo, fetch, page, play, reproduce, show, steer, sweep
from actadd_lens.errors import ActAddError

_WRONG_INPUT = 2
_INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code: 0, 1 when an experiment failed, 2 for wrong input, 130 if interrupted."""
    parser = _parser()
    words = sys.argv[1:] if argv is None else list(argv)
    for word in words[: words.index("--")] if "--" in words else words:
        if word.startswith("--") and word.endswith("=--"):  # which argparse takes for an empty list
            parser.error(f"argument {word.removesuffix('=--')}: '--' is not a value")
    options = parser.parse_args(words)
    try:
        return int(options.run(options))
    except ActAddError as error:
        print(f"actadd: error: {error}", file=sys.stderr)
        print(f"actadd: explanation, with wrong and right code: docs/{error.section()}", file=sys.stderr)
        return _WRONG_INPUT
    except KeyboardInterrupt:
        print("actadd: interrupted", file=sys.stderr)
        return _INTERRUPTED
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="actadd",
        description="Activation addition: steer a language model, and see what the steering does.",
    )
    parser.add_argument("--version", action="version", version=f"actadd {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for command in (demo, steer, play, sweep, compare, page, reproduce, show, check, fetch):
        command.add(commands)
    return parser
