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
Peewee: Any = peewee.Database  # which has no type hints
BUSY_TIMEOUT_S = 5
OPEN_TIMEOUT_S = 1  # likewise while it is opened: then that is said, and tried again
RETRY_S = 1.0
TRIAL_TIMEOUT_S = 0.5
IDLE_S = 5.0  # when nobody has written for so long, it is tried whether one can
TRIAL_BYTES = 131_072  # a disk with less room is full: SQLite needs some of it beside the file
ROWS_AT_ONCE = 500  # in one statement
log = structlog.get_logger(__name__)
sqlite3.register_adapter(UUID, lambda value: value.hex)  # as peewee keeps them


class Table(peewee.Model):
    """A table of no database in particular: each query names the one that it runs on."""

    kept_by_triggers = False  # then it is not copied: copies of what they look at fill it

    class Meta:
        legacy_table_names = False


class Database(Peewee):  # type: ignore[misc]
    """What holds the tables of ``packages``, by the ``migrations`` of each that has some.

    A `SqliteFile`, or that of `runtime.storage.postgresql`. Written SQL has ``?`` for parameters.
    """

    def __init__(self, packages: Iterable[str], *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.listeners: list[Callable[[], None]] = []
        self.trouble: str | None = None  # what the last write has failed of; None if it has not
        self.packages = tuple(packages)
        self._tried_at = float("-inf")
        self._opened = False
        self._open_lock = threading.Lock()
        self._write_lock = threading.Lock()

    @property
    def leads(self) -> int:
        """For which time, from 1 on, this process does what one alone may do; 0 if it does not."""
        return 1

    def open(self, new: bool = True) -> None:
        """Make the tables, and the file if it may be ``new``, where missing; again is harmless.

        Raises `StartError` where they are of a newer version, or the file cannot be opened.
        """
        with self._open_lock:
            if not self._opened:
                self._prepare(new)
                self._opened = True

    def claim(self) -> None:
        """Open it, and become the process that `leads`, or wait for that."""
        raise NotImplementedError

    def check(self) -> None:
        """Raise `OperationalError` if what is written to it now would be lost."""

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

    def load(self, model: type[Table], rows: Iterator[tuple[Any, ...]]) -> None:
        """Add many rows, each with all fields of a model, in the transaction that is open."""
        for some in chunked(rows, ROWS_AT_ONCE):
            model.insert_many(some, model._meta.sorted_field_names).execute(self)

    def run(self, sql: str, *parameters: object) -> Any:
        """Run a statement that is worth writing out: on the path of a checkout, the time in which
        peewee makes SQL from models is most of the time. Returns the driver's cursor.
        """
        return self.execute_sql(sql, parameters)

    def find(self, sql: str, values: Iterable[object]) -> Iterator[tuple[Any, ...]]:
        """Yield the rows of a query that has ``{}`` where any number of values is to be."""
        for some in _parts(values):
            yield from self.run(sql.format(", ".join("?" * len(some))), *some)

    def run_rows(self, sql: str, rows: Iterable[Sequence[object]]) -> list[Any]:
        """Run a statement with ``VALUES {}`` for any number of rows; returns the drivers' cursors.

        Many rows are one step: at the end of each, the driver lets other threads go ahead.
        """
        cursors = []
        for some in _parts(rows):
            values = ", ".join([f"({', '.join('?' * len(some[0]))})"] * len(some))
            cursors.append(self.run(sql.format(values), *chain.from_iterable(some)))
        return cursors

    def add(self, sql: str, rows: Iterable[Sequence[object]], key: str = "id") -> list[int]:
        """Insert rows, as `run_rows` does, whose ``key`` is a new number; returns these numbers."""
        return [
            number
            for cursor in self.run_rows(f"{sql} RETURNING {key}", rows)
            for (number,) in cursor
        ]

    def let_ids_follow(self, model: type[Table]) -> None:
        """Let new ids go on behind those that were written; SQLite does so by itself."""

    @contextmanager
    def write(self) -> Iterator[None]:
        """Open a writing transaction, or join the one that this thread is in.

        One writer at a time, as SQLite has it ("IMMEDIATE"); within a process, waiting on a lock
        is fairer than its busy handler. The listeners are called after each commit.
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
        """What keeps us from writing, if anything does: the last write knows, of whichever thread.

        If that has failed, or was long ago, one is made here, at most once a second.
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
        """Remember how a write has ended; of those that fail one a second is looked into."""
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
    """One that can be in a weak set."""


class SqliteFile(Database, SqliteDatabase):
    """A SQLite file, with one process that runs on it.

    Every thread has a connection of its own, kept open. Commits are flushed to the disk
    (WAL with ``synchronous=FULL``), so that what was committed survives a power cut.
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
        self._opened_wal: os.stat_result | None = None  # what all connections write to
        self._connections: WeakSet[_Connection] = WeakSet()

    def __str__(self) -> str:
        return str(self.path)

    @property
    def leads(self) -> int:
        """Whether it is open: there is no other process."""
        return int(self._opened)

    def open(self, new: bool = True) -> None:
        """Make the tables, and the file if it may be ``new``, where missing; again is harmless.

        Raises `StartError` where they are of a newer version, or the file cannot be opened, and
        `NotYet` while `claim` waits for that.
        """
        if self._waits_for:
            raise NotYet(self._waits_for)
        super().open(new)

    def claim(self) -> None:
        """Open the file as the one process that runs on it; `StartError` if another one does.

        What may pass is waited for, while the process goes on without the file. The claim lives as
        long as the process, however that ends.
        """
        self._claims, self._opened = True, False  # it may be open, and not claimed
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
        """What the system says of a file in the folder: that is more than SQLite tells."""
        try:
            self._try_folder()
        except OSError as told:
            return told
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
                self.run(f"PRAGMA user_version = {version}")  # which is written as it is
        finally:
            self.run(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_S * 1000}")

    def check(self) -> None:
        """Raise `OperationalError` if the file, or its WAL, is not the one that was opened.

        SQLite would go on writing into a file that has no name any more.
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
        self._check_file()  # sqlite3 would make a new one
        with suppress(OSError):  # of which it tells itself; -wal and -shm are made like the file
            self.path.touch(mode=0o600, exist_ok=False)  # buyers are in it: whatever the umask
        if not self._connections:  # SQLite has deleted the WAL with the last one
            self._opened_wal = None
        connection = super()._connect()
        self._connections.add(connection)
        return connection

    def commit(self) -> None:
        """Commit, unless to a file that nobody could open any more."""
        self.check()
        super().commit()

    def add(self, sql: str, rows: Iterable[Sequence[object]], key: str = "id") -> list[int]:
        """Insert rows; as their numbers are consecutive, no statement returns them row by row."""
        ranges = [
            range(cursor.lastrowid - cursor.rowcount + 1, cursor.lastrowid + 1)
            for cursor in self.run_rows(sql, rows)
        ]
        return list(chain.from_iterable(ranges))

    def retire(self, url: str) -> None:
        """Let nobody open it any more: it says that all is at this URL."""
        self.run("CREATE TABLE retired AS SELECT ? AS url", url)


def database_of(settings: Settings, name: str, *packages: str) -> Database:
    """The database of a service: ``NAME_DATABASE_URL``, or else a file in ``DATA_DIR``."""
    if url := settings.database_url(name):
        return server(url, *packages)
    return SqliteFile(settings.data_dir / f"{name}.db", *packages)


def server(url: str, *packages: str) -> Database:
    """A database of a server; `StartError` if what it takes is not installed."""
    postgresql = adapter("runtime.storage.postgresql")
    return postgresql.PostgresDatabase(url, *packages)  # type: ignore[no-any-return]


def adapter(module: str) -> Any:
    """A module of ours whose libraries few need; `StartError` if they are not installed."""
    try:
        return import_module(module)
    except ImportError as error:
        raise StartError(f"{error}: pip install -r requirements-scale.txt") from error


def _parts(rows: Iterable[T]) -> Iterator[list[T]]:
    """Cut a list at what one statement takes."""
    rows = list(rows)
    for first in range(0, len(rows), ROWS_AT_ONCE):
        yield rows[first : first + ROWS_AT_ONCE]


@contextmanager
def _first_error() -> Iterator[None]:
    """Raise what went wrong first.

    Where a disk is full, SQLite has rolled back by itself, and the complaint that there is
    nothing to roll back would hide the reason.
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
    """Hold a lock between processes, so that only one at a time makes files or tables there."""
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
    """Whether it will pass (a disk or server busy, full, unreachable), and was not the data."""
    outages: tuple[Any, ...] = (OperationalError, InterfaceError, InternalError, Unavailable)
    outages += (sqlite3.OperationalError, OSError)
    return isinstance(error, outages) or is_unreadable(error)


def is_unreadable(error: BaseException | None) -> bool:
    """Whether the file is no database, or a damaged one: SQLite says so with the plain class.

    peewee lets SQLite's own errors through while rows are read.
    """
    return type(error) in (DatabaseError, sqlite3.DatabaseError)
