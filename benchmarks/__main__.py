"""`python -m benchmarks`: measure the ratios and print which bars hold."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import actadd_lens as al
from benchmarks.cases import CASES, Case, Sizes
from benchmarks.models import GPT2_SMALL, TINY, random_model
from benchmarks.report import Result, circumstances, heading, summary, table_head, table_row
from benchmarks.timing import measure


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; always 0, for a ratio above its bar is a finding and not a failure."""
    options = _parser().parse_args(argv)
    threads_before = torch.get_num_threads()
    torch.set_num_threads(options.threads)
    try:
        _run(options)
    finally:
        torch.set_num_threads(threads_before)
    return 0


def _run(options: argparse.Namespace) -> None:
    model = _model(options)
    default = Sizes(rows=2, new_tokens=4) if options.quick else Sizes()
    sizes = Sizes(options.rows or default.rows, options.new_tokens or default.new_tokens)
    repeats = options.repeats or (3 if options.quick else 30)
    told = circumstances(model, threads=options.threads, repeats=repeats, sizes=sizes)
    print(heading(told), end="\n\n")
    print(table_head(), flush=True)
    results = []
    for case in _picked(options.only):
        condition, reference = case.conditions(model, sizes)
        results.append(Result(case, measure(condition, reference, repeats=min(repeats, case.most_repeats))))
        print(table_row(results[-1]), flush=True)
    print("\n" + summary(results))
    if options.json is not None:
        record = {**told, "cases": [result.record() for result in results]}
        options.json.write_text(json.dumps(record, indent=2) + "\n")


def _model(options: argparse.Namespace) -> Any:
    if options.model is None:
        return random_model(TINY if options.quick else GPT2_SMALL, family=options.family)
    return al.load_model(options.model, family=options.family, device="cpu")


def _picked(names: Sequence[str] | None) -> list[Case]:
    return [case for case in CASES if names is None or case.name in names]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="What steering costs, as ratios.")
    parser.add_argument("--quick", action="store_true", help="a tiny model and few repeats: to see that it runs")
    parser.add_argument("--repeats", type=_count, help="timed repeats per case (default: 30)")
    parser.add_argument("--only", nargs="+", choices=[case.name for case in CASES], help="only these cases")
    parser.add_argument("--threads", type=_count, default=2, help="threads of torch (default: 2)")
    parser.add_argument("--model", help="a name or folder for load_model instead of the random model")
    parser.add_argument("--family", choices=["hooked", "bridge"], help="family of the model")
    parser.add_argument("--rows", type=_count, help="rows that decode together (default: 8)")
    parser.add_argument("--new-tokens", type=_count, help="tokens that each row gets (default: 8)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to a file as well")
    return parser


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a count: expected an integer from 1")
    return value


if __name__ == "__main__":
    raise SystemExit(main())
