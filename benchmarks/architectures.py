"""Tiny random models of many shapes, as Hugging Face folders: nothing is downloaded.

Each shape is a configuration of `transformers`, small, with what tells it from its neighbours: shared or own
unembedding, biases, groups of heads, positions of every kind, windows, norms before or behind, scaled or capped logits.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

D_VOCAB = 257
"""All bytes and one mark."""

N_CTX = 64

_IDS = {"vocab_size": D_VOCAB, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None}
_SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": N_CTX,
}
_GROUPED = {**_IDS, **_SIZES, "num_key_value_heads": 2}
_HEADS = {**_GROUPED, "head_dim": 8}
_MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
_GEMMA = {**_HEADS, "hidden_activation": "gelu_pytorch_tanh", "tie_word_embeddings": True}
_GPT = {**_IDS, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": N_CTX}


def _rope(kind: str, **more: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_theta": 10000.0, **more, "rope_type": kind}}


_LONG = {"short_factor": [1.0, 1.1, 1.3, 1.6], "long_factor": [1.0, 1.7, 2.9, 4.0]}
_YARN = _rope("yarn", factor=4.0, original_max_position_embeddings=16)
_LLAMA3 = _rope("llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=16)
_LONGROPE = {**_rope("longrope", **_LONG, factor=4.0, original_max_position_embeddings=16)}

SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("GPT2", _GPT),
    "gpt2, n_inner": ("GPT2", {**_GPT, "n_inner": 40}),
    "gpt2, untied": ("GPT2", {**_GPT, "tie_word_embeddings": False}),
    "gpt2, scaled by layer": ("GPT2", {**_GPT, "scale_attn_by_inverse_layer_idx": True}),
    "gpt_bigcode": ("GPTBigCode", {**_GPT, "multi_query": True}),
    "gpt_neo": (
        "GPTNeo",
        {**_IDS, "hidden_size": 32, "num_layers": 4, "num_heads": 4, "max_position_embeddings": N_CTX,
         "attention_types": [[["global", "local"], 2]], "window_size": 8},
    ),
    "gptj": ("GPTJ", {**_GPT, "rotary_dim": 4, "tie_word_embeddings": False}),
    "codegen": ("CodeGen", {**_GPT, "rotary_dim": 4, "tie_word_embeddings": False}),
    "gpt_neox": ("GPTNeoX", {**_IDS, **_SIZES, "rotary_pct": 0.25}),
    "gpt_neox, all rotary": ("GPTNeoX", {**_IDS, **_SIZES, "rotary_pct": 1.0}),
    "gpt_neox, other base": (
        "GPTNeoX", {**_IDS, **_SIZES, **_rope("default", rope_theta=500.0, partial_rotary_factor=0.5)},
    ),
    "gpt_neox, sequential": ("GPTNeoX", {**_IDS, **_SIZES, "rotary_pct": 0.25, "use_parallel_residual": False}),
    "opt": ("OPT", {**_IDS, **_SIZES, "ffn_dim": 48, "word_embed_proj_dim": 32, "pad_token_id": 1}),
    "opt, 350m": (
        "OPT",
        {**_IDS, **_SIZES, "ffn_dim": 48, "word_embed_proj_dim": 16, "do_layer_norm_before": False, "pad_token_id": 1},
    ),
    "bloom": ("Bloom", {**_IDS, "hidden_size": 32, "n_layer": 3, "n_head": 4}),
    "mpt": ("Mpt", {**_IDS, "d_model": 32, "n_layers": 3, "n_heads": 4, "max_seq_len": N_CTX, "expansion_ratio": 2}),
    "falcon": (
        "Falcon",
        {**_IDS, **_SIZES, "multi_query": True, "parallel_attn": True, "alibi": False, "ffn_hidden_size": 48},
    ),
    "falcon, alibi": (
        "Falcon",
        {**_IDS, **_SIZES, "alibi": True, "multi_query": False, "parallel_attn": False, "bias": True},
    ),
    "falcon, new": (
        "Falcon",
        {**_IDS, **_SIZES, "new_decoder_architecture": True, "num_kv_heads": 2, "alibi": False},
    ),
    "llama": ("Llama", _GROUPED),
    "llama, tied": ("Llama", {**_GROUPED, "tie_word_embeddings": True}),
    "llama, all biases": ("Llama", {**_GROUPED, "attention_bias": True, "mlp_bias": True}),
    "llama, other base": ("Llama", {**_GROUPED, **_rope("default", rope_theta=500.0)}),
    "llama, wide heads": ("Llama", {**_GROUPED, "head_dim": 16}),
    "llama, linear": ("Llama", {**_GROUPED, **_rope("linear", factor=2.0)}),
    "llama, dynamic": ("Llama", {**_GROUPED, **_rope("dynamic", factor=2.0, original_max_position_embeddings=16)}),
    "llama, yarn": ("Llama", {**_GROUPED, **_YARN}),
    "llama, llama3": ("Llama", {**_GROUPED, **_LLAMA3}),
    "mistral": ("Mistral", {**_HEADS, "sliding_window": None}),
    "mistral, window": ("Mistral", {**_HEADS, "sliding_window": 8}),
    "mixtral": ("Mixtral", {**_HEADS, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None}),
    "qwen2": ("Qwen2", _GROUPED),
    "qwen2, window": (
        "Qwen2", {**_GROUPED, "use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1},
    ),
    "qwen2, yarn": ("Qwen2", {**_GROUPED, **_YARN}),
    "qwen2_moe": ("Qwen2Moe", {**_GROUPED, **_MOE, "shared_expert_intermediate_size": 24}),
    "qwen3": ("Qwen3", _HEADS),
    "qwen3, tied": ("Qwen3", {**_HEADS, "tie_word_embeddings": True}),
    "qwen3_moe": ("Qwen3Moe", {**_HEADS, **_MOE}),
    "gemma": ("Gemma", _GEMMA),
    "gemma2": (
        "Gemma2",
        {**_GEMMA, "sliding_window": 8, "query_pre_attn_scalar": 8, "attn_logit_softcapping": 5.0,
         "final_logit_softcapping": 3.0},
    ),
    "gemma2, no caps": (
        "Gemma2",
        {**_GEMMA, "sliding_window": 8, "query_pre_attn_scalar": 16, "attn_logit_softcapping": None,
         "final_logit_softcapping": None},
    ),
    "gemma3": ("Gemma3Text", {**_GEMMA, "sliding_window": 8, "query_pre_attn_scalar": 8,
                              "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}),
    "phi": ("Phi", {**_GROUPED, "num_key_value_heads": 4, "partial_rotary_factor": 0.5}),
    "phi, all rotary": ("Phi", {**_GROUPED, "num_key_value_heads": 4, "partial_rotary_factor": 1.0}),
    "phi, qk norm": ("Phi", {**_GROUPED, "num_key_value_heads": 4, "partial_rotary_factor": 0.5, "qk_layernorm": True}),
    "phi3": ("Phi3", {**_GROUPED, "sliding_window": None}),
    "phi3, window": ("Phi3", {**_GROUPED, "sliding_window": 8}),
    "phi3, longrope": (
        "Phi3",
        {**_GROUPED, **_LONGROPE, "sliding_window": None, "original_max_position_embeddings": 16},
    ),
    "phi3, part rotary": ("Phi3", {**_GROUPED, "partial_rotary_factor": 0.5, "sliding_window": None}),
    "phimoe": ("Phimoe", {**_GROUPED, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None}),
    "stablelm": ("StableLm", {**_GROUPED, "partial_rotary_factor": 0.5}),
    "stablelm, parallel": (
        "StableLm", {**_GROUPED, "partial_rotary_factor": 0.5, "use_parallel_residual": True, "qk_layernorm": True},
    ),
    "starcoder2": ("Starcoder2", {**_GROUPED, "sliding_window": None}),
    "starcoder2, window": ("Starcoder2", {**_GROUPED, "sliding_window": 8}),
    "olmo": ("Olmo", _GROUPED),
    "olmo, clipped": ("Olmo", {**_GROUPED, "clip_qkv": 0.3}),
    "olmo2": ("Olmo2", _GROUPED),
    "olmo3": ("Olmo3", {**_GROUPED, "sliding_window": 8,
                        "layer_types": ["sliding_attention", "sliding_attention", "full_attention"]}),
    "olmoe": ("Olmoe", {**_GROUPED, "num_experts": 4, "num_experts_per_tok": 2}),
    "cohere": ("Cohere", {**_GROUPED, "logit_scale": 0.25}),
    "cohere, qk norm": ("Cohere", {**_GROUPED, "logit_scale": 0.25, "use_qk_norm": True}),
    "cohere2": ("Cohere2", {**_HEADS, "logit_scale": 0.25, "sliding_window": 8,
                            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}),
    "granite": (
        "Granite",
        {**_GROUPED, "logits_scaling": 2.5, "embedding_multiplier": 3.0, "residual_multiplier": 0.5,
         "attention_multiplier": 0.2},
    ),
    "granitemoe": (
        "GraniteMoe",
        {**_GROUPED, "logits_scaling": 2.5, "embedding_multiplier": 3.0, "residual_multiplier": 0.5,
         "attention_multiplier": 0.2, "num_local_experts": 4, "num_experts_per_tok": 2},
    ),
    "nemotron": ("Nemotron", {**_HEADS, "partial_rotary_factor": 0.5}),
    "glm": ("Glm", {**_HEADS, "partial_rotary_factor": 0.5}),
    "glm4": ("Glm4", {**_HEADS, "partial_rotary_factor": 0.5}),
    "smollm3": ("SmolLM3", {**_GROUPED, "no_rope_layer_interval": 2}),
    "exaone4": ("Exaone4", {**_HEADS, "sliding_window": 8, "sliding_window_pattern": 2}),
    "ernie4_5": ("Ernie4_5", {**_HEADS, "use_bias": True}),
    "seed_oss": ("SeedOss", _HEADS),
    "arcee": ("Arcee", _GROUPED),
    "apertus": ("Apertus", _GROUPED),
    "helium": ("Helium", _HEADS),
    "hunyuan": ("HunYuanDenseV1", _HEADS),
    "gpt_oss": (
        "GptOss", {**_HEADS, **_YARN, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 8},
    ),
    "deepseek_v3": (
        "DeepseekV3",
        {**_GROUPED, "num_key_value_heads": 4, "moe_intermediate_size": 24, "n_routed_experts": 4, "n_group": 2,
         "topk_group": 1, "num_experts_per_tok": 2, "n_shared_experts": 1, "kv_lora_rank": 16, "q_lora_rank": 16,
         "qk_rope_head_dim": 4, "v_head_dim": 8, "qk_nope_head_dim": 8, "first_k_dense_replace": 1},
    ),
    "xglm": (
        "XGLM",
        {**_IDS, "d_model": 32, "ffn_dim": 48, "num_layers": 3, "attention_heads": 4, "pad_token_id": 1,
         "max_position_embeddings": N_CTX},
    ),
    "biogpt": ("BioGpt", {**_IDS, **_SIZES, "pad_token_id": 1}),
    "openai-gpt": ("OpenAIGPT", _GPT),
    "mamba": ("Mamba", {**_IDS, "hidden_size": 32, "num_hidden_layers": 3}),
    "bert": ("Bert", {**_IDS, **_SIZES, "pad_token_id": 0}),
    "t5": (
        "T5",
        {"vocab_size": D_VOCAB, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 3, "num_heads": 4,
         "pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0},
    ),
}  # fmt: skip
"""By name: the configuration's class without `Config`, and its settings."""


