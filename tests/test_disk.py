"""Full disks: what needs to write says so or waits, the rest goes on, and nothing is lost."""

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import eventually
from tests.load import Load
from tests.processes import ALL, SERVICES, World

TRIES_S = 12.7  # after so long an event that is at fault itself would be dead
LISTS = {"inventory": "/api/items", "shop": "/api/orders?user_id=1", "payment": "/api/payments"}


def all_can_be_read(world: World) -> bool:
    paths = [(name, path) for name in SERVICES for path in (LISTS[name], "/readyz")]
    return all(world.ask(name, "GET", path).status == 200 for name, path in paths)


@pytest.fixture
def load(world: World) -> Load:
    """A user of a system that has begun to work."""
    world.start(*ALL)
    user = Load(world)
    user.act()
    eventually(world.is_drained)
    return user


@pytest.mark.parametrize("for_s", [0, pytest.param(TRIES_S + 2, marks=pytest.mark.chaos)])
@pytest.mark.parametrize("name", ["shop", "payment"])
def test_a_service_whose_disk_is_full(world: World, load: Load, name: str, for_s: float) -> None:
    """It answers 503 to what needs to write, and events wait; with space again all is done once."""
    with load.running(), world.full_disk(name):
        eventually(lambda: "events wait for the database" in world.output(name, "stderr"))
        eventually(lambda: load.refused[name] > 5)
        time.sleep(for_s)
        load.advance()
        assert all_can_be_read(world)
    assert load.refused.keys() == {name}
    load.check(within_s=10)


def test_a_journal_whose_disk_is_full(world: World, load: Load) -> None:
    """Nobody is refused anything; events wait, and with space again all of them are kept."""
    with load.running(), world.full_disk("broker"):
        eventually(lambda: "waits for its disk" in world.output("broker", "stderr"))
        kept = world.rows("broker", "SELECT count(*) FROM entry")
        load.advance()
        assert all_can_be_read(world)
        assert world.rows("broker", "SELECT count(*) FROM entry") == kept
        assert not world.is_told(*SERVICES)
    assert not load.refused
    load.check(within_s=10)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own for the databases of the test's processes."""
    folder = tmp_path / "data"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)]
    mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"a file system cannot be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.chaos
@pytest.mark.timeout(180)
@pytest.mark.parametrize("killed", [False, True])
def test_a_full_file_system(small_disk: Path, world: World, load: Load, killed: bool) -> None:
    """All databases on one full disk, three times: all is well when there is space again.

    Even if everything is killed while it is full.
    """
    ballast = small_disk / "ballast"
    for _ in range(3):
        load.refused.clear()
        with load.running():
            load.advance()
            with ballast.open("wb", buffering=0) as rest, pytest.raises(OSError, match="No space"):
                while True:
                    rest.write(bytes(4096))
            eventually(lambda: load.refused.keys() == set(SERVICES), timeout_s=30)
            assert all_can_be_read(world)
            if killed:
                world.kill(*ALL)
            ballast.unlink()
            if killed:
                world.start(*ALL)
            load.advance()
        load.check(within_s=10)
