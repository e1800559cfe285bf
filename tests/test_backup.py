"""A backup of the running shop is of one moment: restored, it goes on as if nothing had been."""

import shutil
import signal
import sqlite3
import stat
from contextlib import closing
from pathlib import Path

import pytest

from runtime.backup import backup
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
    folders = [tmp_path / "backups" / str(number) for number in range(5)]
    with load.running():
        for folder in folders:
            load.advance()
            ended = world.finish("-m", "runtime.backup", str(folder))
            assert (ended.returncode, ended.stderr) == (0, "")
            assert "4 databases" in ended.stdout
    load.check(within_s=20)

    head = "SELECT sequence FROM head"
    for folder in folders:
        for writer, stream, reader in (
            ("inventory", "items", "shop"),
            ("shop", "orders", "payment"),
            ("payment", "payments", "shop"),
        ):
            written = newest(folder, writer, head)
            place = f"SELECT max(sequence) FROM cursor WHERE stream = '{stream}'"
            kept = f"SELECT max(sequence) FROM entry WHERE stream = '{stream}'"
            assert 0 < newest(folder, reader, place) <= written
            assert newest(folder, "broker", kept) <= written
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert stat.S_IMODE((folder / "keys" / "client.key_secret").stat().st_mode) == 0o600

    world.kill(*ALL, number=signal.SIGTERM)
    shutil.rmtree(world.settings.data_dir)
    shutil.copytree(folders[2], world.settings.data_dir)
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
    with pytest.raises(sqlite3.DatabaseError):
        backup(source, target)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    target.mkdir()
    with pytest.raises(FileExistsError, match="new folder"):
        backup(source, target)


def test_the_command_says_why_it_failed(world: World, tmp_path: Path) -> None:
    ended = world.finish("-m", "runtime.backup", str(tmp_path / "copy"))
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith("backup: there is no database in ")
