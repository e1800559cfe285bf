"""The audit: a shop that sells is clean, and a row that was changed by hand is found."""

import re
import sqlite3
from contextlib import closing

import pytest

from bench.filling import Rows, fill_all
from runtime.process.settings import Settings
from scenarios.audit import audit
from tests.conftest import eventually
from tests.load import Load
from tests.processes import ALL, World

AUDIT = ("run_all.py", "--audit")


def rules(told: str) -> dict[str, tuple[str, str]]:
    """How often each rule of the table has something on its way, and something wrong."""
    lines = told.partition("\n\n")[0].splitlines()[1:]
    cells = [re.split(r" {2,}", line.strip()) for line in lines]
    return {rule: (coming, wrong) for rule, coming, wrong, *_ in cells}


def broken(told: str) -> set[str]:
    return {rule for rule, (_, wrong) in rules(told).items() if wrong != "0"}


def test_a_shop_that_sells_is_clean(world: World) -> None:
    """Whatever is on its way at that moment; and the audit changes nothing."""
    world.start(*ALL)
    load = Load(world)
    with load.running():
        for _ in range(2):
            load.advance()
            ended = world.finish(*AUDIT)
            assert (ended.returncode, ended.stderr) == (0, ""), ended.stdout
            assert ended.stdout.endswith(": nothing is wrong\n")
    load.check(within_s=20)


def test_what_waits_is_told_apart_from_what_is_wrong(
    world: World, capfd: pytest.CaptureFixture[str]
) -> None:
    """Orders that payment has yet to hear of are on their way; one that it has heard of is not."""
    world.start("broker", "inventory", "shop")
    basket = world.stock()
    world.start("payment")
    world.kill("payment")
    orders = [world.checkout(basket) for _ in range(3)]
    eventually(lambda: world.is_told("shop"))
    assert audit(world.settings) == 0
    found = rules(capfd.readouterr().out)
    assert found["payment is at the head of orders"] == ("3", "0")
    assert found["each order is paid once, at its price"] == ("3", "0")
    world.start("payment")
    eventually(lambda: all(map(world.is_paid, orders)) and world.is_drained(), 20)
    world.rows("payment", "DELETE FROM payment WHERE id = 2")
    assert audit(world.settings) == 1
    told = capfd.readouterr().out
    assert orders[1] in told
    assert "each order is paid once, at its price" in broken(told)


PAID, EVENT = "each order is paid once, at its price", "each order matches its event"
CATALOGUE = "the shop's catalogue matches the inventory"
CHANGES = {
    "inventory": [
        ("UPDATE item SET price = 1 WHERE id = 2", "each item matches its newest event"),
        ("UPDATE head SET sequence = sequence - 1", "the numbers of items have no gap"),
    ],
    "shop": [
        ("UPDATE item SET name = 'x' WHERE id = 2", CATALOGUE),
        ("DELETE FROM item WHERE id = 1", CATALOGUE),
        ('UPDATE "order" SET user_id = 2 WHERE number = 3', EVENT),
        ("UPDATE order_line SET quantity = 2 WHERE order_id = 3 AND item_id = 2", EVENT),
        ('UPDATE "order" SET price = 1 WHERE number = 3', PAID),
        ('UPDATE "order" SET paid_at = NULL WHERE number = 3', PAID),
        ('DELETE FROM "order" WHERE number = 3', "each payment is for an existing order or none"),
        (
            'INSERT INTO "order" SELECT 99, lower(hex(zeroblob(16))), user_id, price, placed_at, '
            'paid_at FROM "order" LIMIT 1',
            "each order has an event",
        ),
        (
            "UPDATE inbox SET body = CAST(body || ' ' AS BLOB) WHERE stream = 'payments'",
            "the payments that shop has applied match the journal",
        ),
        (
            "INSERT INTO dead_letter SELECT 1, stream, epoch, sequence, body, '', '' FROM inbox "
            "LIMIT 1",
            "shop has no dead letters",
        ),
    ],
    "payment": [
        ("UPDATE payment SET price = 1 WHERE id = 3", "each payment matches its event"),
        ("DELETE FROM payment WHERE id = 3", PAID),
        ("UPDATE cursor SET sequence = 99", "payment is at the head of orders"),
    ],
    "broker": [
        (
            "UPDATE entry SET body = CAST('{}' AS BLOB) WHERE stream = 'orders' AND sequence = 3",
            "the journal of orders matches the outbox of shop",
        ),
        (
            "UPDATE entry SET epoch = zeroblob(16) WHERE stream = 'items' AND sequence = 1",
            "the journal of items matches the outbox of inventory",
        ),
    ],
}


@pytest.fixture
def filled(settings: Settings) -> Settings:
    """Databases of a shop that has sold, and does not run."""
    settings.data_dir.mkdir()
    fill_all(settings.data_dir, Rows(orders=20, items=5, users=2, keys=0))
    return settings


def change(settings: Settings, name: str, statement: str) -> None:
    with closing(sqlite3.connect(settings.data_dir / f"{name}.db")) as database, database:
        assert database.execute(statement).rowcount


@pytest.mark.parametrize("name", CHANGES)
def test_a_row_that_was_changed_by_hand_is_found(
    filled: Settings, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """Each rule is broken by what it forbids; put right again, nothing is wrong."""
    path = filled.data_dir / f"{name}.db"
    good = path.read_bytes()
    for statement, rule in CHANGES[name]:
        assert audit(filled) == 0, capfd.readouterr()
        change(filled, name, statement)
        capfd.readouterr()
        assert audit(filled) == 1, statement
        assert rule in broken(capfd.readouterr().out), statement
        path.write_bytes(good)


def test_what_was_archived_is_not_missing(
    filled: Settings, capfd: pytest.CaptureFixture[str]
) -> None:
    """As docs/operations.md has it: the journal, the outboxes and the inboxes may be cut."""
    change(filled, "broker", "DELETE FROM entry WHERE stream <> 'items' AND sequence < 20")
    for name in ("shop", "payment"):
        change(filled, name, "DELETE FROM outbox WHERE sequence < 20")
        change(filled, name, "DELETE FROM inbox")
    assert audit(filled) == 0, capfd.readouterr()


def test_an_audit_that_cannot_be_made(filled: Settings, capfd: pytest.CaptureFixture[str]) -> None:
    """It says why in one line, with exit code 1 and no table."""
    payment, shop = filled.data_dir / "payment.db", filled.data_dir / "shop.db"
    on_nats = filled.model_copy(update={"broker_url": "nats://127.0.0.1:1"})
    payment.rename(filled.data_dir / "away.db")
    shop.write_bytes(b"no database" * 1000)
    for settings, why in ((on_nats, "it reads only SQLite files"), (filled, "not a database")):
        assert audit(settings) == 1
        told = capfd.readouterr()
        assert (told.out, told.err.count("\n")) == ("", 1)
        assert why in told.err
    shop.unlink()
    assert audit(filled) == 1
    assert "shop.db: is DATA_DIR right?" in capfd.readouterr().err
