"""What heads and MLPs write to the residual stream, and where heads attend, from hook points of both families."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Float
from torch import Tensor

from actadd_lens.errors import ModelError
from actadd_lens.models.protocol import Backend
from actadd_lens.models.readout import gain_and_shift


@dataclass(frozen=True, eq=False)
class Components:
    """What was recorded in one forward pass of a batch, by layer.

    Attributes:
        mixed: Each head's weighted sum of values, `hook_z`, before W_O.
        patterns: Attention of each query token to each key token.
        values: The values of the heads; no entry if a model does not expose them.
        mlps: What the MLP writes; no entry if a block has none.
        last: `resid_post` of the last block, by its layer.
    """

    mixed: dict[int, Float[Tensor, "rows pos heads d_head"]] = field(default_factory=dict)
    patterns: dict[int, Float[Tensor, "rows heads query key"]] = field(default_factory=dict)
    values: dict[int, Float[Tensor, "rows pos *heads_d_head"]] = field(default_factory=dict)
    mlps: dict[int, Float[Tensor, "rows pos d_model"]] = field(default_factory=dict)
    last: dict[int, Float[Tensor, "rows pos d_model"]] = field(default_factory=dict)


@contextmanager
def components_kept(backend: Backend) -> Iterator[Components]:
    """Keep what the components write in the passes inside the block; afterwards the values of the last pass remain.

    Raises:
        ModelError: The model has no hook point for its heads, a pass did not go through it, or its weights are
            quantised, so that what a head writes cannot be calculated.
    """
    kept = Components()
    top = backend.n_layers - 1
    names: list[tuple[str, dict[int, Tensor], int]] = [(f"blocks.{top}.hook_resid_post", kept.last, top)]
    for layer in range(backend.n_layers):
        names.append((f"blocks.{layer}.attn.hook_z", kept.mixed, layer))
        names.append((f"blocks.{layer}.attn.hook_pattern", kept.patterns, layer))
        if f"blocks.{layer}.hook_mlp_out" in backend.model.hook_dict:
            names.append((f"blocks.{layer}.hook_mlp_out", kept.mlps, layer))
    known = backend.model.hook_dict
    with ExitStack() as stack:
        for layer in range(backend.n_layers):
            if f"blocks.{layer}.attn.hook_v" in known:
                stack.callback(backend.add_hook(f"blocks.{layer}.attn.hook_v", _keeper(kept.values, layer)).remove)
        for name, place, layer in names:
            if name not in known:
                raise ModelError(f"{backend.name} has no hook point {name}, so its heads cannot be separated.")
            stack.callback(backend.add_hook(name, _keeper(place, layer)).remove)
        _output_weights(backend, 0)
        yield kept
    for name, place, layer in names:
        if layer not in place:
            raise ModelError(
                f"{backend.name} did not pass through {name}: load it with attention that exposes its pattern, such as "
                "attn_implementation='eager'."
            )


def head_changes(
    backend: Backend, layer: int, mixed: Float[Tensor, "conditions pos _ _"]
) -> Float[Tensor, "steered pos heads d_model"]:
    """What each head of a layer writes in each condition, minus what it writes in the first.

    A bias that all heads share is left out. If attention is followed by a norm (Gemma 2, OLMo 2), a head's contribution
    is its part of the norm's input, multiplied by the scale that the norm applies in that condition.
    """
    norm = _norm_behind_attention(backend.model.blocks[layer])
    if norm is None:
        return _write_scale(backend) * _written(backend, layer, mixed[1:] - mixed[:1])
    written = _written(backend, layer, mixed)
    whole = written.sum(dim=2)
    scale = (whole.square().mean(dim=-1, keepdim=True) + float(backend.model.cfg.eps)).sqrt()
    written = written / scale[:, :, None] * gain_and_shift(norm, whole[0, 0], float(backend.model.cfg.eps))[0]
    return _write_scale(backend) * (written[1:] - written[:1])


def _write_scale(backend: Backend) -> float:
    """Factor of the heads' output before it enters the stream (Granite); at the MLPs' hook points it is included."""
    scale = getattr(backend.model.cfg, "residual_multiplier", None)
    return 1.0 if scale is None else float(scale)


def _written(
    backend: Backend, layer: int, mixed: Float[Tensor, "rows pos _ _"]
) -> Float[Tensor, "rows pos heads d_model"]:
    """Split into the heads of W_O, because a bridge may split the same row of values differently (DeepSeek)."""
    weight = _output_weights(backend, layer)
    heads, d_head, _ = weight.shape
    mixed = mixed.reshape(*mixed.shape[:2], heads, d_head).to(weight)
    written: Tensor = (mixed.transpose(1, 2) @ weight).transpose(1, 2)
    return written


def _output_weights(backend: Backend, layer: int) -> Float[Tensor, "heads d_head d_model"]:
    try:
        weight: Tensor = backend.model.blocks[layer].attn.W_O
    except NotImplementedError as error:  # what TransformerLens raises for packed weights
        raise ModelError(
            f"The weights of {backend.name} are quantised, so what each of its heads writes cannot be calculated: load "
            "the model with plain weights for this."
        ) from error
    return weight.detach().float()


def _norm_behind_attention(block: Any) -> Any:
    """The norm that attention's output goes through before it enters the stream; None if there is none."""
    behind = getattr(block, "ln1_post", None)
    if behind is not None:
        return behind
    first = getattr(block, "ln1", None)
    leaves = getattr(first, "hook_out", None)  # for a bridge's norm
    if leaves is not None:
        return first if getattr(block, "hook_attn_out", None) is leaves else None
    return first if getattr(getattr(block, "cfg", None), "original_architecture", None) in _POST_NORM else None


_POST_NORM = ("Olmo2ForCausalLM", "Olmo3ForCausalLM")
"""HookedTransformers whose first norm comes after attention, not before it."""


def _keeper(place: dict[int, Tensor], layer: int) -> Any:
    def keep(value: Tensor, hook: Any) -> None:
        place[layer] = value.detach()

    return keep
