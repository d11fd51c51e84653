"""`actadd sweep`: what steering does over layers, coefficients and positions."""

import argparse
import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actadd_lens.cli.options import add_model, add_workers, executor_of, floats, numbers, place
from actadd_lens.errors import SettingError

if TYPE_CHECKING:
    from actadd_lens.sweeps.results import Sweep
    from actadd_lens.sweeps.sweep import SweepPlan

_STORE = "results.sqlite"


def add(commands: Any) -> None:
    """Add the command and its options."""
    sweep = commands.add_parser(
        "sweep",
        help="measure what steering does over layers, coefficients and positions",
        epilog='example: actadd sweep --pair " happy" " sad" --layers 0:8 --coefficients=-4,-1,1,4 '
        '--logit-difference " happy" " sad" --kl damage --nulls 20 --out happy',
    )
    add_options(sweep)
    sweep.add_argument("--json", action="store_true", help="print JSON")
    sweep.set_defaults(run=run)


def add_options(sweep: argparse.ArgumentParser) -> None:
    """The options for what is swept."""
    sweep.add_argument("prompt", nargs="*", help="prompts (default: the package's first 16 neutral ones)")
    sweep.add_argument(
        "--prompts", type=Path, metavar="FILE", help="more prompts: one per line, or the column `text` of CSV or JSONL"
    )
    grid = sweep.add_argument_group("grid")
    grid.add_argument("--pair", nargs=2, action="append", required=True, metavar=("POSITIVE", "NEGATIVE"),
                      help="prompt pair; may be given several times")  # fmt: skip
    grid.add_argument("--layers", type=numbers, required=True, help="such as 0:12 (without 12), 0:12:2, 3,4,9, or all")
    grid.add_argument(
        "--coefficients", type=floats, required=True, help="such as =-4,-1,1,4 (write = before a minus sign)"
    )
    grid.add_argument("--positions", default="front", help="such as front,back,3 (default: front)")
    add_metrics(sweep.add_argument_group("metrics, at least one"))
    course = sweep.add_argument_group("run")
    course.add_argument(
        "--nulls", type=int, default=0, help="null vectors to compare each pair's vector with (default: 0)"
    )
    course.add_argument("--seed", type=int, default=0, help="seed of the nulls (default: 0)")
    course.add_argument("--batch-size", type=int, help="maximum number of rows per pass (default: as memory allows)")
    course.add_argument(
        "--out", type=Path, metavar="FOLDER", help="write table, pictures and intermediate results to this folder"
    )
    course.add_argument("--resume", action="store_true", help="continue with the results in FOLDER")
    course.add_argument("--cost", action="store_true", help="only print what it would take")
    add_workers(course)
    add_model(sweep)


def add_metrics(measured: Any) -> None:
    """The options for what is measured."""
    measured.add_argument("--logprob", action="append", default=[], metavar="TOKEN", help="log-prob of the next token")
    measured.add_argument("--logit-difference", nargs=2, action="append", default=[], metavar=("TOKEN", "OTHER"),
                          help="logit of one next token minus that of another")  # fmt: skip
    measured.add_argument("--kl", action="append", default=[], choices=("shift", "damage"),
                          help="KL(steered || unsteered), or the reverse")  # fmt: skip
    measured.add_argument("--perplexity", action="store_true", help="perplexity of the prompts")
    measured.add_argument("--entropy", action="store_true", help="entropy of the next token")


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    plan = plan_of(options)
    print(plan.cost, file=sys.stderr, flush=True)
    if options.cost:
        return 0
    with executor_of(options) as executor:
        found = plan.run(executor=executor)
    written = [] if options.out is None else _write_sweep(found, options.out)
    if options.json:
        print(json.dumps(_sweep_json(found), indent=2, ensure_ascii=False))
        return 0
    print(found.frame().to_string(index=False, float_format="%.3g"))
    for path in written:
        print(path)
    return 0


def plan_of(options: argparse.Namespace) -> "SweepPlan":
    """The sweep that the options describe."""
    store = None if options.out is None else options.out / _STORE
    if options.resume and store is None:
        raise SettingError("--resume continues with the results in a folder: give --out FOLDER as well.")
    if store is not None and store.exists() and not options.resume:
        raise SettingError(f"{store} holds results of an earlier run: add --resume, or choose another folder.")
    prompts = _sweep_prompts(options)
    from actadd_lens.models import backend_of, load_model
    from actadd_lens.sweeps.sweep import plan_sweep

    measured = metrics_of(options)
    model = load_model(options.model, family=options.family, device=options.device, dtype=options.dtype)
    if options.cost and store is not None and not store.exists():
        store = None  # nothing is stored, and nothing is made to tell what it would take
    elif store is not None:
        _make_folder(options.out)
    return plan_sweep(
        model,
        [tuple(pair) for pair in options.pair],
        layers=range(backend_of(model).n_layers) if options.layers == "all" else options.layers,
        coefficients=options.coefficients,
        positions=[place(part) for part in options.positions.split(",")],
        prompts=prompts,
        metric=measured,
        nulls=options.nulls,
        seed=options.seed,
        batch_size=options.batch_size,
        path=store,
    )


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingError(f"The folder {folder} cannot be made ({error}): give another --out.") from error


def _sweep_prompts(options: argparse.Namespace) -> list[str]:
    prompts = list(options.prompt)
    if options.prompts is not None:
        from actadd_lens.experiments.inputs import read_texts

        prompts += read_texts(options.prompts, stripped=False)
    if prompts:
        return prompts
    from actadd_lens import storybook

    return list(storybook.neutral_prompts()[:16])


def metrics_of(options: argparse.Namespace) -> list[Any]:
    """The metrics that the options describe."""
    from actadd_lens.measuring import metrics

    found = [metrics.next_token_logprob(token) for token in options.logprob]
    found += [metrics.logit_difference(token, other) for token, other in options.logit_difference]
    found += [
        metrics.kl_divergence("unsteered || steered" if kind == "damage" else "steered || unsteered")
        for kind in options.kl
    ]
    found += [metrics.perplexity()] * options.perplexity + [metrics.entropy()] * options.entropy
    if not found:
        raise SettingError("Nothing to measure: give --logprob, --logit-difference, --kl, --perplexity or --entropy.")
    return found


def _sweep_json(found: "Sweep") -> dict[str, Any]:
    """The table, with None where there is no number."""
    rows = [
        {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in row.items()}
        for row in found.frame().to_dict(orient="records")
    ]
    grid = found.grid
    return {"pairs": grid.labels, "prompts": grid.prompts, "nulls": grid.nulls, "seed": grid.seed, "cells": rows}


def _write_sweep(found: "Sweep", folder: Path) -> list[Path]:
    """The table and a heat map of each metric, pair and position."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    table = folder / "sweep.csv"
    found.frame().to_csv(table, index=False)
    written = [table]
    pairs, _, _, positions = found.grid.shape
    for metric in range(len(found.metrics)):
        for pair in range(pairs):
            for position in range(positions):
                path = folder / f"sweep_{metric}_{pair}_{position}.png"
                ax = found.plot(metric, pair=pair, position=found.grid.positions[position])
                figure = ax.get_figure(root=True)
                if figure is not None:
                    figure.savefig(path, dpi=150)
                    plt.close(figure)
                written.append(path)
    return written
