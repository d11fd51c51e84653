"""Steering vectors as safetensors files: written completely or not at all, and checked when read."""

import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from actadd_lens.errors import ActAddError, VectorFileError
from actadd_lens.prompts.positions import Position
from actadd_lens.prompts.spans import Span, span_from_json, span_to_json
from actadd_lens.vectors.provenance import Provenance
from actadd_lens.vectors.seems import seems, seems_tensors
from actadd_lens.vectors.vector import SteeringVector

_FORMAT = 2
"""Format 2 has spans as positions, and vectors for the stream after the last block; all else is written as format 1."""
_PLACES_OF_1 = (None, "front", "mid", "back", "all")
_KEY = "actadd_lens"
_KIND = "steering vector"
_TENSOR = "activations"
_FIELDS = ("kind", "format", "layer", "coefficient", "position", "hook_name", "provenance", "content_hash")
_LONGEST_HEADER = 16 * 2**20


def save_vector(vector: SteeringVector, path: str | os.PathLike[str]) -> None:
    """Write a vector to a temporary file, then move it into place."""
    from safetensors.torch import save

    header = header_of(vector)
    data = save({_TENSOR: _on_file(vector)}, metadata={_KEY: json.dumps(header)})
    write_whole(Path(path), data)


def header_of(vector: SteeringVector) -> dict[str, Any]:
    """All of a vector but its activations, and a hash of both."""
    is_plain = vector.position in _PLACES_OF_1 or isinstance(vector.position, int)
    is_plain = is_plain and vector.hook_name.endswith("hook_resid_pre")
    header = {
        "kind": _KIND,
        "format": 1 if is_plain else _FORMAT,
        "layer": vector.layer,
        "coefficient": vector.coefficient,
        "position": span_to_json(vector.position) if isinstance(vector.position, Span) else vector.position,
        "hook_name": vector.hook_name,
        "provenance": vector.provenance.to_json(),
    }
    header["content_hash"] = _content_hash(header, _on_file(vector))
    return header


def _on_file(vector: SteeringVector) -> Tensor:
    return vector.activations.detach().contiguous().cpu()


def load_vector(path: str | os.PathLike[str]) -> SteeringVector:
    """Read a vector, and check all that can be checked without its model.

    Raises:
        VectorFileError: The file is missing, damaged, of another kind, of a newer format, or holds no finite numbers.
    """
    return vector_of(*_read(Path(path)), path=path)


def vector_of(header: dict[str, Any], activations: Tensor, *, path: str | os.PathLike[str]) -> SteeringVector:
    """The way back from `header_of`.

    Args:
        header: As `header_of` gave it, or what came of it.
        activations: The tensor.
        path: Where both were read, for what is said of them.

    Raises:
        VectorFileError: They do not match, or are invalid.
    """
    try:
        _check_header(header)
        if header["content_hash"] != _content_hash(header, activations):
            raise TypeError("its content does not match its hash, so it was changed or damaged since it was written")
        return SteeringVector(
            activations,
            header["layer"],
            header["coefficient"],
            _position(header),
            Provenance.from_json(header["provenance"]),
        )
    except (TypeError, KeyError, OverflowError, RecursionError, ActAddError) as error:
        raise VectorFileError(f"{path} is not a sound steering vector: {error}.") from error


def _position(header: dict[str, Any]) -> Position | None:
    found = header["position"]
    if isinstance(found, dict) and header["format"] > 1:
        return span_from_json(found)
    if header["format"] == 1 and isinstance(found, str) and found not in _PLACES_OF_1:
        raise TypeError(f"position {found[:40]!r} is not known to format 1")
    return found  # type: ignore[no-any-return]


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that it appears complete or not at all.

    Raises:
        VectorFileError: There is no such folder, or the path is a folder, a device, or cannot be written.
    """
    folder = path.parent
    if not folder.is_dir():
        raise VectorFileError(f"There is no folder {folder} to save in: make it first.")
    if path.is_dir():
        raise VectorFileError(f"{path} is a folder: give the name of a file in it.")
    if os.path.exists(path) and not os.path.isfile(path):  # noqa: PTH110, PTH113  (these do not raise for names that are too long)
        raise VectorFileError(f"{path} is a device or pipe, not a file: give the name of a file.")
    try:
        _write_and_move(path, data)
    except OSError as error:
        raise VectorFileError(f"{path} could not be written: {error}.") from error


def _write_and_move(path: Path, data: bytes) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        Path(temporary).chmod(0o666 & ~umask)  # mkstemp makes private files; this one is an ordinary one
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _read(path: Path) -> tuple[dict[str, Any], Tensor]:
    from safetensors import SafetensorError, safe_open

    if not os.path.isfile(path):  # noqa: PTH113
        raise VectorFileError(f"There is no file {path}.")
    try:
        with safe_open(path, framework="pt") as file:
            metadata, names = file.metadata() or {}, list(file.keys())
            if _is_of_interventions(metadata.get(_KEY, "")):
                raise VectorFileError(
                    f"{path} does not hold a single steering vector: read it with al.load_interventions."
                )
            if _KEY not in metadata or names != [_TENSOR]:
                raise VectorFileError(
                    f"{path} is a safetensors file, but holds no steering vector of actadd_lens: it seems to be "
                    f"{seems_tensors(names)}."
                )
            if len(metadata[_KEY]) > _LONGEST_HEADER:
                raise VectorFileError(
                    f"{path} has a header of {len(metadata[_KEY]):,} characters; that is no vector's."
                )
            tensor = file.get_tensor(_TENSOR)
        header = json.loads(metadata[_KEY])
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        if isinstance(error, VectorFileError):
            raise
        told = seems(path)
        said = str(error) if told is None else f"it seems to be {told}"
        raise VectorFileError(f"{path} is truncated, damaged or not a safetensors file: {said}.") from error
    if not isinstance(header, dict):
        raise VectorFileError(f"{path} has a header that is not an object.")
    return header, tensor


def _is_of_interventions(text: str) -> bool:
    return text.startswith('{"kind": "interventions"')


def _check_header(header: dict[str, Any]) -> None:
    if header.get("kind") != _KIND:
        raise TypeError(f"it is a {header.get('kind')!r}, not a {_KIND}")
    number = header.get("format")
    if isinstance(number, bool) or not isinstance(number, int) or number < 1:
        raise TypeError(f"its format {number!r} is not a number from 1")
    if number > _FORMAT:
        raise TypeError(f"it has format {number}, but this version reads up to {_FORMAT}; update actadd_lens")
    for name in _FIELDS:
        if name not in header:
            raise TypeError(f"its header has no {name!r}")
    for name in header:
        if name not in _FIELDS:
            raise TypeError(f"its header has a field {name[:40]!r}, which format {_FORMAT} does not know")
    layer = header["layer"]
    names = [f"blocks.{layer}.hook_resid_pre"]
    if number > 1 and isinstance(layer, int):
        names.append(f"blocks.{layer - 1}.hook_resid_post")
    if header["hook_name"] not in names:
        raise TypeError(f"its hook point {str(header['hook_name'])[:60]!r} is not that of its layer")


def _content_hash(header: dict[str, Any], activations: Tensor) -> str:
    """SHA-256 over the header without its hash and the bytes of the tensor."""
    text = json.dumps({key: header[key] for key in sorted(header) if key != "content_hash"}, sort_keys=True)
    digest = hashlib.sha256(text.encode())
    digest.update(f"{activations.dtype}{tuple(activations.shape)}".encode())
    digest.update(activations.contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
