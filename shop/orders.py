"""Orders: users place them, and the payment service's events mark them paid."""

import sqlite3
from collections import Counter
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from secrets import randbits
from typing import Any, NamedTuple
from uuid import UUID

import structlog
from peewee import PeeweeException, fn
from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily

from messaging.event import Fact
from messaging.outbox import Outbox
from runtime.process.clock import age_s, now, timestamp
from runtime.process.errors import FieldError, NotFound, Refused
from runtime.storage.database import Database
from shop.catalogue import Catalogue
from shop.tables import Order, OrderLine

log = structlog.get_logger(__name__)

USERS = 'SELECT id FROM "user" WHERE id IN ({})'
PLACE = 'INSERT INTO "order" (id, user_id, price, placed_at) VALUES {}'
LINES = """SELECT order_id, item_id, name, price, quantity FROM order_line
           WHERE order_id IN ({}) ORDER BY item_id"""
UNPAID = 'SELECT count(*), min(placed_at) FROM "order" WHERE paid_at IS NULL'
MARK_PAID = """UPDATE "order" SET paid_at = column2 FROM (VALUES {}) AS paid
         WHERE id = column1 AND paid_at IS NULL"""
KNOWN = 'SELECT id FROM "order" WHERE id IN ({})'


class Checkout(NamedTuple):
    """The items that a user buys; an id that appears twice means two of the item."""

    user_id: int
    item_ids: Sequence[int]
    correlation_id: str | None = None


class PaidOrder(NamedTuple):
    """An order that was paid, and when."""

    order_id: UUID
    paid_at: str
    correlation_id: str | None = None


