"""Real processes, killed: what was confirmed survives, and each order is paid once."""

import itertools
import json
import re
import shutil
import threading
import uuid
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.conftest import eventually
from tests.processes import ALL, SERVICES, World, unread_pipe


def test_what_was_confirmed_survives(world: World) -> None:
    """Everything killed right after the answers: all of it is there at the next start, and told."""
    world.start(*ALL)
    basket = world.stock()
    item = world.post("inventory", "/api/item", {"item": {"name": "Honey", "price": 5}})
    user = world.post("shop", "/api/user", {"name": "Rio"})
    direct = world.post("payment", "/api/payment", {"user_id": 1, "price": 7})
    order = world.checkout(basket)
    world.kill(*ALL)

    assert [item.status, user.status, direct.status] == [201, 201, 201]
    world.start(*ALL)
    assert item.json() in world.get("inventory", "/api/items")
    assert user.json() in world.get("shop", "/api/users")
    assert direct.json() in world.get("payment", "/api/payments")
    eventually(lambda: item.json() in world.get("shop", "/api/items"))
    eventually(lambda: world.is_paid(order))
    (payment,) = world.get("payment", f"/api/payments?order_id={order}")
    assert payment["price"] == 4000


def under_load(world: World, basket: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Kill and restart processes while others buy, and add items; give the answers by key.

    A request is repeated under its key until it is answered.
    """
    answers: dict[str, Any] = {}
    ending = threading.Event()

    def work(name: str, path: str, body: dict[str, Any], pause_s: float) -> None:
        while not ending.wait(pause_s):
            key = f"{name}-{uuid.uuid4()}"
            while key not in answers:
                try:
                    answer = world.post(name, path, body, Idempotency_Key=key)
                except OSError:
                    ending.wait(0.02)  # it is being killed
                    continue
                assert answer.status == 201, answer
                answers[key] = answer.json()

    item = {"item": {"name": "Seed", "price": 1}}
    with ThreadPoolExecutor() as pool:
        workers = [pool.submit(work, "shop", "/api/checkout", basket, 0.01) for _ in range(3)]
        workers.append(pool.submit(work, "inventory", "/api/item", item, 0.05))
        try:
            for name in names:
                seen = len(answers)
                eventually(lambda seen=seen: len(answers) > seen + 5)
                world.kill(name)
                world.start(name)
        finally:
            ending.set()
        for worker in workers:
            worker.result(20)
    return answers


def test_each_order_is_paid_once_whatever_is_killed(world: World) -> None:
    """Every process killed under load, again and again: nothing is lost and nothing doubled."""
    world.start(*ALL)
    basket = world.stock()
    answers = under_load(world, basket, (*ALL, *reversed(ALL)))

    ids = sorted(answer["id"] for key, answer in answers.items() if key.startswith("shop"))
    orders = world.get("shop", f"/api/orders?user_id={basket['user_id']}")
    assert sorted(order["id"] for order in orders) == ids
    unpaid = 'SELECT count(*) FROM "order" WHERE paid_at IS NULL'
    eventually(lambda: world.rows("shop", unpaid) == [(0,)], timeout_s=30)
    payments = {pay["id"]: pay["order_id"] for pay in world.get("payment", "/api/payments")}
    assert sorted(payments.values()) == ids

    told = "SELECT sequence, body FROM outbox ORDER BY sequence"
    kept = "SELECT sequence, body FROM entry WHERE stream = 'payments' ORDER BY sequence"
    events = world.rows("payment", told)
    eventually(lambda: world.rows("broker", kept) == events)
    assert [sequence for sequence, _ in events] == list(range(1, len(ids) + 1))
    assert sorted(json.loads(body)["data"]["order_id"] for _, body in events) == ids

    items = world.get("inventory", "/api/items")
    assert len(items) == 1 + len(answers) - len(ids)
    eventually(lambda: world.get("shop", "/api/items") == items)

    announced = "SELECT count(*) FROM payment WHERE NOT announced"
    eventually(lambda: world.rows("payment", announced) == [(0,)])
    lines = re.findall(r"Payment (\d+) of 4000 .* order (\S+) succeeded", world.output("payment"))
    assert {int(number): order for number, order in lines} == payments
    steps = itertools.pairwise(int(number) for number, _ in lines)
    assert sum(after <= before for before, after in steps) <= 2, "only a kill repeats lines"


def test_lines_that_were_not_marked_are_written_at_start(world: World) -> None:
    """A payment whose line may not have been seen is announced again."""
    world.start("payment")
    world.post("payment", "/api/payment", {"user_id": 3, "price": 7})
    line = "Payment 1 of 7 by user 3 succeeded\n"
    eventually(lambda: world.output("payment") == line)
    world.kill("payment")
    world.rows("payment", "UPDATE payment SET announced = 0")

    world.start("payment")
    eventually(lambda: world.output("payment") == line * 2)


@pytest.mark.parametrize("reader", ["gone", "hangs"])
def test_payments_do_not_need_a_console(world: World, reader: str) -> None:
    """Orders are paid although nobody reads the standard output of payment."""
    world.start("broker", "inventory", "shop")
    with unread_pipe(reader) as stdout:
        world.run("-m", "payment", stdout=stdout)
        world.wait_until_up("payment")
        basket = world.stock()
        for _ in range(3):
            order = world.checkout(basket)
            eventually(lambda order=order: world.is_paid(order))


def test_the_shop_sells_without_the_inventory(world: World) -> None:
    """Inventory down: the shop lists, sells and is paid, also after a restart of its own."""
    world.start(*ALL)
    basket = world.stock()
    world.kill("inventory", "shop")
    world.start("shop")
    assert [item["id"] for item in world.get("shop", "/api/items")] == basket["item_ids"]
    order = world.checkout(basket)
    eventually(lambda: world.is_paid(order))


def test_an_order_is_paid_although_payment_was_killed(world: World) -> None:
    """Payment down: checkout answers 201; payment back: the order is paid."""
    world.start(*ALL)
    basket = world.stock()
    world.kill("payment")
    order = world.checkout(basket)
    world.start("payment")
    eventually(lambda: world.is_paid(order))
    line = f"Payment 1 of 4000 by user 1 for order {order} succeeded\n"
    eventually(lambda: world.output("payment") == line)


def test_payment_pays_without_the_shop(world: World) -> None:
    """Payment and shop were never up together: the order is paid, and the shop hears of it."""
    world.start("broker", "inventory", "shop")
    order = world.checkout(world.stock())
    eventually(lambda: world.is_told("shop"))
    world.kill("shop")

    world.start("payment")
    eventually(lambda: world.get("payment", f"/api/payments?order_id={order}"))
    assert world.post("payment", "/api/payment", {"user_id": 1, "price": 7}).status == 201
    world.start("shop")
    eventually(lambda: world.is_paid(order))


def test_all_serve_without_the_broker(world: World) -> None:
    """Broker down: everybody answers and is ready; broker back: everybody catches up."""
    world.start(*ALL)
    basket = world.stock()
    world.kill("broker")
    for name in SERVICES:
        eventually(lambda name=name: world.get(name, "/readyz")["broker"] == "down")
        assert world.ask(name, "GET", "/readyz").status == 200
    new = {"item": {"name": "Honey", "price": 5}}
    item = world.post("inventory", "/api/item", new).json()
    order = world.checkout(basket)
    assert world.post("payment", "/api/payment", {"user_id": 1, "price": 7}).status == 201
    assert not world.is_told(*SERVICES)

    world.start("broker")
    eventually(lambda: world.is_paid(order))
    eventually(lambda: item in world.get("shop", "/api/items"))
    eventually(lambda: world.is_told(*SERVICES))


@pytest.mark.parametrize(
    "order", ["payment shop inventory broker", "shop broker payment inventory"]
)
def test_the_order_of_starts_does_not_matter(world: World, order: str) -> None:
    """One after the other, in any order: the shop sells, and is paid."""
    for name in order.split():
        world.start(name)
    order_id = world.checkout(world.stock())
    eventually(lambda: world.is_paid(order_id))


def test_a_lost_journal_fills_itself_again(world: World) -> None:
    """The journal deleted while it was down: its writers refill it, for readers that come late."""
    world.start("broker", "inventory", "shop")
    basket = world.stock()
    orders = [world.checkout(basket) for _ in range(5)]
    eventually(lambda: world.is_told("inventory", "shop"))
    world.kill("broker")
    every = "SELECT * FROM entry ORDER BY stream, epoch, sequence"
    kept = world.rows("broker", every)
    for path in world.files("broker"):
        path.unlink()

    world.start("broker", "payment")
    eventually(lambda: all(world.is_paid(order) for order in orders))
    entries = [row for row in world.rows("broker", every) if row[0] != "payments"]
    assert entries == kept


def test_a_lost_shop_starts_again(world: World) -> None:
    """The shop's file deleted: its catalogue comes back, and new orders are paid."""
    world.start(*ALL)
    order = world.checkout(world.stock())
    eventually(lambda: world.is_paid(order))
    world.kill("shop")
    for path in world.files("shop"):
        path.unlink()

    world.start("shop")
    basket = world.stock()
    assert len(world.get("shop", "/api/items")) == 2
    order = world.checkout(basket)
    eventually(lambda: world.is_paid(order))


def back_up(world: World, name: str) -> Callable[[], None]:
    """Copy the database of a process that does not run; gives what puts the copy back."""
    backup = world.settings.data_dir.parent / "backup"
    backup.mkdir()
    for path in world.files(name):
        shutil.copy(path, backup)

    def restore() -> None:
        for path in world.files(name):
            path.unlink()
        shutil.copytree(backup, world.settings.data_dir, dirs_exist_ok=True)

    return restore


@pytest.mark.parametrize("paid_before", [0, 1])
def test_a_restored_backup_pays_nothing_again(world: World, paid_before: int) -> None:
    """An older file of payment: it has forgotten a payment, and must not make it once more."""
    world.start(*ALL)
    basket = world.stock()
    before = [world.checkout(basket) for _ in range(paid_before)]
    eventually(lambda: all(map(world.is_paid, before)) and world.is_told("payment"))
    world.kill("payment")
    restore = back_up(world, "payment")

    world.start("payment")
    second = world.checkout(basket)
    eventually(lambda: world.is_paid(second) and world.is_told("payment"))
    world.kill("payment")
    restore()

    world.start("payment")
    eventually(lambda: world.ask("payment", "GET", "/readyz").status == 503)
    assert len(world.get("payment", "/api/payments")) == paid_before
    assert len(world.output("payment").splitlines()) == paid_before + 1


def test_a_restored_backup_overwrites_nothing(world: World) -> None:
    """An older file of the shop: it says so and tells nothing, and the journal stays as it is.

    Even if it has placed more orders since than are missing in it.
    """
    world.start("broker", "inventory", "shop")
    basket = world.stock()
    world.checkout(basket)
    eventually(lambda: world.is_told("shop"))
    world.kill("shop", "broker")
    restore = back_up(world, "shop")

    world.start("broker", "shop")
    world.checkout(basket)
    eventually(lambda: world.is_told("shop"))
    world.kill("shop", "broker")
    orders = "SELECT * FROM entry WHERE stream = 'orders' ORDER BY sequence"
    kept = world.rows("broker", orders)
    restore()

    world.start("shop")
    for _ in range(3):
        world.checkout(basket)
    world.start("broker", "payment")
    eventually(lambda: world.ask("shop", "GET", "/readyz").status == 503)
    ready = world.get("shop", "/readyz")
    assert (ready["status"], "older" in ready["problem"]) == ("unready", True)
    assert world.output("shop", "stderr").count(ready["problem"]) == 1
    world.checkout(basket)
    world.kill("broker")
    world.start("broker")
    eventually(lambda: world.get("shop", "/readyz")["broker"] == "up")
    assert world.get("shop", "/readyz")["outbox_waiting"] != 0
    assert world.rows("broker", orders) == kept
    eventually(lambda: len(world.get("payment", "/api/payments")) == len(kept))
