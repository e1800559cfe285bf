"""A backup of the running shop is of one moment: restored, it goes on as if nothing had been."""

import shutil
import signal
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

import runtime.backup
from bench.filling import make
from runtime.backup import backup, nobody_commits
from runtime.storage.sqlite import SqliteFile
from scenarios.invariants import READERS, WRITERS
from tests.conftest import eventually
from tests.load import Load
from tests.processes import ALL, World


def newest(folder: Path, name: str, query: str) -> int:
    with closing(sqlite3.connect(folder / f"{name}.db")) as database:
        return int(database.execute(query).fetchone()[0] or 0)


def test_a_backup_under_load_is_consistent_and_can_be_restored(
    world: World, tmp_path: Path
) -> None:
    """No reader in it is ahead of its writer; what it has gets paid, once, and sales go on."""
    world.start(*ALL)
    load = Load(world)
    folders = [tmp_path / "backups" / str(number) for number in range(3)]
    with load.running():
        for folder in folders:
            load.advance()
            ended = world.finish("-m", "runtime.backup", str(folder))
            assert (ended.returncode, ended.stderr) == (0, "")
            assert "4 databases" in ended.stdout
    load.check(within_s=20)

    head = "SELECT sequence FROM head"
    for folder in folders:
        for stream, writer in WRITERS.items():
            written = newest(folder, writer, head)
            place = f"SELECT max(sequence) FROM cursor WHERE stream = '{stream}'"
            kept = f"SELECT max(sequence) FROM entry WHERE stream = '{stream}'"
            assert 0 < newest(folder, READERS[stream], place) <= written
            assert newest(folder, "broker", kept) <= written

    world.kill(*ALL, number=signal.SIGTERM)
    shutil.rmtree(world.settings.data_dir)
    shutil.copytree(folders[1], world.settings.data_dir)
    world.start(*ALL)
    eventually(world.is_drained)
    order = world.checkout({"user_id": 1, "item_ids": [1]})
    eventually(lambda: world.is_paid(order))
    placed = world.rows("shop", "SELECT count(*), count(paid_at) FROM 'order'")[0]
    assert placed[0] == placed[1] > 1
    paid = "SELECT count(*) FROM payment WHERE order_id IS NOT NULL"
    assert world.rows("payment", paid) == [(placed[0],)]


def test_a_backup_that_cannot_be_made_leaves_nothing(tmp_path: Path) -> None:
    source, target = tmp_path / "data", tmp_path / "copy"
    source.mkdir()
    with pytest.raises(FileNotFoundError, match="DATA_DIR"):
        backup(source, target)
    (source / "shop.db").write_bytes(b"no database at all" * 100)
    with pytest.raises(sqlite3.DatabaseError, match=r"/shop\.db"):
        backup(source, target)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    target.mkdir()
    with pytest.raises(FileExistsError, match="new folder"):
        backup(source, target)


def test_the_command_says_why_it_failed(world: World, tmp_path: Path) -> None:
    ended = world.finish("-m", "runtime.backup", str(tmp_path / "copy"))
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith("backup: there is no database in use in ")
    moved = {"SHOP_DATABASE_URL": "postgresql://localhost/shop"}
    ended = world.finish("-m", "runtime.backup", str(tmp_path / "copy"), **moved)
    assert ended.returncode == 1
    assert ended.stderr.startswith(
        "PostgreSQL databases are not included: see docs/operations.md\n"
    )


