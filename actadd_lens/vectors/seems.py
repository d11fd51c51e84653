"""What an unknown file seems to be, by its first bytes, so that an error can name it. Nothing in it is run."""

import json
import zipfile
from pathlib import Path

_MARKS = (
    (b"\x89PNG", "a picture (PNG)"), (b"\xff\xd8\xff", "a picture (JPEG)"), (b"GIF8", "a picture (GIF)"),
    (b"%PDF", "a PDF"), (b"\x1f\x8b", "packed with gzip: unpack it first"),
    (b"\xfd7zXZ", "packed with xz: unpack it first"),
    (b"BZh", "packed with bzip2: unpack it first"), (b"\x28\xb5\x2f\xfd", "packed with zstd: unpack it first"),
    (b"\x89HDF", "an HDF5 file"), (b"PAR1", "a parquet table"),
    (b"SQLite format 3", "an SQLite database, as sweeps keep"),
    (b"version https://git-lfs", "a pointer of Git LFS, not the file itself: fetch it with git lfs pull"),
    (b"<!DOCTYPE", "a web page"), (b"<html", "a web page"), (b"\x7fELF", "a program"), (b"MZ", "a program"),
    (b"ggml", "a GGML file, the form before GGUF"), (b"ggjt", "a GGML file, the form before GGUF"),
    (b"\x80\x02", "a pickle, which could run code when it is read: save its tensors with safetensors"),
    (b"\x80\x03", "a pickle, which could run code when it is read: save its tensors with safetensors"),
    (b"\x80\x04", "a pickle, which could run code when it is read: save its tensors with safetensors"),
    (b"\x80\x05", "a pickle, which could run code when it is read: save its tensors with safetensors"),
)  # fmt: skip


def kind_of(path: Path) -> str:
    """`gguf`, `torch`, `npy`, `npz`, `json`, or `other`: safetensors, and what is not a vector's file.

    Raises:
        OSError: The file cannot be read.
    """
    with path.open("rb") as file:
        start = file.read(64)
    if start.startswith(b"GGUF"):
        return "gguf"
    if start.startswith(b"\x93NUMPY"):
        return "npy"
    if start.startswith(b"PK\x03\x04"):
        return _of_zip(path)
    if start.lstrip()[:1] in (b"{", b"[") and not _is_safetensors(start, path):
        return "json"
    if start.startswith(b"\x80") and path.suffix.lower() in (".pt", ".pth", ".bin", ".ckpt"):
        return "torch"
    return "other"


def _is_safetensors(start: bytes, path: Path) -> bool:
    """Whether the file begins with the length of a header that it has."""
    return start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= path.stat().st_size - 8


def _of_zip(path: Path) -> str:
    """Archives of torch hold `data.pkl`, those of numpy only `.npy` files."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return "npz" if path.suffix.lower() == ".npz" else "torch"
    if names and all(name.endswith(".npy") for name in names):
        return "npz"
    return "torch" if any(name.endswith("data.pkl") for name in names) else "other"


def seems(path: Path) -> str | None:
    """What a file seems to be, in words; None where nothing is known of it."""
    with path.open("rb") as file:
        start = file.read(4096)
    if not start:
        return "empty"
    for mark, words in _MARKS:
        if start.lstrip()[: len(mark)].lower() == mark.lower():
            return words
    if start.startswith(b"PK\x03\x04"):
        return "a zip archive of other things"
    if start.isascii() and all(sign >= 32 or sign in b"\t\r\n\f" for sign in start):
        return "a text"
    return None


def seems_tensors(names: list[str]) -> str:
    """What a safetensors file seems to be, by the names of its tensors."""
    found = set(names)
    if any(name.split(".")[-1] in ("W_dec", "W_enc", "w_dec", "w_enc") for name in found) or "decoder.weight" in found:
        return "weights of a sparse autoencoder: load it with its library, and use al.from_sae(sae, feature)"
    if any("lora_" in name for name in found):
        return "a LoRA adapter"
    if any("embed" in name or ".layers." in name or name.startswith(("transformer.", "model.")) for name in found):
        return "weights of a model"
    shown = ", ".join(sorted(found)[:4]) + (", …" if len(found) > 4 else "")
    return f"other tensors ({shown or 'none'}); make a vector of one with SteeringVector.from_tensor"


def parsed(path: Path) -> object:
    """The JSON of a file.

    Raises:
        ValueError: It is none, or too deep.
    """
    try:
        return json.loads(path.read_bytes().decode("utf-8"))
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
