"""A shop that has run on files moves to PostgreSQL and JetStream, with everything that it knows."""

import re
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from bench.filling import make
from runtime.process.settings import Settings
from tests.conftest import eventually, free_port
from tests.load import Load
from tests.pairs import SCALE, Ground, ground
from tests.processes import ALL, SERVICES, STREAMS, World
from tests.test_commands import imported, run_here
from tests.test_processes import cannot_start

LISTS = {"inventory": "/api/items", "shop": "/api/users", "payment": "/api/payments"}
TOLD = "SELECT sequence, body FROM outbox ORDER BY sequence"
PLACES = "SELECT epoch, sequence FROM head"
CURSORS = "SELECT stream, epoch, sequence FROM cursor ORDER BY stream"
MANY = """WITH RECURSIVE number (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM number LIMIT 1200)
          INSERT INTO "user" (name) SELECT 'Ünal ' || i FROM number"""
TOTALS = "SELECT user_id, count, sum FROM total ORDER BY user_id"
UNSEEN = "SELECT count(*) FROM payment WHERE NOT announced"
USERS = 'SELECT id, name FROM "user" ORDER BY id'
CHANGED = """if True:
    import os, runpy, signal, sys
    import runtime.process.progress as progress
    import runtime.storage.migrate_to as moving
    from runtime.storage.sqlite import SqliteFile

    def end(number):
        return lambda *_: os.kill(os.getpid(), number)

    {}
    sys.argv = ["shop", "migrate-to", {!r}]
    runpy.run_module("shop", run_name="__main__")"""


@pytest.fixture
def target(request: pytest.FixtureRequest, settings: Settings) -> Iterator[Ground]:
    """What the shop is to move to: empty databases, and NATS, which does not run yet."""
    with ground(SCALE, settings, request) as given:
        yield given


def move(world: World, name: str, target: Ground, **changes: str) -> Any:
    """Copy a service's file, as an operator does."""
    url = target.settings.database_url(name)
    return world.finish("-m", name, "migrate-to", url, **changes)


def begin_to_move(world: World, target: Ground, change: str) -> Any:
    """Move the shop with a change of the code, such as one that ends it where it comes there."""
    return world.finish("-c", CHANGED.format(change, str(target.settings.shop_database_url)))


def move_all(world: World, target: Ground) -> None:
    """Move what does not run any more: from now on the world is on the servers."""
    for name in SERVICES:
        moved = move(world, name, target)
        assert (moved.returncode, moved.stderr) == (0, "")
        assert f"{name.upper()}_DATABASE_URL" in moved.stdout
    world.settings, world.servers = target


def cannot_move(world: World, url: str | None) -> str:
    """A move that is refused with exit code 1; gives the one line that says why."""
    ended = world.finish("-m", "shop", "migrate-to", str(url))
    assert (ended.returncode, ended.stdout) == (1, ""), ended
    (line,) = ended.stderr.splitlines()
    return line


def test_a_shop_moves(world: World, target: Ground) -> None:
    """What was told, paid or answered before is not so again; what was not, is after."""
    world.start(*ALL)
    load = Load(world)
    load.act()
    basket = world.stock()
    for _ in range(2):
        generous = {"user_id": 2**53 - 1, "price": 10**12}
        assert world.post("payment", "/api/payment", generous).status == 201
    eventually(world.is_drained)
    eventually(lambda: world.rows("payment", UNSEEN) == [(0,)])
    known = {name: world.get(name, path) for name, path in LISTS.items()}
    world.kill("payment")
    unpaid = world.checkout(basket, Idempotency_Key="unpaid")
    eventually(lambda: world.is_told("shop"))
    world.kill("broker")
    untold = world.checkout(basket, Idempotency_Key="untold")
    new = {"item": {"name": "Honey", "price": 5}}
    honey = world.post("inventory", "/api/item", new, Idempotency_Key="honey")
    users = world.get("shop", "/api/users")
    totals = world.rows("payment", TOTALS)
    assert world.kill("inventory", "shop", number=signal.SIGTERM) == [0, 0]
    facts = {
        (name, query): world.rows(name, query)
        for name in SERVICES
        for query in (TOLD, PLACES, CURSORS)
    }

    move_all(world, target)
    for (name, query), rows in facts.items():
        assert world.rows(name, query) == rows
    assert world.rows("payment", TOTALS) == totals
    assert totals[0][0] == 0
    world.start(*ALL)
    eventually(lambda: world.is_paid(unpaid) and world.is_paid(untold) and world.is_drained())
    for name, path in LISTS.items():
        listed = world.get(name, path)
        assert [row for row in known[name] if row not in listed] == []
    assert world.checkout(basket, Idempotency_Key="unpaid") == unpaid
    assert world.checkout(basket, Idempotency_Key="untold") == untold
    again = world.post("inventory", "/api/item", new, Idempotency_Key="honey")
    assert (again.status, again.body) == (honey.status, honey.body)
    changed = {"item": {"name": "Honey", "price": 6}}
    assert world.post("inventory", "/api/item", changed, Idempotency_Key="honey").status == 422
    assert world.get("shop", "/api/users") == users

    assert world.post("shop", "/api/user", {"name": "Rio"}).json()["id"] == users[-1]["id"] + 1
    assert world.post("inventory", "/api/item", new).json()["id"] == honey.json()["id"] + 1
    load.act()
    load.check()
    for name, stream in STREAMS.items():
        kept = f"SELECT sequence, body FROM entry WHERE stream = '{stream}' ORDER BY sequence"
        before = facts[name, TOLD]
        assert world.rows("broker", kept)[: len(before)] == before
    payments = world.get("payment", "/api/payments")
    assert [payment["id"] for payment in payments] == list(range(len(payments), 0, -1))
    lines = world.output("payment").splitlines
    eventually(lambda: len(lines()) >= len(payments))
    assert len(lines()) == len({*lines()}) == len(payments)


