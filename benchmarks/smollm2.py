"""`python -m benchmarks.smollm2`: what a real model costs through this package, beside Hugging Face's own forward.

The reference is the plainest loop that is quick: the Hugging Face model with `sdpa` attention and its KV cache, greedy,
the last column unembedded alone. CPU time of the process, in turns; a ratio is the median over the turns.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

import actadd_lens as al
from actadd_lens.models import backend_of
from actadd_lens.models.fetching import fetched_folder
from actadd_lens.models.hooked import hooked_transformer
from actadd_lens.prompts.texts import encode_prompts
from benchmarks.timing import Measured

LAYERS = (6, 14, 22)
COEFFICIENTS = (-2.0, -1.0, 1.0, 2.0)
NEW_TOKENS = 20
PROMPTS = (
    "The weather this morning was cold, and the streets of",
    "My neighbour told me yesterday that she had bought a new",
    "The train to the coast leaves at nine, so we",
    "In the evening we sat in the kitchen and talked about",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; always 0, for a ratio above its bar is a finding and not a failure."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.smollm2", description=main.__doc__)
    parser.add_argument("--repeats", type=int, default=9, help="timed repeats per case (default: 9)")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (default: 1)")
    parser.add_argument("--dtype", default="float32", help="precision of all models (default: float32)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to a file as well")
    options = parser.parse_args(argv)
    if fetched_folder("smollm2") is None:
        print("smollm2 is not on this machine: run `actadd fetch smollm2` first.")
        return 0
    torch.set_num_threads(options.threads)
    found = {}
    for family in ("hooked", "bridge") if hooked_transformer() is not None else ("bridge",):
        al.load_model(family=family)  # the imports
        start = time.process_time()
        model = al.load_model("smollm2", family=family, dtype=options.dtype)
        found[f"{family}: load_model, seconds"] = time.process_time() - start
        for name, (condition, reference) in _cases(model, _source(options.dtype)).items():
            measured = _in_turns(condition, reference, repeats=options.repeats)
            found[f"{family}: {name}"] = measured.ratio
            print(_row(family, name, measured), flush=True)
        print(f"{family:<7} load_model {found[f'{family}: load_model, seconds']:.2f} s")
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=2) + "\n")
    return 0


def _row(family: str, name: str, measured: Measured) -> str:
    low, high = measured.interval()
    times = f"{measured.milliseconds:.0f} ms | {measured.reference_milliseconds:.0f} ms"
    return f"{family:<7} {name:<38} {measured.ratio:.2f} [{low:.2f}, {high:.2f}]  {times}"


Call = Callable[[], object]


def _in_turns(condition: Call, reference: Call, *, repeats: int) -> Measured:
    """CPU time of both, in turns: it is the process's own, however busy the machine is."""
    times: dict[Call, list[float]] = {condition: [], reference: []}
    for repeat in range(-1, repeats):
        for call in (condition, reference) if repeat % 2 else (reference, condition):
            start = time.process_time()
            call()
            if repeat >= 0:
                times[call].append(time.process_time() - start)
    return Measured(tuple(times[condition]), tuple(times[reference]))


def _source(dtype: str) -> Any:
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    return AutoModelForCausalLM.from_pretrained(
        fetched_folder("smollm2"), dtype=getattr(torch, dtype), attn_implementation="sdpa", local_files_only=True
    ).eval()


def _cases(model: Any, source: Any) -> dict[str, tuple[Call, Call]]:
    """Each case, and what it is held against."""
    pair = al.PromptPair("I love it", "I hate it", prepend_bos=False)
    vector = al.compute_steering_vector(model, pair, layer=14)
    eight = _tokens(model, PROMPTS * 2)

    def completed(**placing: Any) -> Call:
        row = vector.row(1) if placing.get("position") == "all" else vector
        return lambda: al.complete(
            model, PROMPTS, row, max_new_tokens=NEW_TOKENS, temperature=0, stop_at_eos=False, progress=False, **placing
        )

    def swept() -> object:
        return al.sweep(model, pair, layers=LAYERS, coefficients=COEFFICIENTS, prompts=PROMPTS,
                        metric=al.metrics.next_token_logprob(" the"), progress=False)  # fmt: skip

    def measured() -> object:
        return al.measure(model, PROMPTS, vector, al.metrics.next_token_logprob(" the"), progress=False)

    return {
        "complete, rows at the front": (completed(), lambda: _decoded(source, eight)),
        "complete, a row on all tokens": (completed(position="all"), lambda: _decoded(source, eight)),
        "sweep, against the blocks it needs": (
            swept,
            lambda: _swept(source, _tokens(model, PROMPTS), _of(model, pair)),
        ),
        "measure, against the blocks it needs": (
            measured,
            lambda: _measured(source, _tokens(model, PROMPTS), vector.layer),
        ),
    }


def _tokens(model: Any, prompts: Sequence[str]) -> torch.Tensor:
    """Rows of equal length: what the reference need not pad is not its advantage."""
    rows = encode_prompts(backend_of(model), prompts)
    shortest = min(map(len, rows))
    return torch.tensor([row[:shortest] for row in rows])


@torch.inference_mode()
def _decoded(source: Any, tokens: torch.Tensor) -> torch.Tensor:
    """The plain loop."""
    cache, new, written = None, tokens, []
    for _ in range(NEW_TOKENS):
        out = source(new, past_key_values=cache, use_cache=True, logits_to_keep=1)
        cache, new = out.past_key_values, out.logits[:, -1].argmax(dim=-1, keepdim=True)
        written.append(new)
    return torch.cat(written, dim=1)


def _of(model: Any, pair: al.PromptPair) -> torch.Tensor:
    """Both prompts of a pair."""
    texts = (str(pair.positive), str(pair.negative))
    return torch.tensor([backend_of(model).encode(text, prepend_bos=False) for text in texts])


@torch.inference_mode()
def _swept(source: Any, tokens: torch.Tensor, pair: torch.Tensor) -> None:
    """The pair up to the highest layer, the prompts once, and from each layer on all coefficients at once."""
    _through(source, pair, slice(0, max(LAYERS)))
    _through(source, tokens, slice(None))
    for layer in LAYERS:
        _through(source, tokens.repeat(len(COEFFICIENTS), 1), slice(layer, None))


@torch.inference_mode()
def _measured(source: Any, tokens: torch.Tensor, layer: int) -> None:
    """The prompts up to the layer, and from there on unsteered and steered."""
    _through(source, tokens, slice(0, layer))
    _through(source, tokens.repeat(2, 1), slice(layer, None))


def _through(source: Any, tokens: torch.Tensor, part: slice) -> None:
    """Through some of the blocks, and the last column unembedded where the last of them is among them."""
    trunk = source.model
    blocks, count = trunk.layers, trunk.config.num_hidden_layers
    try:
        trunk.layers = blocks[part]
        trunk.config.num_hidden_layers = len(trunk.layers)
        if part.stop is None:
            source(tokens, use_cache=False, logits_to_keep=1)
        else:
            trunk(tokens, use_cache=False)
    finally:
        trunk.layers, trunk.config.num_hidden_layers = blocks, count


if __name__ == "__main__":
    raise SystemExit(main())
