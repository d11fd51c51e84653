"""Weights that temporarily replace a model's own in one thread; the model's own weights are never modified.

While an adaptation is open, the weights that it names are looked up through the module's class: the thread that opened
it gets the replacement, and a copy of the module gets its own weight. The parameters themselves, and so `state_dict`
and `parameters()`, stay the same, bit for bit.
"""

import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from actadd_lens.errors import SteeringError

WEIGHTS = ("W_Q", "W_K", "W_V", "W_O", "W_in", "W_gate", "W_out")
"""The linear maps of a block that can be adapted, by TransformerLens's names; `W_gate` only if its MLP has one."""

_SWAPPING = threading.Lock()


@dataclass(frozen=True, eq=False)
class LinearMap:
    """A linear map of a block, y = W x, wherever the model family stores its weight.

    Attributes:
        name: Such as `blocks.0.attn.W_Q`; the same in every family.
        module: The module that holds the weight.
        attribute: Its name there.
        outputs: Size of y; the heads are concatenated.
        inputs: Size of x.
        lay: Converts W, as [outputs, inputs], to the layout of the module.
    """

    name: str
    module: torch.nn.Module
    attribute: str
    outputs: int
    inputs: int
    lay: Callable[[Float[Tensor, "outputs inputs"]], Tensor]

    @property
    def weight(self) -> Tensor:
        """The model's own weight, whatever replaces it."""
        weight = self.module._parameters[self.attribute]
        assert weight is not None
        return weight


def map_name(layer: int, weight: str) -> str:
    """Name of a linear map.

    >>> map_name(2, "W_out")
    'blocks.2.mlp.W_out'
    """
    return f"blocks.{layer}.{'attn' if weight in WEIGHTS[:4] else 'mlp'}.{weight}"


def is_parameter(module: Any, attribute: str) -> bool:
    """Whether a module has a floating-point weight of this name; weights packed into four bits do not count."""
    weight = getattr(module, "_parameters", {}).get(attribute)
    return isinstance(weight, Tensor) and weight.is_floating_point()


class Adaptation:
    """Replacements for weights of a model, active in the thread that made it.

    Args:
        label: Its name in error messages.
        weights: For each linear map, a function of the weight that would otherwise be used; returns the new weight.
        is_strict: Whether a pass of another thread is an error; otherwise such a pass uses the model's own weights.
        key: What it belongs to.
    """

    def __init__(
        self,
        label: str,
        weights: Sequence[tuple[LinearMap, Callable[[Tensor], Tensor]]],
        *,
        is_strict: bool,
        key: object = None,
    ) -> None:
        self.label = label
        self.key = key
        self.is_open = True
        self._is_strict = is_strict
        self._owner = threading.get_ident()
        self._paused: dict[int, int] = {}
        self._weights = {(id(linear.module), linear.attribute): weight for linear, weight in weights}

    def __call__(self, module: torch.nn.Module, attribute: str, weight: Tensor) -> Tensor:
        """The weight to use."""
        change = self._weights.get((id(module), attribute))
        here = threading.get_ident()
        if change is None or not self.is_open or self._paused.get(here):
            return weight
        if here == self._owner:
            return change(weight)
        if self._is_strict:
            raise SteeringError(
                f"The adapter {self.label} was switched on by another thread than the one that runs the model, so it "
                "cannot be known whether this pass is meant to have it. Switch it on in the thread that runs the model."
            )
        return weight

    @property
    def acts_here(self) -> bool:
        """Whether it acts on passes of this thread."""
        here = threading.get_ident()
        return self.is_open and here == self._owner and not self._paused.get(here)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """The model without it, in this thread."""
        here = threading.get_ident()
        self._paused[here] = self._paused.get(here, 0) + 1
        try:
            yield
        finally:
            self._paused[here] -= 1


def _is_adapted(kind: type) -> bool:
    """Whether a class is one that a module was given while some of its weights are replaced."""
    return "adaptations" in vars(kind) and vars(kind).get("__reduce_ex__") is _as_own_class


