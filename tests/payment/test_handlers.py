"""The events that the payment service reads."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from pydantic import ValidationError

from messaging.event import Event
from messaging.wire import Place
from payment.app import Payment
from payment.handlers import handlers
from shop.app import Shop
from tests.contract import EPOCH, events, heard, unchanged
from tests.shop.conftest import item

ORDER = UUID("0b5e0000-0000-4000-8000-000000000001")
PLACED = {"order_id": str(ORDER), "user_id": 1, "price": 4300}


def hear(payment: Payment, *received: Event) -> None:
    """Apply events as the inbox does."""
    table = handlers(payment.payments)["orders"]
    for event in received:
        table[event.type](event)


def placed(data: dict[str, Any]) -> Event:
    when = datetime(2026, 11, 23, 10, tzinfo=UTC)
    return Event("orders", Place(EPOCH, 1), "order.placed", "1", when, data, None)


def test_pays_what_the_shop_tells_once(payment: Payment, shop: Shop) -> None:
    user_id = shop.users.create("Kesha")["id"]
    shop.catalogue.update(EPOCH, item(1, price=2150))
    orders = [shop.orders.checkout(user_id, [1] * count) for count in (1, 2)]
    told = heard(shop, "orders")
    hear(payment, *told, *told)
    rows = payment.payments.all()[::-1]
    assert [(row["order_id"], row["price"]) for row in rows] == [
        (order["id"], order["price"]) for order in orders
    ]
    assert len(events(payment)) == 2


@pytest.mark.parametrize("price", [0, 10**12])
def test_pays_any_price_that_an_order_can_have(payment: Payment, price: int) -> None:
    hear(payment, placed(PLACED | {"price": price, "unknown": "member"}))
    assert [row["price"] for row in payment.payments.all(order_id=ORDER)] == [price]


@pytest.mark.parametrize(
    "data",
    [
        {},
        PLACED | {"order_id": None},
        PLACED | {"order_id": "abc"},
        PLACED | {"user_id": 0},
        PLACED | {"user_id": 2**63},
        PLACED | {"price": -1},
        PLACED | {"price": "4300"},
        PLACED | {"price": 10**12 + 1},
    ],
)
def test_what_does_not_validate_changes_nothing(payment: Payment, data: dict[str, Any]) -> None:
    """Such an event is set aside at once, and not tried again."""
    with unchanged(payment), pytest.raises(ValidationError):
        hear(payment, placed(data))
