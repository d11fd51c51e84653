"""Arrays of numpy, `.npy` and `.npz`; arrays of Python objects, which would be pickles, are refused."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from actadd_lens.errors import VectorFileError
from actadd_lens.vectors.exchange.held import Held, need_layer
from actadd_lens.vectors.exchange.torch_files import one_array, pick

_MOST = 2**28
"""Largest array, in numbers: a damaged header may ask for more than any machine has."""


def read(path: Path, *, layer: int | None = None, name: str | None = None) -> Held:
    """The rows of a file, for a layer that the caller tells.

    Args:
        path: The file.
        layer: The layer, counted as here.
        name: Which array, where there are several.

    Raises:
        VectorFileError: It is damaged, holds something else, or no layer was told.
    """
    try:
        with path.open("rb") as file:
            values = np.lib.format.read_array(file, allow_pickle=False) if _is_one(path) else _of_many(path, name)
        if values.dtype.kind != "f" or values.size > _MOST:
            raise ValueError(f"it holds {values.size} numbers of type {values.dtype}, and floats are expected")
        tensor = torch.from_numpy(np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("=")))
    except VectorFileError:
        raise
    except Exception as error:  # what a damaged file makes of the reader has many types
        told = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise VectorFileError(f"{path} is a damaged numpy file, or holds no floats ({told}).") from error
    return one_array(tensor, path, need_layer(layer, path, f"an array of shape {tuple(tensor.shape)}"))


def _is_one(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(6) == b"\x93NUMPY"


def _of_many(path: Path, name: str | None) -> Any:
    with np.load(path, allow_pickle=False) as arrays:
        return arrays[pick({key: key for key in arrays.files}, name, path)]