def test_only_databases_of_services_are_copied(world: World, tmp_path: Path) -> None:
    """A user's own service's too; what else lies beside them is named, like what has moved."""
    folder = world.settings.data_dir
    for name in ("broker", "shop", "payment"):
        make(folder / f"{name}.db")
    SqliteFile(folder / "payment.db").retire("postgresql://localhost/payment")
    SqliteFile(folder / "loyalty.db", "messaging").open()
    with closing(sqlite3.connect(folder / "notes.db")) as other:
        other.execute("CREATE TABLE note (text)")
    (folder / "Thumbs.db").write_bytes(b"pictures")
    (folder / "x.db").mkdir()
    ended = world.finish("-m", "runtime.backup", str(tmp_path / "copy"))
    assert ended.returncode == 0
    assert "3 databases" in ended.stdout
    no_database = "it is not the database of a service"
    assert ended.stderr.splitlines() == [
        f"{folder / name} was not backed up: {why}"
        for name, why in (
            ("Thumbs.db", no_database),
            ("notes.db", no_database),
            ("payment.db", "it has moved to PostgreSQL"),
            ("x.db", no_database),
        )
    ]
    copied = {path.name for path in (tmp_path / "copy").iterdir()}
    assert copied == {"broker.db", "shop.db", "loyalty.db"}


def a_folder(path: Path) -> None:
    path.mkdir()


def a_dangling_link(path: Path) -> None:
    path.symlink_to("/nowhere/at/all")


@pytest.mark.parametrize("obstacle", [a_folder, a_dangling_link])
@pytest.mark.parametrize("name", ["payment.db", "keys/kitchen.key"])
def test_what_stands_in_the_way_is_named(
    obstacle: Callable[[Path], None], name: str, tmp_path: Path
) -> None:
    make(tmp_path / "data" / "shop.db")
    path = tmp_path / "data" / name
    path.parent.mkdir(exist_ok=True)
    obstacle(path)
    with pytest.raises((OSError, sqlite3.Error), match=str(path)):
        backup(tmp_path / "data", tmp_path / "backups" / "copy")
    assert not list(tmp_path.glob("backups/*"))
    assert not Path("/nowhere").exists()


def test_a_signal_ends_it_and_takes_the_draft_away(world: World, tmp_path: Path) -> None:
    with closing(sqlite3.connect(world.settings.data_dir / "shop.db")) as database:
        database.execute("CREATE TABLE ballast AS SELECT zeroblob(300000000)")
        database.commit()
    process = world.run("-m", "runtime.backup", str(tmp_path / "copies" / "copy"), name="backup")
    eventually(lambda: list(tmp_path.glob("copies/*/copy/shop.db")))
    process.send_signal(signal.SIGHUP)
    assert process.wait(10) == 1
    assert world.output("backup", "stderr") == "backup: ended by SIGHUP\n"
    assert world.output("backup") == ""
    assert not list((tmp_path / "copies").iterdir())


def test_no_database_takes_anything_between_the_snapshots(tmp_path: Path) -> None:
    """They are of one moment: until the last one is begun, every writer waits."""
    paths = [tmp_path / f"{name}.db" for name in ("payment", "shop")]
    for path in paths:
        SqliteFile(path, "messaging").open()
    with nobody_commits(paths):
        for path in paths:
            with (
                closing(sqlite3.connect(path, timeout=0)) as writer,
                pytest.raises(sqlite3.OperationalError, match="locked"),
            ):
                writer.execute("BEGIN IMMEDIATE")


def test_the_snapshots_begin_while_nobody_commits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every writer waits before the first snapshot, and until the last one is begun."""
    for name in ("payment", "shop"):
        SqliteFile(tmp_path / "data" / f"{name}.db", "messaging").open()
    diary: list[str] = []
    transaction, moment = runtime.backup._transaction, runtime.backup.nobody_commits

    @contextmanager
    def noted(path: Path, kind: str) -> Iterator[sqlite3.Connection]:
        with transaction(path, kind) as connection:
            diary.append(kind)
            yield connection

    @contextmanager
    def noted_moment(paths: list[Path]) -> Iterator[None]:
        diary.clear()
        with moment(paths):
            yield
            diary.append("end")

    monkeypatch.setattr(runtime.backup, "_transaction", noted)
    monkeypatch.setattr(runtime.backup, "nobody_commits", noted_moment)
    backup(tmp_path / "data", tmp_path / "copy")
    assert diary == ["IMMEDIATE", "IMMEDIATE", "DEFERRED", "DEFERRED", "end"]