def test_the_old_file_is_retired(world: World, target: Ground) -> None:
    """Whoever starts a service, or a command, on it is told where all has gone."""
    make(world.settings.data_dir / "shop.db")
    url = str(target.settings.shop_database_url)
    assert move(world, "shop", target, SHOP_DATABASE_URL=url).returncode == 0
    for command in ([], ["dead-letters"]):
        ended = world.finish("-m", "shop", *command)
        (line,) = ended.stderr.splitlines()
        assert (ended.returncode, ended.stdout) == (1, "")
        assert "SHOP_DATABASE_URL" in line
        assert "shop.db" in line


def test_a_service_that_runs_is_not_moved(world: World, target: Ground) -> None:
    """It says so in a line; the service goes on, and nothing is copied."""
    world.start("shop")
    assert "another process is running" in cannot_move(world, target.settings.shop_database_url)
    assert world.post("shop", "/api/user", {"name": "Kesha"}).status == 201
    query = "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
    assert World(*target).rows("shop", query) == []


def fill(world: World) -> list[Any]:
    """Let there be more users than one statement copies, and give them."""
    make(world.settings.data_dir / "shop.db")
    world.rows("shop", MANY)
    users: list[Any] = world.rows("shop", USERS)
    return users


@pytest.mark.parametrize("where", ["moving.differences", "SqliteFile.retire"])
def test_a_move_that_crashed_is_repeated(world: World, target: Ground, where: str) -> None:
    """Killed at any point, also between the copy's commit and the end of the file."""
    users = fill(world)
    crashed = begin_to_move(world, target, f"{where} = end(signal.SIGKILL)")
    assert crashed.returncode == -signal.SIGKILL
    assert move(world, "shop", target).returncode == 0
    assert "SHOP_DATABASE_URL" in cannot_start(world, "shop", 1)
    world.settings, world.servers = target
    assert world.rows("shop", USERS) == users
    world.start("shop")
    assert world.post("shop", "/api/user", {"name": "Rio"}).json()["id"] == len(users) + 1


def test_a_move_tells_how_far_it_is(world: World, target: Ground) -> None:
    fill(world)
    ended = begin_to_move(world, target, "progress.LINE_INTERVAL_S = 0")
    assert ended.returncode == 0
    first, *_, copied, _moved = ended.stdout.splitlines()
    assert re.fullmatch(r"0:\d\d  1,000 of 1,2\d\d rows copied", first)
    assert re.fullmatch(r"1,2\d\d rows copied; comparing them", copied)


def test_a_move_that_was_ended_leaves_nothing(world: World, target: Ground) -> None:
    """Amid the copy: one line, and the service starts on its file as before."""
    fill(world)
    ended = begin_to_move(world, target, "moving.Progress.show = end(signal.SIGTERM)")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == "shop: ended by SIGTERM\n"
    assert World(*target).rows("shop", USERS) == []
    world.start("shop")
    assert len(world.rows("shop", USERS)) == 1200


def test_a_file_that_has_changed_since_the_crash_is_not_moved(world: World, target: Ground) -> None:
    """What went on on the file after a copy is in that alone: the copy is not taken for it."""
    fill(world)
    crashed = begin_to_move(world, target, "SqliteFile.retire = end(signal.SIGKILL)")
    assert crashed.returncode == -signal.SIGKILL
    world.start("shop")
    assert world.post("shop", "/api/user", {"name": "Rio"}).status == 201
    world.kill("shop", number=signal.SIGTERM)
    line = cannot_move(world, target.settings.shop_database_url)
    assert "not empty" in line
    assert "user (1201 and 1200 rows)" in line
    world.start("shop")
    assert len(world.get("shop", "/api/users?limit=1000")) == 1000


def test_a_target_that_is_not_empty(world: World, target: Ground) -> None:
    """The shop of somebody else, or another service: a line, and both are as they were."""
    fill(world)
    other = World(*target)
    try:
        other.start("shop", "inventory")
        assert other.post("shop", "/api/user", {"name": "Somebody else"}).status == 201
        assert "not empty" in cannot_move(world, target.settings.shop_database_url)
        line = cannot_move(world, target.settings.inventory_database_url)
        assert "another service" in line
        assert [user["name"] for user in other.get("shop", "/api/users")] == ["Somebody else"]
        assert other.get("inventory", "/api/items") == []
    finally:
        other.end()
    world.start("shop")
    assert len(world.rows("shop", USERS)) == 1200


def test_a_target_that_cannot_be_reached(world: World) -> None:
    """A line that shows no password; the file is as it was."""
    pytest.importorskip("psycopg")
    fill(world)
    port = free_port()
    line = cannot_move(world, f"postgresql://postgres:secret@127.0.0.1:{port}/nowhere")
    assert str(port) in line
    assert "secret" not in line
    world.start("shop")
    assert len(world.rows("shop", USERS)) == 1200


@imported
@pytest.mark.parametrize(
    "url", ["shop.db", "sqlite:///shop.db", "mysql://u:secret@host/shop", "postgresql:shop", ""]
)
def test_a_wrong_url(url: str, capfd: pytest.CaptureFixture[str]) -> None:
    """What is no URL of a PostgreSQL database, or none at all: exit code 2."""
    assert run_here("-m", "shop", "migrate-to", *[url] * bool(url)) == 2
    line = capfd.readouterr().err.splitlines()[-1]
    assert "postgresql://" in line or "URL" in line
    assert "secret" not in line
