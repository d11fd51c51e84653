"""`actadd page`: a self-contained HTML file of a sweep or a trace, which needs no server and no network."""

import argparse
import sys
from pathlib import Path
from typing import Any

from actadd_lens.cli import sweep
from actadd_lens.cli.options import add_model, add_position, place
from actadd_lens.errors import SettingError


def add(commands: Any) -> None:
    """Add the command and its options."""
    page = commands.add_parser(
        "page", help="one self-contained HTML file of a sweep or a trace, to be mailed or put on the web"
    )
    kinds = page.add_subparsers(title="of what", required=True, metavar="KIND")
    swept = kinds.add_parser(
        "sweep",
        help="a map of layers and coefficients; options are those of actadd sweep",
        epilog='example: actadd page sweep --pair " happy" " sad" --layers 0:8 --coefficients=-4,-1,1,4 '
        '--logit-difference " happy" " sad" --nulls 20 --file happy.html',
    )
    sweep.add_options(swept)
    _add_file(swept, "sweep.html")
    swept.set_defaults(run=run_sweep)
    traced = kinds.add_parser(
        "trace",
        help="which heads and MLPs read an injection",
        epilog='example: actadd page trace "The girl looked at the dog. She felt" --pair " happy" " sad" --layer 3 '
        '--coefficient 4 --logit-difference " happy" " sad" --nulls 20 --file happy.html',
    )
    traced.add_argument("prompt", help="one prompt")
    traced.add_argument("--pair", nargs=2, required=True, metavar=("POSITIVE", "NEGATIVE"), help="prompt pair")
    traced.add_argument("--layer", type=int, required=True, help="injection layer")
    traced.add_argument("--coefficient", type=float, default=1.0, help="injection coefficient (default: 1)")
    add_position(traced)
    traced.add_argument("--nulls", type=int, default=0, help="null vectors to trace for comparison (default: 0)")
    traced.add_argument("--seed", type=int, default=0, help="seed of the nulls (default: 0)")
    traced.add_argument("--at", choices=("unsteered", "steered"), default="unsteered",
                        help="model whose norm scale and gradient are used (default: unsteered)")  # fmt: skip
    sweep.add_metrics(traced.add_argument_group("metric, one"))
    add_model(traced)
    _add_file(traced, "trace.html")
    traced.set_defaults(run=run_trace)


def _add_file(parser: argparse.ArgumentParser, name: str) -> None:
    parser.add_argument("--file", type=Path, default=Path(name), help=f"the page (default: {name})")
    parser.add_argument("--title", help="its heading (default: what was run)")


def run_sweep(options: argparse.Namespace) -> int:
    """Run a sweep and write its page."""
    _check_place(options.file)
    plan = sweep.plan_of(options)
    print(plan.cost, file=sys.stderr, flush=True)
    if options.cost:
        return 0
    title = options.title or f"{', '.join(' − '.join(map(repr, pair)) for pair in options.pair)} on {options.model}"
    print(plan.run().page(options.file, title=title))
    return 0


def run_trace(options: argparse.Namespace) -> int:
    """Run a trace and write its page."""
    _check_place(options.file)
    measured = sweep.metrics_of(options)
    if len(measured) != 1:
        raise SettingError(f"A trace takes one metric, but {len(measured)} were given.")
    from actadd_lens.analysis.trace import trace_injection
    from actadd_lens.methods.actadd import compute_steering_vector
    from actadd_lens.models import load_model

    model = load_model(options.model, family=options.family, device=options.device, dtype=options.dtype)
    vector = options.coefficient * compute_steering_vector(model, tuple(options.pair), layer=options.layer)
    found = trace_injection(
        model,
        options.prompt,
        vector,
        metric=measured[0],
        position=place(options.position),
        at=options.at,
        nulls=options.nulls,
        seed=options.seed,
    )
    print(found.page(options.file, title=options.title or f"{options.prompt!r} on {options.model}"))
    return 0


def _check_place(file: Path) -> None:
    """Check that there is a folder to write to, before anything is run."""
    if not file.parent.is_dir():
        raise SettingError(
            f"There is no folder {file.parent} to write {file.name} to: make it, or give another --file."
        )
