"""What a sweep takes on N workers, by arithmetic; `python -m benchmarks.scale` prints the tables of docs/scale.md.

`--check` holds the arithmetic against `plan.cost`, and against CPU time on one process and on two workers here.
"""

import argparse
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

import actadd_lens as al

FLOPS = 3.5e14
"""Assumed: what a GPU does in a second on large batches in bfloat16, about a third of today's peak. Not measured."""

LOADING = 1e9
"""Assumed: bytes a second in which a worker reads a model, all workers reading at once."""

PROMPTS_OF_A_TASK = 8
"""As a sweep with many rows has them."""


@dataclass(frozen=True)
class Model:
    """A model by its sizes.

    Attributes:
        layers: Blocks.
        d_model: Width.
        block: Weights of a block.
        d_vocab: Tokens.
        gpus: GPUs that one copy needs, in bfloat16 and with room for batches.
    """

    layers: int
    d_model: int
    block: int
    d_vocab: int
    gpus: int = 1

    @property
    def bytes(self) -> float:
        """Of all weights in bfloat16."""
        return 2.0 * (self.layers * self.block + 2 * self.d_model * self.d_vocab)


LLAMA_7B = Model(32, 4096, 4 * 4096**2 + 3 * 4096 * 11008, 32000)
LLAMA_70B = Model(80, 8192, (2 * 8192 + 2 * 1024) * 8192 + 3 * 8192 * 28672, 128256, gpus=4)


@dataclass(frozen=True)
class Work:
    """A sweep at every layer, by its counts."""

    pairs: int = 20
    coefficients: int = 4
    positions: int = 1
    prompts: int = 256
    tokens: int = 24
    nulls: int = 99

    @property
    def rows_of_a_layer(self) -> int:
        """Steered rows of one pair at one layer, for one prompt."""
        return self.coefficients * self.positions * (1 + self.nulls)

    def rows(self, layers: int) -> int:
        """Steered rows in all."""
        return self.pairs * self.rows_of_a_layer * self.prompts * layers

    def passes(self, layers: int, batch_size: int) -> int:
        """Forward passes in all, as `plan.cost` counts them where the vectors of one pair fill the memory for them."""
        found = 1 + bool(self.nulls)
        for first in range(0, self.prompts, PROMPTS_OF_A_TASK):
            prompts = min(PROMPTS_OF_A_TASK, self.prompts - first)
            found += 1 + layers * math.ceil(prompts * self.rows_of_a_layer / batch_size)
        return self.pairs * found

    def tasks(self, layers: int) -> int:
        """Tasks, where a layer has 32 rows or more for each prompt."""
        return self.pairs * layers * math.ceil(self.prompts / PROMPTS_OF_A_TASK)

    def flops(self, model: Model) -> float:
        """Of all steered rows: the blocks from each one's layer on, and the last column's logits."""
        blocks = sum(model.layers - layer for layer in range(model.layers))
        row = 2.0 * model.d_model * model.d_vocab
        each = self.pairs * self.rows_of_a_layer * self.prompts
        return each * (blocks * 2.0 * model.block * self.tokens + model.layers * row)


def seconds(model: Model, work: Work, gpus: int) -> dict[str, float]:
    """What a sweep takes on some GPUs, part by part.

    Tasks at layer 0 run all blocks, those at the last one: with as many workers as tasks the longest decides.
    """
    workers = gpus // model.gpus
    of_all = work.flops(model) / FLOPS
    longest = of_all / work.tasks(model.layers) * 2  # a task at layer 0, against the mean
    unsteered = PROMPTS_OF_A_TASK * work.tokens * model.layers * 2.0 * model.block / FLOPS
    rounds = max(1.0, work.tasks(model.layers) / workers)  # each may meet another pair, and other prompts
    vectors = (1 + work.nulls) * 2 * 4 * model.layers * 2.0 * model.block / FLOPS * min(rounds, work.pairs)
    return {
        "load": model.bytes / LOADING, "vectors": vectors, "unsteered": unsteered * rounds,
        "tasks": max(of_all / workers, longest),
    }  # fmt: skip


def table(work: Work) -> list[str]:
    """Seconds for 8, 64 and 512 GPUs."""
    lines = ["| model | GPUs | workers | tasks | load | vectors | unsteered | steered rows | total | speed-up |",
             "|---|---|---|---|---|---|---|---|---|---|"]  # fmt: skip
    for name, model in (("7B", LLAMA_7B), ("70B", LLAMA_70B)):
        one = sum(seconds(model, work, model.gpus).values())
        for gpus in (model.gpus, 8, 64, 512):
            parts = seconds(model, work, gpus)
            whole = sum(parts.values())
            told = " | ".join(map(_told, (*parts.values(), whole)))
            workers = gpus // model.gpus
            lines.append(f"| {name} | {gpus} | {workers} | {work.tasks(model.layers)} | {told} | {one / whole:.1f} × |")
    return lines


def _told(value: float) -> str:
    """Seconds, minutes, hours or days."""
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if value >= 2 * size:
            return f"{value / size:.1f} {unit}"
    return f"{value:.0f} s"


# -- against what happens --------------------------------------------------------------------------------------


def plan_of(model: Any, work: Work, path: Any = None) -> al.SweepPlan:
    """The same sweep, planned."""
    return al.plan_sweep(
        model, (" happy", " sad"), layers=range(int(model.cfg.n_layers)),
        coefficients=[float(1 + number) for number in range(work.coefficients)],
        prompts=al.storybook.neutral_prompts()[: work.prompts], metric=al.metrics.entropy(), nulls=work.nulls,
        batch_size=64, path=path,
    )  # fmt: skip


def check(small: Work, large: Work) -> list[str]:
    """The arithmetic beside `plan.cost`, and beside CPU time here and on two workers."""
    from benchmarks.workers import seconds_of

    model = al.load_model()
    layers = int(model.cfg.n_layers)
    lines = []
    for work in (small, large):
        cost = plan_of(model, work).cost
        lines.append(f"rows {work.rows(layers):,} (plan.cost {cost.rows:,}), "
                     f"passes {work.passes(layers, 64):,} (plan.cost {cost.passes:,})")  # fmt: skip
    plan_of(model, small).run(progress=False)
    start = time.process_time()
    plan_of(model, small).run(progress=False)
    per_row = (time.process_time() - start) / small.rows(layers)
    start = time.process_time()
    plan_of(model, large).run(progress=False)
    here = time.process_time() - start
    lines.append(f"predicted {per_row * large.rows(layers):.1f} s of CPU time, one process {here:.1f} s")
    with al.worker_pool(2, threads=1) as pool:
        plan_of(model, small).run(executor=pool, progress=False)  # each loads its model
        plan_of(model, small).run(executor=pool, progress=False)
        processes = list(pool._pool._processes)
        before = [seconds_of(process) for process in processes]
        plan_of(model, large).run(executor=pool, progress=False)
        took = [seconds_of(process) - start for process, start in zip(processes, before, strict=True)]
    lines.append(f"two workers {took[0]:.1f} and {took[1]:.1f} s, together {sum(took) / here:.2f} times one process")
    return lines


def main(argv: Sequence[str] | None = None) -> int:
    """Print the tables, or hold the arithmetic against what happens here."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=main.__doc__)
    parser.add_argument("--check", action="store_true", help="hold it against plan.cost and CPU time here")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    small, large = (Work(pairs=1, prompts=count, nulls=15, tokens=8) for count in (8, 24))
    print("\n".join(check(small, large) if options.check else table(Work())))
    return 0


if __name__ == "__main__":
    sys.exit(main())
