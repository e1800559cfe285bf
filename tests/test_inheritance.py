"""A payment service whose database was lost: the journal knows what it has paid."""

import signal
from itertools import pairwise
from typing import Any

import pytest

from messaging.transports.wire import START
from tests.conftest import eventually, free_port
from tests.pairs import on_both_pairs, on_files
from tests.processes import ALL, World
from tests.test_recovery import archive, command, problem, ready

Row = dict[str, Any]


def payments(world: World) -> list[Row]:
    """The ledger, oldest first."""
    return list(world.get("payment", "/api/payments"))[::-1]


def pay(world: World, price: int = 7) -> Row:
    answer = world.post("payment", "/api/payment", {"user_id": 1, "price": price})
    assert answer.status == 201
    return dict(answer.json())


def told(world: World) -> list[int]:
    """How many events of payment the journal holds, by epoch."""
    query = "SELECT count(*) FROM entry WHERE stream = 'payments' GROUP BY epoch ORDER BY epoch"
    return [count for (count,) in world.rows("broker", query)]


def printed(world: World) -> list[str]:
    return world.output("payment").splitlines()


@on_both_pairs
def test_a_lost_payment_comes_back_from_the_journal(world: World) -> None:
    """Ids, times and all; the console is silent about it, nothing is paid or told twice.

    What was placed while it was away is paid; and so it is when it is lost again.
    """
    world.start(*ALL)
    basket = world.stock()
    orders = [world.checkout(basket) for _ in range(3)]
    eventually(lambda: all(map(world.is_paid, orders)))
    pay(world)
    eventually(lambda: world.is_drained() and len(printed(world)) == 4)
    ledger, shown = payments(world), world.get("shop", "/api/orders?user_id=1")[::-1]
    events = [4]
    for _ in range(2):
        world.lose("payment")
        orders.append(world.checkout(basket))
        eventually(lambda: world.is_told("shop"))

        world.start("payment")
        eventually(lambda: world.is_paid(orders[-1]))
        orders.append(world.checkout(basket))
        eventually(lambda: world.is_paid(orders[-1]) and world.is_drained())
        now = payments(world)
        assert now[: len(ledger)] == ledger
        assert [row["order_id"] for row in now[len(ledger) :]] == orders[-2:]
        assert all(row["id"] < following["id"] for row, following in pairwise(now))
        eventually(lambda now=now: len(printed(world)) == len(now))
        assert len(set(printed(world))) == len(now)
        events.append(2)
        assert told(world) == events
        ledger = now
    assert world.get("shop", "/api/orders?user_id=1")[::-1][: len(shown)] == shown


@on_files
def test_what_was_paid_is_not_known_where_the_journal_was_lost_too(world: World) -> None:
    """It says so in one line, pays nothing without a word, and then each order once."""
    world.start(*ALL)
    basket = world.stock()
    orders = [world.checkout(basket) for _ in range(2)]
    eventually(lambda: all(map(world.is_paid, orders)) and world.is_drained())
    world.lose("payment")
    world.lose("broker")
    world.start("broker", "payment")
    told = problem(world, "payment", "cannot know")
    orders.append(world.checkout(basket))
    direct = pay(world)
    world.kill("payment")  # nor does a restart decide it
    world.start("payment")
    assert problem(world, "payment", "cannot know") == told
    eventually(lambda: world.output("payment", "stderr").count(told) == 2)
    assert payments(world) == [direct]

    decided = world.finish(*command(told, "payment"))
    assert (decided.returncode, decided.stderr) == (0, "")
    eventually(lambda: ready(world, "payment") and world.is_paid(orders[-1]))
    eventually(world.is_drained)
    assert [row["order_id"] for row in payments(world)] == [None, *orders]
    world.kill("payment")
    world.start("payment")
    orders.append(world.checkout(basket))
    eventually(lambda: world.is_paid(orders[-1]) and ready(world, "payment"))


@on_files
def test_a_first_start_needs_no_word_however_late(world: World) -> None:
    """With the shop down, too; direct payments that came first are no reason to doubt."""
    world.start("broker", "inventory", "shop")
    basket = world.stock()
    orders = [world.checkout(basket) for _ in range(3)]
    eventually(lambda: world.is_told("shop"))
    world.kill("shop", "broker")
    world.start("payment")
    pay(world)
    world.kill("payment")
    world.start("broker", "payment")
    eventually(lambda: [row["order_id"] for row in payments(world)] == [None, *orders])
    assert ready(world, "payment")


