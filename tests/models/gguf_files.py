"""Small GGUF files for the tests, written by the package gguf as llama.cpp's converter writes them."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

CHAT = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
MARKS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
SHAPE = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
         "num_key_value_heads": 2, "max_position_embeddings": 128}  # fmt: skip
NAMES = {"input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
         "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "post_attention_layernorm": "ffn_norm",
         "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}  # fmt: skip


def pieces_and_merges() -> tuple[list[str], list[str]]:
    """A byte-level vocabulary with a few words, and two line breaks as one token."""
    from tokenizers import pre_tokenizers

    pieces, merges = [*MARKS, *sorted(pre_tokenizers.ByteLevel.alphabet())], []
    for word in ("ĊĊ", "ĠĠ", "user", "Hello", "Love", "Hate", "Ġthe", "Ġdog"):
        for end in range(2, len(word) + 1):
            if word[:end] not in pieces:
                pieces.append(word[:end])
                merges.append(f"{word[: end - 1]} {word[end - 1]}")
    return pieces, merges


def source_model(*, tied: bool = True) -> Any:
    """A random Llama of transformers, with keys that are grouped and weights of some size."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    size = len(pieces_and_merges()[0])
    config = LlamaConfig(
        **SHAPE, vocab_size=size, tie_word_embeddings=tied, initializer_range=0.2, rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 5000.0}, bos_token_id=1, eos_token_id=2, pad_token_id=2,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    for name, weight in model.named_parameters():
        if "norm" in name:
            torch.nn.init.uniform_(weight, 0.5, 1.5)
    return model


def side_by_side(rows: np.ndarray, heads: int) -> np.ndarray:
    """Queries or keys as llama.cpp's converter orders them: both rows of a rotary pair side by side."""
    return rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def write_gguf(
    path: Path,
    model: Any,
    *,
    kinds: tuple[str, ...] = ("F32",),
    rule: str = "smollm",
    architecture: str = "llama",
    keys: dict[str, Any] | None = None,
    extra: tuple[str, ...] = (),
    leave_out: tuple[str, ...] = (),
) -> dict[str, torch.Tensor]:
    """Write a model; returns the weights that the file holds once its numbers are read, by Hugging Face's names."""
    import gguf

    writer = gguf.GGUFWriter(path, architecture)
    sizes = {"context_length": 128, "embedding_length": 64, "block_count": 3, "feed_forward_length": 96,
             "attention.head_count": 4, "attention.head_count_kv": 2, "rope.dimension_count": 16}  # fmt: skip
    for name, value in sizes.items():
        writer.add_uint32(f"{architecture}.{name}", value)
    writer.add_float32(f"{architecture}.rope.freq_base", 5000.0)
    writer.add_float32(f"{architecture}.attention.layer_norm_rms_epsilon", 1e-5)
    for name, value in (keys or {}).items():
        (writer.add_string if isinstance(value, str) else writer.add_uint32)(name, value)
    pieces, merges = pieces_and_merges()
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(rule)
    writer.add_token_list(pieces)
    writer.add_token_types([3] * len(MARKS) + [1] * (len(pieces) - len(MARKS)))
    writer.add_token_merges(merges)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_chat_template(CHAT)
    held = {}
    for index, (name, weight) in enumerate(model.named_parameters()):
        values, theirs = weight.detach().numpy(), _name(name)
        if theirs in leave_out:
            continue
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            values = side_by_side(values, 4 if "q_proj" in name else 2)
        kind = "F32" if values.ndim == 1 else kinds[index % len(kinds)]
        held[name] = _add(writer, theirs, values, kind)
    for name in extra:
        writer.add_tensor(name, np.ones(8, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    for name, weight in held.items():  # back from the file's order, by a way that does not use the converter's
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            heads = 4 if "q_proj" in name else 2
            order = side_by_side(np.arange(weight.shape[0])[:, None], heads)[:, 0]
            held[name] = torch.empty_like(weight)
            held[name][torch.from_numpy(order.copy())] = weight
    return held


def _name(name: str) -> str:
    fixed = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight",
             "lm_head.weight": "output.weight"}  # fmt: skip
    if name in fixed:
        return fixed[name]
    _, _, block, *middle, last = name.split(".")
    return f"blk.{block}.{NAMES['.'.join(middle)]}.{last}"


def _add(writer: Any, name: str, values: np.ndarray, kind: str) -> torch.Tensor:
    import gguf
    from gguf import quants

    wanted = gguf.GGMLQuantizationType[kind]
    if kind == "F32":
        writer.add_tensor(name, values)
        return torch.from_numpy(values.copy())
    packed = quants.quantize(values, wanted)
    writer.add_tensor(name, packed, raw_dtype=wanted)
    return torch.from_numpy(quants.dequantize(packed, wanted).copy())
