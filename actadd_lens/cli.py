"""The command line: parses, calls, prints. `actadd --help` loads neither torch nor TransformerLens."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actadd_lens import __version__
from actadd_lens.errors import ActAddError, SettingError

if TYPE_CHECKING:
    from actadd_lens.demonstration import Chapter, Demonstration
    from actadd_lens.generation import Completions
    from actadd_lens.statistics import Alternative
    from actadd_lens.vectors import SteeringVector

_WRONG_INPUT = 2
_INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code: 0, 2 for wrong input, 130 when interrupted."""
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


# -- commands --------------------------------------------------------------------------------------------------


def _demo(options: argparse.Namespace) -> int:
    print("Loading the embedded model ...", flush=True)
    from actadd_lens.demonstration import demonstrate
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
    from actadd_lens.compute import compute_steering_vector
    from actadd_lens.generation import complete
    from actadd_lens.models import load_model
    from actadd_lens.vectors import SteeringVector

    loaded = [SteeringVector.load(path) for path in options.vector]
    model = load_model(options.model, family=options.family, device=options.device)
    computed = [
        coefficient * compute_steering_vector(model, tuple(pair), layer=layer)
        for pair, layer, coefficient in zip(options.pair, layers, coefficients, strict=True)
    ]
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
    if options.save:
        computed[0].save(options.save)
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


def _show(options: argparse.Namespace) -> int:
    from actadd_lens.vectors import SteeringVector

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
