"""What a sweep costs beside the arithmetic that it needs; `python -m benchmarks.sweeps` takes its memory."""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch

import actadd_lens as al
from actadd_lens.models import backend_of
from actadd_lens.prompts.texts import encode_prompts
from actadd_lens.writing.decoding import Cell, DecodeSettings, decode_cells
from benchmarks.models import GPT2_SMALL, TINY, random_model
from benchmarks.timing import Condition

if TYPE_CHECKING:
    from benchmarks.cases import Sizes

PAIR = ("Love", "Hate")
COEFFICIENTS = (-4.0, -1.0, 1.0, 4.0)
PROMPTS = (
    "I hate you because wedding was a long day and a day",
    "The wedding was a long day and you hate a day",
    "I hate a long wedding because day was a day and you",
    "The day was long and a wedding was a day because you",
)
TOKEN = 42


def _layers(model: Any) -> list[int]:
    """Six layers, spread evenly; fewer on a model with fewer."""
    count = int(model.cfg.n_layers)
    return sorted({index * count // 6 for index in range(6)})


# -- metrics ---------------------------------------------------------------------------------------------------


def metrics_against_bound(model: Any, sizes: "Sizes") -> tuple[Condition, Condition]:
    """24 cells on 4 prompts, against one plain forward from each layer of as many rows."""
    return Condition(lambda: _sweep(model)), Condition(_bound(model))


def metrics_against_naive(model: Any, sizes: "Sizes") -> tuple[Condition, Condition]:
    """The naive loop, against the sweep: how much a sweep saves."""
    return Condition(lambda: _naive(model)), Condition(lambda: _sweep(model))


def _sweep(model: Any) -> al.Sweep:
    return al.sweep(
        model, PAIR, layers=_layers(model), coefficients=COEFFICIENTS, prompts=PROMPTS,
        metric=al.metrics.next_token_logprob(TOKEN), progress=False,
    )  # fmt: skip


def _bound(model: Any) -> Callable[[], object]:
    """The blocks from each layer on, and the last column's logits, for as many rows as the sweep has there."""
    backend = backend_of(model)
    rows = encode_prompts(backend, PROMPTS)
    longest = max(map(len, rows))
    tokens = torch.tensor([[*row, *row[-1:] * (longest - len(row))] for row in rows], device=backend.device)
    tokens = tokens.repeat(len(COEFFICIENTS), 1)
    stream = torch.randn(*tokens.shape, backend.d_model, device=backend.device, dtype=backend.dtype)

    @torch.no_grad()
    def bound() -> None:
        for layer in _layers(model):
            if backend.family != "hooked":
                model(tokens, use_cache=False)
                continue
            residual = model(stream, start_at_layer=layer, stop_at_layer=backend.n_layers)
            model.unembed(model.ln_final(residual[:, -1:]))

    return bound


@torch.no_grad()
def _naive(model: Any) -> None:
    """What the authors' code does: the vector again for each cell by two forwards, then one steered forward."""
    backend = backend_of(model)
    pair = al.PromptPair(*PAIR).tokens(model)
    sides = [torch.tensor([side], device=backend.device) for side in (pair.positive, pair.negative or ())]
    prompts = [torch.tensor([row], device=backend.device) for row in encode_prompts(backend, PROMPTS)]
    for layer in _layers(model):
        name = backend.hook_name(layer)
        for coefficient in COEFFICIENTS:
            for prompt in prompts:
                plus, minus = (model.run_with_cache(side, names_filter=name)[1][name] for side in sides)
                steered = model.run_with_hooks(prompt, fwd_hooks=[(name, _adding(coefficient * (plus - minus)))])
                float(steered[0, -1].log_softmax(dim=-1)[TOKEN])


def _adding(rows: torch.Tensor) -> Callable[..., torch.Tensor]:
    def add(stream: torch.Tensor, hook: Any) -> torch.Tensor:
        stream[:, : rows.shape[1]] += rows
        return stream

    return add


# -- texts -----------------------------------------------------------------------------------------------------


def texts_against_bound(model: Any, sizes: "Sizes") -> tuple[Condition, Condition]:
    """24 cells x 4 texts, against one plain decoding of as many rows."""
    backend = backend_of(model)
    prompt = encode_prompts(backend, PROMPTS[:1])[0]
    cells = [Cell(prompt, ())] * (len(_layers(model)) * len(COEFFICIENTS))
    settings = _settings(sizes)
    return Condition(lambda: _texts(model, sizes)), Condition(lambda: decode_cells(backend, cells, settings))


def texts_against_naive(model: Any, sizes: "Sizes") -> tuple[Condition, Condition]:
    """Cell by cell, against the sweep."""
    backend, settings = backend_of(model), _settings(sizes)
    prompt = encode_prompts(backend, PROMPTS[:1])[0]

    def naive() -> None:
        for layer in _layers(model):
            vector = al.compute_steering_vector(model, PAIR, layer=layer)
            for coefficient in COEFFICIENTS:
                decode_cells(backend, [Cell(prompt, (coefficient * vector,))], settings)

    return Condition(naive), Condition(lambda: _texts(model, sizes))


def _settings(sizes: "Sizes") -> DecodeSettings:
    return DecodeSettings(n=4, max_new_tokens=sizes.new_tokens, stop_at_eos=True)


def _texts(model: Any, sizes: "Sizes") -> al.CompletionSweep:
    return al.sweep_completions(
        model, PAIR, layers=_layers(model), coefficients=COEFFICIENTS, prompts=PROMPTS[0], n=4,
        max_new_tokens=sizes.new_tokens, scorers=_length, progress=False,
    )  # fmt: skip


def _length(texts: Sequence[str]) -> list[float]:
    return [float(len(text)) for text in texts]


# -- memory ----------------------------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    """Peak memory and time of a small and of a large grid, each in a process of its own."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sweeps", description=main.__doc__)
    parser.add_argument("--cells", type=int, nargs="+", default=[100, 1000], help="sizes of the grids")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch (default: 2)")
    parser.add_argument("--quick", action="store_true", help="a tiny model: to see that it runs")
    parser.add_argument("--alone", action="store_true", help="measure one grid in this process, and print JSON")
    options = parser.parse_args(argv)
    if options.alone:
        print(json.dumps(_alone(options.cells[0], options.threads, options.quick)))
        return 0
    found = []
    for cells in options.cells:
        command = [sys.executable, "-m", "benchmarks.sweeps", "--alone", "--threads", str(options.threads)]
        command += ["--cells", str(cells), *(["--quick"] if options.quick else [])]
        found.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
        cost = 1e3 * found[-1]["seconds"] / found[-1]["cells"]
        print(f"{cells:>6} cells: peak {found[-1]['peak_mib']:.0f} MiB, {cost:.1f} ms a cell", flush=True)
    memory = found[-1]["peak_mib"] / found[0]["peak_mib"]
    cost = found[-1]["seconds"] / found[-1]["cells"] / (found[0]["seconds"] / found[0]["cells"])
    print(f"peak memory {memory:.3f} (bar 1.30), cost a cell {cost:.3f} (bar 1.00)")
    return 0


def _alone(cells: int, threads: int, quick: bool) -> dict[str, float]:
    torch.set_num_threads(threads)
    model = random_model(TINY if quick else GPT2_SMALL)
    layers = _layers(model)
    coefficients = [0.1 * (1 + index) for index in range(-(-cells // len(layers)))]

    def run(some: Sequence[float]) -> al.Sweep:
        metric = al.metrics.next_token_logprob(TOKEN)
        return al.sweep(
            model, PAIR, layers=layers, coefficients=some, prompts=PROMPTS[:2], metric=metric, progress=False
        )

    run(coefficients[:4])
    start = time.perf_counter()
    run(coefficients)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform != "darwin" else 2**20)
    return {"cells": len(layers) * len(coefficients), "seconds": seconds, "peak_mib": peak}


if __name__ == "__main__":
    raise SystemExit(main())
