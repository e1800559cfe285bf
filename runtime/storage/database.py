"""A process's database: its tables, writing transactions and migrations."""

import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from itertools import chain, islice
from typing import Any, TypeVar

import peewee
import structlog
from peewee import (
    DatabaseError,
    InterfaceError,
    InternalError,
    OperationalError,
)
from playhouse.migrations import Runner

from runtime import ROOT
from runtime.process.errors import StartError, Unavailable, reason

T = TypeVar("T")
Peewee: Any = peewee.Database  # it has no type hints
BUSY_TIMEOUT_S = 5
OPEN_TIMEOUT_S = 1  # while a database is opened: then a log line says so, and it is tried again
RETRY_S = 1.0
IDLE_S = 5.0  # without a write for this long, one is tried
ROWS_AT_ONCE = 500  # in one statement
log = structlog.get_logger(__name__)


class Table(peewee.Model):
    """A table of no database in particular: each query names the one that it runs on."""

    kept_by_triggers = False  # then it is not copied: triggers fill it from the copied tables

    class Meta:
        legacy_table_names = False


class Database(Peewee):  # type: ignore[misc]
    """A database with the tables of ``packages``, made by the ``migrations`` of each that has some.

    `runtime.storage.sqlite` and `runtime.storage.postgresql` have its two kinds. SQL has ``?`` for
    parameters.
    """

    def __init__(self, packages: Iterable[str], *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.on_commit: list[Callable[[], None]] = []
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

    def load(self, model: type[Table], rows: Iterable[Sequence[object]]) -> None:
        """Add any number of rows, each with all fields of a model, in the open transaction."""
        self.run_rows(f"INSERT INTO {target(model)} VALUES {{}}", rows)

    def run(self, sql: str, *parameters: object) -> Any:
        """Run a statement, and return the driver's cursor.

        For the statements of a checkout: peewee takes longer to make them than SQLite to run them.
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
        than SQLite's busy handler. After each commit, what is in ``on_commit`` is called.
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
        for listener in self.on_commit:
            listener()

    def checkpoint(self) -> None:
        """Do now what a later commit would do for earlier ones, if the database puts that off."""

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


@cache
def target(model: type[Table]) -> str:
    """A model's table with all its columns, as INSERT and COPY name them."""
    columns = ", ".join(f'"{field.column_name}"' for field in model._meta.sorted_fields)
    return f'"{model._meta.table_name}" ({columns})'


def _parts(rows: Iterable[T]) -> Iterator[list[T]]:
    """Cut rows into lists that one statement can take."""
    rest = iter(rows)
    while part := list(islice(rest, ROWS_AT_ONCE)):  # peewee's `chunked` takes fifty times as long
        yield part


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
