"""The command line: parses, calls, prints. `actadd --help` loads neither torch nor TransformerLens."""

import argparse
import json
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actadd_lens import __version__
from actadd_lens.errors import ActAddError, SettingError

if TYPE_CHECKING:
    from actadd_lens.experiments.demonstration import Chapter, Demonstration
    from actadd_lens.experiments.suite import Outcome
    from actadd_lens.statistics import Alternative
    from actadd_lens.sweeps.results import Sweep
    from actadd_lens.sweeps.sweep import SweepPlan
    from actadd_lens.vectors.vector import SteeringVector
    from actadd_lens.writing.completions import Completions

_FAILED = 1
_WRONG_INPUT = 2
_INTERRUPTED = 130
_STORE = "results.sqlite"


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code: 0, 1 when an experiment failed, 2 for wrong input, 130 if interrupted."""
    parser = _parser()
    options = parser.parse_args(argv)
    try:
        return int(options.run(options))
    except ActAddError as error:
        print(f"actadd: error: {error}", file=sys.stderr)
        return _WRONG_INPUT
    except KeyboardInterrupt:
        print("actadd: interrupted", file=sys.stderr)
        return _INTERRUPTED
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


# -- options ---------------------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="actadd",
        description="Activation addition: steer a language model, and see what the steering does.",
    )
    parser.add_argument("--version", action="version", version=f"actadd {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_demo(commands)
    _add_steer(commands)
    _add_sweep(commands)
    _add_reproduce(commands)
    _add_show(commands)
    return parser


def _add_demo(commands: Any) -> None:
    demo = commands.add_parser("demo", help="what ActAdd does, on the embedded model, in under a minute")
    demo.add_argument("--out", type=Path, default=Path("demo"), help="folder for the picture (default: demo)")
    demo.add_argument("--seed", type=int, default=0, help="seed of everything random (default: 0)")
    demo.set_defaults(run=_demo)


def _add_steer(commands: Any) -> None:
    steer = commands.add_parser(
        "steer",
        help="complete a prompt, steered beside unsteered",
        epilog='example: actadd steer "The girl looked at the dog. She felt" --pair " happy" " sad" --layer 3 '
        "--coefficient 4 --n 3",
    )
    steer.add_argument("prompt", nargs="+", help="one or more prompts")
    source = steer.add_argument_group("steering vectors")
    source.add_argument("--pair", nargs=2, action="append", default=[], metavar=("POSITIVE", "NEGATIVE"),
                        help="prompt pair; may be given several times")  # fmt: skip
    source.add_argument(
        "--layer", type=int, action="append", default=[], help="injection layer, one for all pairs or one each"
    )
    source.add_argument("--coefficient", type=float, action="append", default=[],
                        help="injection coefficient, one for all pairs or one each (default: 1)")  # fmt: skip
    source.add_argument(
        "--vector", type=Path, action="append", default=[], metavar="FILE", help="steering vector from a file"
    )
    source.add_argument("--position", default="front", help="front, mid, back, all, or a token index (default: front)")
    source.add_argument("--save", type=Path, metavar="FILE", help="write the vector of the one pair to a file")
    text = steer.add_argument_group("text")
    text.add_argument("--n", type=int, default=1, help="samples per prompt (default: 1)")
    text.add_argument("--max-new-tokens", type=int, default=40, help="most tokens to add (default: 40)")
    text.add_argument("--seed", type=int, default=0, help="seed of the samples (default: 0)")
    text.add_argument("--temperature", type=float, default=1.0, help="0 is greedy (default: 1)")
    text.add_argument("--top-p", type=float, help="only the likeliest tokens up to this probability")
    text.add_argument("--top-k", type=int, help="only the k likeliest tokens")
    text.add_argument(
        "--frequency-penalty", type=float, default=0.0, help="taken from a logit per occurrence (default: 0)"
    )
    text.add_argument(
        "--stop", action="append", default=[], help="text that ends a completion; may be given several times"
    )
    _add_model(steer)
    steer.add_argument("--json", action="store_true", help="print JSON")
    steer.set_defaults(run=_steer)


def _add_sweep(commands: Any) -> None:
    sweep = commands.add_parser(
        "sweep",
        help="measure what steering does over layers, coefficients and positions",
        epilog='example: actadd sweep --pair " happy" " sad" --layers 0:8 --coefficients=-4,-1,1,4 '
        '--logit-difference " happy" " sad" --kl damage --nulls 20 --out happy',
    )
    sweep.add_argument("prompt", nargs="*", help="prompts (default: the package's first 16 neutral ones)")
    sweep.add_argument("--prompts", type=Path, metavar="FILE", help="more prompts, one a line")
    grid = sweep.add_argument_group("grid")
    grid.add_argument("--pair", nargs=2, action="append", required=True, metavar=("POSITIVE", "NEGATIVE"),
                      help="prompt pair; may be given several times")  # fmt: skip
    grid.add_argument(
        "--layers", type=_numbers, required=True, help="such as 0:12 (12 left out), 0:12:2, 3,4,9, or all"
    )
    grid.add_argument("--coefficients", type=_floats, required=True, help="such as =-4,-1,1,4 (with = before a minus)")
    grid.add_argument("--positions", default="front", help="such as front,back,3 (default: front)")
    measured = sweep.add_argument_group("metrics, at least one")
    measured.add_argument("--logprob", action="append", default=[], metavar="TOKEN", help="log-prob of the next token")
    measured.add_argument("--logit-difference", nargs=2, action="append", default=[], metavar=("TOKEN", "OTHER"),
                          help="logit of one next token minus another's")  # fmt: skip
    measured.add_argument("--kl", action="append", default=[], choices=("shift", "damage"),
                          help="KL(steered || unsteered), or the other way round")  # fmt: skip
    measured.add_argument("--perplexity", action="store_true", help="perplexity of the prompts")
    measured.add_argument("--entropy", action="store_true", help="entropy of the next token")
    run = sweep.add_argument_group("run")
    run.add_argument("--nulls", type=int, default=0, help="null vectors beside each pair's own (default: 0)")
    run.add_argument("--seed", type=int, default=0, help="seed of the nulls (default: 0)")
    run.add_argument("--batch-size", type=int, help="most rows in one pass (default: as memory allows)")
    run.add_argument(
        "--out", type=Path, metavar="FOLDER", help="write table, pictures and, as they come, results there"
    )
    run.add_argument("--resume", action="store_true", help="go on with the results that are in FOLDER")
    run.add_argument("--cost", action="store_true", help="only tell what it would take")
    _add_model(sweep)
    sweep.add_argument("--json", action="store_true", help="print JSON")
    sweep.set_defaults(run=_sweep)


def _add_reproduce(commands: Any) -> None:
    reproduce = commands.add_parser(
        "reproduce",
        help="run the paper's experiments and write one report: verdicts, figures, tables",
        epilog="example: actadd reproduce perplexity --data on_topic=wedding.txt --data off_topic=shipping.txt",
    )
    reproduce.add_argument("name", nargs="*", help="experiments (default: all); --list tells which there are")
    reproduce.add_argument("--list", action="store_true", help="list the experiments, and what they take")
    reproduce.add_argument("--out", type=Path, default=Path("reproduction"), metavar="FOLDER",
                           help="folder of results and report, where nothing is run twice "
                                "(default: reproduction)")  # fmt: skip
    reproduce.add_argument("--quick", action="store_true", help="few prompts and nulls: everything in minutes")
    own = reproduce.add_argument_group("data and settings, each for the experiments here that take it")
    own.add_argument("--data", action="append", default=[], metavar="ROLE=FILE",
                     help="text, CSV or JSONL; EXPERIMENT.ROLE=FILE where several have the role")  # fmt: skip
    own.add_argument("--column", action="append", default=[], metavar="ROLE.WHAT=COLUMN",
                     help="the column that holds it, such as prompts.text=prompt.text")  # fmt: skip
    own.add_argument("--most", type=int, help="most rows of a file, or of each label in it, taken evenly")
    own.add_argument("--pair", nargs=2, metavar=("POSITIVE", "NEGATIVE"), help="prompt pair, for named experiments")
    own.add_argument("--layers", type=_numbers, help="such as 0:12 (12 left out), 0:12:2, 3,4,9, or all")
    own.add_argument("--coefficients", type=_floats, help="such as =-4,-1,1,4 (with = before a minus)")
    own.add_argument("--nulls", type=int, help="null vectors")
    own.add_argument("--seed", type=int, help="seed of everything random")
    own.add_argument("--set", action="append", default=[], metavar="EXPERIMENT.SETTING=VALUE", dest="settings",
                     help="any other setting, as JSON or text")  # fmt: skip
    _add_model(reproduce)
    reproduce.set_defaults(run=_reproduce)


def _add_show(commands: Any) -> None:
    show = commands.add_parser("show", help="what a steering vector's file holds, and where it comes from")
    show.add_argument("file", type=Path)
    show.add_argument("--json", action="store_true", help="print JSON")
    show.set_defaults(run=_show)


def _add_model(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("model")
    group.add_argument(
        "--model", default="storybook", help="a TransformerLens name or a local folder (default: storybook)"
    )
    group.add_argument("--family", choices=("hooked", "bridge"), help="HookedTransformer or TransformerBridge")
    group.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: a GPU where there is one)")
    group.add_argument("--dtype", help="precision of the weights: float32, bfloat16 or float16 (default: float32)")


# -- commands --------------------------------------------------------------------------------------------------


def _demo(options: argparse.Namespace) -> int:
    print("Loading the embedded model ...", flush=True)
    from actadd_lens.experiments.demonstration import demonstrate
    from actadd_lens.models import load_model

    model = load_model()
    demonstration = demonstrate(model, seed=options.seed, note=lambda text: print(f"... {text}", flush=True))
    for chapter in demonstration.chapters:
        _print_chapter(chapter)
    picture = _save_picture(demonstration, options.out)
    print(f"\nPicture: {picture}")
    return 0


def _print_chapter(chapter: "Chapter") -> None:
    vector = chapter.vector
    print(
        f"\n== {chapter.name}: {vector.coefficient:g} × ({vector.label}), added to the input of block {vector.layer}\n"
    )
    print(chapter.landing)
    print()
    print(chapter.completions)
    print()
    for name, measured in chapter.measurements.items():
        effect = measured.effect
        direction: Alternative = "greater" if effect.mean >= effect.nulls.mean() else "less"
        beyond = int(
            (effect.nulls < effect.mean).sum() if direction == "greater" else (effect.nulls > effect.mean).sum()
        )
        print(f"{name}: {measured.scorer} {effect.unsteered:.3g} unsteered, {effect.steered:.3g} steered")
        print(f"   steered − unsteered {effect}")
        p_value = effect.p_value(direction)
        print(f"   {direction} than {beyond} of {len(effect.nulls)} null vectors of equal norms (p = {p_value:.2g})")


def _save_picture(demonstration: "Demonstration", folder: Path) -> Path:
    import matplotlib as mpl

    mpl.use("Agg")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "actadd_demo.png"
    figure = demonstration.plot()[0].get_figure(root=True)
    if figure is not None:
        figure.savefig(path, dpi=150)
    return path


def _steer(options: argparse.Namespace) -> int:
    layers, coefficients = _per_pair(options, "layer", None), _per_pair(options, "coefficient", 1.0)
    if options.save and (len(options.pair) != 1):
        raise SettingError(f"--save writes the vector of one pair, but {len(options.pair)} were given.")
    if not options.pair and not options.vector:
        raise SettingError("Nothing to steer with: give --pair POSITIVE NEGATIVE with --layer, or --vector FILE.")
    position = int(options.position) if options.position.lstrip("-").isdigit() else options.position
    from actadd_lens.methods.actadd import compute_steering_vector
    from actadd_lens.models import load_model
    from actadd_lens.vectors.vector import SteeringVector
    from actadd_lens.writing.completions import complete

    loaded = [SteeringVector.load(path) for path in options.vector]
    model = load_model(options.model, family=options.family, device=options.device, dtype=options.dtype)
    computed = [
        coefficient * compute_steering_vector(model, tuple(pair), layer=layer)
        for pair, layer, coefficient in zip(options.pair, layers, coefficients, strict=True)
    ]
    if options.save:
        computed[0].save(options.save)
    completions = complete(
        model,
        options.prompt,
        [*computed, *loaded],
        position=position,
        n=options.n,
        max_new_tokens=options.max_new_tokens,
        seed=options.seed,
        stop=options.stop,
        temperature=options.temperature,
        top_p=options.top_p,
        top_k=options.top_k,
        frequency_penalty=options.frequency_penalty,
    )
    print(json.dumps(_completions_json(completions), indent=2, ensure_ascii=False) if options.json else completions)
    return 0


def _per_pair(options: argparse.Namespace, name: str, default: Any) -> list[Any]:
    """One value for each pair, from one for all or one each."""
    given, pairs = getattr(options, name), len(options.pair)
    if not given and default is None and pairs:
        raise SettingError(f"--pair needs --{name}.")
    values = given or [default]
    if not pairs and given:
        raise SettingError(f"--{name} goes with --pair; a vector from a file has its own.")
    if len(values) not in (1, pairs) and pairs:
        raise SettingError(f"{len(values)} times --{name} does not go with {pairs} pairs: give one, or one each.")
    return values * pairs if len(values) == 1 else values


def _completions_json(completions: "Completions") -> dict[str, Any]:
    return {
        "vectors": [_vector_json(vector) for vector in completions.vectors],
        "settings": completions.settings,
        "completions": completions.frame().to_dict(orient="records"),
    }


def _vector_json(vector: "SteeringVector") -> dict[str, Any]:
    return {
        "label": vector.label,
        "layer": vector.layer,
        "coefficient": vector.coefficient,
        "position": vector.position,
        "hook_name": vector.hook_name,
        "rows": vector.rows,
        "d_model": vector.d_model,
        "norms": vector.norms.tolist(),
        "provenance": vector.provenance.to_json(),
    }


def _numbers(text: str) -> Sequence[int] | str:
    """Layers as people write them: 0:12, 0:12:2, 3,4,9, or all."""
    if text == "all":
        return text
    found: list[int] = []
    for part in text.split(","):
        bounds = part.split(":")
        if len(bounds) > 3 or not all(bound.strip().isdigit() for bound in bounds):
            raise argparse.ArgumentTypeError(f"{part!r} is no layer or range of layers, such as 3, 0:12 or 0:12:2")
        numbers = [int(bound) for bound in bounds]
        if len(numbers) == 3 and numbers[2] == 0:
            raise argparse.ArgumentTypeError(f"{part!r} takes steps of 0")
        found += numbers if len(numbers) == 1 else range(*numbers)
    return found


def _floats(text: str) -> Sequence[float]:
    """Numbers between commas."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of numbers, such as -4,-1,1,4") from None


