"""The disk: the product's SQLite files, whose statements crash or fail where it was so thrown."""

import os
import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from runtime.storage.sqlite import SqliteFile

if TYPE_CHECKING:
    from tests.simulation.process import Process
    from tests.simulation.world import World

MEMORY = Path("/dev/shm")  # a disk that takes no time, where there is one
WRITES = {"BEGIN", "INSERT", "UPDATE", "DELETE", "COMMIT"}
# What the checks want to know: rows of the inbox that retention deletes, and places that go back.
WITNESSES = """
CREATE TABLE moved_back (stream, place, before);
CREATE TRIGGER note_moved_back AFTER UPDATE ON cursor
WHEN (new.epoch, new.sequence) < (old.epoch, old.sequence) BEGIN
    INSERT INTO moved_back VALUES (old.stream, new.sequence, old.sequence);
END;
CREATE TABLE pruned (stream, epoch, sequence, body);
CREATE TRIGGER keep_pruned AFTER DELETE ON inbox BEGIN
    INSERT INTO pruned VALUES (old.stream, old.epoch, old.sequence, old.body);
END"""


class Crash(BaseException):
    """The process ends here, and nothing of it goes on."""


@dataclass
class Armed:
    """A fault that waits for a statement: the so manyth of those that it ``strikes`` at."""

    kind: str
    strikes: str
    countdown: int
    seconds: float = 0.0
    fall: bool = False  # of a sleep: whether another copy leads meanwhile

    def is_due(self, word: str) -> bool:
        """Count a statement down; whether the fault happens at it."""
        wanted = self.strikes in ("any", word) or (self.strikes == "write" and word in WRITES)
        if wanted and self.kind not in NEVER_AT.get(word, ()):
            self.countdown -= 1
        return self.countdown < 0


ERRORS = {
    "error": "disk I/O error",
    "error although done": "disk I/O error",
    "rolled back": "database or disk is full",
}
# SQLite does not fail to roll back, except where it has done so already; nothing but a crash
# befalls what is sent.
NEVER_AT = {"ROLLBACK": {*ERRORS, "damage"}, "SEND": {*ERRORS, "damage", "sleep"}}


class Connection(sqlite3.Connection):
    """A connection whose statements pass by its process's faults."""

    process: "Process"
    is_damaged = False

    def cursor(self, *_: Any) -> sqlite3.Cursor:
        """A cursor that does so."""
        return super().cursor(Cursor)

    def close(self) -> None:
        """Roll back at once, and not when the last cursor is collected."""
        if self in self.process.connections:
            self.process.connections.remove(self)
            self.rollback()
        super().close()


class Cursor(sqlite3.Cursor):
    """Runs a statement, or not, or not quite."""

    def execute(self, sql: str, parameters: Any = ()) -> sqlite3.Cursor:
        """Run a statement once."""
        if self.connection.process.calm:
            return super().execute(sql, parameters)
        return _strike(self, super().execute, sql, parameters)

    def executemany(self, sql: str, parameters: Any) -> sqlite3.Cursor:
        """Run a statement for each row."""
        if self.connection.process.calm:
            return super().executemany(sql, parameters)
        return _strike(self, super().executemany, sql, parameters)


def _strike(
    cursor: Cursor, run: Callable[..., sqlite3.Cursor], sql: str, parameters: Any
) -> sqlite3.Cursor:
    connection: Any = cursor.connection
    process = connection.process
    word = sql.split(None, 1)[0]
    kind = process.at_point(word, connection.in_transaction)
    if kind is None and not connection.is_damaged:
        return run(sql, parameters)
    kind = kind or "damage"
    if kind in ("error although done", "crash after") and word != "BEGIN":
        run(sql, parameters)
        cursor.close()  # a statement that is not at its end would hold up others
    if kind == "rolled back" and connection.in_transaction:
        connection.rollback()
    if kind.startswith("crash"):
        process.crash()
    if kind == "damage":
        damage(process.path)
        connection.is_damaged = True
        process.calm = False
    if connection.is_damaged:
        raise sqlite3.DatabaseError("database disk image is malformed")
    raise sqlite3.OperationalError(ERRORS[kind])


class SimulatedFile(SqliteFile):
    """A SQLite file of the process that is running, made from a template where it is missing."""

    world: "World"  # the one that runs now

    def __init__(self, path: Path, *packages: str) -> None:
        super().__init__(path, *packages)
        self._process = self.world.running
        self._process.files.append(self)
        # Crashes are of processes here, not of power: nothing need be flushed.
        self._pragmas = [("journal_mode", "wal"), ("synchronous", "off"), ("foreign_keys", 1)]

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self.database, timeout=0, isolation_level=None, factory=Connection
        )
        connection.process = self._process
        self._process.connections.append(connection)
        self._add_conn_hooks(connection)
        return connection

    def _prepare(self, new: bool) -> None:
        if new and not self.path.exists():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(template(self.packages), self.path)
            if "messaging" in self.packages:
                with sqlite3.connect(self.path) as made:
                    made.execute("UPDATE head SET epoch = ?", [self.world.new_epoch()])
                made.close()
        super()._prepare(new)

    def _migrate(self) -> None:
        """The template was migrated."""
        self.prepare()

    def claim(self) -> None:
        """Hold the lock of the file as long as the process lives, unless it runs in copies."""
        if self._process.is_copied:
            self.open()
            return
        super().claim()

    @property
    def leads(self) -> int:
        """Which of the copies leads, as far as this one has noticed."""
        return self._process.leads()

    def release(self) -> None:
        """Let go of the lock, as the end of a process does."""
        if self._claim is not None:
            os.close(self._claim)
            self._claim = None


_folder = TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None)
_templates: dict[tuple[str, ...], Path] = {}


def template(packages: tuple[str, ...]) -> Path:
    """An empty database of these packages, made once by their migrations."""
    if packages not in _templates:
        path = Path(_folder.name) / f"{'-'.join(packages)}-{os.getpid()}.db"  # each job its own
        with sqlite3.connect(path) as small:  # it is copied often
            small.executescript("PRAGMA page_size = 1024; VACUUM")
        small.close()
        database = SqliteFile(path, *packages)
        database.open()
        if "messaging" in packages:
            database.connection().executescript(WITNESSES)
        database.close()
        _templates[packages] = path
    return _templates[packages]


def damage(path: Path) -> None:
    """Make a database unreadable: whatever is still written to it, or was to its WAL, is gone."""
    remove(path)
    path.write_bytes(b"no database" * 400)


def remove(path: Path) -> None:
    """Delete a database with what belongs to it."""
    for suffix in ("", "-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)
