"""GGUF files of directions, as llama.cpp and repeng write and read them.

`general.architecture` is `controlvector`; the F32 tensor `direction.N` is added to the output of block N at every
token, BOS too. So layer L here is `direction.{L - 1}`; llama.cpp has none for N = 0.
"""

import dataclasses
import json
import re
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from actadd_lens.errors import LayerError, SettingError, VectorError, VectorFileError
from actadd_lens.vectors.exchange.held import Held, direction, layer_above, told_of_blocks
from actadd_lens.vectors.exchange.places import everywhere
from actadd_lens.vectors.files import header_of, vector_of, write_whole
from actadd_lens.vectors.vector import SteeringVector

ARCHITECTURE = "controlvector"
_HEADER = "actadd_lens.vector"
_NAME = re.compile(r"direction\.(\d{1,6})")
_EXTRA = "GGUF files need the package gguf: pip install 'actadd-lens[exchange]'."


def write(vector: SteeringVector, path: Path) -> list[str]:
    """Write one row, its coefficient multiplied in, and return what the file cannot hold.

    Raises:
        LayerError: Layer 0 or 1, for which llama.cpp has no direction.
        VectorError: There are several rows.
        PositionError: The row is for some tokens only.
        SettingError: The package gguf is not installed.
    """
    held, told = held_by_file(vector)
    gguf = _package(SettingError)
    with tempfile.TemporaryDirectory(prefix="actadd-") as folder:
        file = Path(folder, "vector.gguf")
        writer = gguf.GGUFWriter(file, ARCHITECTURE)
        writer.add_string(f"{ARCHITECTURE}.model_hint", vector.provenance.model or "unknown")
        writer.add_uint32(f"{ARCHITECTURE}.layer_count", 1)
        writer.add_string(_HEADER, json.dumps(header_of(held)))
        writer.add_tensor(f"direction.{vector.layer - 1}", held.activations[0].numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        write_whole(path, file.read_bytes())
    return told


def held_by_file(vector: SteeringVector) -> tuple[SteeringVector, list[str]]:
    """The vector as a file can hold it, and what was lost on the way."""
    if vector.rows != 1:
        raise VectorError(
            f"A GGUF file holds one row for all tokens, but {vector.label} has {vector.rows}: choose one with .row(i) "
            "or .mean_rows(), or export to vllm-lens (.json), which holds rows and their places."
        )
    if vector.layer < 2:
        raise LayerError(
            f"llama.cpp has no direction for layer {vector.layer}: its first is added to the output of block 1, which "
            "is layer 2 here. Read the vector at layer 2 or above, or export to vllm-lens (.json) from layer 1 on."
        )
    told = everywhere(vector, "llama.cpp")
    rows = vector.injection.detach().float().cpu().contiguous()
    if not bool(torch.isfinite(rows).all()):
        raise VectorError(f"{vector.told} is beyond the largest number of float32, which GGUF files hold.")
    provenance = vector.provenance
    if vector.activations.dtype == torch.float64:
        told.append("its float64 numbers are rounded to float32")
    if vector.coefficient != 1:
        provenance = provenance.after(f"coefficient {vector.coefficient:g} multiplied in for GGUF")
        told.append(f"the coefficient {vector.coefficient:g} is multiplied in")
    return dataclasses.replace(
        vector, activations=rows, coefficient=1.0, position="all+bos", provenance=provenance
    ), told


def read(path: Path) -> Held:
    """Every direction of a file.

    Raises:
        VectorFileError: It is damaged, a model, or holds no directions.
        SettingError: The package gguf is not installed.
    """
    reader = _open(path)
    fields = {name: _content(field) for name, field in reader.fields.items() if name.startswith(_ASKED)}
    architecture = fields.get("general.architecture")
    if architecture != ARCHITECTURE:
        raise VectorFileError(
            f"{path} is a GGUF file of the architecture {str(architecture)[:40]!r}, so it seems to be a model, not "
            "a steering vector: load_model reads models of the Llama shape."
        )
    found = {_block(tensor, path): tensor for tensor in reader.tensors}
    if not found or len(found) != len(reader.tensors):
        raise VectorFileError(f"{path} is a GGUF file for steering, but holds no direction, or one twice.")
    blocks = sorted(found)
    if _HEADER in fields:
        return Held((_own(fields[_HEADER], found, path),))
    hint = fields.get(f"{ARCHITECTURE}.model_hint")
    vectors = tuple(
        direction(
            _values(found[block], path), layer=layer_above(block), position="all+bos", path=path,
            source=f"direction.{block} of {path.name} (GGUF, model hint {str(hint)[:40]})",
        )
        for block in blocks
    )  # fmt: skip
    told = (
        told_of_blocks("direction", blocks),
        "it acts at every token, BOS too (position all+bos)",
        "prompts, coefficient and model are not in the file",
    )
    return Held(vectors, told)


_ASKED = ("general.architecture", ARCHITECTURE, _HEADER)


def _own(text: Any, found: dict[int, Any], path: Path) -> SteeringVector:
    """A vector that was exported from here."""
    try:
        header = json.loads(text)
        if not isinstance(header, dict):
            raise TypeError("its header is not an object")
    except (ValueError, TypeError, RecursionError) as error:
        raise VectorFileError(f"{path} is damaged: {error}.") from error
    [(block, tensor)] = found.items() if len(found) == 1 else [(-1, None)]
    vector = None if tensor is None else vector_of(header, _values(tensor, path)[None], path=path)
    if vector is None or vector.layer != layer_above(block):
        raise VectorFileError(f"{path} was changed since it was written: its directions are not those of its header.")
    return vector


def _package(error: type[Exception]) -> Any:
    try:
        import gguf
    except ImportError as missing:
        raise error(_EXTRA) from missing
    return gguf


def _open(path: Path) -> Any:
    gguf = _package(SettingError)
    try:
        return gguf.GGUFReader(path)
    except Exception as error:  # what a damaged file makes of the reader's arithmetic has many types
        told = str(error).splitlines()[0][:120] if str(error) else ""
        raise VectorFileError(f"{path} is a damaged GGUF file ({type(error).__name__}: {told}).") from error


def _content(field: Any) -> Any:
    try:
        return field.contents()
    except Exception:  # a damaged field says nothing
        return None


def _block(tensor: Any, path: Path) -> int:
    match = _NAME.fullmatch(tensor.name)
    if match is None:
        raise VectorFileError(
            f"{path} is a GGUF file for steering, but holds a tensor {tensor.name[:40]!r}, which is not a direction."
        )
    return int(match[1])


def _values(tensor: Any, path: Path) -> torch.Tensor:
    kind = tensor.tensor_type.name
    if kind not in ("F32", "F16"):
        raise VectorFileError(f"{path} stores {tensor.name} as {kind}: expected F32.")
    values = np.array(tensor.data, dtype=np.float32)
    if values.ndim != 1 or not values.size:
        raise VectorFileError(f"{path} holds {tensor.name} of shape {values.shape}: expected one number a dimension.")
    return torch.from_numpy(values)