def _sweep(options: argparse.Namespace) -> int:
    plan = _plan_sweep(options)
    print(plan.cost, file=sys.stderr, flush=True)
    if options.cost:
        return 0
    found = plan.run()
    written = [] if options.out is None else _write_sweep(found, options.out)
    if options.json:
        print(json.dumps(_sweep_json(found), indent=2, ensure_ascii=False))
        return 0
    print(found.frame().to_string(index=False, float_format="%.3g"))
    for path in written:
        print(path)
    return 0


def _plan_sweep(options: argparse.Namespace) -> "SweepPlan":
    store = None if options.out is None else options.out / _STORE
    if options.resume and store is None:
        raise SettingError("--resume goes on with results in a folder: give --out FOLDER as well.")
    if store is not None and store.exists() and not options.resume:
        raise SettingError(f"{store} holds results of an earlier run: add --resume, or choose another folder.")
    prompts = _sweep_prompts(options)
    from actadd_lens.models import backend_of, load_model
    from actadd_lens.sweeps.sweep import plan_sweep

    measured = _sweep_metrics(options)
    model = load_model(options.model, family=options.family, device=options.device, dtype=options.dtype)
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
    return plan_sweep(
        model,
        [tuple(pair) for pair in options.pair],
        layers=range(backend_of(model).n_layers) if options.layers == "all" else options.layers,
        coefficients=options.coefficients,
        positions=[int(part) if part.lstrip("-").isdigit() else part for part in options.positions.split(",")],
        prompts=prompts,
        metric=measured,
        nulls=options.nulls,
        seed=options.seed,
        batch_size=options.batch_size,
        path=store,
    )


