"""Steering vectors of vllm-lens, as JSON: rows, the blocks to whose outputs they are added, and their token indices.

An array is [blocks, d_model] for a row at every token, BOS too, or [blocks, positions, d_model]; `scale` is the
coefficient. Arrays are base64, with zstd or without; they are written without, which every version reads.
"""

import base64
import binascii
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from actadd_lens.errors import ActAddError, LayerError, SettingError, VectorFileError
from actadd_lens.vectors.exchange.held import Held, direction, layer_above, told_of_blocks
from actadd_lens.vectors.exchange.places import covers_all, everywhere, places_of
from actadd_lens.vectors.files import header_of, vector_of, write_whole
from actadd_lens.vectors.vector import SteeringVector

_HEADER = "actadd_lens"
_MOST_BYTES = 2**31
_STORED = {"torch.float32": "float32", "torch.float64": "float64", "torch.float16": "float16",
           "torch.bfloat16": "int16"}  # fmt: skip


def write(vector: SteeringVector, path: Path) -> list[str]:
    """Write rows and places, and return what the file cannot hold.

    Raises:
        LayerError: Layer 0, which no block's output enters.
        PositionError: The position depends on the prompt.
    """
    if vector.layer == 0:
        raise LayerError(
            "vllm-lens adds to a block's output, and no block's output enters layer 0: read the vector at layer 1 or "
            "above."
        )
    told: list[str] = []
    rows = vector.activations.detach().cpu().contiguous()
    everywhere_here = covers_all(vector.position) or vector.position == "all"
    places = None if everywhere_here else places_of(vector)
    if places is None:
        told += everywhere(vector, "vllm-lens")
    elif vector.position is None:
        told.append("row 0 is for token 0, as tools here have it: v.at(position=...) says another place")
    if places is not None and len(places) > vector.rows:
        rows = rows.expand(len(places), -1)
    data = {
        "activations": _encoded(rows[None] if places is not None else rows),
        "layer_indices": [vector.layer - 1],
        "scale": vector.coefficient,
        "norm_match": False,
        "position_indices": places,
        _HEADER: header_of(vector),
    }
    write_whole(path, json.dumps(data).encode())
    return told


def seems(data: dict[str, Any]) -> bool:
    """Whether an object in JSON is one of these."""
    return "activations" in data and "layer_indices" in data


def read(data: dict[str, Any], path: Path) -> Held:
    """Every block's vector.

    Raises:
        VectorFileError: It is damaged, or asks for what is not a plain addition.
    """
    try:
        return _read(data, path)
    except (TypeError, ValueError, KeyError, OverflowError, RuntimeError, RecursionError, MemoryError) as error:
        if isinstance(error, ActAddError):
            raise
        raise VectorFileError(f"{path} is a damaged vllm-lens file: {error}.") from error


def _read(data: dict[str, Any], path: Path) -> Held:
    array = _decoded(data["activations"])
    blocks, places = data["layer_indices"], data.get("position_indices")
    scale = data.get("scale", 1.0)
    if data.get("norm_match"):
        raise VectorFileError(
            f"{path} asks for norm_match, which adds a row as long as each token's own stream: that is not a plain "
            "addition. Set it to false for the rows as they are."
        )
    if isinstance(scale, bool) or not isinstance(scale, int | float):
        raise TypeError(f"scale is {str(scale)[:30]!r}, and a number is expected")
    if not isinstance(blocks, list) or not all(_is_index(block) for block in blocks) or len(set(blocks)) != len(blocks):
        raise TypeError(f"layer_indices is {str(blocks)[:60]}, and different integers from 0 are expected")
    if array.ndim not in (2, 3) or array.shape[0] != len(blocks) or not len(blocks):
        raise TypeError(f"activations of shape {tuple(array.shape)} do not go with {len(blocks)} layers")
    if places is not None and (not isinstance(places, list) or not all(_is_index(place) for place in places)):
        raise TypeError(f"position_indices is {str(places)[:60]}, and integers from 0 are expected")
    if array.ndim == 3 and places is not None and len(places) != array.shape[1]:
        raise TypeError(f"{array.shape[1]} rows do not go with {len(places)} positions")
    if _HEADER in data:
        return Held((_own(data, array, path),))
    vectors = []
    for index in sorted(range(len(blocks)), key=blocks.__getitem__):
        rows, position = (array[index], "all+bos") if array.ndim == 2 else _placed(array[index], places)
        vectors.append(
            direction(
                rows, layer=layer_above(blocks[index]), position=position, coefficient=scale, path=path,
                source=f"block {blocks[index]} of {path.name} (vllm-lens)",
            )
        )  # fmt: skip
    told = (told_of_blocks("layer", sorted(blocks)), "prompts and model are not in the file")
    return Held(tuple(vectors), told)


