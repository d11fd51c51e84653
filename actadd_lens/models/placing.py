"""One model on several devices: where its parts go, and what cannot be distributed."""

from collections.abc import Mapping
from typing import Any

from actadd_lens.errors import ModelError

SPREADING = ("device_map", "n_devices", "max_memory")
"""Keywords that distribute a model over devices."""


def spreads(settings: Mapping[str, Any]) -> bool:
    """Whether a model is requested on several devices."""
    return settings.get("device_map") is not None or (settings.get("n_devices") or 1) > 1


def check_spreading(family: str, settings: Mapping[str, Any], device: Any) -> None:
    """Refuse what TransformerLens cannot distribute, before anything is loaded.

    Args:
        family: `hooked` or `bridge`.
        settings: What `load_model` was given.
        device: The device that was requested.

    Raises:
        ModelError: The family has no such keyword, a device is named as well, or there are not as many devices.
    """
    import torch

    mapped, count = settings.get("device_map"), settings.get("n_devices") or 1
    if family == "hooked" and mapped is not None:
        raise ModelError(
            "A HookedTransformer takes no device_map: distribute it with n_devices=, in equal shares of its blocks, or "
            "use family='bridge'."
        )
    if mapped is not None and device is not None:
        raise ModelError(f"device_map says where the parts of the model go, so leave device={str(device)!r} out.")
    there = torch.cuda.device_count()
    if count > 1 and there < count:
        raise ModelError(
            f"n_devices={count} asks for as many GPUs, but torch finds {there}: leave it out, or ask for fewer."
        )


def device_map_of(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Keywords for transformers, as TransformerLens itself derives them from its own.

    Args:
        settings: What `load_model` was given.
    """
    from transformer_lens.utilities.multi_gpu import resolve_device_map

    try:
        mapped, memory = resolve_device_map(
            settings.get("n_devices"), settings.get("device_map"), None, settings.get("max_memory")
        )
    except ValueError as error:
        raise ModelError(f"TransformerLens cannot distribute the model like that: {error}") from error
    return {"device_map": mapped} if memory is None else {"device_map": mapped, "max_memory": memory}


def place_blocks(model: Any) -> None:
    """Put the parts of a HookedTransformer where its forward pass looks for them.

    TransformerLens 3.9 puts each part on the GPU that has most free memory at that moment, but its forward pass expects
    block i on a device that follows from its number, so that a loaded model may not run.

    Args:
        model: A HookedTransformer whose config gives its first device and their number.
    """
    from transformer_lens.utilities.multi_gpu import get_device_for_block_index

    cfg = model.cfg
    first, last = (get_device_for_block_index(index, cfg) for index in (0, cfg.n_layers - 1))
    for name, module in model.named_children():
        if name == "blocks":
            for index, block in enumerate(module):
                block.to(get_device_for_block_index(index, cfg))
        else:
            module.to(last if name in ("ln_final", "unembed") else first)
