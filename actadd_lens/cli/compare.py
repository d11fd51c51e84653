"""`actadd compare`: methods of steering on one task, at equal damage."""

import argparse
import json
from pathlib import Path
from typing import Any

from actadd_lens.cli.options import add_model


def add(commands: Any) -> None:
    """Add the command and its options."""
    compare = commands.add_parser(
        "compare",
        help="compare methods of steering on one task, at equal damage",
        epilog="example: actadd compare --task weddings --nulls 39 --out weddings",
    )
    compare.add_argument("--task", default="sentiment", help="sentiment or weddings (default: sentiment)")
    compare.add_argument("--layer", type=int, help="layer of all methods (default: three fifths of the depth)")
    compare.add_argument("--method", action="append", default=[], metavar="NAME",
                         help="a method of an installed extension to compare too; repeatable")  # fmt: skip
    compare.add_argument("--at-most", type=float, default=0.3, metavar="NATS",
                         help="budget of damage: KL(unsteered || steered) on other text (default: 0.3)")  # fmt: skip
    compare.add_argument("--nulls", type=int, default=19, help="nulls of each method (default: 19)")
    compare.add_argument(
        "--written", action="store_true", help="score texts that the model writes, instead of the next token"
    )
    compare.add_argument("--seed", type=int, default=0, help="seed of everything random (default: 0)")
    compare.add_argument("--out", type=Path, metavar="FOLDER", help="write tables, picture and JSON there")
    add_model(compare)
    compare.add_argument("--json", action="store_true", help="print JSON")
    compare.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    from actadd_lens.experiments.comparing import contenders, scorer, task
    from actadd_lens.measuring.compare import compare
    from actadd_lens.models import load_model

    asked = task(options.task)
    model = load_model(options.model, family=options.family, device=options.device, dtype=options.dtype)
    found = compare(
        model,
        contenders(model, asked, layer=options.layer, others=options.method),
        prompts=asked.prompts,
        texts=asked.texts,
        metric=None if options.written else asked.metric,
        scorer=scorer(asked) if options.written else None,
        at_most=options.at_most,
        prompting={"words in the prompt": asked.words},
        nulls=options.nulls,
        seed=options.seed,
    )
    written = [] if options.out is None else _write(found, options.out)
    print(json.dumps(found.to_json(), indent=2, ensure_ascii=False) if options.json else found)
    for path in () if options.json else written:
        print(path)
    return 0


def _write(found: Any, folder: Path) -> list[Path]:
    import matplotlib as mpl

    mpl.use("Agg")
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / name for name in ("contenders.csv", "pairs.csv", "compare.json", "compare.png")]
    found.frame().to_csv(paths[0], index=False)
    found.pairs_frame().to_csv(paths[1], index=False)
    paths[2].write_text(json.dumps(found.to_json(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    figure = found.plot().get_figure(root=True)
    figure.savefig(paths[3], dpi=150)
    return paths