def _own(data: dict[str, Any], array: Tensor, path: Path) -> SteeringVector:
    """A vector that was exported from here; its header tells one row that was laid on many tokens."""
    header = data[_HEADER]
    if not isinstance(header, dict):
        raise TypeError("its header is not an object")
    rows = array if array.ndim == 2 else array[0]
    for kept in (rows, rows[:1]):
        try:
            vector = vector_of(header, kept, path=path)
        except VectorFileError:
            if kept is rows and array.ndim == 3 and len(rows) > 1 and bool((rows == rows[0]).all()):
                continue
            raise
        break
    expected = None if array.ndim == 2 else places_of(vector)
    told = ([vector.layer - 1], vector.coefficient, expected)
    if told != (data["layer_indices"], data.get("scale", 1.0), data.get("position_indices")):
        raise VectorFileError(f"{path} was changed since it was written: its layers or places are not its header's.")
    return vector


def _placed(rows: Tensor, places: list[int] | None) -> tuple[Tensor, int]:
    """Rows side by side, with zeros at tokens between them, and the token of the first."""
    found = list(range(len(rows))) if places is None else places
    if not found or max(found) - min(found) >= 2**16:
        raise TypeError("its rows are for no token, or lie further apart than any prompt is long")
    first = min(found)
    laid = torch.zeros(max(found) - first + 1, rows.shape[-1], dtype=rows.dtype)
    for place, row in zip(found, rows, strict=True):
        laid[place - first] += row
    return laid, first


def _is_index(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31


def _encoded(values: Tensor) -> dict[str, Any]:
    values = values.contiguous()
    stored = values.view(torch.int16) if values.dtype == torch.bfloat16 else values
    return {
        "data": base64.b64encode(stored.numpy().tobytes()).decode("ascii"),
        "dtype": str(stored.numpy().dtype),
        "original_dtype": str(values.dtype),
        "shape": list(values.shape),
    }


def _decoded(data: Any) -> Tensor:
    if not isinstance(data, dict):
        raise TypeError("activations is not an array")
    shape, original = data["shape"], data.get("original_dtype", f"torch.{data['dtype']}")
    if _STORED.get(original) != data["dtype"]:
        raise TypeError(f"an array of {str(original)[:30]} stored as {str(data['dtype'])[:30]} is not known")
    if not isinstance(shape, list) or not all(_is_index(size) for size in shape):
        raise TypeError(f"its shape {str(shape)[:40]} is not a shape")
    try:
        raw = base64.b64decode(data["data"], validate=True)
    except (binascii.Error, TypeError) as error:
        raise TypeError(f"its numbers are not base64 ({error})") from error
    size = int(np.dtype(data["dtype"]).itemsize) * int(np.prod(shape, dtype=object))
    if size > _MOST_BYTES:
        raise TypeError(f"its shape {shape} is larger than any steering vector's")
    raw = _unpacked(raw, size) if data.get("compression") is not None else raw
    if len(raw) != size:
        raise TypeError(f"it holds {len(raw)} bytes, and {size} are expected for its shape {shape}")
    values = torch.from_numpy(np.frombuffer(raw, dtype=data["dtype"]).reshape(shape).copy())
    return values.view(torch.bfloat16) if original == "torch.bfloat16" else values


def _unpacked(raw: bytes, size: int) -> bytes:
    try:
        import zstandard
    except ImportError as error:
        raise SettingError(
            "This vllm-lens file is compressed, which needs zstandard: pip install 'actadd-lens[exchange]'."
        ) from error
    try:
        return bytes(zstandard.ZstdDecompressor().decompress(raw, max_output_size=size))
    except zstandard.ZstdError as error:
        raise TypeError(f"its numbers cannot be unpacked ({error})") from error
