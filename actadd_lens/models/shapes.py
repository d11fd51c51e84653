"""What a Hugging Face configuration says about a model's architecture, whatever names it uses."""

from collections.abc import Iterator
from typing import Any


def text_config(config: Any) -> Any:
    """The part of a configuration that is about text."""
    return getattr(config, "get_text_config", lambda: config)()


def _number(config: Any, *names: str) -> int | None:
    """The first of these settings that is a positive integer."""
    for name in names:
        value = _get(config, name)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    return None


def _get(config: Any, name: str) -> Any:
    try:
        return getattr(config, name, None)
    except Exception:  # some configurations raise for settings that differ by layer
        return None


def context_length(config: Any) -> int:
    """Longest sequence, in tokens; 2048 if the configuration does not say."""
    names = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "n_ctx")
    return _number(text_config(config), *names) or 2048


def _rope(config: Any) -> dict[str, Any]:
    """How rotary positions are scaled; the first kind if layers differ."""
    for name in ("rope_parameters", "rope_scaling"):
        found = _get(text_config(config), name)
        if isinstance(found, dict) and found:
            nested = [value for value in found.values() if isinstance(value, dict)]
            return nested[0] if nested and "rope_type" not in found else found
    return {}


def edges(config: Any) -> dict[str, int]:
    """Lengths at which a model's behaviour changes: beyond a window, or beyond its original context."""
    text, found = text_config(config), {}
    window = _number(text, "sliding_window", "window_size", "attention_window_size")
    kinds = _get(text, "layer_types")
    if window and (not kinds or any("sliding" in str(kind) or "local" in str(kind) for kind in kinds)):
        found["sliding window"] = window
    changing = changing_rotary(config)
    if changing is not None:
        found["rotary embedding that changes with the length"] = changing[1]
    return found


def changing_rotary(config: Any) -> tuple[str, int] | None:
    """The kind of a rotary embedding that depends on the length of a pass, and the length beyond which it does."""
    rope = _rope(config)
    kind = rope.get("rope_type", rope.get("type"))
    first = rope.get("original_max_position_embeddings") or _get(
        text_config(config), "original_max_position_embeddings"
    )
    if kind == "dynamic":  # in transformers it changes beyond the whole context
        first = _number(text_config(config), "max_position_embeddings")
    return (str(kind), first) if kind in ("longrope", "su", "dynamic") and isinstance(first, int) else None


def local_layers(config: Any) -> list[bool]:
    """Which layers attend to a window only, if there is a window."""
    text = text_config(config)
    kinds = _get(text, "layer_types") or _get(text, "attention_layers") or []
    count = _number(text, "num_hidden_layers", "num_layers", "n_layer") or 0
    return [kind in ("sliding_attention", "local") for kind in kinds] or [True] * count


def peculiarities(config: Any) -> Iterator[str]:
    """Settings in a configuration that conversions are known to ignore, in words."""
    text, rope = text_config(config), _rope(config)
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in (None, "default"):
        yield f"{kind} rotary scaling"
    share = rope.get("partial_rotary_factor") or _get(text, "partial_rotary_factor") or _get(text, "rotary_pct")
    if isinstance(share, float) and share < 1.0:
        yield f"partial rotary positions ({share:g})"
    theta = rope.get("rope_theta") or _get(text, "rope_theta")
    if isinstance(theta, int | float) and theta != 10000.0:
        yield f"rotary base {theta:g}"
    yield from (f"{kind} of {edge}" for kind, edge in edges(config).items() if kind == "sliding window")
    for name, words in _WORDS.items():
        value = _get(text, name)
        if value and not (isinstance(value, float) and value == 1.0):
            yield words if value is True else f"{words} {value}"
    heads, width = _number(text, "num_attention_heads", "n_head"), _number(text, "hidden_size", "n_embd")
    if heads and width and (size := _number(text, "head_dim")) and size * heads != width:
        yield f"heads of size {size} with a width of {width}"
    if str(_get(text, "model_type")) in ("olmo2", "olmo3", "gemma2", "gemma3_text", "exaone4", "glm4"):
        yield "norms after its components"


_WORDS = {
    "attention_bias": "attention biases",
    "mlp_bias": "MLP biases",
    "n_inner": "n_inner",
    "word_embed_proj_dim": "embeddings of width",
    "clip_qkv": "clipped queries and keys at",
    "qk_layernorm": "norms on queries and keys",
    "use_qk_norm": "norms on queries and keys",
    "attn_logit_softcapping": "attention scores capped at",
    "final_logit_softcapping": "logits capped at",
    "logits_scaling": "logits divided by",
    "logit_scale": "logits multiplied by",
    "residual_multiplier": "outputs of components multiplied by",
    "num_local_experts": "experts:",
}
