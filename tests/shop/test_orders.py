"""The rules of orders, and what is told of them."""

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from unittest.mock import Mock
from uuid import RFC_4122, UUID

import pytest

from messaging.outbox import Outbox
from runtime.process.clock import now
from shop import orders
from shop.app import Shop
from shop.orders import PaidOrder, uuid7
from tests.contract import EPOCH, events, told, unchanged
from tests.rules import checkout, mark_paid, orders_of
from tests.shop.conftest import item

PAID_AT = "2026-11-23T10:00:00.123Z"


def test_an_order_is_told_with_its_price(stocked: Shop) -> None:
    order = checkout(stocked, 2, [3, 1, 3])
    lines = [
        {"item_id": 1, "quantity": 1, "price": 100},
        {"item_id": 3, "quantity": 2, "price": 300},
    ]
    data = {"order_id": str(order["id"]), "user_id": 2, "price": 700, "items": lines}
    assert told(stocked) == [("order.placed", str(order["id"]), data)]
    (event,) = events(stocked)
    assert (event["source"], event["time"]) == ("/shop", order["placed_at"])


def test_an_order_keeps_the_names_and_prices_it_was_placed_with(stocked: Shop) -> None:
    order = checkout(stocked, 1, [1])
    stocked.catalogue.update(EPOCH, [item(1, name="renamed", price=1, version=2)])
    stocked.catalogue.update(EPOCH + b"\x01", [item(9)])
    assert stocked.orders.get(order["id"]) == order


def test_an_order_may_cost_nothing(stocked: Shop) -> None:
    stocked.catalogue.update(EPOCH, [item(5, price=0)])
    assert checkout(stocked, 1, [5, 5])["price"] == 0


def test_no_order_without_its_event(stocked: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fact and event are one transaction: if one fails, there is neither."""
    monkeypatch.setattr(Outbox, "emit", Mock(side_effect=OSError("disk full")))
    with unchanged(stocked), pytest.raises(OSError, match="disk full"):
        checkout(stocked, 1, [1])


def test_a_users_orders_come_newest_first(stocked: Shop) -> None:
    """After any order come the ones that were placed before it, another user's also."""
    first, second = (checkout(stocked, 1, [1]) for _ in range(2))
    other = checkout(stocked, 2, [1])
    third = checkout(stocked, 1, [2])
    assert orders_of(stocked, 1) == [third, second, first]
    assert orders_of(stocked, 1, limit=2) == [third, second]
    assert orders_of(stocked, 1, after=third["id"], limit=1) == [second]
    assert orders_of(stocked, 1, after=other["id"]) == [second, first]
    assert orders_of(stocked, 3) == []


def test_an_order_is_marked_paid_once(stocked: Shop) -> None:
    """The first time stays, other orders are left alone, and nobody is told."""
    order, other = (checkout(stocked, 1, [1]) for _ in range(2))
    mark_paid(stocked, order["id"], PAID_AT)
    paid = order | {"status": "paid", "paid_at": PAID_AT}
    assert orders_of(stocked, 1) == [other, paid]
    assert len(events(stocked)) == 2
    with unchanged(stocked):
        mark_paid(stocked, order["id"], "2027-01-01T00:00:00.000Z")


def test_payment_for_an_unknown_order_is_logged(
    stocked: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is no error; a payment that is told again is not even worth a line."""
    log = Mock()
    monkeypatch.setattr(orders, "log", log)
    order_id = checkout(stocked, 1, [1])["id"]
    for _ in range(2):
        mark_paid(stocked, order_id, PAID_AT)
    log.warning.assert_not_called()
    with unchanged(stocked):
        stocked.orders.mark_paid([PaidOrder(UUID(int=1), PAID_AT, "abc")])
    log.warning.assert_called_once()
    assert log.warning.call_args.kwargs == {"order_id": str(UUID(int=1)), "request_id": "abc"}


def test_a_list_shows_whole_orders_while_somebody_buys(stocked: Shop) -> None:
    """An order that is placed while a list is read is in it with its lines, or not at all."""
    with ThreadPoolExecutor() as pool:
        buying = pool.submit(lambda: [checkout(stocked, 1, [1, 2]) for _ in range(200)])
        while not buying.done():
            assert all(order["items"] for order in orders_of(stocked, 1, limit=3))
    assert len(orders_of(stocked, 1)) == 200


def test_an_orders_id_begins_with_its_time() -> None:
    """A UUID of version 7, so that an index of orders grows at its end."""
    before_ms = now().timestamp() * 1000
    ids = [uuid7() for _ in range(100)]
    after_ms = now().timestamp() * 1000
    assert {(each.version, each.variant) for each in ids} == {(7, RFC_4122)}
    assert all(before_ms - 1 < each.int >> 80 <= after_ms for each in ids)
    assert len(set(ids)) == 100


def test_metrics_of_a_damaged_file_are_left_out() -> None:
    """SQLite's own errors come while rows are read: peewee does not wrap these."""
    damaged = Mock()
    damaged.run.side_effect = sqlite3.DatabaseError("database disk image is malformed")
    assert not list(orders.Orders(damaged, Mock(), Mock()).collect())
