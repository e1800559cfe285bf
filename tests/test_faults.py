"""Real processes, killed: what was confirmed survives, and each order is paid once."""

import itertools
import re
import shutil
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from messaging.transports.wire import START
from tests.conftest import eventually
from tests.load import Load
from tests.pairs import EMBEDDED, SCALE, administer, back_up_database, on_both_pairs, on_servers
from tests.processes import ALL, SERVICES, STREAMS, World, unread_pipe
from tests.test_processes import cannot_start, other_ports

every_end = pytest.mark.parametrize(
    "number", [signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name
)


@on_both_pairs
def test_what_was_confirmed_survives(world: World) -> None:
    """Everything killed right after the answers: all of it is there at the next start, and told."""
    world.start(*world.names)
    basket = world.stock()
    item = world.post("inventory", "/api/item", {"item": {"name": "Honey", "price": 5}})
    user = world.post("shop", "/api/user", {"name": "Rio"})
    direct = world.post("payment", "/api/payment", {"user_id": 1, "price": 7})
    order = world.checkout(basket)
    world.kill(*world.names)

    assert [item.status, user.status, direct.status] == [201, 201, 201]
    world.start(*world.names)
    assert item.json() in world.get("inventory", "/api/items")
    assert user.json() in world.get("shop", "/api/users")
    assert direct.json() in world.get("payment", "/api/payments")
    eventually(lambda: item.json() in world.get("shop", "/api/items"))
    eventually(lambda: world.is_paid(order))
    (payment,) = world.get("payment", f"/api/payments?order_id={order}")
    assert payment["price"] == 4000


@pytest.mark.chaos
@on_both_pairs
def test_each_order_is_paid_once_whatever_is_killed(world: World) -> None:
    """Every process killed under load, again and again: nothing is lost and nothing doubled."""
    world.start(*ALL)
    load = Load(world)
    with load.running():
        for name in (*world.names, *reversed(world.names)):
            load.advance()
            world.kill(name)
            world.start(name)
    load.check()

    announced = "SELECT count(*) FROM payment WHERE NOT announced"
    eventually(lambda: world.rows("payment", announced) == [(0,)])
    payments = {pay["id"]: pay["order_id"] for pay in world.get("payment", "/api/payments")}
    line = r"Payment (\d+) of \d+ by user 1(?: for order (\S+))? succeeded"
    lines = re.findall(line, world.output("payment"))
    assert {int(number): order or None for number, order in lines} == payments
    steps = itertools.pairwise(int(number) for number, _ in lines)
    assert sum(after <= before for before, after in steps) <= 2, "only a kill repeats lines"


@on_both_pairs
def test_lines_that_were_not_marked_are_written_at_start(world: World) -> None:
    """A payment whose line may not have been seen is announced again."""
    world.start("payment")
    world.post("payment", "/api/payment", {"user_id": 3, "price": 7})
    line = "Payment 1 of 7 by user 3 succeeded\n"
    eventually(lambda: world.output("payment") == line)
    world.kill("payment")
    world.rows("payment", "UPDATE payment SET announced = FALSE")

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


@on_both_pairs
def test_the_shop_sells_without_the_inventory(world: World) -> None:
    """Inventory down: the shop lists, sells and is paid, also after a restart of its own."""
    world.start(*ALL)
    basket = world.stock()
    world.kill("inventory", "shop")
    world.start("shop")
    assert [item["id"] for item in world.get("shop", "/api/items")] == basket["item_ids"]
    order = world.checkout(basket)
    eventually(lambda: world.is_paid(order))


@on_both_pairs
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


@on_both_pairs
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


@on_both_pairs
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
    ("world", "order"),
    [
        (EMBEDDED, "payment shop inventory broker"),
        (EMBEDDED, "shop broker payment inventory"),
        (SCALE, "payment shop inventory database broker"),
        (SCALE, "shop broker payment inventory database"),
        (SCALE, "database broker inventory payment shop"),
    ],
    indirect=["world"],
)
def test_the_order_of_starts_does_not_matter(world: World, order: str) -> None:
    """One after the other, in any order: the shop sells, and is paid."""
    world.kill(*world.servers)
    for name in order.split():
        world.start(name)
    for name in SERVICES:
        eventually(lambda name=name: world.ask(name, "GET", "/readyz").status == 200)
    order_id = world.checkout(world.stock())
    eventually(lambda: world.is_paid(order_id))


