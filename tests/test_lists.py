"""Rules over lists, in SQLite and PostgreSQL: the outcome of each command is its own."""

from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

import pytest

from inventory.app import Inventory
from inventory.items import NewStatus, ToCreate
from payment.app import Payment
from payment.payments import Paid, Pay
from runtime.process.errors import NotFound, Refused
from runtime.process.settings import Settings
from shop.app import Shop
from shop.orders import Checkout, PaidOrder
from tests.contract import told
from tests.shop.conftest import EPOCH, item

ORDERS = [UUID(int=n) for n in range(1, 4)]
THEN, LATER = "2026-11-23T10:00:00.123Z", "2026-11-23T10:00:01.000Z"
Made = Callable[[Any], Any]


@pytest.fixture(params=["SQLite", "PostgreSQL"])
def made(request: pytest.FixtureRequest, settings: Settings) -> Iterator[Made]:
    """Make a service on either database, and open that."""
    opened = []

    def make(service: Any) -> Any:
        own = settings
        if request.param == "PostgreSQL":
            url = request.getfixturevalue("postgres_url")
            own = settings.model_copy(update={f"{service.__name__.lower()}_database_url": url})
        opened.append(service(own))
        opened[-1].database.open()
        return opened[-1]

    yield make
    for each in opened:
        each.database.close()
        if request.param == "PostgreSQL":
            each.database.close_all()


def test_items(made: Made) -> None:
    """One that comes twice changes twice, one after the other."""
    inventory = made(Inventory)
    created = inventory.items.create([ToCreate("Millet", 4000, "a"), ToCreate("Hemp", 150, "b")])
    assert created == inventory.items.all()
    assert [each["id"] for each in created] == [1, 2]
    toggles = [NewStatus(1), NewStatus(9), NewStatus(1), NewStatus(2, True), NewStatus(2, False)]
    first, unknown, second, same, last = inventory.items.change(toggles)
    assert isinstance(unknown, NotFound)
    assert [each["active"] for each in (first, second, same, last)] == [False, True, True, False]
    assert [each["active"] for each in inventory.items.all()] == [True, False]
    changes = [(data["id"], data["active"], data["version"]) for _, _, data in told(inventory)[2:]]
    assert changes == [(1, False, 2), (1, True, 3), (2, False, 2)]


def test_purchases(made: Made) -> None:
    """A refused one leaves no gap; an order is paid when it was paid first."""
    shop = made(Shop)
    assert shop.users.create(["Kesha", "Gosha"]) == shop.users.all()
    items = [item(1), item(2, active=False), item(1, version=3, price=7), item(1, version=2)]
    shop.catalogue.update(EPOCH, items)
    shop.catalogue.update(EPOCH, [item(1, version=2)])
    assert [each["price"] for each in shop.catalogue.on_sale()] == [7]
    placed = [Checkout(1, [1], "a"), Checkout(1, [2]), Checkout(3, [1]), Checkout(2, [1, 1])]
    first, inactive, unknown, last = shop.orders.checkout(placed)
    assert isinstance(inactive, Refused)
    assert isinstance(unknown, Refused)
    assert (first["price"], last["price"]) == (7, 14)
    assert [shop.orders.get(order["id"]) for order in (first, last)] == [first, last]
    assert [subject for _, subject, _ in told(shop)] == [str(first["id"]), str(last["id"])]
    paid = [PaidOrder(last["id"], THEN), PaidOrder(ORDERS[0], THEN), PaidOrder(last["id"], LATER)]
    shop.orders.mark_paid(paid)
    shop.orders.mark_paid([PaidOrder(first["id"], LATER), PaidOrder(last["id"], LATER)])
    assert [shop.orders.get(order["id"])["paid_at"] for order in (first, last)] == [LATER, THEN]


def test_payments(made: Made) -> None:
    """An order is paid once, whether it comes twice in a list or in two."""
    payment = made(Payment)
    old = [Paid(7, 1, 5, ORDERS[0], THEN), Paid(8, 1, 5, None, THEN), Paid(8, 1, 5, None, THEN)]
    payment.payments.take_over([*old, Paid(9, 2, 9, ORDERS[0], THEN), Paid(8, 2, 1, None, THEN)])
    assert [(each["id"], each["price"]) for each in payment.payments.all()] == [
        (9, 1),
        (8, 5),
        (7, 5),
    ]
    assert told(payment) == []
    commands = [Pay(1, 3, ORDERS[1], "a"), Pay(2, 4), Pay(9, 9, ORDERS[1]), Pay(1, 5, ORDERS[0])]
    new, direct, again, known = payment.payments.pay([*commands])
    assert new == again == payment.payments.all(order_id=ORDERS[1])[0]
    assert (new["price"], direct["price"], known["id"]) == (3, 4, 7)
    assert [data["payment_id"] for *_, data in told(payment)] == [new["id"], direct["id"]]
    assert payment.payments.pay([]) == []
