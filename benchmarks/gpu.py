"""What steering costs on one GPU, on random models of real shapes; `python -m benchmarks.gpu` prints a table.

Ratios of steered to unsteered forwards and decoding, of a sweep to the forwards that it needs, of decoding to Hugging
Face's own loop, and the peak of memory. Weights are random, which changes no time. `--tiny` runs everything on small
shapes, on the CPU where there is no GPU: to see that it runs.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import actadd_lens as al
from actadd_lens.models import backend_of
from actadd_lens.writing.decoding import Cell, DecodeSettings, decode_cells
from benchmarks.models import byte_level_tokenizer
from benchmarks.timing import Condition, Measured, measure

PAIR = ("Love", "Hate")
TOKEN = 42


@dataclass(frozen=True)
class Shape:
    """A model of transformers by its sizes.

    Attributes:
        kind: Its `model_type`.
        sizes: What its configuration is given.
        tiny: The same, small.
    """

    kind: str
    sizes: dict[str, int]
    tiny: dict[str, int]


_OPT = ("hidden_size", "ffn_dim", "num_hidden_layers", "num_attention_heads", "word_embed_proj_dim")
_LLAMA = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
_GPT2 = ("n_embd", "n_layer", "n_head", "n_positions")


def _sizes(names: Sequence[str], values: Sequence[int], vocabulary: int) -> dict[str, int]:
    return {**dict(zip(names, values, strict=True)), "vocab_size": vocabulary}


SHAPES = {
    "gpt2-xl": Shape("gpt2", _sizes(_GPT2, (1600, 48, 25, 1024), 50257), _sizes(_GPT2, (32, 4, 4, 64), 600)),
    "opt-6.7b": Shape(
        "opt", _sizes(_OPT, (4096, 16384, 32, 32, 4096), 50272), _sizes(_OPT, (32, 64, 4, 4, 32), 600)
    ),
    "llama-3-8b": Shape(
        "llama", _sizes(_LLAMA, (4096, 14336, 32, 32, 8), 128256), _sizes(_LLAMA, (32, 64, 4, 4, 2), 600)
    ),
}  # fmt: skip


def random_bridge(shape: Shape, *, tiny: bool, device: str) -> Any:
    """A TransformerBridge with random weights in bfloat16, made where it lies."""
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    sizes = shape.tiny if tiny else shape.sizes
    end = sizes["vocab_size"] - 1
    config = AutoConfig.for_model(shape.kind, **sizes, bos_token_id=end, eos_token_id=end, pad_token_id=end)
    with torch.device(device):
        hf_model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, attn_implementation="eager").eval()
    config.architectures = [type(hf_model).__name__]
    with tempfile.TemporaryDirectory() as folder:
        config.save_pretrained(folder)
        byte_level_tokenizer(sizes["vocab_size"]).save_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        return TransformerBridge.boot_transformers(
            folder, hf_model=hf_model, tokenizer=tokenizer, device=device, dtype=torch.bfloat16
        )


def cases(
    model: Any, *, rows: int, length: int, new: int
) -> Iterator[tuple[str, Callable[[], Any], Callable[[], Any]]]:
    """A name, what is judged, and what it is judged by."""
    backend = backend_of(model)
    vector = 4 * al.compute_steering_vector(model, PAIR, layer=backend.n_layers // 2)
    prompt = (int(backend.bos_token_id or 0), *(TOKEN,) * (length - 1))
    tokens = torch.tensor([prompt] * rows, device=backend.device)

    @torch.inference_mode()
    def forward() -> None:
        backend.logits_at(tokens, torch.full((rows,), length - 1, device=backend.device))

    def inside() -> None:
        with al.steer(model, vector):
            forward()

    yield "forward, steered : unsteered", inside, forward
    settings = DecodeSettings(max_new_tokens=new, stop_at_eos=False)

    def decode(*vectors: al.SteeringVector) -> Callable[[], Any]:
        cells = [Cell(prompt, vectors)] * rows
        return lambda: decode_cells(backend, cells, settings, batch_size=rows)

    yield "decoding, steered : unsteered", decode(vector), decode()
    yield "decoding, unsteered : Hugging Face's loop", decode(), lambda: hugging_face(model, tokens, new)
    layers = sorted({backend.n_layers * step // 4 for step in range(4)})
    yield "sweep : as many forwards", lambda: swept(model, layers, rows), lambda: [forward() for _ in layers]


@torch.inference_mode()
def hugging_face(model: Any, tokens: torch.Tensor, new: int) -> None:
    """The model of transformers alone, greedy, with its own cache."""
    source, cache = model.original_model, None
    for _ in range(new):
        found = source(tokens, past_key_values=cache, use_cache=True)
        cache, tokens = found.past_key_values, found.logits[:, -1:].argmax(dim=-1)


def swept(model: Any, layers: Sequence[int], rows: int) -> al.Sweep:
    """As many rows at each layer as a forward has; one prompt."""
    return al.sweep(
        model, PAIR, layers=layers, coefficients=[0.5 * (1 + row) for row in range(rows)], batch_size=rows,
        prompts=" ".join(["Love"] + ["wedding"] * 8), metric=al.metrics.next_token_logprob(TOKEN), progress=False,
    )  # fmt: skip


def synced(call: Callable[[], Any], device: str) -> Callable[[], Any]:
    """A call that ends when the device is done."""

    def run() -> None:
        call()
        if device == "cuda":
            torch.cuda.synchronize()

    return run


def table(name: str, *, tiny: bool, device: str, repeats: int) -> list[str]:
    """The lines of one model."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    model = random_bridge(SHAPES[name], tiny=tiny, device=device)
    rows, length, new = (2, 8, 3) if tiny else (16, 64, 32)
    lines = []
    for what, judged, reference in cases(model, rows=rows, length=length, new=new):
        conditions = [Condition(synced(call, device)) for call in (judged, reference)]
        lines.append(_line(name, what, measure(*conditions, repeats=repeats, warmup=1)))
    if device == "cuda":
        lines.append(f"| {name} | peak memory | {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB | | |")
    return lines


def _line(name: str, what: str, found: Measured) -> str:
    low, high = found.interval()
    return f"| {name} | {what} | {found.ratio:.3f} | {low:.3f} to {high:.3f} | {found.milliseconds:.1f} ms |"


def main(argv: Sequence[str] | None = None) -> int:
    """What steering costs on one GPU, as a table for docs/performance.md."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=main.__doc__)
    parser.add_argument("shapes", nargs="*", help=f"which models (default: all): {', '.join(SHAPES)}")
    parser.add_argument("--tiny", action="store_true", help="small shapes, to see that it runs; the CPU will do")
    parser.add_argument("--repeats", type=int, default=15, help="timed repeats (default: 15)")
    parser.add_argument("--out", type=Path, help="write the table there as well")
    options = parser.parse_args(argv)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and not options.tiny:
        print("torch sees no GPU; --tiny runs small shapes on the CPU", file=sys.stderr)
        return 1
    where = torch.cuda.get_device_name() if device == "cuda" else "CPU, tiny shapes: no measurement"
    lines = [f"On {where}, torch {torch.__version__}, bfloat16.", ""]
    lines += ["| model | what | ratio | interval | median |", "|---|---|---|---|---|"]
    for name in options.shapes or SHAPES:
        lines += table(name, tiny=options.tiny, device=device, repeats=options.repeats)
    print("\n".join(lines))
    if options.out is not None:
        options.out.write_text("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
