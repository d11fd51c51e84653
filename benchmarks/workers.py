"""What workers cost beside the work: CPU time per task against one process, and the time that two of them take.

`python -m benchmarks.workers` runs one sweep in turns here and by Dask's workers with this package's settings. CPU time
is what counts where other work runs beside it; wall time says something on a quiet machine only.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

import actadd_lens as al
from actadd_lens.workers import DASK_SETTINGS


def run_sweep(model: Any, nulls: int, executor: Any) -> al.Sweep:
    """8 layers x 2 coefficients x 16 prompts, with nulls: one task for each layer and 8 prompts."""
    return al.sweep(
        model, (" happy", " sad"), layers=range(int(model.cfg.n_layers)), coefficients=(-4.0, 4.0),
        prompts=al.storybook.neutral_prompts()[:16], metric=al.metrics.entropy(), nulls=nulls, batch_size=64,
        executor=executor, progress=False,
    )  # fmt: skip


def seconds_of(process: int) -> float:
    """CPU time of a process so far, its threads together."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def timed(call: Callable[[], object], processes: Sequence[int]) -> tuple[float, float]:
    """CPU time of some processes, and wall time, while a call runs."""
    before, start = sum(map(seconds_of, processes)), time.perf_counter()
    call()
    return sum(map(seconds_of, processes)) - before, time.perf_counter() - start


def compare(model: Any, *, nulls: int, repeats: int, workers: int) -> dict[str, Any]:
    """Ratios of Dask's workers to this process, in turns; the first run of each is left out, for it loads models."""
    import dask
    from distributed import Client, LocalCluster

    options = {"n_workers": workers, "threads_per_worker": 1, "dashboard_address": None}
    with dask.config.set(DASK_SETTINGS), LocalCluster(**options) as cluster, Client(cluster) as client:
        theirs = list(client.run(os.getpid).values())
        here, there = [], []
        for _ in range(repeats + 1):
            here.append(timed(lambda: run_sweep(model, nulls, None), [os.getpid()]))
            there.append(timed(lambda: run_sweep(model, nulls, client), theirs))
    cpu = [mine[0] / own[0] for mine, own in zip(there[1:], here[1:], strict=True)]
    wall = [mine[1] / own[1] for mine, own in zip(there[1:], here[1:], strict=True)]
    return {
        "workers": workers, "repeats": repeats, "nulls": nulls, "cpu": statistics.median(cpu), "cpus": cpu,
        "wall": statistics.median(wall), "walls": wall, "seconds here (CPU)": statistics.median(own for own, _ in here),
    }  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """CPU time per task and wall time of Dask's workers, as ratios to one process."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.workers", description=main.__doc__)
    parser.add_argument("--model", default="storybook", help="name or folder (default: storybook)")
    parser.add_argument("--nulls", type=int, default=39, help="nulls of the sweep (default: 39)")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each (default: 5)")
    parser.add_argument("--workers", type=int, default=2, help="Dask's workers (default: 2)")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    model = al.load_model(options.model)
    found = compare(model, nulls=options.nulls, repeats=options.repeats, workers=options.workers)
    print(json.dumps(found, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
