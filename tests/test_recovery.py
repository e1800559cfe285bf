"""What must not go on in silence: it is said, nothing more is confirmed, and there is a way on.

The commands of the ways on are typed as docs/operations.md has them in ``test_operations.py``.
"""

import argparse
import json
from collections.abc import Callable
from typing import Any

import pytest
from falcon.testing import TestClient

from inventory.app import Inventory
from messaging.event import previous
from messaging.inbox import place_of
from messaging.recovery import PLACE, begin_epoch, set_place
from messaging.transports.wire import START, Place, digest
from payment.app import Payment
from runtime.process.errors import StartError
from shop.app import Shop
from tests.conftest import eventually
from tests.pairs import on_files
from tests.processes import ALL, World
from tests.rules import create_item, pay
from tests.test_faults import back_up


def problem(world: World, name: str, words: str) -> str:
    """What a service says that it cannot do; waited for."""

    def found() -> str:
        state = world.state(name)
        told = str(state.get("problem", ""))
        return told if state["status"] == "unready" and words in told else ""

    return str(eventually(found))


def ready(world: World, *names: str) -> bool:
    return all(world.ask(name, "GET", "/readyz").status == 200 for name in names)


@on_files
def test_a_forked_shop_confirms_nothing_that_it_cannot_tell(world: World) -> None:
    """What it had confirmed before is paid after all, in a new epoch, and nothing is paid twice."""
    world.start(*ALL)
    basket = world.stock()
    before = world.checkout(basket)
    eventually(lambda: world.is_paid(before) and world.is_told("shop"))
    world.kill("shop", "broker")
    restore = back_up(world, "shop")
    world.start("broker", "shop")
    theirs = world.checkout(basket)
    eventually(lambda: world.is_paid(theirs) and world.is_told("shop"))
    world.kill("shop", "broker")
    restore()

    world.start("shop")
    ours = [world.checkout(basket) for _ in range(3)]
    world.start("broker")
    told = problem(world, "shop", "a copy of it is in use")
    eventually(lambda: world.output("shop", "stderr").count(told) == 1)
    refused = world.post("shop", "/api/checkout", basket)
    assert (refused.status, refused.json()["detail"]) == (503, told)
    assert refused.headers["Retry-After"]
    assert world.state("shop")["outbox_waiting"] == 3
    assert world.post("shop", "/api/user", {"name": "Gosha"}).status == 201
    assert len(world.get("shop", "/api/orders?user_id=1")) == 4

    begun = world.finish("-m", "shop", "new-epoch")
    assert (begun.returncode, "--yes" in begun.stderr) == (1, True)
    begun = world.finish("-m", "shop", "new-epoch", "--yes")
    assert (begun.returncode, begun.stderr) == (0, "")
    eventually(lambda: ready(world, "shop") and all(map(world.is_paid, [before, *ours])))
    later = world.checkout(basket)
    eventually(lambda: world.is_paid(later))
    paid = [payment["order_id"] for payment in world.get("payment", "/api/payments")]
    assert sorted(paid) == sorted([before, theirs, *ours, later])


def test_no_service_confirms_what_it_cannot_tell(inventory: Inventory, payment: Payment) -> None:
    """It goes on reading, and changes nothing."""
    create_item(inventory, "Millet", 4000)
    pay(payment, 1, 5)
    requests: list[tuple[Inventory | Payment, str, str, Any, str]] = [
        (inventory, "POST", "/api/item", {"item": {"name": "Honey", "price": 5}}, "/api/items"),
        (inventory, "PUT", "/api/items/1/toggle_status", None, "/api/items"),
        (payment, "POST", "/api/payment", {"user_id": 1, "price": 5}, "/api/payments"),
    ]
    for service, method, path, body, listed in requests:
        service.outbox.note(0, "the journal holds another event")
        client = TestClient(service.app())
        before = client.simulate_get(listed).json
        answer = client.simulate_request(method, path, json=body)
        assert answer.status_code == 503
        assert answer.json["detail"] == "the journal holds another event"
        assert client.simulate_get(listed).json == before != []


@pytest.fixture
def place(capfd: pytest.CaptureFixture[str]) -> Callable[..., list[str]]:
    """Give the command ``place`` of a service, and what it prints."""

    def place(service: Shop | Payment, *arguments: str) -> list[str]:
        parser = argparse.ArgumentParser()
        PLACE.arguments(parser)
        assert PLACE.run(service, parser.parse_args(arguments)) == 0
        return capfd.readouterr().out.splitlines()

    return place


def test_places_are_listed_and_moved(
    shop: Shop, payment: Payment, place: Callable[..., list[str]]
) -> None:
    """Those of the streams that are read, or taken over by a new database."""
    at, back = Place(bytes(15) + b"\1", 7), Place(bytes(15) + b"\1", 0)
    set_place(shop.database, "items", at, back=False)
    assert place(shop) == [f"items  {at}", f"payments  {START}"]
    assert place(payment) == [f"orders  {START}", f"payments  {START}"]
    with pytest.raises(StartError, match="--back"):
        place(shop, "items", str(back))
    assert place(shop, "items") == [f"items  {at}"]
    assert place(shop, "items", str(back), "--back") == [f"items  {back}, it was {at}"]
    assert place_of(shop.database, "items") == back
    with pytest.raises(StartError, match="items, payments"):
        place(shop, "orders", str(back))


def test_a_place_that_is_none_is_said(
    shop: Shop, place: Callable[..., list[str]], capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        place(shop, "items", "7")
    assert "is not a place" in capfd.readouterr().err


def test_a_new_epoch_renumbers_what_the_outbox_has(inventory: Inventory) -> None:
    """Bodies carry their places: each is the same document under its new one."""
    for price in (1, 2, 3):
        create_item(inventory, "Honey", price)
    inventory.database.execute_sql("DELETE FROM outbox WHERE sequence < 2")
    outbox = inventory.outbox
    before = [json.loads(body) for _, body in outbox.rows(0, 9)]
    old, new = begin_epoch(inventory.database, outbox)
    assert outbox.head() == (new, 0, None)
    assert (old.sequence, new.sequence, old.epoch < new.epoch) == (3, 2, True)
    after = outbox.rows(0, 9)
    assert [number for number, _ in after] == [1, 2]
    told = None
    for fields, (number, body) in zip(before, after, strict=True):
        own = {"id": str(Place(new.epoch, number)), "sequence": str(number)}
        chained = {"previous": digest(told).hex()} if told else {}
        del fields["previous"]
        assert json.loads(body) == fields | own | chained
        assert previous(body) == (told and digest(told))
        told = body
