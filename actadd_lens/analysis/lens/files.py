"""J-lenses as safetensors files, and the artifacts that others publish."""

import hashlib
import json
import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from actadd_lens.analysis.lens.jacobian import LONGEST, SKIPPED, JacobianLens
from actadd_lens.errors import VectorFileError
from actadd_lens.vectors.files import write_whole
from actadd_lens.vectors.provenance import Provenance

_KEY = "actadd_lens"
_KIND = "jacobian lens"
_FORMAT = 1
_FIELDS = {"layers", "texts", "skipped", "longest", "digest"}


def save_lens(lens: JacobianLens, path: Path) -> None:
    """Write a lens as a safetensors file.

    Raises:
        VectorFileError: It cannot be written there.
    """
    from safetensors.torch import save

    told = {name: getattr(lens, name) for name in sorted(_FIELDS)}
    header = {"kind": _KIND, "format": _FORMAT, **told, "provenance": lens.provenance.to_json()}
    matrices = lens.matrices.contiguous().cpu()
    header["content_hash"] = _content_hash(header, matrices)
    write_whole(path, save({"matrices": matrices}, metadata={_KEY: json.dumps(header)}))


def load_lens(path: Path) -> JacobianLens:
    """Read a lens that was saved here, or a published artifact.

    Raises:
        VectorFileError: The file is missing, damaged, or something else.
    """
    if not path.is_file():
        raise VectorFileError(f"There is no file {path}.")
    try:
        return _published(path) if path.suffix in (".pt", ".pth") else _ours(path)
    except VectorFileError:
        raise
    except (TypeError, KeyError, ValueError, AttributeError, OSError, RuntimeError, pickle.UnpicklingError) as error:
        raise VectorFileError(f"{path} is not a sound J-lens: {error}.") from error


def _ours(path: Path) -> JacobianLens:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata, names = file.metadata() or {}, list(file.keys())
            if _KEY not in metadata or names != ["matrices"]:
                raise VectorFileError(f"{path} is a safetensors file, but holds no J-lens of actadd_lens.")
            matrices = file.get_tensor("matrices")
    except SafetensorError as error:
        raise VectorFileError(f"{path} is truncated, damaged or not a safetensors file: {error}.") from error
    header = json.loads(metadata[_KEY])
    if header.get("kind") != _KIND or header.get("format") != _FORMAT:
        raise VectorFileError(
            f"{path} is a {header.get('kind')!r} of format {header.get('format')!r}: expected a {_KIND!r} of format "
            f"{_FORMAT}."
        )
    if header.pop("content_hash") != _content_hash(header, matrices):
        raise VectorFileError(f"{path} was changed or damaged since it was written.")
    told = {name: header[name] for name in _FIELDS} | {"layers": tuple(header["layers"])}
    return JacobianLens(matrices=_sound(matrices), provenance=Provenance.from_json(header["provenance"]), **told)


def _published(path: Path) -> JacobianLens:
    """The reference code's artifact: matrices by the block whose output they start from."""
    data = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(data, dict) or not isinstance(data.get("J"), dict) or not data["J"]:
        raise VectorFileError(f"{path} holds no matrices under 'J', as J-lens artifacts do.")
    blocks = sorted(map(int, data["J"]))
    matrices = torch.stack([data["J"][block].float() for block in blocks])
    told: dict[str, Any] = data.get("metadata") or {}
    name = told.get("model_name")
    corpus = str(told.get("corpus") or path.name)
    provenance = Provenance(source=f"published J-lens ({corpus})", model=None if name is None else str(name))
    return JacobianLens(
        layers=tuple(block + 1 for block in blocks),
        matrices=_sound(matrices),
        texts=int(data.get("n_prompts", 0)),
        skipped=int(told.get("skip_first_positions", SKIPPED)),
        longest=int(told.get("max_seq_len", LONGEST)),
        digest="",
        provenance=provenance,
    )


def _sound(matrices: Tensor) -> Tensor:
    if matrices.ndim != 3 or matrices.shape[1] != matrices.shape[2] or not bool(torch.isfinite(matrices).all()):
        raise VectorFileError(f"Matrices of shape {tuple(matrices.shape)} are no Jacobians of finite numbers.")
    return matrices


def _content_hash(header: dict[str, Any], matrices: Tensor) -> str:
    """SHA-256 over the header without its hash and the bytes of the matrices."""
    told = {key: header[key] for key in header if key != "content_hash"}
    digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode())
    digest.update(matrices.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
