"""Commands beside a running service: dead letters, and the replay of the catalogue."""

import argparse
import contextlib
import json
import re
import sqlite3

import pytest

from runtime import ROOT
from runtime.settings import Settings
from shop import replay
from shop.app import Shop
from tests.conftest import eventually
from tests.processes import ALL, SERVICES, World


def tell(world: World, body: str) -> None:
    """Put an event into the outbox of the inventory, which does not run."""
    world.rows("inventory", "UPDATE head SET sequence = sequence + 1")
    insert = f"INSERT INTO outbox SELECT sequence, CAST('{body}' AS BLOB) FROM head"
    world.rows("inventory", insert)


def test_dead_letters_are_listed_and_retried(world: World) -> None:
    """A poisoned event stops nothing; what becomes of it is the operator's choice."""
    world.start("broker", "inventory", "shop")
    world.stock()
    item = {"id": 2, "name": "Honey", "price": 5, "active": True, "version": 1}
    told = {"type": "item.created", "time": "2026-11-23T12:00:00Z"}
    assert world.finish("-m", "shop", "dead-letters").stdout == "no event is dead\n"
    world.kill("inventory")
    tell(world, json.dumps({**told, "data": {**item, "price": -5}}))
    tell(world, json.dumps({**told, "data": {**item, "id": 3}}))
    world.start("inventory")
    eventually(lambda: {i["id"] for i in world.get("shop", "/api/items")} == {1, 3})
    assert world.get("shop", "/readyz")["dead"] == 1

    listed = world.finish("-m", "shop", "dead-letters")
    assert re.match(r"1  \d{4}-\S+Z  items [0-9a-f]{32}:2  ", listed.stdout)
    assert listed.returncode == 0
    assert "price" in listed.stdout
    again = world.finish("-m", "shop", "dead-letters", "retry", "--all")
    assert (again.returncode, again.stdout[:16]) == (1, "1  is still dead")

    world.rows("shop", "UPDATE dead_letter SET body = CAST(replace(body, '-5', '5') AS BLOB)")
    applied = world.finish("-m", "shop", "dead-letters", "retry", "1")
    assert (applied.returncode, applied.stdout) == (0, "1  was applied\n")
    assert [i["price"] for i in world.get("shop", "/api/items")] == [4000, 5, 5]
    assert world.get("shop", "/readyz")["dead"] == 0
    gone = world.finish("-m", "shop", "dead-letters", "retry", "1")
    assert (gone.returncode, gone.stderr) == (1, "shop: there is no dead letter 1\n")


def test_a_payment_that_was_dead_is_made_once(world: World) -> None:
    """A dead order retried while payment runs: one payment, its line, and the order is paid."""
    world.start("broker", "inventory", "shop")
    basket = world.stock()
    poisoned = world.checkout(basket)
    eventually(lambda: world.is_told("shop"))
    world.kill("broker", "shop")
    spoil = "CAST(replace(body, '\"user_id\":1', '\"user_id\":0') AS BLOB)"
    world.rows("shop", f"UPDATE outbox SET body = {spoil}")
    world.rows("broker", f"UPDATE entry SET body = {spoil} WHERE stream = 'orders'")
    world.start("broker", "shop", "payment")
    fine = world.checkout(basket)
    eventually(lambda: world.is_paid(fine))
    assert not world.is_paid(poisoned)

    mend = spoil.replace(":0", ":x").replace(":1", ":0").replace(":x", ":1")
    world.rows("payment", f"UPDATE dead_letter SET body = {mend}")
    applied = world.finish("-m", "payment", "dead-letters", "retry", "--all")
    assert (applied.returncode, applied.stdout) == (0, "1  was applied\n")
    eventually(lambda: world.is_paid(poisoned))
    eventually(lambda: poisoned in world.output("payment"))
    assert len(world.get("payment", "/api/payments")) == 2


def test_the_catalogue_is_rebuilt_beside_a_running_shop(world: World) -> None:
    world.start("broker", "inventory", "shop")
    basket = world.stock()
    world.rows("shop", "DELETE FROM item")
    eventually(lambda: world.get("shop", "/api/items") == [])
    done = world.finish("-m", "shop", "replay")
    assert (done.returncode, done.stderr) == (0, "")
    assert "from 1 events" in done.stdout
    assert world.get("shop", "/api/items") == world.get("inventory", "/api/items")
    world.checkout(basket)


