"""Folders as the Hugging Face Hub holds them: a vector, its card, and the same for llama.cpp and vLLM."""

import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from actadd_lens.errors import ActAddError, SettingError, VectorFileError
from actadd_lens.vectors.exchange import gguf, vllm_lens
from actadd_lens.vectors.exchange.card import card_of
from actadd_lens.vectors.files import load_vector, save_vector, write_whole
from actadd_lens.vectors.vector import SteeringVector

VECTOR, CARD, GGUF, VLLM = "vector.safetensors", "README.md", "vector.gguf", "vector.json"
_ADDRESS = re.compile(r"hf://([\w.-]{1,96}/[\w.-]{1,96})(?:@([\w./-]{1,200}))?/?")
_MARK = "hf://"


def is_address(path: Any) -> bool:
    """Whether a path is a repository on the Hub."""
    return isinstance(path, str) and path.startswith(_MARK)


def write_folder(
    vector: SteeringVector,
    folder: Path,
    *,
    measurements: Sequence[Any] = (),
    licence: str | None = None,
    base_model: str | None = None,
    address: str = "",
) -> list[str]:
    """Write the folder, file by file, and return which formats could not hold the vector.

    Raises:
        VectorFileError: The folder holds other things, or cannot be written.
        SettingError: A measurement is of something else.
    """
    with tempfile.TemporaryDirectory(prefix="actadd-") as parent:
        whole = Path(parent, "folder")
        whole.mkdir()
        save_vector(vector, whole / VECTOR)
        files, told = [(VECTOR, "the vector with all that is known of it, for actadd_lens")], []
        for name, what, write in ((GGUF, "llama.cpp", gguf.write), (VLLM, "vllm-lens", vllm_lens.write)):
            try:
                lost = write(vector, whole / name)
                files.append((name, f"for {what}" + "".join(f"; {item}" for item in lost)))
            except ActAddError as error:
                told.append(f"no {name}: {error}".rstrip("."))
        place = address or folder.name
        card = card_of(vector, place, measurements=measurements, licence=licence, base_model=base_model, files=files)
        (whole / CARD).write_text(card, encoding="utf-8")
        _moved(whole, folder)
    return told


def _moved(whole: Path, folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise VectorFileError(f"{folder} is a file: give the name of a folder.")
    ours = {VECTOR, CARD, GGUF, VLLM}
    if folder.is_dir():
        others = sorted(path.name for path in folder.iterdir() if path.name not in ours)
        if others:
            raise VectorFileError(
                f"{folder} holds other things ({', '.join(others[:3])}): give an empty or new folder."
            )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in ours:
            if (whole / name).is_file():
                write_whole(folder / name, (whole / name).read_bytes())
            else:
                (folder / name).unlink(missing_ok=True)
    except OSError as error:
        raise VectorFileError(f"{folder} could not be written: {error}.") from error


def read_folder(folder: Path) -> SteeringVector:
    """The vector of a folder that `export` wrote.

    Raises:
        VectorFileError: There is none, or it is damaged.
    """
    if not (folder / VECTOR).is_file():
        raise VectorFileError(f"There is no file {folder / VECTOR}: {folder} is not a folder of a steering vector.")
    return load_vector(folder / VECTOR)


def upload(
    vector: SteeringVector,
    address: str,
    *,
    measurements: Sequence[Any] = (),
    licence: str | None = None,
    base_model: str | None = None,
) -> list[str]:
    """Put the folder on the Hub; the repository is made where there is none.

    Raises:
        VectorFileError: The Hub cannot be reached, or refuses.
        SettingError: The address is invalid, or a measurement is of something else.
    """
    name, revision = _parts(address)
    with tempfile.TemporaryDirectory(prefix="actadd-") as parent:
        folder = Path(parent, "vector")
        told = write_folder(
            vector, folder, measurements=measurements, licence=licence, base_model=base_model, address=f"{_MARK}{name}"
        )
        hub = _package()
        try:
            api = hub.HfApi()
            api.create_repo(name, exist_ok=True)
            api.upload_folder(
                repo_id=name, folder_path=str(folder), commit_message="Add a steering vector", revision=revision
            )
        except Exception as error:  # what a network makes of a request has many types
            raise _unreachable(address, "could not be written", error) from error
    return told


def download(address: str) -> SteeringVector:
    """Read a vector from the Hub.

    Raises:
        VectorFileError: The Hub cannot be reached, there is no such repository, or it holds no vector.
        SettingError: The address is invalid.
    """
    name, revision = _parts(address)
    hub = _package()
    try:
        folder = hub.snapshot_download(name, revision=revision, allow_patterns=[VECTOR])
    except Exception as error:  # as above
        raise _unreachable(address, "could not be read", error) from error
    return read_folder(Path(folder))


def _parts(address: str) -> tuple[str, str | None]:
    match = _ADDRESS.fullmatch(address)
    if match is None:
        raise SettingError(
            f"{address!r} is not an address on the Hub: expected hf://owner/name or hf://owner/name@revision."
        )
    return match[1], match[2]


def _package() -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise SettingError("The Hub needs huggingface_hub: pip install 'actadd-lens[exchange]'.") from error
    return huggingface_hub


def _unreachable(address: str, what: str, error: Exception) -> VectorFileError:
    first = str(error).strip().splitlines()
    told = f"{type(error).__name__}: {first[0][:200] if first else ''}".rstrip(": .")
    return VectorFileError(
        f"{address} {what} ({told}). Is there a network, does the repository exist, and are you logged in "
        "(hf auth login)? A folder needs none of this: v.export('folder') and SteeringVector.load('folder')."
    )
