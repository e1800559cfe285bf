"""A process's database: its connections, writing transactions, migrations and lock."""

import fcntl
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from itertools import chain
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, TypeVar
from uuid import UUID
from weakref import WeakSet

import peewee
import structlog
from peewee import (
    DatabaseError,
    InterfaceError,
    InternalError,
    OperationalError,
    SqliteDatabase,
    chunked,
)
from playhouse.migrations import Runner

from runtime import ROOT
from runtime.process.errors import NotYet, StartError, Unavailable, reason, start_error
from runtime.process.settings import Settings

T = TypeVar("T")
Peewee: Any = peewee.Database  # it has no type hints
BUSY_TIMEOUT_S = 5
OPEN_TIMEOUT_S = 1  # while a database is opened: then a log line says so, and it is tried again
RETRY_S = 1.0
TRIAL_TIMEOUT_S = 0.5
IDLE_S = 5.0  # after so long without a write, one is tried
TRIAL_BYTES = 131_072  # a disk with less room is full: SQLite needs some of it beside the file
ROWS_AT_ONCE = 500  # in one statement
log = structlog.get_logger(__name__)
sqlite3.register_adapter(UUID, lambda value: value.hex)  # as peewee stores them


class Table(peewee.Model):
    """A table of no database in particular: each query names the one that it runs on."""

    kept_by_triggers = False  # then it is not copied: triggers fill it from the copied tables

    class Meta:
        legacy_table_names = False


