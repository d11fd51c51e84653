"""Logical devices: CPU tensors that say they lie on GPUs, and refuse what real ones would refuse.

While the mode is open, every torch function is looked at. Tensors on different devices do not mix, but for what CUDA
allows: single numbers of the CPU, copies, and indices that lie on the CPU. What a function makes lies where its
arguments lie. Nothing is moved, so values are those of the CPU.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

CPU = torch.device("cpu")

_MOVES = {
    "to",
    "cuda",
    "cpu",
    "type_as",
    "copy_",
    "__set__",
    "_set_data",
    "_has_compatible_shallow_copy_type",
    "grad",
    "backward",
}
"""Functions that may see two devices."""

_READS = {"numpy", "__array__", "__dlpack__"}
"""Functions that only a tensor of the CPU has."""

_INDEXED = {"__getitem__", "__setitem__", "index_put_", "index_put"}


class MixedDevicesError(RuntimeError):
    """What CUDA says as "expected all tensors to be on the same device"."""


class LogicalDevices(TorchFunctionMode):
    """Gives CPU tensors logical devices."""

    def __init__(self) -> None:
        super().__init__()
        self._found: Any = WeakTensorKeyDictionary()

    def device(self, tensor: Tensor) -> torch.device:
        """Where a tensor lies."""
        found: torch.device = self._found.get(tensor, CPU)
        return found

    def put(self, module: nn.Module, device: str) -> None:
        """Let all weights and buffers of a module lie on a device."""
        for tensor in (*module.parameters(), *module.buffers()):
            self._found[tensor] = torch.device(device)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name, owner = getattr(func, "__name__", ""), getattr(getattr(func, "__self__", None), "__name__", "")
        if name == "__get__" and owner in ("device", "is_cuda", "is_cpu"):
            device = self.device(args[0])
            return device if owner == "device" else (device.type == "cuda") == (owner == "is_cuda")
        if name == "_parse_to" or func is torch.device:  # where a module is to go, and devices themselves
            return func(*args, **kwargs)
        if name == "get_device":
            return self.device(args[0]).index or 0
        tensors = list(_tensors((args, kwargs)))
        self._look(name, owner, args, tensors)
        device = self._target(name, args, kwargs, tensors)
        out = func(*_on_cpu(args), **_on_cpu(kwargs))
        if name == "__set__" and owner == "data":
            self._found[args[0]] = self.device(args[1])
        for tensor in _tensors(out):
            if not any(tensor is other for other in tensors) or name in ("to", "cuda", "cpu"):
                out = self._tagged(out, tensor, device, tensors)
        return out

    def _tagged(self, out: Any, tensor: Tensor, device: torch.device, given: list[Tensor]) -> Any:
        """A tensor that was handed back unmoved becomes another one where it lies elsewhere now."""
        if any(tensor is other for other in given) and self.device(tensor) != device:
            out = tensor.view_as(tensor) if not isinstance(tensor, nn.Parameter) else tensor.detach().view_as(tensor)
            tensor = out
        self._found[tensor] = device
        return out

    def _look(self, name: str, owner: str, args: Any, tensors: list[Tensor]) -> None:
        if name in _READS and self.device(tensors[0]) != CPU:
            raise TypeError(f"{name} of a tensor on {self.device(tensors[0])}: copy it to the CPU first")
        if name in _MOVES or owner == "grad":
            return
        if name in _INDEXED:
            own = self.device(args[0])
            for index in _tensors(args[1]):
                if self.device(index) not in (own, CPU):
                    raise MixedDevicesError(f"{name}: an index on {self.device(index)} into a tensor on {own}")
            tensors = [args[0], *_tensors(args[2:])]
        found = {self.device(tensor) for tensor in tensors if tensor.ndim or self.device(tensor) != CPU}
        if len(found) > 1:
            raise MixedDevicesError(f"{name} mixes {sorted(map(str, found))}")

    def _target(self, name: str, args: Any, kwargs: Mapping[str, Any], tensors: list[Tensor]) -> torch.device:
        """Where what a function makes lies."""
        if name == "cpu":
            return CPU
        if name in ("to", "type_as") and len(tensors) > 1:
            return self.device(tensors[1])
        asked = kwargs.get("device")
        if asked is None and name == "to":
            asked = next((value for value in args[1:] if _is_device(value)), None)
        if asked is None and name == "cuda":
            asked = "cuda:0"
        if asked is not None:
            return torch.device(asked)
        of_arguments = [self.device(tensor) for tensor in tensors]
        return next((device for device in of_arguments if device != CPU), CPU)


def _is_device(value: Any) -> bool:
    return isinstance(value, torch.device) or (isinstance(value, str) and value.split(":")[0] in ("cpu", "cuda"))


def _on_cpu(values: Any) -> Any:
    """Arguments with the CPU in place of every logical device."""
    if _is_device(values):
        return CPU
    if isinstance(values, dict):
        return {name: _on_cpu(value) for name, value in values.items()}
    return type(values)(map(_on_cpu, values)) if type(values) in (tuple, list) else values


def _tensors(values: Any) -> Iterator[Tensor]:
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, Mapping):
        for value in values.values():
            yield from _tensors(value)
    elif isinstance(values, list | tuple):
        for value in values:
            yield from _tensors(value)
