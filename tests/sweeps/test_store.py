"""Stores: damaged, foreign, locked and old ones are one clear error each; telling the cost writes nothing."""

import contextlib
import os
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import actadd_lens as al
from actadd_lens import metrics, scorers
from actadd_lens.cli import main
from actadd_lens.sweeps import store as stores
from tests.support import PAIRS

GRID: dict[str, Any] = {
    "layers": [1, 2], "coefficients": [-2, 3], "prompts": "The girl looked at the dog", "metric": metrics.entropy(),
    "nulls": 2,
}  # fmt: skip


@pytest.fixture
def path(quickest: Any, tmp_path: Path) -> Path:
    """A store of one small sweep."""
    found = tmp_path / "sweep.sqlite"
    al.sweep(quickest, PAIRS[0], **GRID, path=found)
    return found


def swept(model: Any, path: Any) -> al.Sweep:
    return al.sweep(model, PAIRS[0], **GRID, path=path)


def edit(path: Path, statement: str, *values: Any) -> None:
    connection = sqlite3.connect(path)
    with connection:
        connection.execute(statement, values)
    connection.close()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE results SET value = 'text'",
        "UPDATE results SET value = 7",
        "UPDATE results SET value = x''",
        "UPDATE results SET value = x'0011'",
        "UPDATE results SET value = zeroblob(16)",
        "UPDATE results SET value = zeroblob(100000)",
        "UPDATE results SET value = value || x'00'",
        "UPDATE results SET value = (SELECT value FROM results LIMIT 1)",
    ],
)
def test_a_value_that_is_none_is_told(quickest: Any, path: Path, statement: str) -> None:
    edit(path, statement)
    for run in (lambda: swept(quickest, path), lambda: al.plan_sweep(quickest, PAIRS[0], **GRID, path=path).cost):
        with pytest.raises(al.SettingError, match="sweep.sqlite (holds a damaged value|cannot hold the results)"):
            run()


def test_a_value_of_another_length_is_told_though_its_checksum_holds(quickest: Any, path: Path) -> None:
    connection = sqlite3.connect(path)
    for (key,) in connection.execute("SELECT key FROM results").fetchall():
        value = np.zeros(7).tobytes()
        connection.execute("UPDATE results SET value = ? WHERE key = ?", (stores._checksum(key, value) + value, key))
    connection.commit()
    connection.close()
    with pytest.raises(al.SettingError, match="damaged value .56 bytes"):
        swept(quickest, path)


@pytest.mark.parametrize("texts", [b"[]", b"not json", b"[[1, 2]]", b'[["a"]]', b"{}", b"[" * 5000, b"\xff"])
def test_texts_that_are_none_are_told(quickest: Any, tmp_path: Path, texts: bytes) -> None:
    settings: dict[str, Any] = {
        "layers": 1, "coefficients": 2, "prompts": "The girl looked at", "scorers": scorers.word_count(["dog"]), "n": 2,
        "max_new_tokens": 2, "path": tmp_path / "texts.sqlite",
    }  # fmt: skip
    al.sweep_completions(quickest, PAIRS[0], **settings)
    connection = sqlite3.connect(settings["path"])
    for (key,) in connection.execute("SELECT key FROM results").fetchall():
        connection.execute("UPDATE results SET value = ? WHERE key = ?", (stores._checksum(key, texts) + texts, key))
    connection.commit()
    connection.close()
    with pytest.raises(al.SettingError, match="damaged value"):
        al.sweep_completions(quickest, PAIRS[0], **settings)


@pytest.mark.parametrize("seed", range(12))
def test_a_file_that_is_damaged_anywhere_is_told_or_right(quickest: Any, path: Path, seed: int) -> None:
    expected = swept(quickest, path)
    random = np.random.default_rng(seed)
    content = bytearray(path.read_bytes())
    for place in random.integers(len(content), size=int(random.choice([1, 30, 3000]))):
        content[place] = random.integers(256)
    path.write_bytes(content[: random.integers(1, len(content))] if seed % 3 == 0 else content)
    with contextlib.suppress(al.SettingError):
        found = swept(quickest, path)
        assert np.array_equal(found.steered, expected.steered, equal_nan=True)
        assert np.array_equal(found.nulls, expected.nulls, equal_nan=True)


def test_a_file_of_other_tables_is_left_alone(quickest: Any, tmp_path: Path) -> None:
    path = tmp_path / "mine.sqlite"
    for table in ("notes (text)", "results (id INTEGER, outcome TEXT)"):
        path.unlink(missing_ok=True)
        edit(path, f"CREATE TABLE {table}")
        before = path.read_bytes()
        with pytest.raises(
            al.SettingError, match="mine.sqlite cannot hold the results of a sweep .it holds other tables"
        ):
            swept(quickest, path)
        assert path.read_bytes() == before