def byte_tokenizer() -> Any:
    """A tokenizer of bytes, with one mark that begins and ends a text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    mark = "<|endoftext|>"
    pieces = [mark, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE(vocab={piece: index for index, piece in enumerate(pieces)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=mark, eos_token=mark)


def random_model(name: str, *, seed: int = 0) -> Any:
    """The Hugging Face model of a shape, with random weights that leave no part of it idle."""
    import transformers

    kind, settings = SHAPES[name]
    config = getattr(transformers, f"{kind}Config")(**settings)
    auto = {"bert": "AutoModelForMaskedLM", "t5": "AutoModelForSeq2SeqLM"}.get(name, "AutoModelForCausalLM")
    random = torch.Generator().manual_seed(seed)
    model = getattr(transformers, auto).from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for weight in _by_name(model):
            drawn = torch.randn(weight.shape, generator=random)
            weight.copy_(weight + 0.25 * drawn if weight.ndim < 2 else 1.5 * drawn / weight.shape[-1] ** 0.5)
    return model


def _by_name(model: Any) -> list[Any]:
    parameters: Mapping[str, Any] = dict(model.named_parameters())
    return [parameters[name] for name in sorted(parameters)]


def build(name: str, folder: Path, *, seed: int = 0) -> Path:
    """Save a shape with its tokenizer, as `save_pretrained` does."""
    random_model(name, seed=seed).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder
