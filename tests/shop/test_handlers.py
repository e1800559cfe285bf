"""The events that the shop reads."""

from datetime import UTC, datetime
from itertools import groupby
from operator import attrgetter
from typing import Any
from uuid import UUID

import pytest
from pydantic import ValidationError

from inventory.app import Inventory
from messaging.event import Event
from messaging.transports.wire import Place
from payment.app import Payment
from shop.app import Shop
from shop.handlers import handlers
from tests.contract import EPOCH, events, heard, unchanged
from tests.rules import checkout, create_item, pay, toggle
from tests.shop.conftest import item

WHEN = datetime(2026, 11, 23, 10, tzinfo=UTC)


def hear(shop: Shop, stream: str, *received: Event) -> None:
    """Apply events as the inbox does."""
    table = handlers(shop.catalogue, shop.orders)[stream]
    for kind, some in groupby(received, attrgetter("type")):
        table[kind](list(some))


def event(stream: str, type: str, data: dict[str, Any], epoch: bytes = EPOCH) -> Event:
    return Event(stream, Place(epoch, 1), type, "1", WHEN, data, None)


def test_understands_what_the_inventory_tells(shop: Shop, inventory: Inventory) -> None:
    """Told twice is as told once."""
    for name in ("Millet", "Hemp", "Oats"):
        create_item(inventory, name, 4000)
    for item_id in (2, 3, 3):
        toggle(inventory, item_id)
    told = heard(inventory, "items")
    hear(shop, "items", *told, *told)
    on_sale = [row for row in inventory.items.all() if row["active"]]
    assert shop.catalogue.on_sale() == on_sale
    assert events(shop) == []


def test_understands_what_the_payment_service_tells(stocked: Shop, payment: Payment) -> None:
    """The time of the payment is the time at which the order was paid."""
    order = checkout(stocked, 1, [1])
    paid = pay(payment, 1, order["price"], order["id"])
    pay(payment, 1, 5)
    told = heard(payment, "payments")
    hear(stocked, "payments", *told, *told)
    assert stocked.orders.get(order["id"])["paid_at"] == paid["paid_at"]
    assert len(events(stocked)) == 1


def test_a_new_epoch_is_a_new_warehouse(shop: Shop) -> None:
    for item_id in (1, 2):
        hear(shop, "items", event("items", "item.created", item(item_id)))
    hear(shop, "items", event("items", "item.created", item(1), epoch=b"\xff" * 16))
    assert [row["id"] for row in shop.catalogue.on_sale()] == [1]


def test_members_that_nobody_knows_are_ignored(stocked: Shop) -> None:
    order_id = checkout(stocked, 1, [1])["id"]
    hear(stocked, "items", event("items", "item.created", item(8) | {"color": "green"}))
    paid = {"order_id": str(order_id), "payment_id": 1, "color": "green"}
    hear(stocked, "payments", event("payments", "payment.succeeded", paid))
    assert stocked.catalogue.find([8])
    assert stocked.orders.get(order_id)["paid_at"] == "2026-11-23T10:00:00.000Z"


@pytest.mark.parametrize("order_id", [None, str(UUID(int=1))])
def test_payments_that_concern_no_order_here(stocked: Shop, order_id: str | None) -> None:
    with unchanged(stocked):
        hear(stocked, "payments", event("payments", "payment.succeeded", {"order_id": order_id}))


@pytest.mark.parametrize(
    ("stream", "type", "data"),
    [
        ("items", "item.created", {}),
        ("items", "item.created", item(1, price="4000")),
        ("items", "item.created", item(1, price=-1)),
        ("items", "item.status_changed", item(0)),
        ("items", "item.status_changed", item(2**53)),
        ("items", "item.status_changed", item(1, version=None)),
        ("items", "item.status_changed", item(1, version=2**53)),
        ("items", "item.created", item(1, price=10**9 + 1)),
        ("payments", "payment.succeeded", {}),
        ("payments", "payment.succeeded", {"order_id": "abc"}),
    ],
)
def test_what_does_not_validate_changes_nothing(
    stocked: Shop, stream: str, type: str, data: dict[str, Any]
) -> None:
    """Such an event is set aside at once, and not tried again."""
    with unchanged(stocked), pytest.raises(ValidationError):
        hear(stocked, stream, event(stream, type, data))