@on_servers
@every_end
def test_all_go_on_after_an_outage_of_the_database(world: World, number: signal.Signals) -> None:
    """PostgreSQL down: they say so, to whom asks for it, and in a line; back: all goes on."""
    world.start(*ALL)
    basket = world.stock()
    eventually(world.is_drained)
    asked = {
        "inventory": ("/api/item", {"item": {"name": "Honey", "price": 5}}, "/api/items"),
        "shop": ("/api/checkout", basket, "/api/orders?user_id=1"),
        "payment": ("/api/payment", {"user_id": 1, "price": 7}, "/api/payments"),
    }
    world.kill("database", number=number)
    for name, (path, body, list_path) in asked.items():
        for answer in (
            world.post(name, path, body, Idempotency_Key=name),
            world.post(name, path, body),
            world.ask(name, "GET", list_path),
        ):
            assert answer.status == 503, (name, answer)
            assert answer.headers["Content-Type"] == "application/problem+json"
            assert int(answer.headers["Retry-After"]) > 0
        ready = world.ask(name, "GET", "/readyz")
        assert (ready.status, ready.json()["database"]) == (503, "down")
        assert re.fullmatch(r".*refused.*", ready.json()["problem"]), ready
        assert world.ask(name, "GET", "/livez").status == 200
        assert world.ask(name, "GET", "/metrics").status == 200

    world.start("database")
    for name, (path, body, _) in asked.items():
        eventually(lambda name=name: world.ask(name, "GET", "/readyz").status == 200)
        assert world.post(name, path, body, Idempotency_Key=name).status == 201
    (order,) = world.get("shop", "/api/orders?user_id=1")
    eventually(lambda: world.is_paid(order["id"]) and world.is_drained())
    assert len(world.get("inventory", "/api/items")) == 2
    assert len(world.get("payment", "/api/payments")) == 2
    for name in SERVICES:
        assert "Traceback" not in world.output(name, "stderr")


@on_servers
def test_a_database_that_hangs_holds_nobody_up(world: World) -> None:
    """PostgreSQL stands still: 503 after 5 s at most, and the process answers meanwhile."""
    world.start(*ALL)
    basket = world.stock()
    paid = world.checkout(basket)
    eventually(lambda: world.is_paid(paid) and world.is_drained())

    def ask(number: int) -> tuple[int, float]:
        begun = time.monotonic()
        if number % 2:
            status = world.ask("shop", "GET", "/readyz").status
        else:
            status = world.post("shop", "/api/checkout", basket).status
        return status, time.monotonic() - begun

    world.servers["database"].freeze()
    try:
        for count in (8, 32):
            with ThreadPoolExecutor(count) as pool:
                asked = [pool.submit(ask, number) for number in range(count)]
                begun = time.monotonic()
                assert world.ask("shop", "GET", "/livez").status == 200
                assert time.monotonic() - begun < 4
                for each in asked:
                    status, took_s = each.result()
                    assert status == 503
                    assert took_s < 5.5
    finally:
        world.servers["database"].thaw()
    eventually(lambda: all(world.ask(n, "GET", "/readyz").status == 200 for n in SERVICES))
    order = world.checkout(basket)
    eventually(lambda: world.is_paid(order) and world.is_drained())


@on_servers
def test_a_database_that_only_reads_is_told(world: World) -> None:
    world.start(*ALL)
    basket = world.stock()
    url = world.settings.shop_database_url or ""
    name = url.rpartition("/")[2]
    setting = f'ALTER DATABASE "{name}" SET default_transaction_read_only'
    sessions = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
    administer(url, f"{setting} = on", sessions)
    ready = eventually(lambda: not_ready(world, "shop"))
    assert "read-only" in ready["problem"]
    assert world.post("shop", "/api/checkout", basket).status == 503
    assert world.ask("inventory", "GET", "/readyz").status == 200
    administer(url, f"{setting} = off", sessions)
    eventually(lambda: world.ask("shop", "GET", "/readyz").status == 200)
    order = world.checkout(basket)
    eventually(lambda: world.is_paid(order))


