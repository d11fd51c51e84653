"""What heads and MLPs write to the residual stream, and where heads look: hook points that both families share."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Float
from torch import Tensor

from actadd_lens.errors import ModelError
from actadd_lens.models.protocol import Backend


@dataclass(frozen=True, eq=False)
class Components:
    """What one forward pass of a batch showed, by layer.

    Attributes:
        mixed: Each head's mix of values, `hook_z`, before W_O.
        patterns: Attention of each query token to each key token.
        mlps: What the MLP writes; no entry where a block has none.
        last: `resid_post` of the last block, under its layer.
    """

    mixed: dict[int, Float[Tensor, "rows pos heads d_head"]] = field(default_factory=dict)
    patterns: dict[int, Float[Tensor, "rows heads query key"]] = field(default_factory=dict)
    mlps: dict[int, Float[Tensor, "rows pos d_model"]] = field(default_factory=dict)
    last: dict[int, Float[Tensor, "rows pos d_model"]] = field(default_factory=dict)


@contextmanager
def components_kept(backend: Backend) -> Iterator[Components]:
    """Keep what the components of the passes inside write; after the block the last pass's is there.

    Raises:
        ModelError: The model has no hook point for its heads, or a pass did not go through it.
    """
    kept = Components()
    top = backend.n_layers - 1
    names: list[tuple[str, dict[int, Tensor], int]] = [(f"blocks.{top}.hook_resid_post", kept.last, top)]
    for layer in range(backend.n_layers):
        names.append((f"blocks.{layer}.attn.hook_z", kept.mixed, layer))
        names.append((f"blocks.{layer}.attn.hook_pattern", kept.patterns, layer))
        if f"blocks.{layer}.hook_mlp_out" in backend.model.hook_dict:
            names.append((f"blocks.{layer}.hook_mlp_out", kept.mlps, layer))
    with ExitStack() as stack:
        for name, place, layer in names:
            if name not in backend.model.hook_dict:
                raise ModelError(f"{backend.name} has no hook point {name}, so its heads cannot be told apart.")
            stack.callback(backend.add_hook(name, _keeper(place, layer)).remove)
        yield kept
    for name, place, layer in names:
        if layer not in place:
            raise ModelError(
                f"{backend.name} did not pass through {name}: load it with attention that shows its pattern, such as "
                "attn_implementation='eager'."
            )


def head_writes(
    backend: Backend, layer: int, mixed: Float[Tensor, "rows pos heads d_head"]
) -> Float[Tensor, "rows pos heads d_model"]:
    """What each head of a layer writes, given its mix of values; the bias that all share is left out."""
    weight = backend.model.blocks[layer].attn.W_O.detach().float()
    heads, d_head, _ = weight.shape
    mixed = mixed.reshape(*mixed.shape[:2], heads, d_head).to(weight)
    written: Tensor = (mixed.transpose(1, 2) @ weight).transpose(1, 2)
    return written


def _keeper(place: dict[int, Tensor], layer: int) -> Any:
    def keep(value: Tensor, hook: Any) -> None:
        place[layer] = value.detach()

    return keep
