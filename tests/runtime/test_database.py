"""What either database keeps, and the SQLite file: durable, with one writer at a time."""

import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from importlib import import_module
from pathlib import Path

import peewee
import pytest

import runtime.storage.database
import runtime.storage.sqlite
from runtime import ROOT
from runtime.process.errors import StartError
from runtime.storage.database import Table, is_outage
from runtime.storage.sqlite import SqliteFile
from tests.runtime.conftest import Copy, in_threads, note, notes


def pragmas(database: SqliteFile) -> list[object]:
    names = "journal_mode", "synchronous", "foreign_keys"
    return [database.execute_sql(f"PRAGMA {name}").fetchone()[0] for name in names]


def test_every_thread_flushes_its_commits(database: SqliteFile) -> None:
    answers = [pragmas(database), *in_threads(database, [partial(pragmas, database)] * 2)]
    assert answers == [["wal", 2, 1]] * 3


def test_a_write_is_committed_or_undone(copy: Copy) -> None:
    """Listeners hear of commits only, once each, when others can see what was written."""
    database, other, heard = copy(), copy(), list[list[str]]()
    database.on_commit.append(lambda: heard.append(notes(other)))
    with database.write():
        note(database, "outer")
        with database.write():
            note(database, "joined")
        assert heard == []
    assert heard == [["outer", "joined"]]

    with pytest.raises(ZeroDivisionError), database.write():
        with database.write():
            note(database, "undone")
        raise ZeroDivisionError
    assert notes(database) == ["outer", "joined"]
    assert len(heard) == 1


