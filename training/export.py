"""Export a checkpoint: `python -m training.export --checkpoint FILE --data PREPARED --out FOLDER`.

Writes a Hugging Face folder, `GPTNeoForCausalLM` in half precision, that loads without this package.
"""

import argparse
import json
import logging
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from training.model import ModelShape, StoryModel
from training.tokenizer import BOS, load_tokenizer, save_tokenizer, start_id

logger = logging.getLogger("training.export")
WEIGHTS = "model.safetensors"
MODULES = {
    "ln_1": "ln_1",
    "ln_2": "ln_2",
    "out": "attn.attention.out_proj",
    "up": "mlp.c_fc",
    "down": "mlp.c_proj",
}
"""Parts of a block that are the same in both: our names, and Hugging Face's."""


def load_checkpoint(path: Path, *, weights: str = "auto") -> tuple[StoryModel, int]:
    """The model of a checkpoint, and how many tokens it was trained on.

    Args:
        path: A checkpoint of `training.train`.
        weights: "last", "average", or "auto": the running average until the decay begins, then the last.
    """
    state = torch.load(path, map_location="cpu", weights_only=True)
    if weights == "auto":
        weights = "average" if state["progress"]["decay_from"] is None else "last"
    model = StoryModel(ModelShape(**state["shape"]))
    model.load_state_dict(state["average" if weights == "average" else "model"])
    return model.eval(), state["progress"]["tokens"]


def load_exported(folder: Path) -> StoryModel:
    """The model of an exported folder, in full precision: training goes on from it without its checkpoint."""
    config = read_config(folder)
    shape = ModelShape(
        vocab_size=config["vocab_size"],
        n_layers=config["num_layers"],
        n_local_layers=config["attention_layers"].count("local"),
        window=config["window_size"],
        d_model=config["hidden_size"],
        n_heads=config["num_heads"],
        context=config["max_position_embeddings"],
    )
    saved = {name.removeprefix("transformer."): weight.float() for name, weight in load_file(folder / WEIGHTS).items()}
    weights = {
        "embed.weight": saved["wte.weight"],
        "positions.weight": saved["wpe.weight"],
        "ln_f.weight": saved["ln_f.weight"],
        "ln_f.bias": saved["ln_f.bias"],
    }
    for index in range(shape.n_layers):
        ours, theirs = f"blocks.{index}.", f"h.{index}."
        query, key, value = (saved[f"{theirs}attn.attention.{name}_proj.weight"] for name in "qkv")
        weights[f"{ours}qkv.weight"] = torch.cat([query * shape.d_head**0.5, key, value])
        for name, their_name in MODULES.items():
            parts = ("weight", "bias")
            weights |= {f"{ours}{name}.{part}": saved[f"{theirs}{their_name}.{part}"] for part in parts}
    model = StoryModel(shape)
    model.load_state_dict(weights)
    return model


def read_config(folder: Path) -> dict[str, Any]:
    """`config.json` of an exported folder."""
    config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return config


def gpt_neo_config(shape: ModelShape, bos: int, trained_tokens: int) -> dict[str, Any]:
    """`config.json`; `attention_layers` beside `attention_types` for readers that know only one of them."""
    n_global = shape.n_layers - shape.n_local_layers
    return {
        "architectures": ["GPTNeoForCausalLM"],
        "model_type": "gpt_neo",
        "vocab_size": shape.vocab_size,
        "hidden_size": shape.d_model,
        "num_layers": shape.n_layers,
        "num_heads": shape.n_heads,
        "intermediate_size": 4 * shape.d_model,
        "max_position_embeddings": shape.context,
        "window_size": shape.window,
        "attention_types": [[["local"], shape.n_local_layers], [["global"], n_global]],
        "attention_layers": ["local"] * shape.n_local_layers + ["global"] * n_global,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
        "attention_dropout": 0.0,
        "embed_dropout": 0.0,
        "resid_dropout": 0.0,
        "classifier_dropout": 0.0,
        "initializer_range": 0.02,
        "bos_token_id": bos,
        "eos_token_id": bos,
        "tie_word_embeddings": True,
        "use_cache": True,
        "dtype": "float16",
        "trained_tokens": trained_tokens,
    }


def gpt_neo_weights(model: StoryModel) -> dict[str, Tensor]:
    """Weights under Hugging Face's names, with the attention scale folded into the queries."""
    weights = {
        "transformer.wte.weight": model.embed.weight,
        "transformer.wpe.weight": model.positions.weight,
        "transformer.ln_f.weight": model.ln_f.weight,
        "transformer.ln_f.bias": model.ln_f.bias,
    }
    for index, block in enumerate(model.typed_blocks()):
        prefix = f"transformer.h.{index}."
        query, key, value = block.qkv.weight.chunk(3)
        for name, weight in (("q", query * model.shape.d_head**-0.5), ("k", key), ("v", value)):
            weights[f"{prefix}attn.attention.{name}_proj.weight"] = weight
        for ours, theirs in MODULES.items():
            module = block.get_submodule(ours)
            weights |= {f"{prefix}{theirs}.{part}": tensor for part, tensor in module.named_parameters()}
    return {name: weight.detach().half().contiguous().clone() for name, weight in weights.items()}


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Indented, with a line end: the files are read and compared by people."""
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def export(model: StoryModel, trained_tokens: int, tokenizer_folder: Path, out: Path) -> None:
    """Write the whole folder; a `README.md` in it stays."""
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = load_tokenizer(tokenizer_folder)
    bos = start_id(tokenizer)
    write_json(out / "config.json", gpt_neo_config(model.shape, bos, trained_tokens))
    write_json(out / "generation_config.json", {"bos_token_id": bos, "eos_token_id": bos, "pad_token_id": bos})
    write_json(
        out / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": BOS,
            "eos_token": BOS,
            "unk_token": BOS,
            "model_max_length": model.shape.context,
            "clean_up_tokenization_spaces": False,
        },
    )
    save_tokenizer(tokenizer, out)
    save_file(gpt_neo_weights(model), out / WEIGHTS, metadata={"format": "pt"})
    (out / WEIGHTS).chmod(0o644)  # safetensors leaves it to its owner alone
    logger.info("%s: %.1f MB", out, sum(path.stat().st_size for path in out.iterdir()) / 1e6)


def main() -> None:
    """Read the command line and export."""
    parser = argparse.ArgumentParser(description="Export a checkpoint as a Hugging Face folder.")
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="folder written by training.prepare")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--weights", choices=["auto", "last", "average"], default="auto")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    export(*load_checkpoint(arguments.checkpoint, weights=arguments.weights), arguments.data, arguments.out)


if __name__ == "__main__":
    main()
