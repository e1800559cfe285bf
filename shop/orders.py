"""Orders: placed by users, paid when the payment service says so."""

from collections import Counter, defaultdict
from typing import Any
from uuid import UUID, uuid4

import structlog

from messaging.outbox import Outbox
from runtime.clock import timestamp
from runtime.database import Database
from runtime.errors import FieldError, NotFound, Refused
from shop.catalogue import Catalogue
from shop.models import Order, OrderLine

log = structlog.get_logger(__name__)

USER_EXISTS = 'SELECT 1 FROM "user" WHERE id = ?'
PLACE = """INSERT INTO "order" (id, user_id, price, placed_at) VALUES (?, ?, ?, ?)
           RETURNING number"""
ADD_LINES = "INSERT INTO order_line (order_id, item_id, name, price, quantity) VALUES "
LINE = "(?, ?, ?, ?, ?)"
PAID = 'UPDATE "order" SET paid_at = ? WHERE id = ? AND paid_at IS NULL'


class Orders:
    """The orders of one database. Rows are dicts of the form that the HTTP interface shows:

    ``id, user_id, items: [{item_id, name, price, quantity}], price, status, placed_at, paid_at``.
    """

    def __init__(self, database: Database, outbox: Outbox, catalogue: Catalogue) -> None:
        self._database = database
        self._outbox = outbox
        self._catalogue = catalogue

    def checkout(self, user_id: int, item_ids: list[int]) -> dict[str, Any]:
        """Place an order for these items; an id that is there twice means two of it.

        `Refused`, with every field that is at fault, unless the user exists and each item
        exists and is active.
        """
        quantities = Counter(item_ids)
        with self._database.write():
            items = self._catalogue.find(quantities)
            self._check(user_id, item_ids, items)
            lines = [_line(items[item_id], quantities[item_id]) for item_id in sorted(quantities)]
            order = {
                "id": uuid4(),
                "user": user_id,
                "price": sum(line["price"] * line["quantity"] for line in lines),
                "placed_at": timestamp(),
                "paid_at": None,
            }
            placed = (order["id"].hex, user_id, order["price"], order["placed_at"])
            (number,) = self._database.run(PLACE, *placed).fetchone()
            values = ", ".join([LINE] * len(lines))
            rows = [value for line in lines for value in (number, *line.values())]
            self._database.run(ADD_LINES + values, *rows)
            told = _placed(order, lines)
            self._outbox.emit("order.placed", order["id"], order["placed_at"], told)
        return _shown(order, lines)

    def _check(self, user_id: int, item_ids: list[int], items: dict[int, dict[str, Any]]) -> None:
        errors = []
        if not self._database.run(USER_EXISTS, user_id).fetchone():
            errors.append(FieldError("user_id", f"there is no user {user_id}"))
        for position, item_id in enumerate(item_ids):
            field = f"item_ids.{position}"
            if item_id not in items:
                errors.append(FieldError(field, f"there is no item {item_id}"))
            elif not items[item_id]["active"]:
                errors.append(FieldError(field, f"item {item_id} is not for sale now"))
        if errors:
            raise Refused(*errors)

    def get(self, order_id: UUID) -> dict[str, Any]:
        """One order; `NotFound` if there is none."""
        found = self._select(Order.id == order_id)
        if not found:
            raise NotFound(f"There is no order {order_id}.")
        return found[0]

    def of_user(
        self, user_id: int, after: UUID | None = None, limit: int | None = None
    ) -> list[dict[str, Any]]:
        """A user's orders, newest first, from the one behind ``after`` on, at most ``limit``.

        `Refused` if ``after`` is no order.
        """
        wanted = Order.user == user_id
        if after:
            last = Order.select(Order.number).where(Order.id == after).scalar(self._database)
            if last is None:
                raise Refused(FieldError("after", f"there is no order {after}"))
            wanted &= Order.number < last
        return self._select(wanted, limit)

    def _select(self, wanted: Any, limit: int | None = None) -> list[dict[str, Any]]:
        found = Order.select().where(wanted).order_by(Order.number.desc()).limit(limit)
        rows = list(found.dicts().execute(self._database))
        newest = rows[0]["number"] if rows else 0
        same = found.select(Order.number).where(Order.number <= newest)  # not what came meanwhile
        of_these = OrderLine.select().where(OrderLine.order.in_(same)).order_by(OrderLine.item_id)
        lines: dict[int, list[dict[str, Any]]] = defaultdict(list)
        for line in of_these.dicts().execute(self._database):
            lines[line.pop("order")].append(line)
        return [_shown(row, lines[row["number"]]) for row in rows]

    def mark_paid(self, order_id: UUID, paid_at: str) -> None:
        """Note that an order was paid, once; an unknown one is logged."""
        with self._database.write():
            if self._database.run(PAID, paid_at, order_id.hex).rowcount:
                return
            if not Order.select().where(Order.id == order_id).exists(self._database):
                log.warning("payment for an unknown order", order_id=str(order_id))


def _line(item: dict[str, Any], quantity: int) -> dict[str, Any]:
    kept = {"item_id": item["id"], "name": item["name"], "price": item["price"]}
    return {**kept, "quantity": quantity}


def _placed(order: dict[str, Any], lines: list[dict[str, Any]]) -> dict[str, Any]:
    """What ``order.placed`` tells."""
    told = ("item_id", "quantity", "price")
    items = [{name: line[name] for name in told} for line in lines]
    fact = {"order_id": order["id"], "user_id": order["user"], "price": order["price"]}
    return {**fact, "items": items}


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
