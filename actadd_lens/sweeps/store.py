"""Results of long runs on disk: an sqlite file of values, with keys for everything that the values depend on."""

import hashlib
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from actadd_lens.errors import SettingError

_WAIT_SECONDS = 60.0
"""Seconds that one process waits for another that is writing."""

_MOST_AT_ONCE = 500
"""Maximum number of keys in one query; sqlite allows about a thousand."""

_CHECKSUM = 8
"""Length, in bytes, of the checksum of key and value that is stored before each value."""

_COLUMNS = ["key", "value"]


class ResultStore:
    """A table of values by key; a run may be killed, and processes on one machine may share the file.

    Each `put` is one transaction. Existing values are kept. Each value has a checksum.

    Args:
        path: The sqlite file; it is created if it does not exist.
        read_only: Whether only to read; then the file must exist, and nothing is written.

    Raises:
        SettingError: The file is something else or cannot be opened; methods raise it too, if the file fails later.
    """

    def __init__(self, path: str | os.PathLike[str], *, read_only: bool = False) -> None:
        self.path = check_store_path(path)
        self._copied: tempfile.TemporaryDirectory[str] | None = None
        with self._told():
            self._connection = self._look() if read_only else self._open()

    def get(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """The stored values of those keys that have one."""
        found: dict[bytes, Any] = {}
        with self._told():
            for first in range(0, len(keys), _MOST_AT_ONCE):
                some = keys[first : first + _MOST_AT_ONCE]
                marks = ", ".join("?" * len(some))
                found.update(self._connection.execute(f"SELECT key, value FROM results WHERE key IN ({marks})", some))
        return {key: self._checked(key, value) for key, value in found.items()}

    def put(self, rows: Iterable[tuple[bytes, bytes]]) -> None:
        """Store values, all or none of them."""
        signed = [(key, _checksum(key, value) + value) for key, value in rows]
        with self._told():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                self._connection.executemany("INSERT OR IGNORE INTO results VALUES (?, ?)", signed)
                self._connection.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):  # if the disk is full, it was rolled back already
                    self._connection.execute("ROLLBACK")
                raise

    def close(self) -> None:
        """Close the file."""
        with suppress(sqlite3.Error):  # the values are stored, or an error said that they are not
            self._connection.close()
        if self._copied is not None:
            self._copied.cleanup()

    def damaged(self, what: str) -> SettingError:
        """The error for a damaged value."""
        return SettingError(
            f"{self.path} holds a damaged value ({what}): delete the file, or name another one, and results are "
            "computed again."
        )

    def _checked(self, key: bytes, value: Any) -> bytes:
        if not isinstance(value, bytes):
            raise self.damaged(f"a {type(value).__name__} and no bytes")
        sign, content = value[:_CHECKSUM], value[_CHECKSUM:]
        if sign != _checksum(key, content):
            raise self.damaged("its checksum does not match")
        return content

    # -- opening -----------------------------------------------------------------------------------------------

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=_WAIT_SECONDS, isolation_level=None)
        try:
            # Another process may be opening the file for the first time, and changing the mode needs the lock at once.
            connection.execute(f"PRAGMA busy_timeout = {int(1000 * _WAIT_SECONDS)}")
            self._check_tables(connection)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute("CREATE TABLE IF NOT EXISTS results (key BLOB PRIMARY KEY, value BLOB NOT NULL)")
        except BaseException:
            connection.close()
            raise
        return connection

    def _look(self) -> sqlite3.Connection:
        """The file without changes. To read a log, sqlite would write next to the file, so then a copy is read."""
        source = self.path.resolve()
        log = source.with_name(source.name + "-wal")
        if log.exists() and log.stat().st_size:
            self._copied = tempfile.TemporaryDirectory(prefix="actadd-")
            copy = Path(self._copied.name) / "results.sqlite"
            shutil.copyfile(source, copy)
            shutil.copyfile(log, copy.with_name(copy.name + "-wal"))
            connection = sqlite3.connect(copy, isolation_level=None)
        else:
            connection = sqlite3.connect(f"{source.as_uri()}?immutable=1", uri=True, isolation_level=None)
        try:
            if not self._check_tables(connection):  # its process was killed after creating it: nothing is stored
                connection.close()
                connection = sqlite3.connect(":memory:")
                connection.execute("CREATE TABLE results (key BLOB PRIMARY KEY, value BLOB NOT NULL)")
        except BaseException:
            connection.close()
            raise
        return connection

    def _check_tables(self, connection: sqlite3.Connection) -> bool:
        """Whether there is a table of results yet; a file with other tables is not a store."""
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        columns = [row[1] for row in connection.execute("PRAGMA table_info(results)")]
        if tables and (tables != {"results"} or columns != _COLUMNS):
            raise sqlite3.DatabaseError(f"it holds other tables: {', '.join(sorted(tables))}")
        return bool(tables)

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Turn any error of sqlite or the disk into one that names the file."""
        try:
            yield
        except (sqlite3.Error, OSError, UnicodeDecodeError) as error:
            raise SettingError(
                f"{self.path} cannot hold the results of a sweep ({error}): name an sqlite file that a sweep made, or "
                "a new file in an existing folder that can be written to."
            ) from error


def check_store_path(path: str | os.PathLike[str]) -> Path:
    """The path of a store, after checking that it can be one; nothing is opened or written.

    Raises:
        SettingError: It is not a path, it is a folder or a device, or there is no folder for it.
    """
    try:
        found = Path(path)
        if "\0" in str(found):
            raise ValueError("it holds a zero byte")
        is_there, is_file = found.exists(), found.is_file()
    except (TypeError, ValueError) as error:
        raise SettingError(f"path is {path!r}: expected the path of a file ({error}).") from None
    except OSError as error:
        raise SettingError(f"{path} cannot hold the results of a sweep ({error}): name another file.") from error
    if is_there and not is_file:
        raise SettingError(f"{found} cannot hold the results of a sweep: it is a folder or device, not a file.")
    if not found.parent.is_dir():
        raise SettingError(f"{found} cannot hold the results of a sweep: there is no folder {found.parent}.")
    return found


@contextmanager
def open_store(path: str | os.PathLike[str] | None, *, read_only: bool = False) -> Iterator[ResultStore | None]:
    """The store at a path, closed afterwards; None without a path, or if it is only read and does not exist yet."""
    if path is None or (read_only and not check_store_path(path).exists()):
        yield None
        return
    store = ResultStore(path, read_only=read_only)
    try:
        yield store
    finally:
        store.close()


def pack(values: Float[np.ndarray, " numbers"]) -> bytes:
    """Numbers as bytes."""
    return np.asarray(values, dtype="<f8").tobytes()


def unpack(store: ResultStore, value: bytes, count: int) -> Float[np.ndarray, " numbers"]:
    """Numbers from bytes.

    Raises:
        SettingError: The number of values is not the expected one.
    """
    if len(value) != 8 * count:
        raise store.damaged(f"{len(value)} bytes, where {count} numbers were expected")
    return np.frombuffer(value, dtype="<f8")


def _checksum(key: bytes, value: bytes) -> bytes:
    return hashlib.blake2b(value, digest_size=_CHECKSUM, key=key[:64]).digest()
