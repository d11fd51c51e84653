"""Sending things to other processes: by cloudpickle, which also handles notebook functions; tensors via the CPU."""

import inspect
import io
import pickle
from collections.abc import Callable
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

from actadd_lens.errors import WorkerError
from actadd_lens.identity import COLLECTORS


def packed(value: Any) -> bytes:
    """A value as bytes; tensors are moved to the CPU, because another process may not have their device.

    Raises:
        WorkerError: Something in it cannot be sent.
    """
    import cloudpickle

    class Packer(cloudpickle.Pickler):  # type: ignore[misc]
        def reducer_override(self, item: Any) -> Any:
            if isinstance(item, Tensor) and item.device.type not in ("cpu", "meta"):
                plain = item.detach().cpu()
                if isinstance(item, torch.nn.Parameter):
                    plain = torch.nn.Parameter(plain, requires_grad=item.requires_grad)
                return plain.__reduce_ex__(pickle.HIGHEST_PROTOCOL)
            if isinstance(item, FunctionType) and (item.__module__ or "").startswith("actadd_lens."):
                item = inspect.unwrap(item)  # it may be wrapped in shape checks
            if isinstance(item, FunctionType) and item.__module__ == COLLECTORS:
                return _watcher, ()
            return super().reducer_override(item)

    buffer = io.BytesIO()
    try:
        Packer(buffer, protocol=pickle.HIGHEST_PROTOCOL).dump(value)
    except (pickle.PicklingError, TypeError, AttributeError, RecursionError) as error:
        raise WorkerError(
            f"Something here cannot be sent to workers ({error}): a metric or model may hold an open file, a lock or a "
            "generator. Use functions of plain values and tensors, or leave executor= out."
        ) from error
    return buffer.getvalue()


def unpacked(content: bytes) -> Any:
    """The value of such bytes."""
    return pickle.loads(content)


def _watcher() -> Callable[..., None]:
    """The replacement, in a worker, for the hooks that transformers leaves on a model, which cannot be sent."""
    return _watch_nothing


def _watch_nothing(module: torch.nn.Module, args: Any, output: Any) -> None:
    """A hook that does nothing, since a worker's model is never asked for hidden states."""
