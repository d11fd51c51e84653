"""`actadd demo`: what ActAdd does, on the embedded model."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from actadd_lens.experiments.demonstration import Chapter, Demonstration
    from actadd_lens.statistics import Alternative


def add(commands: Any) -> None:
    """Add the command and its options."""
    demo = commands.add_parser("demo", help="what ActAdd does, on the embedded model, in under a minute")
    demo.add_argument("--out", type=Path, default=Path("demo"), help="folder for the picture (default: demo)")
    demo.add_argument("--seed", type=int, default=0, help="seed of everything random (default: 0)")
    demo.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
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
