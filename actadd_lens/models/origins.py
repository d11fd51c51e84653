"""Where a model came from, so that another process can load the same one."""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch

from actadd_lens.errors import ModelError
from actadd_lens.models.protocol import LensModel

_ATTRIBUTE = "_actadd_source"
"""Attribute of a model with its source; a leading underscore keeps it out of hashes of the model."""

_PLAIN = (bool, int, float, str, bytes, type(None), torch.dtype, torch.device)

_CHUNK = 2**24
"""Number of bytes that are read at once."""


@dataclass(frozen=True)
class ModelSource:
    """What `load_model` was called with.

    Attributes:
        name: A name, or the absolute path of a folder or GGUF file.
        family: `hooked` or `bridge`.
        device: As it was requested; None if each machine uses its own GPU, or the CPU without one.
        dtype: Precision of the weights.
        keywords: Everything else that `load_model` was given.
        folder: The folder or file on this machine that was read; None for models of the hub.
        files: Name, size and modification time of each file there when it was loaded.
    """

    name: str
    family: str
    device: str | None
    dtype: str
    keywords: Mapping[str, Any]
    folder: Path | None
    files: tuple[tuple[str, int, int], ...]

    @property
    def content_hash(self) -> str:
        """SHA-256 of the files that it was loaded from, computed at each access; empty for models of the hub.

        Raises:
            ModelError: The files were changed after loading.
        """
        if self.folder is None:
            return ""
        if files_of(self.folder) != self.files:
            raise ModelError(f"The files in {self.folder} were changed since {self.name} was loaded: load it again.")
        found = hashlib.sha256()
        for name, size, _ in self.files:
            found.update(f"{name} {size} ".encode())
            with (self.folder if self.folder.is_file() else self.folder / name).open("rb") as file:
                while chunk := file.read(_CHUNK):
                    found.update(chunk)
        return found.hexdigest()

    def load(self) -> LensModel:
        """Load the same model again, with its own weights.

        Raises:
            ModelError: It cannot be loaded here.
        """
        from actadd_lens.models.loading import load_model

        return load_model(
            self.name, family=cast("Any", self.family), device=self.device, dtype=self.dtype, **self.keywords
        )

    def __str__(self) -> str:
        told = "".join(f", {name}={value!r}" for name, value in self.keywords.items())
        return f"{self.name} ({self.family}, {self.dtype}{told})"


def model_source(model: LensModel) -> ModelSource:
    """How `load_model` made a model: what another process needs to load it again.

    Args:
        model: The model.

    Raises:
        ModelError: It was not made by `load_model`, or from objects that another process does not have.

    >>> al.model_source(al.load_model()).name
    'storybook'
    """
    found = recorded_source(model)
    if found is None:
        raise ModelError(
            "This model was not made by load_model, or from objects of this process, so it is not known how to "
            "make it again: save it to a folder and load that, or let it be sent to workers as it is."
        )
    return found


def recorded_source(model: LensModel) -> ModelSource | None:
    """The source that is recorded on a model, if there is one."""
    found = vars(model).get(_ATTRIBUTE)
    return found if isinstance(found, ModelSource) else None


def record_source(model: LensModel, source: ModelSource) -> None:
    """Record a model's source on it, unless it contains an object that another process does not have."""
    if all(_is_plain(value) for value in source.keywords.values()):
        object.__setattr__(model, _ATTRIBUTE, source)


def files_of(folder: Path | None) -> tuple[tuple[str, int, int], ...]:
    """Name, size and modification time of each file in a folder, or of one file."""
    if folder is None:
        return ()
    files = [folder] if folder.is_file() else sorted(path for path in folder.iterdir() if path.is_file())
    found = [(path.name, path.stat()) for path in files]
    return tuple((name, status.st_size, status.st_mtime_ns) for name, status in found)


def absolute_name(name: str | os.PathLike[str], folder: Path | None, known: tuple[str, ...]) -> str:
    """A name that means the same in another working directory."""
    return str(name) if folder is None or name in known else str(folder)


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(map(_is_plain, (*value.keys(), *value.values())))
    if isinstance(value, list | tuple | set | frozenset):
        return all(map(_is_plain, value))
    return isinstance(value, _PLAIN)