def not_ready(world: World, name: str) -> Any:
    """What ``/readyz`` tells, if that is 503 for another reason than ended sessions."""
    answer = world.ask(name, "GET", "/readyz")
    return answer.json() if answer.status == 503 and b"terminat" not in answer.body else None


def deleted(path: Path) -> None:
    path.unlink()


def replaced(path: Path) -> None:
    shutil.copy(path, path.with_suffix(".copy"))
    path.with_suffix(".copy").rename(path)


@pytest.mark.parametrize(
    ("name", "lose"),
    [
        ("shop", replaced),
        ("broker", deleted),
        *(
            pytest.param(name, lose, marks=pytest.mark.chaos)
            for name in ALL
            for lose in (deleted, replaced)
            if (name, lose) not in (("shop", replaced), ("broker", deleted))
        ),
    ],
)
def test_a_file_that_a_process_has_lost_gets_nothing_more(
    name: str, lose: Callable[[Path], None], world: World
) -> None:
    """Nothing is confirmed that nobody could find again; put back, it goes on with it."""
    world.start(*ALL)
    basket = world.stock()
    paid = world.checkout(basket)
    eventually(lambda: world.is_paid(paid) and world.is_drained())
    path, kept = world.settings.data_dir / f"{name}.db", world.settings.data_dir / "kept"
    kept.hardlink_to(path)
    lose(path)
    posts = {
        "inventory": ("/api/item", {"item": {"name": "Honey", "price": 5}}),
        "shop": ("/api/checkout", basket),
        "payment": ("/api/payment", {"user_id": 1, "price": 7}),
    }
    for each, (where, body) in posts.items():
        expected = 503 if each == name else 201
        assert [world.post(each, where, body).status for _ in range(3)] == [expected] * 3
    ready = world.ask(name, "GET", "/readyz")
    assert ready.status == 503
    assert f"{path} was deleted or replaced" in ready.json()["problem"]
    if name == "broker":
        assert not world.is_told(*SERVICES)
    kept.rename(path)
    eventually(lambda: world.ask(name, "GET", "/readyz").status == 200)
    order = world.checkout(basket)
    eventually(lambda: world.is_paid(order) and world.is_drained())
    world.kill(*ALL)
    world.start(*ALL)
    assert world.is_paid(order)


@pytest.mark.parametrize("name", ALL)
def test_a_wal_that_was_deleted_is_noticed(name: str, world: World) -> None:
    """What is written then would be lost, and is not confirmed."""
    world.start(*ALL)
    basket = world.stock()
    order = world.checkout(basket)
    eventually(lambda: world.is_paid(order) and world.is_drained())
    (world.settings.data_dir / f"{name}.db-wal").unlink()
    assert world.ask(name, "GET", "/readyz").status == 503
    assert world.post("shop", "/api/checkout", basket).status == (503 if name == "shop" else 201)


@on_both_pairs
def test_a_lost_journal_fills_itself_again(world: World) -> None:
    """The journal deleted while it was down: its writers refill it, for readers that come late.

    And go on behind that: one has told something new meanwhile, which others wait for. A payment
    service that comes so late cannot know that there was none before it.
    """
    world.start("broker", "inventory", "shop")
    basket = world.stock()
    orders = [world.checkout(basket) for _ in range(5)]
    eventually(lambda: world.is_told("inventory", "shop"))
    every = "SELECT * FROM entry ORDER BY stream, epoch, sequence"
    kept = world.rows("broker", every)
    world.lose("broker")
    new = {"item": {"name": "Honey", "price": 5}}
    item = world.post("inventory", "/api/item", new).json()

    world.start("broker", "payment")
    assert world.finish("-m", "payment", "place", "orders", str(START)).returncode == 0
    eventually(lambda: all(world.is_paid(order) for order in orders))
    eventually(lambda: item in world.get("shop", "/api/items"))
    eventually(world.is_drained)
    entries = world.rows("broker", every)
    assert [row for row in entries if row in kept] == kept


@on_servers
def test_a_lost_shop_starts_again(world: World) -> None:
    """The shop's file deleted: its catalogue comes back, and old payments pay no new orders."""
    world.start(*ALL)
    basket = world.stock()
    order = world.checkout(basket)
    eventually(lambda: world.is_paid(order))
    world.kill("payment")
    world.checkout(basket)
    eventually(lambda: world.is_told("shop"))
    world.lose("shop")

    world.start("shop")
    basket = world.stock()
    assert len(world.get("shop", "/api/items")) == 2
    order = world.checkout(basket)
    world.start("payment")
    eventually(lambda: world.is_paid(order))
    eventually(lambda: world.output("shop", "stderr").count("payment for an unknown order") == 2)