class Orders:
    """The orders of one database. Rows are dicts of the form that the HTTP interface shows:

    ``id, user_id, items: [{item_id, name, price, quantity}], price, status, placed_at, paid_at``.
    """

    def __init__(self, database: Database, outbox: Outbox, catalogue: Catalogue) -> None:
        self._database = database
        self._outbox = outbox
        self._catalogue = catalogue

    def checkout(self, checkouts: Sequence[Checkout]) -> list[dict[str, Any] | Refused]:
        """Place orders, and return each, or why it was `Refused`.

        An order's user must exist, and each item must exist and be active. `Refused` lists every
        wrong field.
        """
        placed_at = timestamp()
        with self._database.write():
            wanted = {each.user_id for each in checkouts}
            users = {user_id for (user_id,) in self._database.find(USERS, wanted)}
            items = self._catalogue.find({item for each in checkouts for item in each.item_ids})
            outcomes = [
                _refusal(each, users, items) or _order(each, items, placed_at) for each in checkouts
            ]
            pairs = zip(checkouts, outcomes, strict=True)
            placed = [(order, each) for each, order in pairs if not isinstance(order, Refused)]
            self._insert([order for order, _ in placed])
            facts = [_fact(order, each.correlation_id) for order, each in placed]
            self._outbox.emit("order.placed", facts)
        return outcomes

    def _insert(self, orders: Sequence[dict[str, Any]]) -> None:
        rows = [(each["id"], each["user_id"], each["price"], each["placed_at"]) for each in orders]
        numbers = self._database.add(PLACE, rows, key="number")
        lines = [
            (number, *line.values())
            for number, order in zip(numbers, orders, strict=True)
            for line in order["items"]
        ]
        self._database.load(OrderLine, lines)

    def get(self, order_id: UUID) -> dict[str, Any]:
        """One order; `NotFound` if there is none."""
        row = Order.select().where(Order.id == order_id).dicts().first(self._database)
        if row is None:
            raise NotFound(f"There is no order {order_id}.")
        return self.with_lines([row])[0]

    def rows_of_user(
        self, user_id: int, after: UUID | None, limit: int | None
    ) -> list[dict[str, Any]]:
        """A user's orders after ``after``, newest first, at most ``limit``, as rows of the table.

        Each has the number of its ``lines``. `Refused` if ``after`` is no order.
        """
        wanted = Order.user == user_id
        if after:
            last = Order.select(Order.number).where(Order.id == after).scalar(self._database)
            if last is None:
                raise Refused(FieldError("after", f"there is no order {after}"))
            wanted &= Order.number < last
        lines = OrderLine.select(fn.COUNT(OrderLine.item_id)).where(OrderLine.order == Order.number)
        found = Order.select(Order, lines.alias("lines")).where(wanted)
        newest_first = found.order_by(Order.number.desc()).limit(limit)
        return list(newest_first.dicts().execute(self._database))

    def with_lines(self, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """These orders as the HTTP interface shows them."""
        lines: dict[int, list[dict[str, Any]]] = {row["number"]: [] for row in rows}
        for number, item_id, name, price, quantity in self._database.find(LINES, lines):
            line = {"item_id": item_id, "name": name, "price": price, "quantity": quantity}
            lines[number].append(line)
        return [_shown(row, lines[row["number"]]) for row in rows]

    def mark_paid(self, payments: Sequence[PaidOrder]) -> None:
        """Mark orders as paid, each once; an unknown order is logged."""
        first = {paid.order_id: paid for paid in reversed(payments)}
        with self._database.write():
            rows = [(paid.order_id, paid.paid_at) for paid in first.values()]
            marked = sum(cursor.rowcount for cursor in self._database.run_rows(MARK_PAID, rows))
            if marked < len(first):
                known = {UUID(str(row[0])) for row in self._database.find(KNOWN, first)}
                for paid in (paid for order_id, paid in first.items() if order_id not in known):
                    log.warning(
                        "payment for an unknown order",
                        order_id=str(paid.order_id),
                        request_id=paid.correlation_id,
                    )

    def collect(self) -> Iterator[Metric]:
        """The number of unpaid orders, and the age of the oldest; none while the database is down.

        An index of the unpaid orders has both, so paid orders cost nothing.
        """
        with suppress(PeeweeException, sqlite3.Error):
            unpaid, oldest = self._database.run(UNPAID).fetchone()
            age = age_s(datetime.fromisoformat(oldest)) if oldest else 0.0
            yield GaugeMetricFamily("parrot_orders_unpaid", "Orders not paid yet.", value=unpaid)
            text = "How long ago the oldest of them was placed; 0 if there is none."
            yield GaugeMetricFamily("parrot_orders_unpaid_oldest_age_seconds", text, value=age)


def uuid7() -> UUID:
    """A new UUID that begins with the time, in ms (RFC 9562, 5.7).

    So an index of orders grows at its end, where random ids would touch a page each.
    """
    now_ms, chance = int(now().timestamp() * 1000), randbits(74)
    return UUID(int=now_ms << 80 | 7 << 76 | chance >> 62 << 64 | 2 << 62 | chance & (1 << 62) - 1)


def _refusal(
    checkout: Checkout, users: Container[int], items: Mapping[int, dict[str, Any]]
) -> Refused | None:
    errors = []
    if checkout.user_id not in users:
        errors.append(FieldError("user_id", f"there is no user {checkout.user_id}"))
    for position, item_id in enumerate(checkout.item_ids):
        field = f"item_ids.{position}"
        if item_id not in items:
            errors.append(FieldError(field, f"there is no item {item_id}"))
        elif not items[item_id]["active"]:
            errors.append(FieldError(field, f"item {item_id} is not for sale now"))
    return Refused(*errors) if errors else None


def _order(
    checkout: Checkout, items: Mapping[int, dict[str, Any]], placed_at: str
) -> dict[str, Any]:
    """A new order as the HTTP interface shows it."""
    lines = [
        {"item_id": item_id, "name": item["name"], "price": item["price"], "quantity": quantity}
        for item_id, quantity in sorted(Counter(checkout.item_ids).items())
        for item in (items[item_id],)
    ]
    price = sum(line["price"] * line["quantity"] for line in lines)
    order = {"id": uuid7(), "user": checkout.user_id, "price": price}
    return _shown({**order, "placed_at": placed_at, "paid_at": None}, lines)


def _fact(order: dict[str, Any], correlation_id: str | None) -> Fact:
    """The content of its ``order.placed``."""
    fields = ("item_id", "quantity", "price")
    items = [{name: line[name] for name in fields} for line in order["items"]]
    data = {"order_id": order["id"], "user_id": order["user_id"], "price": order["price"]}
    return Fact(order["id"], order["placed_at"], {**data, "items": items}, correlation_id)


def _shown(order: dict[str, Any], lines: list[dict[str, Any]]) -> dict[str, Any]:
    """An order as the HTTP interface shows it."""
    return {
        "id": order["id"],
        "user_id": order["user"],
        "items": lines,
        "price": order["price"],
        "status": "paid" if order["paid_at"] else "placed",
        "placed_at": order["placed_at"],
        "paid_at": order["paid_at"],
    }