@on_files
def test_direct_payments_are_taken_before_the_journal_is_heard(world: World) -> None:
    """They have the ids by then, and what is taken over gets others; all of it is there."""
    world.start(*ALL)
    basket = world.stock()
    order = world.checkout(basket)
    eventually(lambda: world.is_paid(order))
    pay(world, price=7)
    eventually(lambda: world.is_drained() and len(printed(world)) == 2)
    before = payments(world)
    world.kill("broker")
    world.lose("payment")
    world.start("payment")
    first = pay(world, price=8)
    world.kill("payment", number=signal.SIGTERM)  # a crash might repeat its line
    world.start("payment", "broker")
    last = pay(world, price=9)
    eventually(lambda: len(payments(world)) == 4)
    order = world.checkout(basket)
    eventually(lambda: world.is_paid(order) and world.is_drained())
    rows = payments(world)

    def facts(rows: list[Row]) -> list[tuple[Any, ...]]:
        return sorted((row["price"], str(row["order_id"]), row["paid_at"]) for row in rows)

    assert {row["price"]: row["id"] for row in (first, last)}.items() <= {
        row["price"]: row["id"] for row in rows
    }.items()
    assert len({row["id"] for row in rows}) == 5
    assert facts(rows[:-1]) == facts([*before, first, last])
    eventually(lambda: len(printed(world)) == 5)
    world.lose("payment")
    world.start("payment")
    eventually(lambda: len(payments(world)) == 5)
    assert facts(payments(world)) == facts(rows)
    assert len(printed(world)) == 5


@pytest.mark.chaos
def test_a_kill_amid_it_loses_and_doubles_nothing(world: World) -> None:
    """Wherever it stood: what it has committed and where it goes on are one."""
    world.start("broker", "payment")
    for price in range(600):
        pay(world, price)
    eventually(lambda: world.is_told("payment") and len(printed(world)) == 600)
    ledger = payments(world)
    world.lose("payment")
    for at_least in (1, 257, 513):  # it takes over 256 in one go
        world.start("payment")
        eventually(lambda at_least=at_least: len(payments(world)) >= at_least)
        world.kill("payment")
    world.start("payment")
    eventually(lambda: len(payments(world)) >= 600)
    assert payments(world) == ledger
    assert len(printed(world)) == 600


def test_a_second_payment_service_elsewhere_pays_nothing_again(world: World) -> None:
    """With a new database on another machine, as no document tells anybody to do."""
    world.start(*ALL)
    basket = world.stock()
    order = world.checkout(basket)
    eventually(lambda: world.is_paid(order) and world.is_drained())
    folder = world.settings.data_dir.parent / "elsewhere" / "data"
    changed = {"data_dir": folder, "payment_port": free_port()}
    other = World(world.settings.model_copy(update=changed))
    (folder / "keys").mkdir()
    for key in (world.settings.data_dir / "keys").glob("*"):
        (folder / "keys" / key.name).write_bytes(key.read_bytes())
    try:
        other.start("payment")
        eventually(lambda: payments(other) == payments(world))
        eventually(lambda: other.state("payment")["inbox_behind"]["orders"] == 0 or None)
    finally:
        other.end()
    assert printed(other) == []
    assert ready(world, "payment")


@pytest.mark.chaos
def test_what_was_archived_is_missing_in_what_is_taken_over(world: World) -> None:
    """The newest order may be one whose payment was archived: somebody has to decide."""
    world.start(*ALL)
    basket = world.stock()
    orders = [world.checkout(basket) for _ in range(2)]
    eventually(lambda: all(map(world.is_paid, orders)))
    direct = pay(world)
    eventually(world.is_drained)
    world.lose("payment")
    world.kill("broker")
    archive(world)
    world.start("broker", "payment")
    problem(world, "payment", "cannot know")
    assert payments(world) == [direct]
    ((place,),) = world.rows("shop", "SELECT lower(hex(epoch)) || ':' || sequence FROM head")
    assert world.finish("-m", "payment", "place", "orders", place).returncode == 0
    order = world.checkout(basket)
    eventually(lambda: world.is_paid(order) and ready(world, "payment"))
    assert [row["order_id"] for row in payments(world)] == [None, order]


def test_its_own_stream_has_a_place_too(world: World) -> None:
    """For the case that something of it can never be taken over."""
    world.start("payment")
    listed = world.finish("-m", "payment", "place")
    assert listed.stdout.splitlines() == [f"orders  {START}", f"payments  {START}"]
