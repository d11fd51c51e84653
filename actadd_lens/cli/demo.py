"""`actadd demo`: what ActAdd does, on the embedded model or on a chat model."""

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actadd_lens.errors import SettingError

if TYPE_CHECKING:
    from actadd_lens.experiments.chat_demonstration import Answer, ChatDemonstration
    from actadd_lens.experiments.demonstration import Chapter, Demonstration
    from actadd_lens.statistics import Alternative, Effect


def add(commands: Any) -> None:
    """Add the command and its options."""
    demo = commands.add_parser("demo", help="what ActAdd does, on the embedded model, in under a minute")
    demo.add_argument(
        "--model", default="storybook", help="storybook, or smollm2 once it is fetched (default: storybook)"
    )
    demo.add_argument("--out", type=Path, default=Path("demo"), help="folder for the picture (default: demo)")
    demo.add_argument("--seed", type=int, default=0, help="seed of everything random (default: 0)")
    demo.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    if options.model not in ("storybook", "smollm2"):
        raise SettingError(f"The demo is made for storybook and smollm2, not for {options.model!r}: use actadd steer.")
    if options.model == "smollm2":
        return _run_chat(options)
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


def _run_chat(options: argparse.Namespace) -> int:
    """The demonstration on a chat model."""
    print("Loading SmolLM2 ...", flush=True)
    from actadd_lens.experiments.chat_demonstration import demonstrate_chat
    from actadd_lens.models import load_model

    model = load_model("smollm2")
    found = demonstrate_chat(model, seed=options.seed, note=lambda text: print(f"... {text}", flush=True))
    _print_answers(found, colour=sys.stdout.isatty() and "NO_COLOR" not in os.environ)
    for name, measured in found.measurements.items():
        print(f"{name}: {measured.metric.name}, {measured.effect}")
        _print_rank(measured.effect, found.expected[name])
    print(f"\nPicture: {_save_picture(found, options.out)}")
    return 0


def _print_answers(found: "ChatDemonstration", *, colour: bool) -> None:
    vector = found.vector
    print(
        f"\nOne vector: the mean row of {vector.label}, read at the input of block {vector.layer} and added there to "
        f"every token, {found.landing.touches[-1].relative:.2f} times as long as the stream.\n"
        + ("Coloured: tokens that it made at least e times as likely; darker means more.\n" if colour else "")
    )
    for question, answers in zip(found.questions, found.answers, strict=True):
        print(f"User: {question}")
        for sign, name in (("+", "added"), ("", "unsteered"), ("-", "subtracted")):
            print(f"  {name:>10}: {_coloured(answers[sign], sign if colour else '')}")
        print()


_SHADES = {"+": (151, 114, 71, 35), "-": (217, 216, 209, 203)}
"""Terminal colours of a raised token, for one, two, three, four and more nats: greens, and oranges to red."""


def _coloured(answer: "Answer", sign: str) -> str:
    """The answer in one line; a token that steering made likelier is coloured by how much."""
    line = ""
    for text, shift in zip(answer.texts, answer.shifts, strict=True):
        shown = "" if text.startswith("<|") else text.replace("\n", " ")
        step = min(int(shift), len(_SHADES["+"]))
        line += f"\x1b[38;5;{_SHADES[sign][step - 1]}m{shown}\x1b[0m" if sign and step >= 1 else shown
    return line.strip()


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
        print(f"{name}: {measured.scorer} {effect.unsteered:.3g} unsteered, {effect.steered:.3g} steered")
        print(f"   steered − unsteered {effect}")
        _print_rank(effect, chapter.expected[name])


def _print_rank(effect: "Effect", side: "Alternative") -> None:
    """On the side that was expected before anything was measured: a side chosen afterwards would halve p."""
    beyond = int((effect.nulls < effect.mean).sum() if side == "greater" else (effect.nulls > effect.mean).sum())
    print(
        f"   {side} than {beyond} of {len(effect.nulls)} null vectors of equal norms (p = {effect.p_value(side):.2g})"
    )


def _save_picture(demonstration: "Demonstration | ChatDemonstration", folder: Path) -> Path:
    import matplotlib as mpl

    mpl.use("Agg")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "actadd_demo.png"
    figure = demonstration.plot()[0].get_figure(root=True)
    if figure is not None:
        figure.savefig(path, dpi=150)
    return path
