"""Real processes, killed: what was confirmed survives, and each order is paid once."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import eventually
from tests.pairs import EMBEDDED, SCALE, back_up_database, on_both_pairs, on_servers
from tests.processes import ALL, SERVICES, World

HONEY = {"item": {"name": "Honey", "price": 5}}


@on_both_pairs
def test_what_was_confirmed_survives(world: World) -> None:
    """Everything killed right after the answers: all of it is there at the next start, and told."""
    world.start(*world.names)
    basket = world.stock()
    item = world.post("inventory", "/api/item", HONEY)
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


@on_both_pairs
def test_each_service_goes_on_while_others_are_down(world: World) -> None:
    world.start(*ALL)
    basket = world.stock()
    world.kill("inventory", "shop")
    world.start("shop")
    assert [item["id"] for item in world.get("shop", "/api/items")] == basket["item_ids"]
    order = world.checkout(basket)
    eventually(lambda: world.is_paid(order))

    # Payment and shop are not up together: the order is paid, and the shop hears of it.
    world.kill("payment")
    waiting = world.checkout(basket)
    eventually(lambda: world.is_told("shop"))
    world.kill("shop")
    world.start("payment")
    eventually(lambda: world.get("payment", f"/api/payments?order_id={waiting}"))
    line = f"Payment 2 of 4000 by user 1 for order {waiting} succeeded\n"
    eventually(lambda: world.output("payment").endswith(line))
    world.start("shop", "inventory")
    eventually(lambda: world.is_paid(waiting))

    # Broker down: everybody answers and is ready; broker back: everybody catches up.
    world.kill("broker")
    for name in SERVICES:
        eventually(lambda name=name: world.get(name, "/readyz")["broker"] == "down")
        assert world.ask(name, "GET", "/readyz").status == 200
    item = world.post("inventory", "/api/item", HONEY).json()
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
        (SCALE, "payment shop inventory database broker"),
    ],
    indirect=["world"],
)
def test_the_order_of_starts_does_not_matter(world: World, order: str) -> None:
    world.kill(*world.servers)
    for name in order.split():
        world.start(name)
    for name in SERVICES:
        eventually(lambda name=name: world.ask(name, "GET", "/readyz").status == 200)
    order_id = world.checkout(world.stock())
    eventually(lambda: world.is_paid(order_id))


def deleted(path: Path) -> None:
    path.unlink()


def replaced(path: Path) -> None:
    shutil.copy(path, path.with_suffix(".copy"))
    path.with_suffix(".copy").rename(path)


@pytest.mark.parametrize(("name", "lose"), [("shop", replaced), ("broker", deleted)])
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
        "inventory": ("/api/item", HONEY),
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


def test_a_wal_that_was_deleted_is_noticed(world: World) -> None:
    """What is written then would be lost, and is not confirmed."""
    world.start(*ALL)
    basket = world.stock()
    order = world.checkout(basket)
    eventually(lambda: world.is_paid(order) and world.is_drained())
    for name, status in (("broker", 201), ("inventory", 201), ("payment", 201), ("shop", 503)):
        (world.settings.data_dir / f"{name}.db-wal").unlink()
        assert world.ask(name, "GET", "/readyz").status == 503
        assert world.post("shop", "/api/checkout", basket).status == status


@on_servers
def test_lost_databases_are_begun_anew(world: World) -> None:
    world.start(*ALL)
    basket = world.stock()
    order = world.checkout(basket)
    eventually(lambda: world.is_paid(order) and world.is_drained())

    # The journal: its writers refill it, and go on behind that.
    every = "SELECT * FROM entry ORDER BY stream, epoch, sequence"
    kept = world.rows("broker", every)
    world.lose("broker")
    world.post("inventory", "/api/item", HONEY)
    world.start("broker")
    eventually(lambda: len(world.get("shop", "/api/items")) == 2)
    eventually(world.is_drained)
    assert [row for row in world.rows("broker", every) if row in kept] == kept

    # The inventory: the shop sells what it knew, until it hears of the first new item.
    world.lose("inventory")
    world.start("inventory")
    assert len(world.get("shop", "/api/items")) == 2
    item = world.post("inventory", "/api/item", HONEY).json()
    eventually(lambda: world.get("shop", "/api/items") == [item])
    assert world.post("shop", "/api/checkout", {**basket, "item_ids": [2]}).status == 422
    epochs = "SELECT count(DISTINCT epoch) FROM entry WHERE stream = 'items'"
    assert world.rows("broker", epochs) == [(2,)]

    # The shop: its catalogue comes back, and old payments pay no new orders.
    world.kill("payment")
    world.checkout({**basket, "item_ids": [item["id"]]})
    eventually(lambda: world.is_told("shop"))
    world.lose("shop")
    world.start("shop")
    basket = world.stock()
    assert len(world.get("shop", "/api/items")) == 2
    order = world.checkout(basket)
    world.start("payment")
    eventually(lambda: world.is_paid(order))
    eventually(lambda: world.output("shop", "stderr").count("payment for an unknown order") == 2)


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
def test_a_restored_backup_overwrites_nothing(world: World) -> None:
    """An older file: it says so and tells nothing, and the journal stays as it is.

    Even if more was sold since than is missing in it.
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
    every = "SELECT * FROM entry WHERE stream = 'orders' ORDER BY sequence"
    kept = world.rows("broker", every)
    world.kill("shop", "broker")
    restore()

    world.start("shop")
    for _ in range(3):
        world.checkout(basket)
    world.start("broker", "payment")
    eventually(lambda: world.ask("shop", "GET", "/readyz").status == 503)
    ready = world.state("shop")
    assert (ready["status"], "older" in ready["problem"]) == ("unready", True)
    eventually(lambda: world.output("shop", "stderr").count(ready["problem"]) == 1)
    assert world.post("shop", "/api/checkout", basket).status == 503
    world.kill("broker")
    world.start("broker")
    eventually(lambda: world.state("shop")["broker"] == "up")
    assert world.state("shop")["outbox_waiting"] != 0
    assert world.rows("broker", every) == kept
    eventually(lambda: len(world.get("payment", "/api/payments")) == len(kept))
