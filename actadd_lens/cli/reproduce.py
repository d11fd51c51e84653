"""`actadd reproduce`: the paper's experiments and their report."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actadd_lens.cli.options import add_model, add_workers, executor_of, floats, numbers
from actadd_lens.errors import SettingError

if TYPE_CHECKING:
    from actadd_lens.experiments.suite import Outcome

_FAILED = 1


def add(commands: Any) -> None:
    """Add the command and its options."""
    reproduce = commands.add_parser(
        "reproduce",
        help="run the paper's experiments and write one report: verdicts, figures, tables",
        epilog="example: actadd reproduce perplexity --data on_topic=wedding.txt --data off_topic=shipping.txt",
    )
    reproduce.add_argument("name", nargs="*", help="experiments (default: all); --list shows their names")
    reproduce.add_argument("--list", action="store_true", help="list the experiments and the data that they take")
    reproduce.add_argument("--out", type=Path, default=Path("reproduction"), metavar="FOLDER",
                           help="folder for results and report; finished work is kept "
                                "(default: reproduction)")  # fmt: skip
    reproduce.add_argument(
        "--quick", action="store_true", help="few prompts and nulls, so that everything takes minutes"
    )
    own = reproduce.add_argument_group("data and settings, each applied to the experiments that take it")
    own.add_argument("--data", action="append", default=[], metavar="ROLE=FILE",
                     help="text, CSV or JSONL; EXPERIMENT.ROLE=FILE if several experiments have the role")  # fmt: skip
    own.add_argument("--column", action="append", default=[], metavar="ROLE.WHAT=COLUMN",
                     help="the column that holds it, such as prompts.text=prompt.text")  # fmt: skip
    own.add_argument("--most", type=int, help="maximum number of rows of a file, or of each label in it, taken evenly")
    own.add_argument("--pair", nargs=2, metavar=("POSITIVE", "NEGATIVE"), help="prompt pair, for named experiments")
    own.add_argument("--layers", type=numbers, help="such as 0:12 (without 12), 0:12:2, 3,4,9, or all")
    own.add_argument("--coefficients", type=floats, help="such as =-4,-1,1,4 (write = before a minus sign)")
    own.add_argument("--nulls", type=int, help="null vectors")
    own.add_argument("--seed", type=int, help="seed of everything random")
    own.add_argument("--set", action="append", default=[], metavar="EXPERIMENT.SETTING=VALUE", dest="settings",
                     help="any other setting, as JSON or text")  # fmt: skip
    add_workers(reproduce.add_argument_group("run"))
    add_model(reproduce)
    reproduce.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    from actadd_lens.experiments.inputs import merged, read_roles, read_settings
    from actadd_lens.experiments.suite import checked_settings, chosen_entries, reproduce

    chosen = chosen_entries(options.name or None)
    if options.list:
        print("\n".join(one.told() for one in chosen))
        return 0
    if options.pair and not options.name:
        raise SettingError("--pair needs experiments that it suits: name them, such as `actadd reproduce toxicity`.")
    data = read_roles({one.name: one.data for one in chosen}, options.data, options.column, most=options.most)
    settings = merged(data, read_settings(options.settings))
    asked = {name: getattr(options, name) for name in ("layers", "coefficients", "nulls", "seed")}
    shared = {name: value for name, value in asked.items() if value is not None}
    shared |= {"pair": tuple(options.pair)} if options.pair else {}
    checked_settings(chosen, shared, settings)
    import matplotlib as mpl

    from actadd_lens.models import backend_of, load_model

    mpl.use("Agg")
    model = load_model(options.model, family=options.family, device=options.device, dtype=options.dtype)
    if options.layers == "all":
        shared["layers"] = range(backend_of(model).n_layers)
    with executor_of(options) as executor:
        run = reproduce(
            model, [one.name for one in chosen], out=options.out, quick=options.quick, shared=shared,
            settings=settings, note=_print_outcome, executor=executor,
        )  # fmt: skip
    print(f"\n{options.out / 'report.html'}")
    return _FAILED if run.failed else 0


def _print_outcome(outcome: "Outcome", was_kept: bool) -> None:
    if outcome.error:
        print(f"{outcome.name:<12} failed: {outcome.error}", flush=True)
        return
    found = [finding.verdict for finding in outcome.findings]
    told = ", ".join(f"{found.count(verdict)} {verdict}" for verdict in dict.fromkeys(found)) or "no claim"
    took = "there already" if was_kept else f"{outcome.seconds:.0f} s"
    print(f"{outcome.name:<12} {took:<14} {told}", flush=True)
