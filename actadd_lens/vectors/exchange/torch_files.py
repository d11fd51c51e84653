"""Files of `torch.save`: steering-vectors' vectors, CAA's, and plain tensors. Nothing in them is ever run.

They are pickles, so torch's restricted reader is used, which makes tensors and plain containers and refuses the rest.
The class of steering-vectors is also made, as a stand-in without any code of its own.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from actadd_lens.errors import VectorFileError
from actadd_lens.vectors.exchange.held import Held, direction, layer_above, need_layer, told_of_blocks

_CAA = re.compile(r"vec_layer_(\d{1,4})(?:_(.+))?\.pth?", re.IGNORECASE)
_NOT_SAID = "prompts, coefficient, tokens and model are not in the file"
_REFUSED = re.compile(r"GLOBAL ([\w.]+)")
_STEERING_VECTORS = type("SteeringVector", (), {"__module__": "steering_vectors.steering_vector"})
"""Stands in for steering-vectors' dataclass: it takes the fields, and nothing else."""


def read(path: Path, *, layer: int | None = None, name: str | None = None) -> Held:
    """Every layer's vector of a file.

    Args:
        path: The file.
        layer: The layer, counted as here, for a tensor that comes without one.
        name: Which tensor, where there are several with names.

    Raises:
        VectorFileError: It is damaged, would have to run code, or holds something else.
    """
    value = _opened(path)
    if isinstance(value, _STEERING_VECTORS):
        kind = getattr(value, "layer_type", None)
        if kind != "decoder_block":
            raise VectorFileError(
                f"{path} is a vector of steering-vectors for {str(kind)[:30]!r}: a steering vector is added to the "
                "stream between blocks ('decoder_block')."
            )
        return _layered(getattr(value, "layer_activations", None), path, "steering-vectors")
    if isinstance(value, Mapping):
        if value and all(_number(key) is not None for key in value):
            return _layered(value, path, "one tensor a block, as steering-vectors has it")
        return _one(_named(value, name, path), path, layer)
    if isinstance(value, Tensor):
        return _one(value, path, layer)
    raise VectorFileError(f"{path} is a file of torch.save that holds a {type(value).__name__}: expected tensors.")


def _opened(path: Path) -> Any:
    try:
        with torch.serialization.safe_globals([_STEERING_VECTORS]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what a damaged pickle makes of the reader has many types
        refused = _REFUSED.search(str(error))
        if refused is not None:
            raise VectorFileError(
                f"{path} is a file of torch.save that would have to run {refused[1][:60]} to be read, which is never "
                "done: save its tensors alone, as torch.save({layer: tensor}, path)."
            ) from error
        told = f"{type(error).__name__}: {str(error).splitlines()[0][:120] if str(error) else ''}"
        raise VectorFileError(
            f"{path} is a damaged file of torch.save, or a pickle of something else ({told})."
        ) from error


def _layered(tensors: Any, path: Path, what: str) -> Held:
    found = {_number(key): value for key, value in tensors.items()} if isinstance(tensors, Mapping) else {}
    if not found or None in found or not all(isinstance(value, Tensor) for value in found.values()):
        raise VectorFileError(f"{path} is not a sound vector ({what}): expected a tensor for each block.")
    blocks = sorted(block for block in found if block is not None)
    vectors = []
    for block in blocks:
        values = found[block].squeeze()
        if values.ndim != 1:
            raise VectorFileError(
                f"{path} holds a tensor of shape {tuple(found[block].shape)} for block {block}: expected one row."
            )
        source = f"block {block} of {path.name} ({what})"
        vectors.append(direction(values, layer=layer_above(block), source=source, path=path))
    return Held(tuple(vectors), (told_of_blocks("layer", blocks), _NOT_SAID))


def _one(values: Tensor, path: Path, layer: int | None) -> Held:
    match = _CAA.fullmatch(path.name)
    if match is None:
        return one_array(values, path, need_layer(layer, path, f"a tensor of shape {tuple(values.shape)}"))
    block = int(match[1])
    source = f"{path.name} (CAA, model {match[2] or 'not told'})"
    vector = direction(values.squeeze(), layer=layer_above(block), source=source, path=path)
    if vector.rows != 1:
        raise VectorFileError(f"{path} is named as CAA names its files, but holds {vector.rows} rows: expected one.")
    return Held((vector,), (told_of_blocks("layer", [block]), _NOT_SAID))


def one_array(values: Tensor, path: Path, layer: int) -> Held:
    """A vector of numbers that come without any words."""
    vector = direction(values, layer=layer, source=f"numbers of {path.name}", path=path)
    told = [_NOT_SAID]
    if vector.rows > 1:
        told.append(
            f"its {vector.rows} rows are taken as rows at tokens; a file of one row per layer would look the same"
        )
    return Held((vector,), tuple(told))


def _named(tensors: Mapping[Any, Any], name: str | None, path: Path) -> Tensor:
    found = {str(key): value for key, value in tensors.items() if isinstance(value, Tensor)}
    chosen: Tensor = pick(found, name, path)
    return chosen


def pick(found: Mapping[str, Any], name: str | None, path: Path) -> Any:
    """The array that is meant, of several with names.

    Raises:
        VectorFileError: There is none of that name, or several and none was named.
    """
    if name is not None and name in found:
        return found[name]
    if name is None and len(found) == 1:
        return next(iter(found.values()))
    names = ", ".join(sorted(found)[:8]) + (", …" if len(found) > 8 else "")
    raise VectorFileError(f"{path} holds {len(found)} arrays ({names or 'none'}): say which with name=.")


def _number(key: Any) -> int | None:
    """A block's number; digits in a text count."""
    if isinstance(key, str) and key.isascii() and key.isdigit() and len(key) < 7:
        return int(key)
    return key if isinstance(key, int) and not isinstance(key, bool) and key >= 0 else None
