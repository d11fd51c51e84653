"""`actadd check`: whether everything works on a model, compared with Hugging Face's own modules."""

import argparse
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from actadd_lens.cli.options import A_MODEL, add_device
from actadd_lens.errors import ModelError

if TYPE_CHECKING:
    from actadd_lens.experiments.checking import ModelCheck


def add(commands: Any) -> None:
    """Add the command and its options."""
    check = commands.add_parser(
        "check",
        help="check that a model loads, agrees with transformers, and is steered and read correctly",
        epilog="example: actadd check path/to/folder --json",
    )
    check.add_argument("model", help=A_MODEL)
    check.add_argument(
        "--family", choices=("hooked", "bridge"), help="only this family (default: all that are installed)"
    )
    add_device(check)
    check.add_argument("--json", action="store_true", help="print JSON")
    check.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command; the exit code is 1 if something is wrong, or nothing loads."""
    from actadd_lens.experiments.checking import check_model, families_here

    families = families_here() if options.family is None else (options.family,)
    rows = [check_model(options.model, family=name, device=options.device, dtype=options.dtype) for name in families]
    if not any(row.model_type for row in rows):  # transformers has no such model either
        raise ModelError(rows[0].loads.refused)
    if options.json:
        print(json.dumps([row.to_json() for row in rows], indent=2, ensure_ascii=False))
    else:
        print(_shown(rows))
    loads = any(row.loads.refused is None for row in rows)
    return 0 if loads and all(row.holds for row in rows) else 1


def _shown(rows: Sequence["ModelCheck"]) -> str:
    """A line for each family, followed by the reasons for what is refused."""
    names = ("loads", "whole", "cached", "padded", "lens", "trace")
    lines = [f"{'family':<8}" + "".join(f"{name:<14}" for name in names)]
    for row in rows:
        cells = [str(row.findings[name]) if name in row.findings else "" for name in names]
        lines.append((f"{row.family:<8}" + "".join(f"{cell:<14}" for cell in cells)).rstrip())
        reasons = {name: finding.refused or finding.broke for name, finding in row.findings.items()}
        lines += [f"  {name}: {reason}" for name, reason in reasons.items() if reason]
    lines.append("Numbers are the largest differences from the Hugging Face model run on its own.")
    return "\n".join(lines)
