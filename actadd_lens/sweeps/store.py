"""Results of long runs on disk: an sqlite file of values under keys that tell everything the values depend on."""

import dataclasses
import functools
import hashlib
import inspect
import os
import sqlite3
import struct
import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from actadd_lens.errors import SettingError
from actadd_lens.models import Backend
from actadd_lens.steering.hooks import InjectionHook

_FORMAT = 1
"""Changes whenever values are computed otherwise, so that old ones are never taken for new."""

_WAIT_SECONDS = 60.0
"""How long one process waits for another that is writing."""

_SAMPLES = 256
"""Entries of each weight that identify a model."""

_MOST_AT_ONCE = 500
"""Keys in one query; sqlite allows about a thousand."""


class ResultStore:
    """A table of values by key, safe to be killed and to be shared by processes on one machine.

    Each `put` is one transaction. A value that is there already stays.

    Args:
        path: The sqlite file; made when missing.

    Raises:
        SettingError: The file is something else, or cannot be opened.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        try:
            self._connection = sqlite3.connect(self.path, timeout=_WAIT_SECONDS, isolation_level=None)
            # Another process may be opening the file for the first time: the change of mode asks for the lock at once.
            self._connection.execute("PRAGMA busy_timeout = 60000")
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = NORMAL")
            self._connection.execute("CREATE TABLE IF NOT EXISTS results (key BLOB PRIMARY KEY, value BLOB NOT NULL)")
        except sqlite3.DatabaseError as error:
            raise SettingError(
                f"{self.path} cannot hold the results of a sweep ({error}): name an sqlite file that a sweep made, or "
                "one that does not exist yet, in a folder that does."
            ) from error

    def get(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """The values that are there."""
        found: dict[bytes, bytes] = {}
        for first in range(0, len(keys), _MOST_AT_ONCE):
            some = keys[first : first + _MOST_AT_ONCE]
            marks = ", ".join("?" * len(some))
            found.update(self._connection.execute(f"SELECT key, value FROM results WHERE key IN ({marks})", some))
        return found

    def put(self, rows: Iterable[tuple[bytes, bytes]]) -> None:
        """Keep values, all or none of them."""
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            self._connection.executemany("INSERT OR IGNORE INTO results VALUES (?, ?)", rows)
            self._connection.execute("COMMIT")
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()


@contextmanager
def open_store(path: str | os.PathLike[str] | None) -> Iterator[ResultStore | None]:
    """The store at a path, closed afterwards; None without a path."""
    if path is None:
        yield None
        return
    store = ResultStore(path)
    try:
        yield store
    finally:
        store.close()


def pack(values: Float[np.ndarray, " numbers"]) -> bytes:
    """Numbers as bytes."""
    return np.asarray(values, dtype="<f8").tobytes()


def unpack(value: bytes) -> Float[np.ndarray, " numbers"]:
    """The way back."""
    return np.frombuffer(value, dtype="<f8")


# -- keys ------------------------------------------------------------------------------------------------------


def model_key(backend: Backend) -> bytes:
    """What a model's outputs depend on: family, settings, precision, samples of every weight, and the hooks on it.

    Samples are exact, unlike the fingerprint's: results of a folded and of a raw copy are kept apart, for they differ
    in the last digits.
    """
    hooks = [(name, [digest(hook) for hook in found]) for name, found in callers_hooks(backend).items()]
    told = (backend.family, str(backend.dtype), backend.weight_processing, _weights(backend.model), sorted(hooks))
    return digest((_FORMAT, *told))


def callers_hooks(backend: Backend) -> dict[str, list[Any]]:
    """The hooks on a model that are not those of steering, by hook point."""
    found = {name: backend.hooks_at(name) for name in backend.hooked_names()}
    theirs = {name: [hook for hook in hooks if not isinstance(hook, InjectionHook)] for name, hooks in found.items()}
    return {name: hooks for name, hooks in theirs.items() if hooks}


def _weights(module: Any) -> dict[str, Any]:
    return {name: _sampled(value) for name, value in module.state_dict().items() if isinstance(value, Tensor)}


def _sampled(weight: Tensor) -> tuple[Any, ...]:
    flat = weight.detach().reshape(-1)
    step = max(1, flat.numel() // _SAMPLES)
    return (tuple(weight.shape), str(weight.dtype), flat[::step][: 2 * _SAMPLES].cpu().double().numpy().tobytes())


def digest(value: Any) -> bytes:
    """A hash of a value by what it holds; functions by their code and whatever they close over.

    Raises:
        SettingError: Something in it cannot be told from others of its kind.
    """
    found = hashlib.sha256()
    _feed(found, value, ())
    return found.digest()[:16]


def _feed(found: Any, value: Any, within: tuple[int, ...]) -> None:
    """Add a value to a hash, tagged and counted, so that no two values look alike."""
    found.update(type(value).__name__.encode() + b":")
    if (
        value is None
        or value is ...
        or isinstance(value, bool | int | str | bytes | Path | torch.dtype | torch.device | Enum)
    ):
        text = value if isinstance(value, bytes) else str(value).encode()
        found.update(struct.pack("<q", len(text)) + text)
    elif isinstance(value, float | complex | np.generic):
        found.update(repr(value).encode())
    elif id(value) in within:  # a function that calls itself
        found.update(b"again")
    else:
        _feed_parts(found, list(_parts(value)), (*within, id(value)))


def _feed_parts(found: Any, parts: list[Any], within: tuple[int, ...]) -> None:
    found.update(struct.pack("<q", len(parts)))
    for part in parts:
        _feed(found, part, within)


def _parts(value: Any) -> Iterable[Any]:
    """What a value is made of."""
    take = next((parts for kinds, parts in _PARTS if isinstance(value, kinds)), _object_parts)
    return take(value)


def _tensor_parts(value: Tensor) -> Iterable[Any]:
    flat = value.detach().cpu().contiguous()
    content = flat.view(torch.uint8).numpy().tobytes() if flat.ndim and flat.numel() else repr(flat.tolist())
    return (str(value.dtype), tuple(value.shape), content)


def _array_parts(value: np.ndarray) -> Iterable[Any]:
    return (str(value.dtype), value.shape, value.tolist() if value.dtype == object else value.tobytes())


def _name_parts(value: Any) -> Iterable[Any]:
    return (getattr(value, "__module__", ""), getattr(value, "__qualname__", value.__name__))


def _function_parts(function: types.FunctionType) -> Iterable[Any]:
    """Code, defaults, what it closes over, and the globals that it names."""
    ours = (function.__module__ or "").startswith("actadd_lens.")  # globals are told by the format's number
    if ours:
        function = inspect.unwrap(function)  # shape checks may have been put around it
    cells = []
    for cell in function.__closure__ or ():
        with suppress(ValueError):  # a cell that is not filled yet
            cells.append(cell.cell_contents)
    known = function.__globals__
    names = sorted(name for name in _names(function.__code__) if name in known)
    taken = [] if ours else [(name, known[name]) for name in names]
    return (*_code_parts(function.__code__), function.__defaults__, function.__kwdefaults__, cells, taken)


def _names(code: types.CodeType) -> set[str]:
    inner = (constant for constant in code.co_consts if isinstance(constant, types.CodeType))
    return set(code.co_names).union(*(_names(item) for item in inner))


def _code_parts(code: types.CodeType) -> tuple[Any, ...]:
    constants = [_code_parts(item) if isinstance(item, types.CodeType) else item for item in code.co_consts]
    return (code.co_code, constants, code.co_names, code.co_varnames)


def _object_parts(value: Any) -> Iterable[Any]:
    """A dataclass or other object by its class, its attributes, and what calling it does."""
    kind = type(value)
    call = vars(kind).get("__call__")
    called = call if isinstance(call, types.FunctionType) else None
    if dataclasses.is_dataclass(value):
        return (
            kind.__qualname__,
            [(item.name, getattr(value, item.name)) for item in dataclasses.fields(value)],
            called,
        )
    if hasattr(value, "__dict__"):
        return (kind.__module__, kind.__qualname__, vars(value), called)
    raise SettingError(
        f"A {kind.__module__}.{kind.__qualname__} in a metric or hook cannot be told from another one, so results "
        "under path= might be mixed up: use functions of plain values and tensors, or leave path= out."
    )


_PARTS: tuple[tuple[Any, Callable[[Any], Iterable[Any]]], ...] = (
    (Tensor, _tensor_parts),
    (np.ndarray, _array_parts),
    (list | tuple | range, list),
    (dict, lambda value: [sorted((digest(key), digest(item)) for key, item in value.items())]),
    (set | frozenset, lambda value: [sorted(digest(item) for item in value)]),
    (slice, lambda value: (value.start, value.stop, value.step)),
    (torch.nn.Module, lambda value: (type(value).__qualname__, _weights(value))),
    (functools.partial, lambda value: (value.func, value.args, value.keywords)),
    (types.FunctionType, _function_parts),
    (types.MethodType, lambda value: (value.__func__, value.__self__)),
    (types.BuiltinFunctionType | types.ModuleType | type, _name_parts),
)
"""What values of each kind are made of."""
