"""Full disks: what needs to write says so or waits, the rest goes on, and nothing is lost."""

import fcntl
import os
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from tests import pairs
from tests.conftest import eventually
from tests.load import Load
from tests.processes import ALL, SERVICES, World

TRIES_S = 12.7  # after so long an event that is at fault itself would be dead
LISTS = {"inventory": "/api/items", "shop": "/api/orders?user_id=1", "payment": "/api/payments"}


def unready(world: World) -> set[str]:
    """The services that say that they cannot write; all lists can be read."""
    assert all(world.ask(name, "GET", path).status == 200 for name, path in LISTS.items())
    return {name for name in SERVICES if "write" in world.state(name).get("problem", "")}


@pytest.fixture
def load(world: World) -> Load:
    """A user of a system that has begun to work."""
    world.start(*ALL)
    user = Load(world)
    user.act()
    eventually(world.is_drained)
    return user


@pytest.mark.parametrize(
    ("name", "for_s"), [("shop", 0), pytest.param("payment", TRIES_S + 2, marks=pytest.mark.chaos)]
)
def test_a_service_whose_disk_is_full(world: World, load: Load, name: str, for_s: float) -> None:
    """It answers 503 to what needs to write, and events wait; with space again all is done once."""
    with load.running(), world.full_disk(name):
        eventually(lambda: "events wait for the database" in world.output(name, "stderr"))
        eventually(lambda: load.refused[name] > 5)
        time.sleep(for_s)
        load.advance()
        assert unready(world) == {name}
    assert load.refused.keys() == {name}
    eventually(lambda: not unready(world))
    load.check(within_s=10)


def test_a_journal_whose_disk_is_full(world: World, load: Load) -> None:
    """Nobody is refused anything; events wait, and with space again all of them are kept."""
    with load.running(), world.full_disk("broker"):
        eventually(lambda: "waits for its disk" in world.output("broker", "stderr"))
        kept = world.rows("broker", "SELECT count(*) FROM entry")
        load.advance()
        assert not unready(world)
        assert world.state("broker")["status"] == "unready"
        assert world.state("broker")["problem"]
        assert b"parrot_ready 0.0" in world.ask("broker", "GET", "/metrics").body
        assert world.rows("broker", "SELECT count(*) FROM entry") == kept
        assert not world.is_told(*SERVICES)
    assert not load.refused
    load.check(within_s=10)


def test_a_write_that_failed_is_remembered(world: World) -> None:
    """While nobody writes it is tried, so that a service that gets no requests is ready again."""
    world.start("shop")
    eventually(lambda: world.state("shop")["status"] == "ready")
    with world.full_disk("shop"):
        state = eventually(lambda: (now := world.state("shop")) and now.get("problem") and now)
        assert state["status"] == "unready"
        assert state["database"] == "up"
        assert state["problem"].startswith("the last write has failed: ")
        assert world.ask("shop", "GET", "/readyz").status == 503
        time.sleep(0.1)  # it is not forgotten
        assert world.ask("shop", "GET", "/readyz").status == 503
        assert world.output("shop", "stderr").count("writing has failed") <= 2  # one for each cause
    eventually(lambda: world.ask("shop", "GET", "/readyz").status == 200)
    eventually(lambda: "writing works again" in world.output("shop", "stderr"))


@pairs.on_servers
def test_a_server_that_is_read_only_shows(world: World) -> None:
    """As a standby is, or a server whose disk is full for its administrator."""
    url = str(world.settings.shop_database_url)
    world.start(*ALL)
    basket = world.stock()

    def read_only(value: str) -> None:
        pairs.administer(url, f"ALTER SYSTEM {value}", "SELECT pg_reload_conf()")

    read_only("SET default_transaction_read_only = on")
    try:
        for name in SERVICES:
            eventually(lambda name=name: "read-only" in world.state(name).get("problem", ""))
            assert world.ask(name, "GET", "/readyz").status == 503
            assert world.state(name)["database"] == "up"
        assert world.post("shop", "/api/checkout", basket).status == 503
    finally:
        read_only("RESET default_transaction_read_only")
    for name in SERVICES:
        eventually(lambda name=name: world.ask(name, "GET", "/readyz").status == 200)
    order = world.checkout(basket)
    eventually(lambda: world.is_paid(order))


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


def fill(disk: Path) -> Path:
    """Leave no room on a disk; gives the file to be deleted when there shall be some again."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as rest, pytest.raises(OSError, match="No space"):
        while True:
            rest.write(bytes(4096))
    return ballast


@pytest.mark.parametrize(
    ("name", "new"),
    [("shop", True), ("broker", False), pytest.param("broker", True, marks=pytest.mark.chaos)],
)
def test_a_start_on_a_full_disk(small_disk: Path, world: World, name: str, new: bool) -> None:
    """It says so in one line, waits, and goes on by itself; a signal ends it meanwhile, too."""
    if not new:
        world.start(name)
        world.kill(name, number=signal.SIGTERM)
    ballast = fill(small_disk)
    for ends in (True, False):
        process = world.processes[name] = world.run("-m", name)
        said = eventually(lambda: "disk is full" in (t := world.output(name, "stderr")) and t)
        assert "Traceback" not in said
        if name != "broker" or not new:  # which has no keys, and so cannot even listen
            eventually(lambda: world.alive(name))
            assert "the disk is full" in world.state(name)["problem"]
            assert world.state(name)["status"] == "unready"
        assert process.poll() is None
        if ends:
            assert world.kill(name, number=signal.SIGTERM) == [0]
    ballast.unlink()
    world.wait_until_up(name)
    eventually(lambda: world.ask(name, "GET", "/readyz").status == 200)
    lines = world.output(name, "stderr").splitlines()
    assert len([line for line in lines if f"{name}.db: the disk is full" in line]) <= 2


def test_a_start_on_a_read_only_mount(small_disk: Path, world: World) -> None:
    world.start("payment")
    world.kill("payment", number=signal.SIGTERM)
    remount = ["mount", "-o", "remount,ro", str(small_disk)]
    subprocess.run(remount, check=True)
    world.processes["payment"] = world.run("-m", "payment")
    world.wait_until_up("payment")
    assert "Read-only file system" in world.state("payment")["problem"]
    remount[2] = "remount,rw"
    subprocess.run(remount, check=True)
    eventually(lambda: world.ask("payment", "GET", "/readyz").status == 200)


@pytest.mark.parametrize(("name", "what"), [("shop", "the file"), ("broker", "the folder")])
def test_a_start_while_another_program_has_a_lock(world: World, name: str, what: str) -> None:
    """It is said, a signal ends the wait, and so does the end of that lock."""
    world.start(name)
    world.kill(name, number=signal.SIGTERM)
    with ExitStack() as stack:
        if what == "the folder":
            folder = os.open(world.settings.data_dir, os.O_RDONLY)
            stack.callback(os.close, folder)
            fcntl.flock(folder, fcntl.LOCK_SH)
        else:
            path = world.settings.data_dir / f"{name}.db"
            database = stack.enter_context(closing(sqlite3.connect(path, isolation_level=None)))
            database.execute("PRAGMA locking_mode = exclusive")
            database.execute("BEGIN EXCLUSIVE")
        for ends in (True, False):
            world.processes[name] = world.run("-m", name)
            world.wait_until_up(name)
            assert "locked" in world.state(name)["problem"]
            if ends:
                assert world.kill(name, number=signal.SIGTERM) == [0]
        eventually(lambda: world.output(name, "stderr").count("locked") == 2)
    eventually(lambda: world.ask(name, "GET", "/readyz").status == 200)
