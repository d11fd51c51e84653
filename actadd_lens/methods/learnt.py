"""Files of training results: tensors, with the model, the settings and the losses of each step."""

import os
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar, runtime_checkable

from torch import Tensor

from actadd_lens.errors import ActAddError, VectorFileError
from actadd_lens.vectors.provenance import Provenance
from actadd_lens.vectors.tensor_files import read_tensors, write_tensors

Made = TypeVar("Made")


@runtime_checkable
class Learnt(Protocol):
    """What all training results have."""

    @property
    def provenance(self) -> Provenance:
        """The model that it was trained for."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """What it was trained with."""

    @property
    def history(self) -> tuple[Mapping[str, float], ...]:
        """The losses of each step."""


Make = Callable[[Mapping[str, Any], Mapping[str, Tensor], Mapping[str, Any]], Made]
"""Makes a result of the body, the tensors, and provenance, settings and history as arguments."""


def save_learnt(
    learnt: Learnt, path: str | os.PathLike[str], kind: str, body: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> None:
    """Write a result, completely or not at all.

    Args:
        learnt: The result.
        path: The file.
        kind: What it is, in words.
        body: What it holds besides tensors, provenance, settings and history.
        tensors: By name.

    Raises:
        VectorFileError: It cannot be written.
    """
    told = {
        "provenance": learnt.provenance.to_json(),
        "settings": dict(learnt.settings),
        "history": [dict(row) for row in learnt.history],
    }
    write_tensors(path, kind, {**body, **told}, tensors)


def load_learnt(path: str | os.PathLike[str], kind: str, make: Make[Made]) -> Made:
    """The reverse of `save_learnt`; the model is checked when the result is used.

    Args:
        path: The file.
        kind: The expected kind.
        make: Makes the result.

    Raises:
        VectorFileError: The file is missing, damaged, or holds something else.
    """
    body, tensors = read_tensors(path, kind)
    try:
        told = {
            "provenance": Provenance.from_json(body["provenance"]),
            "settings": body["settings"],
            "history": tuple(body["history"]),
        }
        return make(body, tensors, told)
    except (TypeError, KeyError, ValueError, ActAddError) as error:
        raise VectorFileError(f"{path} holds no sound {kind}: {error}.") from error
