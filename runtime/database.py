"""A process's database: its connections, writing transactions, migrations and lock."""

import fcntl
import os
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

import peewee
from peewee import DatabaseError, InterfaceError, InternalError, OperationalError, SqliteDatabase
from playhouse.migrations import Runner

from runtime import ROOT
from runtime.errors import StartError
from runtime.group_commit import GroupCommit
from runtime.settings import Settings

T = TypeVar("T")
Peewee: Any = peewee.Database  # which has no type hints
BUSY_TIMEOUT_S = 5


class Table(peewee.Model):
    """A table of no database in particular: each query names the one that it runs on."""

    class Meta:
        legacy_table_names = False


class Database(Peewee):  # type: ignore[misc]
    """What holds the tables of ``packages``, each with a ``migrations`` folder.

    A `SqliteFile`, or one of `runtime.postgresql`. Written-out SQL has ``?`` for parameters.
    """

    def __init__(self, packages: Iterable[str], *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.listeners: list[Callable[[], None]] = []
        self.packages = tuple(packages)
        self._opened = False
        self._open_lock = threading.Lock()
        self._write_lock = threading.Lock()
        self._group = GroupCommit(self.write, self._changes)

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

    def _migrate(self) -> None:
        for package in self.packages:
            folder = ROOT / package / "migrations"
            runner = Runner(self, folder, table_name=f"{package}_migration")
            newer = [entry.name for entry in runner.status() if entry.path is None]
            if newer:
                raise StartError(
                    f"{self} was written by a newer version ({newer[-1]}): "
                    "update this program, or set DATA_DIR or the URL to another one"
                )
            runner.up()

    def run(self, sql: str, *parameters: object) -> Any:
        """Run a statement that is worth writing out: on the way of a checkout, the time in which
        peewee makes SQL from models is most of the time. Gives the driver's cursor.
        """
        return self.execute_sql(sql, parameters)

    def transact(self, action: Callable[[], T]) -> T:
        """Call a function in a writing transaction, and give its result after the commit.

        Functions of several threads share transactions, and their flushes.
        """
        return action() if self.in_transaction() else self._group.run(action)

    @contextmanager
    def undoable(self) -> Iterator[None]:
        """Undo what is done in it if that raises; peewee's names each of its own at random."""
        self.run("SAVEPOINT attempt")
        try:
            yield
        except Exception:
            self.run("ROLLBACK TO attempt")
            raise
        finally:
            self.run("RELEASE attempt")

    @contextmanager
    def write(self) -> Iterator[None]:
        """Open a writing transaction, or join the one that this thread is in.

        One writer at a time, as SQLite has it ("IMMEDIATE"); within a process, waiting on a lock
        is fairer than its busy handler. The listeners are called after each commit.
        """
        if self.in_transaction():
            yield
            return
        if not self._write_lock.acquire(timeout=BUSY_TIMEOUT_S):
            raise OperationalError("database is locked")
        try:
            with _first_error(), self.atomic("IMMEDIATE"):
                yield
        finally:
            self._write_lock.release()
        for listener in self.listeners:
            listener()


class SqliteFile(Database, SqliteDatabase):
    """A SQLite file, with one process that runs on it.

    Every thread has a connection of its own, kept open. Commits are flushed to the disk
    (WAL with ``synchronous=FULL``), so that what was committed survives a power cut.
    """

    def __init__(self, path: Path, *packages: str) -> None:
        pragmas = {"journal_mode": "wal", "synchronous": "full", "foreign_keys": 1}
        super().__init__(packages, str(path), pragmas=pragmas, timeout=BUSY_TIMEOUT_S)
        self.path = path
        self._claim: int | None = None

    def __str__(self) -> str:
        return str(self.path)

    def _prepare(self, new: bool) -> None:
        if not new and not self.path.exists():
            raise StartError(f"there is no {self.path}: is DATA_DIR right?")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with _locked(self.path.parent), self.connection_context():
                if self.table_exists("retired"):
                    (url,) = self.run("SELECT url FROM retired").fetchone()
                    variable = f"{self.path.stem.upper()}_DATABASE_URL"
                    raise StartError(f"{self.path} has moved to {url}: set {variable}")
                self._migrate()
        except (DatabaseError, OSError) as error:
            raise StartError(f"cannot open {self.path}: {error} (see DATA_DIR)") from error

    def claim(self) -> None:
        """Open the file as the one process that runs on it; `StartError` if another one does.

        The lock lives as long as the process, however that ends.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._claim = os.open(f"{self.path}.lock", os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(self._claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StartError(
                f"another process is running on {self.path}: stop it, or set DATA_DIR"
            ) from None
        except OSError as error:
            raise StartError(f"cannot open {self.path}: {error} (see DATA_DIR)") from error
        self.open()

    def run_many(self, sql: str, rows: Iterable[tuple[object, ...]]) -> None:
        """Run a statement once for each row of parameters."""
        self.cursor().executemany(sql, rows)  # type: ignore[no-untyped-call]

    def retire(self, url: str) -> None:
        """Let nobody open it any more: it says that all is at this URL."""
        self.run("CREATE TABLE retired AS SELECT ? AS url", url)

    def _changes(self) -> int:
        return int(self.connection().total_changes)  # type: ignore[no-untyped-call]


def database_of(settings: Settings, name: str, *packages: str) -> Database:
    """The database of a service: ``NAME_DATABASE_URL``, or else a file in ``DATA_DIR``."""
    if url := settings.database_url(name):
        return server(url, *packages)
    return SqliteFile(settings.data_dir / f"{name}.db", *packages)


def server(url: str, *packages: str) -> Database:
    """A database of a server; `StartError` if what it takes is not installed."""
    postgresql = adapter("runtime.postgresql.database")
    return postgresql.PostgresDatabase(url, *packages)  # type: ignore[no-any-return]


def adapter(module: str) -> Any:
    """A module of ours whose libraries few need; `StartError` if they are not installed."""
    try:
        return import_module(module)
    except ImportError as error:
        raise StartError(f"{error}: pip install -r requirements-scale.txt") from error


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
def _locked(folder: Path) -> Iterator[None]:
    """Hold a lock between processes, so that only one at a time makes tables."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def is_outage(error: BaseException) -> bool:
    """Whether it was the disk or the server (busy, full, I/O, unreachable) and not the data."""
    outages: tuple[Any, ...] = (OperationalError, InterfaceError, InternalError)
    outages += (sqlite3.OperationalError, OSError)
    return isinstance(error, outages) or is_unreadable(error)


def is_unreadable(error: BaseException | None) -> bool:
    """Whether the file is no database, or a damaged one: SQLite says so with the plain class.

    peewee lets SQLite's own errors through while rows are read.
    """
    return type(error) in (DatabaseError, sqlite3.DatabaseError)