def _as_own_class(module: Any, protocol: Any) -> Any:
    """A copy gets the module's own class and its own weights."""
    kind = type(module)
    found = super(kind, module).__reduce_ex__(protocol)
    return (found[0], tuple(kind.__base__ if item is kind else item for item in found[1]), *found[2:])


def _looked_up(attribute: str) -> property:
    def look(module: Any) -> Tensor:
        weight: Tensor = module._parameters[attribute]
        for reference in type(module).adaptations if type(module).own() is module else ():
            adaptation = reference()
            if adaptation is not None:
                weight = adaptation(module, attribute, weight)
        return weight

    return property(look)


def _attach(module: Any, attribute: str, adaptation: Adaptation) -> None:
    with _SWAPPING:
        kind = type(module)
        if not _is_adapted(kind):
            told = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "__reduce_ex__": _as_own_class}
            kind = type(kind.__name__, (kind,), {**told, "adaptations": (), "own": weakref.ref(module)})
            module.__class__ = kind
        if attribute not in vars(kind):
            setattr(kind, attribute, _looked_up(attribute))
        if adaptation not in (reference() for reference in kind.adaptations):
            kind.adaptations = (*kind.adaptations, weakref.ref(adaptation))


def _detach(module: Any, adaptation: Adaptation) -> None:
    with _SWAPPING:
        kind = type(module)
        if not _is_adapted(kind):
            return
        alive = (reference for reference in kind.adaptations if reference() not in (None, adaptation))
        kind.adaptations = tuple(alive)
        if not kind.adaptations:
            module.__class__ = kind.__base__


@contextmanager
def adapted(
    weights: Sequence[tuple[LinearMap, Callable[[Tensor], Tensor]]],
    *,
    label: str,
    is_strict: bool,
    key: object = None,
) -> Iterator[Adaptation]:
    """Use replacements for the weights of some linear maps.

    However the block ends, the model is restored. Adaptations may be nested: each changes the result of the one
    outside it.

    Args:
        weights: For each linear map, a function of the weight that would otherwise be used; returns the new weight.
        label: Its name in error messages.
        is_strict: Whether a pass of another thread is an error; otherwise it uses the model's own weights.
        key: What it belongs to.
    """
    adaptation = Adaptation(
        label, weights, is_strict=is_strict, key=key
    )  # modules keep only a weak reference, so it ends with its last user
    try:
        for linear, _ in weights:
            _attach(linear.module, linear.attribute, adaptation)
        yield adaptation
    finally:
        adaptation.is_open = False
        for linear, _ in weights:
            _detach(linear.module, adaptation)


def adaptations_on(model: torch.nn.Module) -> tuple[Adaptation, ...]:
    """The adaptations that are open on a model, the outermost first."""
    found = {}
    for module in model.modules():
        kind: Any = type(module)
        for reference in kind.adaptations if _is_adapted(kind) else ():
            adaptation = reference()
            if adaptation is not None and adaptation.is_open:
                found[id(adaptation)] = adaptation
    return tuple(found.values())


@contextmanager
def own_weights(model: torch.nn.Module) -> Iterator[None]:
    """The model with its own weights, in this thread, whatever replaces them."""
    with ExitStack() as stack:
        for adaptation in adaptations_on(model):
            stack.enter_context(adaptation.paused())
        yield


def class_of(module: torch.nn.Module) -> type[torch.nn.Module]:
    """A module's own class."""
    kind = type(module)
    return kind.__base__ if _is_adapted(kind) and kind.__base__ is not None else kind


def stand_ins(module: torch.nn.Module) -> Mapping[str, Tensor]:
    """The replacements that a pass of this thread would use for weights of a module."""
    if not _is_adapted(type(module)):
        return {}
    names = [name for name in vars(type(module)) if name in module._parameters]
    found = {name: getattr(module, name) for name in names}
    return {name: weight for name, weight in found.items() if weight is not module._parameters[name]}