@on_servers
def test_a_lost_inventory_starts_again(world: World) -> None:
    """Its file deleted: the shop sells what it knew, until it hears of the first new item."""
    world.start(*ALL)
    world.stock()
    basket = world.stock()
    world.lose("inventory")

    world.start("inventory")
    assert len(world.get("shop", "/api/items")) == 2
    new = {"item": {"name": "Honey", "price": 5}}
    item = world.post("inventory", "/api/item", new).json()
    eventually(lambda: world.get("shop", "/api/items") == [item])
    assert world.post("shop", "/api/checkout", basket).status == 422
    order = world.checkout({**basket, "item_ids": [item["id"]]})
    eventually(lambda: world.is_paid(order))
    epochs = "SELECT count(DISTINCT epoch) FROM entry WHERE stream = 'items'"
    assert world.rows("broker", epochs) == [(2,)]


def test_nothing_runs_twice(world: World) -> None:
    """A second copy on the same file or port: one line, exit code 1; the first goes on."""
    world.start(*ALL)
    elsewhere = {"DATA_DIR": str(world.settings.data_dir / "other")}
    for name, changes, named in (
        ("inventory", other_ports(), "inventory.db"),
        ("payment", other_ports(), "payment.db"),
        ("broker", elsewhere, "BROKER_PUBLISH_URL"),
    ):
        assert named in cannot_start(world, name, 1, **changes)
    order = world.checkout(world.stock())
    eventually(lambda: world.is_paid(order))


def back_up(world: World, name: str) -> Callable[[], None]:
    """Copy the database of a process that does not run; gives what puts the copy back."""
    if url := world.settings.database_url(name):
        return back_up_database(url)
    backup = world.settings.data_dir.parent / f"backup-{name}"
    backup.mkdir()
    for path in world.files(name):
        shutil.copy(path, backup)

    def restore() -> None:
        for path in world.files(name):
            path.unlink()
        shutil.copytree(backup, world.settings.data_dir, dirs_exist_ok=True)

    return restore


@on_servers
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


@on_both_pairs
@pytest.mark.parametrize(
    ("name", "path", "body", "reader", "read"),
    [
        ("shop", "/api/checkout", {"user_id": 1, "item_ids": [1]}, "payment", "/api/payments"),
        ("inventory", "/api/item", {"item": {"name": "Honey", "price": 5}}, "shop", "/api/items"),
    ],
    ids=["shop", "inventory"],
)
def test_a_restored_backup_overwrites_nothing(
    world: World, name: str, path: str, body: dict[str, Any], reader: str, read: str
) -> None:
    """An older file: it says so and tells nothing, and the journal stays as it is.

    Even if more was sold or added since than is missing in it.
    """
    world.start("broker", "inventory", "shop")
    world.stock()

    def change() -> None:
        assert world.post(name, path, body).status == 201

    change()
    eventually(lambda: world.is_told(name))
    world.kill(name, "broker")
    restore = back_up(world, name)

    world.start("broker", name)
    change()
    eventually(lambda: world.is_told(name))
    every = f"SELECT * FROM entry WHERE stream = '{STREAMS[name]}' ORDER BY sequence"
    kept = world.rows("broker", every)
    world.kill(name, "broker")
    restore()

    world.start(name)
    for _ in range(3):
        change()
    world.start("broker", "payment")
    eventually(lambda: world.ask(name, "GET", "/readyz").status == 503)
    ready = world.get(name, "/readyz")
    assert (ready["status"], "older" in ready["problem"]) == ("unready", True)
    eventually(lambda: world.output(name, "stderr").count(ready["problem"]) == 1)
    assert world.post(name, path, body).status == 503
    world.kill("broker")
    world.start("broker")
    eventually(lambda: world.get(name, "/readyz")["broker"] == "up")
    assert world.get(name, "/readyz")["outbox_waiting"] != 0
    assert world.rows("broker", every) == kept
    eventually(lambda: len(world.get(reader, read)) == len(kept))
