"""Named tensors with a header as safetensors files: written completely or not at all, and checked when read.

Adapters, learnt scalings, checkpoints and interventions are kept this way.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from actadd_lens.errors import VectorFileError
from actadd_lens.vectors.files import write_whole

_KEY = "actadd_lens"
_FIELDS = {"kind", "format", "body", "content_hash"}
_LONGEST_HEADER = 64 * 2**20


def write_tensors(
    path: str | os.PathLike[str], kind: str, body: Mapping[str, Any], tensors: Mapping[str, Tensor], *, version: int = 1
) -> None:
    """Write tensors with their header to a temporary file, then move it into place.

    Args:
        path: The file; one that is there is replaced.
        kind: What it holds, in words.
        body: Plain lists, texts and numbers.
        tensors: By name; kept bit for bit.
        version: Number of the format.

    Raises:
        VectorFileError: The file cannot be written.
    """
    from safetensors.torch import save

    kept = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    header = {"kind": kind, "format": version, "body": json.loads(json.dumps(body))}
    header["content_hash"] = _content_hash(header, kept)
    write_whole(Path(path), save(kept, metadata={_KEY: json.dumps(header)}))


def read_tensors(
    path: str | os.PathLike[str], kind: str, *, version: int = 1
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The way back from `write_tensors`.

    Raises:
        VectorFileError: The file is missing, damaged, of another kind or of a newer format, or holds no finite numbers.
    """
    from safetensors import SafetensorError, safe_open

    if not Path(path).is_file():
        raise VectorFileError(f"There is no file {path}.")
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(_KEY, "null")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no mapping, it only has keys)
        header = json.loads(text) if len(text) <= _LONGEST_HEADER else None
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise VectorFileError(f"{path} is truncated, damaged or not a safetensors file: {error}.") from error
    complaint = _complaint(header, tensors, kind, version)
    if header is None or complaint is not None:
        raise VectorFileError(f"{path} holds no sound {kind}: {complaint}.")
    body: dict[str, Any] = header["body"]
    return body, tensors


def kind_in(path: str | os.PathLike[str]) -> str | None:
    """The kind that a file says it holds; None if it is not a file of this package, or cannot be read."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(_KEY, "null")
        header = json.loads(text) if len(text) <= _LONGEST_HEADER else None
    except (SafetensorError, OSError, ValueError, RecursionError):
        return None
    kind = header.get("kind") if isinstance(header, dict) else None
    return kind if isinstance(kind, str) else None


def _complaint(header: Any, tensors: Mapping[str, Tensor], kind: str, version: int) -> str | None:
    """What is wrong with a file; None where nothing is."""
    if not isinstance(header, dict) or "kind" not in header:
        return "it is not from actadd_lens"
    number: Any = header.get("format")
    is_number = isinstance(number, int) and not isinstance(number, bool) and number >= 1
    looks = {
        f"it is a {str(header['kind'])[:60]}": header["kind"] == kind,
        f"its format {number!r} is not a number from 1": is_number,
        f"it has format {number}, but this version reads up to {version}; update actadd_lens": (
            not is_number or number <= version
        ),
        f"its header has the fields {sorted(map(str, header))}": (
            set(header) == _FIELDS and isinstance(header["body"], dict)
        ),
        "its content does not match its hash, so it was changed or damaged since it was written": (
            header.get("content_hash") == _content_hash(header, tensors)
        ),
        "it has numbers that are not finite": all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values()),
    }
    return next((complaint for complaint, is_sound in looks.items() if not is_sound), None)


def _content_hash(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over the header without its hash and the bytes of the tensors."""
    told = {key: header.get(key) for key in sorted(_FIELDS - {"content_hash"})}
    digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