def test_a_store_of_the_first_version_opens_and_its_values_are_computed_anew(quickest: Any, tmp_path: Path) -> None:
    path = tmp_path / "old.sqlite"
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("CREATE TABLE results (key BLOB PRIMARY KEY, value BLOB NOT NULL)")
    connection.execute("INSERT INTO results VALUES (?, ?)", (b"0" * 16, np.zeros(1).tobytes()))
    connection.commit()
    connection.close()
    assert al.plan_sweep(quickest, PAIRS[0], **GRID, path=path).cost.stored == 0
    swept(quickest, path)
    assert al.plan_sweep(quickest, PAIRS[0], **GRID, path=path).cost.stored == 12


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("kind", ["folder", "no folder", "device", "pipe", "number", "zero byte", "in a file"])
def test_a_path_that_can_be_no_store_is_refused_before_anything_runs(quickest: Any, tmp_path: Path, kind: str) -> None:
    (tmp_path / "file").write_text("")
    if kind == "pipe":
        os.mkfifo(tmp_path / "pipe")
    path: Any = {
        "folder": tmp_path, "no folder": tmp_path / "a" / "b.sqlite", "device": "/dev/null", "pipe": tmp_path / "pipe",
        "number": 3, "zero byte": "a\0b", "in a file": tmp_path / "file" / "b.sqlite",
    }[kind]  # fmt: skip
    with pytest.raises(al.SettingError, match="cannot hold the results of a sweep|expected the path of a file"):
        al.plan_sweep(quickest, PAIRS[0], **GRID, path=path)


def test_a_file_that_another_program_locks_is_told(quickest: Any, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "_WAIT_SECONDS", 0.05)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        with pytest.raises(al.SettingError, match="sweep.sqlite cannot hold .*database is locked"):
            al.sweep(quickest, PAIRS[0], **{**GRID, "layers": [3]}, path=path)
    finally:
        other.close()


def test_a_full_disk_is_told_and_nothing_is_lost(quickest: Any, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = stores.ResultStore._open

    def small(self: Any) -> Any:
        connection = opened(self)
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages}")
        return connection

    monkeypatch.setattr(stores.ResultStore, "_open", small)
    texts = [f"The girl looked at the dog {number} times" for number in range(40)]
    with pytest.raises(al.SettingError, match="sweep.sqlite cannot hold .*full"):
        al.sweep(quickest, PAIRS[0], **{**GRID, "prompts": texts}, path=path)
    monkeypatch.undo()
    assert al.plan_sweep(quickest, PAIRS[0], **GRID, path=path).cost.stored == 12


def test_a_file_that_cannot_be_written_is_told(quickest: Any, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = stores.ResultStore._open

    def guarded(self: Any) -> Any:
        connection = opened(self)
        connection.execute("PRAGMA query_only = 1")
        return connection

    monkeypatch.setattr(stores.ResultStore, "_open", guarded)
    with pytest.raises(al.SettingError, match="sweep.sqlite cannot hold .*readonly"):
        al.sweep(quickest, PAIRS[0], **{**GRID, "layers": [3]}, path=path)


def listing(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_the_cost_writes_nothing(quickest: Any, path: Path, tmp_path: Path) -> None:
    before = listing(tmp_path)
    assert al.plan_sweep(quickest, PAIRS[0], **GRID, path=path).cost.stored == 12
    assert al.plan_sweep(quickest, PAIRS[0], **GRID, path=tmp_path / "none.sqlite").cost.stored == 0
    assert listing(tmp_path) == before


def test_the_cost_counts_what_a_killed_run_left_in_its_log(quickest: Any, path: Path, tmp_path: Path) -> None:
    fresh = tmp_path / "killed"
    fresh.mkdir()
    store = stores.ResultStore(fresh / "sweep.sqlite")
    connection = sqlite3.connect(path)
    rows = [(key, value[8:]) for key, value in connection.execute("SELECT key, value FROM results")]
    connection.close()
    store.put(rows)
    killed = tmp_path / "left"
    shutil.copytree(fresh, killed)  # as a kill would leave it: the log was never brought in
    store.close()
    (killed / "sweep.sqlite-shm").unlink()
    before = listing(killed)
    assert "sweep.sqlite-wal" in before
    assert al.plan_sweep(quickest, PAIRS[0], **GRID, path=killed / "sweep.sqlite").cost.stored == 12
    assert listing(killed) == before


def test_the_command_line_tells_the_cost_and_writes_nothing(
    gpt2_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [
        "sweep",
        "--pair",
        "Love",
        "Hate",
        "--layers",
        "1",
        "--coefficients=2",
        "--entropy",
        "The girl looked at",
    ]
    command += ["--model", str(gpt2_folder), "--out", str(tmp_path / "out" / "deep")]
    assert main([*command, "--cost"]) == 0
    assert "1 steered rows" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main(command) == 0
    before = listing(tmp_path)
    assert main([*command, "--cost", "--resume"]) == 0
    assert "1 of them stored" in capsys.readouterr().err
    assert listing(tmp_path) == before
