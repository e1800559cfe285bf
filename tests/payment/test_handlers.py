"""The events that the payment service reads."""

from datetime import UTC, datetime
from itertools import groupby
from operator import attrgetter
from typing import Any
from uuid import UUID

import pytest
from pydantic import ValidationError

from messaging.event import Event
from messaging.transports.wire import Place
from payment.app import Payment
from payment.handlers import handlers, inherited
from runtime.process.settings import Settings
from shop.app import Shop
from tests.contract import EPOCH, events, heard, unchanged
from tests.rules import checkout, create_user, pay
from tests.shop.conftest import item

ORDER = UUID("0b5e0000-0000-4000-8000-000000000001")
PLACED = {"order_id": str(ORDER), "user_id": 1, "price": 4300}


def hear(payment: Payment, *received: Event) -> None:
    """Apply events as the inbox does."""
    table = handlers(payment.payments)["orders"]
    for kind, some in groupby(received, attrgetter("type")):
        table[kind](list(some))


def placed(data: dict[str, Any]) -> Event:
    when = datetime(2026, 11, 23, 10, tzinfo=UTC)
    return Event("orders", Place(EPOCH, 1), "order.placed", "1", when, data, None)


def test_pays_what_the_shop_tells_once(payment: Payment, shop: Shop) -> None:
    user_id = create_user(shop, "Kesha")["id"]
    shop.catalogue.update(EPOCH, [item(1, price=2150)])
    orders = [checkout(shop, user_id, [1] * count) for count in (1, 2)]
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
        PLACED | {"user_id": 2**53},
        PLACED | {"price": -1},
        PLACED | {"price": "4300"},
        PLACED | {"price": 10**12 + 1},
    ],
)
def test_what_does_not_validate_changes_nothing(payment: Payment, data: dict[str, Any]) -> None:
    """Such an event is set aside at once, and not tried again."""
    with unchanged(payment), pytest.raises(ValidationError):
        hear(payment, placed(data))


def test_takes_over_what_it_has_told_itself(payment: Payment, settings: Settings) -> None:
    """Whatever a payment is can be read from its event."""
    pay(payment, 7, 4300, ORDER)
    pay(payment, 7, 5)
    elsewhere = settings.model_copy(update={"data_dir": settings.data_dir / "new"})
    other = Payment(elsewhere)
    other.database.open()
    table = inherited(other.payments)
    for event in heard(payment, "payments"):
        table[event.type]([event])
    assert other.payments.all() == payment.payments.all()
    assert events(other) == []
    other.database.close()


@pytest.mark.parametrize("lacking", ["payment_id", "order_id", "user_id", "price"])
def test_what_is_no_payment_is_not_taken_over(payment: Payment, lacking: str) -> None:
    data = {"payment_id": 1, **PLACED}
    event = placed(data)._replace(data={name: data[name] for name in data if name != lacking})
    with unchanged(payment), pytest.raises(ValidationError):
        inherited(payment.payments)["payment.succeeded"]([event])
