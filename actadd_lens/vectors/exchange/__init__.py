"""Exchange formats of other libraries, one file each; what they cannot hold is an error or a warning.

To add a format, write one file with `write`, which returns what was lost, and `read`, which returns what is `Held`.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from actadd_lens.errors import SettingError, VectorFileError
from actadd_lens.vectors.exchange import gguf, hub, numpy_files, remote_bridge, torch_files, vllm_lens
from actadd_lens.vectors.exchange.held import ExchangeWarning, Held, tell
from actadd_lens.vectors.files import load_vector, save_vector
from actadd_lens.vectors.seems import kind_of, parsed
from actadd_lens.vectors.vector import SteeringVector

__all__ = ["ExchangeFormat", "ExchangeWarning", "export_vector", "load_one", "load_vectors", "save_one"]

ExchangeFormat = Literal["gguf", "vllm-lens", "remote-bridge", "folder"]
_WRITERS = {"gguf": gguf.write, "vllm-lens": vllm_lens.write, "remote-bridge": remote_bridge.write}
_BY_ENDING = {".gguf": "gguf", ".json": "vllm-lens", "": "folder"}


def export_vector(
    vector: SteeringVector,
    path: str | os.PathLike[str],
    *,
    format: ExchangeFormat | None = None,  # noqa: A002  (the word that people look for)
    measurements: Sequence[Any] = (),
    licence: str | None = None,
    base_model: str | None = None,
) -> None:
    """Write a vector for another library; see `SteeringVector.export`."""
    place = Path(path)
    if format is not None and format not in get_args(ExchangeFormat):
        raise SettingError(f"format is {format!r}: expected one of {', '.join(get_args(ExchangeFormat))}.")
    kind = format or ("folder" if place.is_dir() else _BY_ENDING.get(place.suffix.lower()))
    if kind is None:
        raise SettingError(
            f"{place.name} gives no format: end it in .gguf (llama.cpp) or .json (vllm-lens), or in nothing for "
            "a folder; or pass format=. A .safetensors file is what save writes."
        )
    if kind == "folder":
        told = hub.write_folder(vector, place, measurements=measurements, licence=licence, base_model=base_model)
    elif measurements or licence is not None or base_model is not None:
        raise SettingError("measurements, licence and base_model belong on a folder's card: export to a folder.")
    else:
        told = _WRITERS[kind](vector, place)
    tell(path, told)


def save_one(
    vector: SteeringVector,
    path: str | os.PathLike[str],
    *,
    measurements: Sequence[Any] = (),
    licence: str | None = None,
    base_model: str | None = None,
) -> None:
    """Write a vector's own file, or put its folder on the Hub; see `SteeringVector.save`."""
    if hub.is_address(path):
        told = hub.upload(vector, str(path), measurements=measurements, licence=licence, base_model=base_model)
        tell(path, told)
    elif measurements or licence is not None or base_model is not None:
        raise SettingError("measurements, licence and base_model belong on a card: save to hf://owner/name, or export.")
    else:
        save_vector(vector, path)


def load_one(path: str | os.PathLike[str], *, layer: int | None = None, name: str | None = None) -> SteeringVector:
    """Read one vector; see `SteeringVector.load`."""
    held = _held(path, layer, name)
    found = held.vectors
    if layer is not None:
        found = tuple(vector for vector in found if vector.layer == layer)
    if len(found) != 1:
        layers = ", ".join(str(vector.layer) for vector in held.vectors[:40])
        missing = "" if found else f" none at {layer}, but"
        raise VectorFileError(
            f"{path} holds{missing} vectors at the layers {layers} (counted as here): say which with layer=, or read "
            "all with load_vectors."
        )
    tell(path, held.told)
    return found[0]


def load_vectors(
    path: str | os.PathLike[str], *, layer: int | None = None, name: str | None = None
) -> tuple[SteeringVector, ...]:
    """Every vector of a file, one per layer, in the order of layers; a warning reports what was converted or lost.

    Files of repeng and steering-vectors hold one direction for each of many layers, which are meant to act together:
    `al.steer(model, *al.load_vectors("happy.gguf"))`. Layers are counted as here: the block whose input is changed.

    Args:
        path: A file that `save` or `export` wrote; a GGUF file of llama.cpp or repeng; a `.pt` file of
            steering-vectors or CAA, or of plain tensors; JSON of vllm-lens or of RemoteBridge; an array of numpy; a
            folder that `export` wrote, or `hf://owner/name`.
        layer: For a file that does not say its layer, the one that its rows are for.
        name: Which of several named arrays to read.

    Raises:
        VectorFileError: The file is missing, damaged, or of an unknown kind; the message says what it seems to be.
    """
    held = _held(path, layer, name)
    tell(path, held.told, above=1)
    return held.vectors


def _held(path: str | os.PathLike[str], layer: int | None, name: str | None) -> Held:
    if layer is not None and (isinstance(layer, bool) or not isinstance(layer, int) or layer < 0):
        raise SettingError(f"layer is {layer!r}: expected an integer from 0.")
    if hub.is_address(path):
        return Held((hub.download(str(path)),))
    place = Path(path)
    if os.path.isdir(place):  # noqa: PTH112  (Path.is_dir raises for names that no file can have)
        return Held((hub.read_folder(place),))
    if not os.path.isfile(place):  # noqa: PTH113
        raise VectorFileError(f"There is no file {path}.")
    return _of_file(place, layer, name)


def _of_file(path: Path, layer: int | None, name: str | None) -> Held:
    match kind_of(path):
        case "gguf":
            return gguf.read(path)
        case "torch":
            return torch_files.read(path, layer=layer, name=name)
        case "npy" | "npz":
            return numpy_files.read(path, layer=layer, name=name)
        case "json":
            return _of_json(path)
    return Held((load_vector(path),))


def _of_json(path: Path) -> Held:
    try:
        data = parsed(path)
    except ValueError as error:
        raise VectorFileError(f"{path} is truncated, damaged or not JSON: {error}.") from error
    if isinstance(data, list) and len(data) == 1:
        data = data[0]
    if isinstance(data, dict):
        if vllm_lens.seems(data):
            return vllm_lens.read(data, path)
        if remote_bridge.seems(data):
            return remote_bridge.read(data, path)
    keys = ", ".join(sorted(map(str, data))[:5]) if isinstance(data, dict) else type(data).__name__
    raise VectorFileError(
        f"{path} is JSON, but neither of vllm-lens (activations, layer_indices) nor of RemoteBridge (intervene): it "
        f"holds {keys[:120] or 'nothing'}."
    )