def _sweep_prompts(options: argparse.Namespace) -> list[str]:
    prompts = list(options.prompt)
    if options.prompts is not None:
        try:
            lines = options.prompts.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise SettingError(f"{options.prompts} cannot be read as text ({error}).") from error
        prompts += [line for line in lines if line.strip()]
    if prompts:
        return prompts
    from actadd_lens import storybook

    return list(storybook.neutral_prompts()[:16])


def _sweep_metrics(options: argparse.Namespace) -> list[Any]:
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


def _reproduce(options: argparse.Namespace) -> int:
    from actadd_lens.experiments.inputs import merged, read_roles, read_settings
    from actadd_lens.experiments.suite import checked_settings, chosen_entries, reproduce

    chosen = chosen_entries(options.name or None)
    if options.list:
        print("\n".join(one.told() for one in chosen))
        return 0
    if options.pair and not options.name:
        raise SettingError(
            "--pair is for the experiments that it suits: name them, such as `actadd reproduce toxicity`."
        )
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
    run = reproduce(
        model, [one.name for one in chosen], out=options.out, quick=options.quick, shared=shared, settings=settings,
        note=_print_outcome,
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


def _show(options: argparse.Namespace) -> int:
    from actadd_lens.vectors.vector import SteeringVector

    vector = SteeringVector.load(options.file)
    told = _vector_json(vector)
    if options.json:
        print(json.dumps(told, indent=2, ensure_ascii=False))
        return 0
    provenance = told.pop("provenance")
    fingerprint = provenance.pop("fingerprint") or {}
    fingerprint.pop("weights", None)
    for name, value in {**told, **provenance, **{f"model {key}": item for key, item in fingerprint.items()}}.items():
        if value not in (None, [], ()):
            print(f"{name.replace('_', ' '):<20} {_shown(value)}")
    return 0


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {item}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(f"{item:.4g}" if isinstance(item, float) else str(item) for item in value)
    return repr(value) if isinstance(value, str) and value != value.strip() else str(value)


if __name__ == "__main__":
    sys.exit(main())
