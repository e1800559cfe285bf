"""A database in a SQLite file, which belongs to one process."""

import fcntl
import os
import sqlite3
import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any
from uuid import UUID
from weakref import WeakSet

import structlog
from peewee import DatabaseError, OperationalError, SqliteDatabase

from runtime.process.errors import NotYet, StartError, start_error
from runtime.process.locks import locked
from runtime.storage.database import BUSY_TIMEOUT_S, OPEN_TIMEOUT_S, RETRY_S, Database

log = structlog.get_logger(__name__)

TRIAL_TIMEOUT_S = 0.5
TRIAL_BYTES = 131_072  # a disk with less room is full: SQLite needs some of it beside the file
sqlite3.register_adapter(UUID, lambda value: value.hex)  # as peewee stores them


class _Connection(sqlite3.Connection):
    """A connection that fits into a weak set."""


class SqliteFile(Database, SqliteDatabase):
    """A SQLite file, which belongs to one process.

    Each thread keeps a connection of its own open. Commits are flushed to the disk (WAL with
    ``synchronous=FULL``), so that they survive a power cut.
    """

    def __init__(self, path: Path, *packages: str) -> None:
        pragmas = {"journal_mode": "wal", "synchronous": "full", "foreign_keys": 1}
        super().__init__(
            packages, str(path), pragmas=pragmas, timeout=OPEN_TIMEOUT_S, factory=_Connection
        )
        self.path = path
        self._claims = False
        self._claim: int | None = None
        self._waits_for: str | None = None
        self._opened_file: os.stat_result | None = None
        self._opened_wal: os.stat_result | None = None  # to which all connections write
        self._connections: WeakSet[_Connection] = WeakSet()

    def __str__(self) -> str:
        return str(self.path)

    def open(self, new: bool = True) -> None:
        """Make missing tables, and the file if it may be ``new``; a second call does nothing.

        Raises `StartError` if a newer version wrote them, or the file cannot be opened, and
        `NotYet` while `claim` waits for it.
        """
        if self._waits_for:
            raise NotYet(self._waits_for)
        super().open(new)

    def claim(self) -> None:
        """Open the file as the one process that uses it; `StartError` if another one does.

        If the obstacle may pass, a thread waits for that, and the process goes on without the file.
        The claim ends with the process.
        """
        self._claims, self._opened = True, False  # it may be open without a claim
        try:
            self.open()
        except NotYet as error:
            self._wait_for(error)
            threading.Thread(target=self._open_later, name="open", daemon=True).start()
        else:
            self.try_writing()

    def _wait_for(self, error: StartError) -> None:
        if str(error) != self._waits_for:
            self._waits_for = str(error)
            log.warning("the database cannot be used yet", error=str(error))

    def _open_later(self) -> None:
        while not self._opened:
            time.sleep(RETRY_S)
            try:
                super().open()
            except StartError as error:
                self._wait_for(error)
        self._waits_for = None
        log.info("the database can be used")
        for listener in self.on_commit:
            listener()

    def _prepare(self, new: bool) -> None:
        if not new and not self.path.exists():
            raise StartError(f"there is no {self.path}: is DATA_DIR right?")
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self._claims and self._claim is None:
                self._claim = self._take()
            with locked(self.path.parent), self.connection_context():
                if self.table_exists("retired"):
                    (url,) = self.run("SELECT url FROM retired").fetchone()
                    variable = f"{self.path.stem.upper()}_DATABASE_URL"
                    raise StartError(f"{self.path} has moved to {url}: set {variable}")
                self._migrate()
            self._opened_file = self.path.stat()
        except (DatabaseError, sqlite3.Error, OSError) as error:
            raise start_error(f"open {self.path}", self._cause(error)) from error
        self.timeout = BUSY_TIMEOUT_S

    def _take(self) -> int:
        descriptor = os.open(f"{self.path}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise StartError(
                f"another process is running on {self.path}: stop it, or set DATA_DIR"
            ) from None
        return descriptor

    def _cause(self, error: Exception) -> Exception:
        """The system's error for a file in the folder, which says more than SQLite's."""
        try:
            self._try_folder()
        except OSError as cause:
            return cause
        return error

    def _try_folder(self) -> None:
        with TemporaryFile(dir=self.path.parent) as file:
            file.write(bytes(TRIAL_BYTES))
            file.flush()
            os.fsync(file.fileno())

    def _try_writing(self) -> None:
        try:
            self._try_folder()  # on a full disk a small write may still find room in the file
        except OSError as error:
            self._note(error)
            return
        self.run(f"PRAGMA busy_timeout = {TRIAL_TIMEOUT_S * 1000:.0f}")
        try:
            with self.write():
                (version,) = self.run("PRAGMA user_version").fetchone()
                self.run(f"PRAGMA user_version = {version}")  # a write that changes nothing
        finally:
            self.run(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_S * 1000}")

    def check(self) -> None:
        """Raise `OperationalError` if the file, or its WAL, is not the one that was opened.

        SQLite would go on writing into a deleted file.
        """
        self._check_file()
        if self._opened_file:
            wal = Path(f"{self.path}-wal")
            with suppress(FileNotFoundError):
                found = wal.stat()
                self._opened_wal = self._opened_wal or found
                if os.path.samestat(found, self._opened_wal):
                    return
            raise OperationalError(f"{wal} was deleted: start this process again")

    def _check_file(self) -> None:
        if self._opened_file:
            with suppress(FileNotFoundError):
                if os.path.samestat(self.path.stat(), self._opened_file):
                    return
            raise OperationalError(
                f"{self.path} was deleted or replaced: stop this process, and put the file back"
            )

    def _connect(self) -> Any:
        self._check_file()  # sqlite3 would make a new file
        with suppress(OSError):  # SQLite reports it itself; -wal and -shm are made like the file
            self.path.touch(mode=0o600, exist_ok=False)  # it has buyers' data, whatever the umask
        if not self._connections:  # SQLite has deleted the WAL with the last one
            self._opened_wal = None
        connection = super()._connect()
        self._connections.add(connection)
        return connection

    def commit(self) -> None:
        """Commit, unless the file was deleted."""
        self.check()
        super().commit()

    def checkpoint(self) -> None:
        """Move changed pages from the WAL to the file, which holds no writer up."""
        self.run("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    def add(self, sql: str, rows: Iterable[Sequence[object]], key: str = "id") -> list[int]:
        """Insert rows; their numbers are consecutive, so no statement has to return them."""
        ranges = [
            range(cursor.lastrowid - cursor.rowcount + 1, cursor.lastrowid + 1)
            for cursor in self.run_rows(sql, rows)
        ]
        return list(chain.from_iterable(ranges))

    def retire(self, url: str) -> None:
        """Make the file refuse to open: its content has moved to this URL."""
        self.run("CREATE TABLE retired AS SELECT ? AS url", url)