class Database(Peewee):  # type: ignore[misc]
    """A database with the tables of ``packages``, made by the ``migrations`` of each that has some.

    It is a `SqliteFile`, or that of `runtime.storage.postgresql`. SQL has ``?`` for parameters.
    """

    def __init__(self, packages: Iterable[str], *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.listeners: list[Callable[[], None]] = []
        self.trouble: str | None = None  # why the last write failed; None if it succeeded
        self.packages = tuple(packages)
        self.prepare: Callable[[], None] = lambda: None  # what else to make after the migrations
        self._tried_at = float("-inf")
        self._opened = False
        self._open_lock = threading.Lock()
        self._write_lock = threading.Lock()

    @property
    def leads(self) -> int:
        """This process's term as leader, counted from 1; 0 while it does not lead.

        Here it leads once the database is open: there is no other process.
        """
        return int(self._opened)

    def open(self, new: bool = True) -> None:
        """Make missing tables, and the file if it may be ``new``; a second call does nothing.

        Raises `StartError` if a newer version wrote them, or the file cannot be opened.
        """
        with self._open_lock:
            if not self._opened:
                self._prepare(new)
                self._opened = True

    def claim(self) -> None:
        """Open it, and become the process that `leads`, now or later."""
        raise NotImplementedError

    def check(self) -> None:
        """Raise `OperationalError` if a write would be lost."""

    def _migrate(self) -> None:
        for package in self.packages:
            folder = ROOT / package / "migrations"
            if not folder.is_dir():
                continue  # a service that makes its tables itself
            runner = Runner(self, folder, table_name=f"{package}_migration")
            newer = [entry.name for entry in runner.status() if entry.path is None]
            if newer:
                raise StartError(
                    f"{self} was written by a newer version ({newer[-1]}): "
                    "update this program, or set DATA_DIR or the URL to another one"
                )
            runner.up()
        self.prepare()

    def load(self, model: type[Table], rows: Iterator[tuple[Any, ...]]) -> None:
        """Add many rows, each with all fields of a model, in the transaction that is open."""
        for some in chunked(rows, ROWS_AT_ONCE):
            model.insert_many(some, model._meta.sorted_field_names).execute(self)

    def run(self, sql: str, *parameters: object) -> Any:
        """Run a statement, and return the driver's cursor.

        It is for a checkout's statements, which peewee makes more slowly than SQLite runs them.
        """
        return self.execute_sql(sql, parameters)

    def find(self, sql: str, values: Iterable[object]) -> Iterator[tuple[Any, ...]]:
        """Yield the rows of a query whose ``{}`` stands for any number of values."""
        for some in _parts(values):
            yield from self.run(sql.format(", ".join("?" * len(some))), *some)

    def run_rows(self, sql: str, rows: Iterable[Sequence[object]]) -> list[Any]:
        """Run a statement with ``VALUES {}`` for any number of rows; returns the driver's cursors.

        It takes many rows in one step, since other threads may run between any two steps.
        """
        cursors = []
        for some in _parts(rows):
            values = ", ".join([f"({', '.join('?' * len(some[0]))})"] * len(some))
            cursors.append(self.run(sql.format(values), *chain.from_iterable(some)))
        return cursors

    def add(self, sql: str, rows: Iterable[Sequence[object]], key: str = "id") -> list[int]:
        """Insert rows, as `run_rows` does; returns the numbers that their ``key`` got."""
        return [
            number
            for cursor in self.run_rows(f"{sql} RETURNING {key}", rows)
            for (number,) in cursor
        ]

    def let_ids_follow(self, model: type[Table]) -> None:
        """Let new ids continue after the written ones; SQLite does so by itself."""

    @contextmanager
    def write(self) -> Iterator[None]:
        """Open a writing transaction, or join this thread's open one.

        There is one writer at a time (SQLite's "IMMEDIATE"); within a process, a lock is fairer
        than SQLite's busy handler. Each commit is followed by a call of the listeners.
        """
        if self.in_transaction():
            yield
            return
        try:
            if not self._write_lock.acquire(timeout=BUSY_TIMEOUT_S):
                raise OperationalError("database is locked")
            try:
                with _first_error(), self.atomic("IMMEDIATE"):
                    yield
            finally:
                self._write_lock.release()
        except Exception as error:
            if is_outage(error) and not isinstance(error, Unavailable):
                self._note(error)
            raise
        self._note(None)
        for listener in self.listeners:
            listener()

    def try_writing(self) -> str | None:
        """Why writing fails, by the last write of any thread; None if it works.

        If that write failed, or was long ago, this method tries one, at most once a second.
        """
        due_at = self._tried_at + (RETRY_S if self.trouble else IDLE_S)
        if time.monotonic() >= due_at and not self._write_lock.locked():
            self._tried_at = time.monotonic()
            with suppress(DatabaseError, sqlite3.Error, OSError):
                self._try_writing()
        return self.trouble

    def _try_writing(self) -> None:
        with self.write():
            pass

    def _note(self, error: Exception | None) -> None:
        """Remember how a write ended; of those that fail, examine one a second."""
        now, before = time.monotonic(), self.trouble
        if error and before and now < self._tried_at + RETRY_S:
            return
        self._tried_at = now
        self.trouble = reason(self._cause(error)) if error else None
        if self.trouble and self.trouble != before:
            log.error("writing has failed", error=self.trouble)
        elif before and not self.trouble:
            log.info("writing works again")

    def _cause(self, error: Exception) -> Exception:
        return error


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
        for listener in self.listeners:
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


def database_of(settings: Settings, name: str, *packages: str) -> Database:
    """The database of a service: ``NAME_DATABASE_URL``, or else a file in ``DATA_DIR``."""
    if url := settings.database_url(name):
        return server(url, *packages)
    return SqliteFile(settings.data_dir / f"{name}.db", *packages)


def server(url: str, *packages: str) -> Database:
    """A database on a server; `StartError` if its driver is not installed."""
    postgresql = adapter("runtime.storage.postgresql")
    return postgresql.PostgresDatabase(url, *packages)  # type: ignore[no-any-return]


def adapter(module: str) -> Any:
    """Import a module of ours with optional libraries; `StartError` if they are not installed."""
    try:
        return import_module(module)
    except ImportError as error:
        raise StartError(f"{error}: pip install -r requirements-scale.txt") from error


def _parts(rows: Iterable[T]) -> Iterator[list[T]]:
    """Cut rows into lists that one statement can take."""
    rows = list(rows)
    for first in range(0, len(rows), ROWS_AT_ONCE):
        yield rows[first : first + ROWS_AT_ONCE]


@contextmanager
def _first_error() -> Iterator[None]:
    """Raise the first error of several.

    On a full disk SQLite has rolled back by itself, and the complaint that there is nothing to roll
    back would hide the reason.
    """
    try:
        yield
    except OperationalError as error:
        first: DatabaseError = error
        context = error.__context__
        while context:
            if isinstance(context, DatabaseError) and is_outage(context):
                first = context
            context = context.__context__
        raise first from None


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock a folder among processes, so that only one at a time makes files or tables there."""
    descriptor = os.open(folder, os.O_RDONLY)
    deadline = time.monotonic() + OPEN_TIMEOUT_S
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise NotYet(f"another program has locked {folder} (see DATA_DIR)") from None
                time.sleep(0.01)
        yield
    finally:
        os.close(descriptor)


def is_outage(error: BaseException) -> bool:
    """Whether an error may pass: a busy, full or unreachable disk or server, not wrong data."""
    outages: tuple[Any, ...] = (OperationalError, InterfaceError, InternalError, Unavailable)
    outages += (sqlite3.OperationalError, OSError)
    return isinstance(error, outages) or is_unreadable(error)


def is_unreadable(error: BaseException | None) -> bool:
    """Whether the file is no database, or damaged: SQLite raises the plain class for it.

    While rows are read, peewee lets SQLite's own errors through.
    """
    return type(error) in (DatabaseError, sqlite3.DatabaseError)