def test_there_is_one_writer_at_a_time(
    database: SqliteFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Writers of one process wait for each other, and never meet SQLite's own lock."""
    with monkeypatch.context() as without_patience:
        without_patience.setattr(runtime.storage.sqlite, "OPEN_TIMEOUT_S", 0)
        impatient = SqliteFile(database.path, "runtime")
    note(database, 0)

    def count() -> None:
        for _ in range(10):
            with impatient.write():
                impatient.run("UPDATE note SET text = ?", int(notes(impatient)[0]) + 1)

    in_threads(impatient, [count] * 8)
    assert notes(database) == ["80"]


def test_who_waits_too_long_for_the_writer_gives_up(
    database: SqliteFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a stuck writer does not make a queue of all threads."""
    monkeypatch.setattr(runtime.storage.database, "BUSY_TIMEOUT_S", 0.05)

    def write() -> None:
        with database.write():
            pytest.fail("there are two writers")

    with database.write(), ThreadPoolExecutor() as pool, pytest.raises(peewee.OperationalError):
        pool.submit(write).result()


def test_opening_again_keeps_what_is_there(copy: Copy) -> None:
    database = copy()
    note(database, "kept")
    database.open()
    assert notes(copy()) == ["kept"]


def test_a_later_migration_keeps_what_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime.storage.database, "ROOT", tmp_path)
    folder = tmp_path / "birds" / "migrations"
    folder.mkdir(parents=True)

    def migrate(name: str, sql: str) -> SqliteFile:
        text = f"def up(migrator, db):\n    db.execute_sql({sql!r})\n"
        (folder / name).write_text(text)
        migrated = SqliteFile(tmp_path / "birds.db", "birds")
        migrated.open()
        return migrated

    first = migrate("0001_note.py", "CREATE TABLE note (id INTEGER PRIMARY KEY, text)")
    note(first, "kept")
    first.close()
    second = migrate("0002_color.py", "ALTER TABLE note ADD COLUMN color DEFAULT 'green'")
    assert list(second.execute_sql("SELECT * FROM note")) == [(1, "kept", "green")]
    second.close()


OPEN = """
import sys
from pathlib import Path
from runtime.process import locks
from runtime.storage import database
database.OPEN_TIMEOUT_S = locks.TIMEOUT_S = 60  # however slow this machine is
from runtime.storage.factory import server
from runtime.storage.sqlite import SqliteFile
place = sys.argv[1]
make, where = (server, place) if "://" in place else (SqliteFile, Path(place))
database = make(where, "runtime", "messaging", "shop")
print("ready", flush=True)
sys.stdin.read()
database.open()
"""


def test_processes_that_open_at_once_make_the_tables_one_after_another(
    place: str, copy: Copy
) -> None:
    command = [sys.executable, "-c", OPEN, place]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    opening = [subprocess.Popen(command, cwd=ROOT, **pipes) for _ in range(4)]
    for process in opening:
        assert process.stdout and process.stdout.readline() == b"ready\n"
    for process in opening:
        assert process.stdin
        process.stdin.close()
        process.stdin = None  # communicate() would write to it
    ended = [process.communicate(timeout=60)[1] for process in opening]
    assert [process.returncode for process in opening] == [0] * 4, ended
    database = copy()
    assert database.run("SELECT count(*) FROM head").fetchone() == (1,)
    names = database.run("SELECT name FROM shop_migration").fetchall()
    assert len(names) == len(set(names)) > 0


def test_a_database_of_a_newer_version_is_refused(copy: Copy) -> None:
    copy().run("INSERT INTO shop_migration (name, applied) VALUES ('9999_later', '2030-01-01')")
    with pytest.raises(StartError, match=r"^[^\n]*newer version \(9999_later\)[^\n]*DATA_DIR.*$"):
        copy()


def under_a_file(path: Path) -> None:
    path.parent.write_text("")


def a_folder(path: Path) -> None:
    path.mkdir(parents=True)


def no_database(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("a letter to my parrot " * 100)


@pytest.mark.parametrize("make", [under_a_file, a_folder, no_database])
def test_a_file_that_cannot_be_opened_is_one_line(
    make: Callable[[Path], None], tmp_path: Path
) -> None:
    path = tmp_path / "data" / "x.db"
    make(path)
    database = SqliteFile(path, "runtime")
    with pytest.raises(StartError, match=r"^cannot open [^\n]*DATA_DIR[^\n]*$"):
        database.open()
    database.close()


def test_a_file_has_one_process(database: SqliteFile, tmp_path: Path) -> None:
    """Who comes second is refused, until the first has ended, however it did."""
    code = (
        "import sys; from pathlib import Path; from runtime.storage.sqlite import SqliteFile; "
        "SqliteFile(Path(sys.argv[1]), 'runtime').claim(); print('mine', flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(database.path)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as first:
        assert first.stdout
        assert first.stdout.readline() == b"mine\n"
        with pytest.raises(StartError, match=r"^another process [^\n]*DATA_DIR[^\n]*$"):
            database.claim()
        first.kill()
    database.claim()
    second = SqliteFile(database.path, "runtime")
    with pytest.raises(StartError):
        second.claim()
    assert database._claim
    os.close(database._claim)


def test_a_claim_under_a_file_is_refused(tmp_path: Path) -> None:
    under_a_file(tmp_path / "data" / "x.db")
    with pytest.raises(StartError, match="cannot open"):
        SqliteFile(tmp_path / "data" / "x.db", "runtime").claim()


def schema(database: peewee.SqliteDatabase) -> Iterator[tuple[str, str]]:
    query = "SELECT name, sql FROM sqlite_master WHERE type <> 'trigger' ORDER BY name"
    rows = database.execute_sql(query)
    return ((name, sql) for name, sql in rows if sql and "_migration" not in name)


@pytest.mark.parametrize(
    "package", ["broker", "runtime", "messaging", "inventory", "shop", "payment"]
)
def test_migrations_make_what_the_models_say(package: str, tmp_path: Path) -> None:
    """The same tables, columns, types, keys and indexes."""
    migrated = SqliteFile(tmp_path / "migrated.db", package)
    migrated.open()
    declared = peewee.SqliteDatabase(":memory:")
    room = "runtime.storage" if package == "runtime" else package
    members = vars(import_module(f"{room}.tables")).values()
    models = [entry for entry in members if isinstance(entry, type) and issubclass(entry, Table)]
    models.remove(Table)
    with declared.bind_ctx(models):
        declared.create_tables(models)
    assert dict(schema(migrated)) == dict(schema(declared))
    migrated.close()
    declared.close()


@pytest.mark.parametrize(
    ("error", "outage"),
    [
        (peewee.OperationalError("database is locked"), True),
        (peewee.InterfaceError("connection is lost"), True),
        (peewee.DatabaseError("database disk image is malformed"), True),
        (OSError(28, "No space left on device"), True),
        (ConnectionResetError(), True),
        (peewee.IntegrityError("UNIQUE constraint failed"), False),
        (peewee.DataError("out of range"), False),
        (peewee.ProgrammingError("no such column"), False),
        (OverflowError(), False),
        (ValueError(), False),
        (KeyError(), False),
    ],
)
def test_an_outage_is_told_from_wrong_data(error: Exception, outage: bool) -> None:
    assert is_outage(error) is outage


def test_a_transaction_that_cannot_begin_holds_up_nobody(
    database: SqliteFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another program has the file: once it has gone, the next transaction begins at once."""
    monkeypatch.setattr(runtime.storage.sqlite, "OPEN_TIMEOUT_S", 0)
    monkeypatch.setattr(runtime.storage.database, "BUSY_TIMEOUT_S", 0)
    ours = SqliteFile(database.path, "runtime")
    with closing(sqlite3.connect(database.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(peewee.OperationalError, match="locked"), ours.write():
            pytest.fail("there are two writers")
    note(ours, "begun")
    assert notes(ours) == ["begun"]
    ours.close()


def test_the_first_of_several_errors_is_raised(database: SqliteFile) -> None:
    """On a full disk SQLite has rolled back by itself, and there is nothing to roll back."""
    with pytest.raises(peewee.OperationalError, match="disk is full"), database.write():
        database.run("ROLLBACK")
        raise peewee.OperationalError("database or disk is full")