def test_commands_that_cannot_be_carried_out(world: World) -> None:
    """One line that says why; payment has no replay, because it would pay again."""
    ended = world.finish("-m", "shop", "dead-letters")
    path = world.settings.data_dir / "shop.db"
    assert (ended.returncode, ended.stderr) == (
        1,
        f"shop: there is no {path}: is DATA_DIR right?\n",
    )
    assert not path.exists()
    for name in ("payment", "inventory"):
        assert world.finish("-m", name, "replay").returncode == 2
    assert world.finish("-m", "payment", "dead-letters", "retry").returncode == 2
    assert "dead-letters" in world.finish("-m", "payment", "--help").stdout


HELPFUL = [
    ["run_all.py"],
    ["-m", "broker"],
    *(["-m", name] for name in SERVICES),
    *(["-m", name, "dead-letters"] for name in ("shop", "payment")),
    ["-m", "shop", "dead-letters", "retry"],
    ["-m", "shop", "replay"],
    ["-m", "messaging"],
    ["-m", "messaging", "tail"],
]


@pytest.mark.parametrize("command", HELPFUL, ids=" ".join)
def test_every_command_tells_of_itself_by_examples(world: World, command: list[str]) -> None:
    """Without colours where they are not wanted; and it needs no proper setting."""
    ended = world.finish(*command, "--help", NO_COLOR="1", SHOP_PORT="none", COLUMNS="100")
    assert (ended.returncode, ended.stderr) == (0, "")
    _, _, examples = ended.stdout.partition("\nexamples:\n")
    name = " ".join(command).replace("-m", "python -m") if command[0] == "-m" else command[0]
    assert f"  {name}" in examples
    assert "\033" not in ended.stdout


def test_a_long_replay_tells_how_far_it_is(
    settings: Settings, broker: object, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = []
    monkeypatch.setattr("runtime.progress.LINE_INTERVAL_S", 0)
    monkeypatch.setattr("runtime.progress.say", shown.append)
    assert replay.COMMAND.run(shop, argparse.Namespace()) == 0
    assert re.fullmatch(r"\d+:\d\d  0 events applied, 0 to go", shown[0])


def sql_of(document: str) -> list[str]:
    """The SQL that a document tells people to run."""
    return re.findall(r"```sql\n(.*?)```", (ROOT / "docs" / document).read_text(), re.DOTALL)


def run(world: World, name: str, script: str) -> None:
    for statement in script.split(";"):
        with contextlib.closing(
            sqlite3.connect(world.settings.data_dir / f"{name}.db", isolation_level=None)
        ) as database:
            database.execute(statement)


def test_archiving_as_the_documents_say(world: World) -> None:
    """The journal cut, and later the outboxes: sales go on, and nothing is paid again."""
    journal, outboxes = sql_of("operations.md")
    world.start(*ALL)
    basket = world.stock()

    def sell() -> None:
        orders = [world.checkout(basket) for _ in range(3)]
        eventually(lambda: all(map(world.is_paid, orders)) and world.is_told(*SERVICES))

    sell()
    world.kill(*SERVICES, "broker")
    run(world, "broker", journal)
    assert world.rows("broker", "SELECT stream, sequence FROM entry ORDER BY stream") == [
        ("items", 1),
        ("orders", 3),
        ("payments", 3),
    ]
    world.start(*ALL)
    sell()

    world.kill("broker")
    for path in world.files("broker"):
        path.unlink()
    world.start("broker")
    eventually(lambda: world.get("shop", "/readyz")["broker"] == "up")
    kept = "SELECT stream, count(*) FROM entry GROUP BY stream ORDER BY stream"
    eventually(lambda: world.rows("broker", kept) == [("items", 1), ("orders", 6), ("payments", 6)])

    world.kill(*SERVICES, "broker")
    for name in ("shop", "payment"):
        run(world, name, outboxes)
    world.start(*ALL)
    sell()
    assert len(world.get("payment", "/api/payments")) == 9
    assert world.finish("-m", "shop", "replay").returncode == 0
    assert len(world.get("shop", "/api/items")) == 1


@pytest.mark.parametrize("variable", ["SHOP_DATABASE_URL", "BROKER_URL"])
def test_a_driver_that_is_missing_is_told_in_a_line(world: World, variable: str) -> None:
    """Whether the shop is to run, or a command of it."""
    where = world.settings.data_dir
    for module in ("psycopg", "nats"):  # found before the real ones
        (where / f"{module}.py").write_text(f"raise ModuleNotFoundError('no {module}')")
    url = "postgresql://127.0.0.1:1/shop" if variable == "SHOP_DATABASE_URL" else "nats://a:1"
    for command in ([], ["dead-letters"]):
        ended = world.finish("-m", "shop", *command, PYTHONPATH=str(where), **{variable: url})
        assert ended.returncode == 1, ended
        (line,) = ended.stderr.splitlines()
        assert "requirements-scale.txt" in line
