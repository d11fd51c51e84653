"""Hashes of tensors: all bytes are hashed once, and only summed when the same tensor is hashed again."""

import hashlib
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

_CHUNK = 2**24
"""Number of bytes that are copied from a device at once."""

_COLUMNS = 512
"""Words in each row of the table that `_sums` adds up."""

_known: Any = WeakTensorKeyDictionary()
"""Hashes of tensors that are alive, each with a state that shows whether the tensor has changed."""


def tensor_digest(value: Tensor) -> bytes:
    """A hash of a tensor: type, shape and every byte.

    A tensor is not hashed again if it is the same object at the same address and torch has counted no change of it.
    Writing through `.data` or numpy is not counted, so its sums must be the same as well.
    """
    plain = value.detach()
    counted = None if value.is_inference() else value._version
    state = (value.data_ptr(), counted, tuple(value.shape), value.stride(), value.dtype, _sums(plain))
    kept = _known.get(value)
    if kept is not None and kept[0] == state:
        return bytes(kept[1])
    found = _hash(plain)
    _known[value] = (state, found)
    return found


def _hash(value: Tensor) -> bytes:
    found = hashlib.sha256(f"{value.dtype} {tuple(value.shape)} ".encode())
    flat = _bytes(value)
    for first in range(0, len(flat), _CHUNK):
        found.update(flat[first : first + _CHUNK].cpu().numpy().data)
    return found.digest()


def _bytes(value: Tensor) -> Tensor:
    return value.resolve_conj().resolve_neg().contiguous().reshape(-1).view(torch.uint8)


def _sums(value: Tensor) -> bytes:
    """Integer sums of the bytes along rows and columns; memory is read twice, on the tensor's device."""
    flat = _bytes(value)
    even = len(flat) // 8 * 8
    words = flat[:even].view(torch.int64) if flat.storage_offset() % 8 == 0 else flat[:even].clone().view(torch.int64)
    whole = len(words) // _COLUMNS * _COLUMNS
    table = words[:whole].view(-1, _COLUMNS)
    rest = torch.cat([words[whole:].reshape(-1), flat[even:].long()])
    parts = torch.cat([table.sum(dim=1), table.sum(dim=0), rest])
    return hashlib.sha256(parts.cpu().numpy().data).digest()
