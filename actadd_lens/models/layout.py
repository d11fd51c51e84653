"""The memory layout of a HookedTransformer's weights, and loading them with that layout.

TransformerLens transposes its weights in every pass (`W.T.contiguous()`, and einops for those of attention), which
copies them: on a model of 135 million parameters, that takes most of the time per token. Here the values are stored in
the order that a pass needs, and the parameters are transposed views of them, so that the copies become views. No value
changes, and code that reads a parameter sees no difference except in its strides.

Loading is faster for the same reason, fewer copies: TransformerLens copies the whole state dict for each step of its
processing, and then copies it into the model key by key, walking through all modules for each key.
"""

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

_WANTED: dict[str, tuple[int, ...]] = {
    "W_U": (1, 0), "W_in": (1, 0), "W_gate": (1, 0), "W_out": (1, 0),
    "W_Q": (0, 2, 1), "W_K": (0, 2, 1), "W_V": (0, 2, 1), "_W_K": (0, 2, 1), "_W_V": (0, 2, 1), "W_O": (2, 0, 1),
}  # fmt: skip
"""The order of axes that a pass needs for each weight."""

_GATED_ONLY = ("W_in", "W_out")
"""An MLP without a gate does not transpose these: another layout would change the rounding and save no time."""


def lie_as_wanted(model: Any) -> None:
    """Store the weights of a HookedTransformer in the layout that its passes need, in place; values do not change."""
    parameters = dict(model.named_parameters())
    for name, parameter in parameters.items():
        if parameter.is_floating_point():  # not weights packed into four bits
            parameter.data = _turned(parameter.data, _order(name, parameters))


def _order(name: str, weights: Mapping[str, Tensor]) -> tuple[int, ...]:
    """The order of axes that a pass needs for a weight; unchanged for weights that no pass transposes."""
    module, _, last = name.rpartition(".")
    unturned = tuple(range(weights[name].ndim))
    if last in _GATED_ONLY and f"{module}.W_gate" not in weights:
        return unturned
    order = _WANTED.get(last, unturned)
    return order if len(order) == len(unturned) else unturned


def _turned(weight: Tensor, order: tuple[int, ...], *, copy: bool = False) -> Tensor:
    """The same tensor, stored so that it is contiguous when its axes are in this order."""
    wanted = weight.permute(order)
    wanted = wanted.clone(memory_format=torch.contiguous_format) if copy else wanted.contiguous()
    return wanted.permute(tuple(order.index(axis) for axis in range(len(order))))


@contextlib.contextmanager
def loaded_at_once(model: Any, source: Any, *, fast_layout: bool) -> Iterator[None]:
    """Collect what a HookedTransformer is asked to load inside the block, and load it at the end, in one call.

    Args:
        model: The HookedTransformer; afterwards it shares no memory with the source, and no two weights share memory.
        source: The Hugging Face model that the weights come from.
        fast_layout: Whether to store weights in the layout that passes need.
    """
    collected: dict[str, Tensor] = {}

    def collect(state_dict: Mapping[str, Tensor], strict: bool = True, assign: bool = False) -> None:
        collected.update(state_dict)

    model.load_state_dict = collect
    try:
        yield
    finally:
        del model.load_state_dict
    owned = _owned(collected, model.state_dict(), taken=_storages(source.state_dict().values()), turn=fast_layout)
    model.load_state_dict(owned, strict=False, assign=True)


def _owned(
    weights: Mapping[str, Tensor], places: Mapping[str, Tensor], *, taken: set[int], turn: bool
) -> dict[str, Tensor]:
    """Weights with the precision, device and layout that the model needs, each in its own memory."""
    owned = {}
    for name, weight in weights.items():
        plain = weight.as_subclass(Tensor).detach()
        if name in places:
            plain = plain.to(places[name])
        storage = plain.untyped_storage()
        borrowed = storage.data_ptr() in taken or storage.nbytes() != plain.numel() * plain.element_size()
        order = _order(name, weights) if turn else tuple(range(plain.ndim))
        owned[name] = _turned(plain, order, copy=borrowed)
        taken.add(owned[name].untyped_storage().data_ptr())
    return owned


def _storages(tensors: Iterable[Tensor]) -> set[int]:
    return {tensor.untyped_storage().data_ptr() for tensor in tensors}


class _Shared(Tensor):
    """A tensor whose `clone` returns the tensor itself; the same holds for results of arithmetic with it."""

    def clone(self, *args: Any, **kwargs: Any) -> "_Shared":
        """The tensor itself."""
        return self


def uncopied(weights: Mapping[str, Any]) -> dict[str, Any]:
    """A state dict that TransformerLens processes without copying it first.

    Each step of its processing clones all weights and then replaces a few by new tensors. It changes none in place, so
    the clones are unnecessary (a test compares the results bit for bit).
    """
    return {
        name: weight.as_subclass(_Shared) if isinstance(weight, Tensor) else weight for name, weight in weights.items()
    }
