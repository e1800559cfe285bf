"""Payments: each order is paid once, and anybody may pay directly."""

from typing import Any
from uuid import UUID

from messaging.outbox import Outbox
from payment.models import Payment
from runtime.clock import timestamp
from runtime.database import Database

PAY = """INSERT INTO payment (user_id, price, order_id, paid_at, announced) VALUES (?, ?, ?, ?, ?)
         ON CONFLICT DO NOTHING RETURNING id"""
ANNOUNCED = "UPDATE payment SET announced = ? WHERE id <= ? AND NOT announced"


class Payments:
    """The payments of one database. Rows are dicts of the form that the HTTP interface shows:

    ``id, user_id, price, order_id, status, paid_at``.
    """

    def __init__(self, database: Database, outbox: Outbox) -> None:
        self._database = database
        self._outbox = outbox

    def pay(self, user_id: int, price: int, order_id: UUID | None = None) -> dict[str, Any]:
        """Take a payment, in the smallest coin; an order that is paid already is not paid again."""
        paid_at = timestamp()
        row = {"user_id": user_id, "price": price, "order_id": order_id}
        with self._database.write():
            told = (user_id, price, order_id and order_id.hex, paid_at, False)
            inserted = self._database.run(PAY, *told).fetchone()
            if not inserted:
                return self._select(Payment.order_id == order_id)[0]
            (payment_id,) = inserted
            fact = {"payment_id": payment_id, **row}
            self._outbox.emit("payment.succeeded", payment_id, paid_at, fact)
        return _shown({"id": payment_id, "paid_at": paid_at, **row})

    def all(
        self,
        user_id: int | None = None,
        order_id: UUID | None = None,
        after: int | None = None,
        limit: int | None = None,
    ) -> list[dict[str, Any]]:
        """Payments, newest first, from the one behind ``after`` on, at most ``limit``."""
        wanted = Payment.id > 0
        if user_id:
            wanted &= Payment.user_id == user_id
        if order_id:
            wanted &= Payment.order_id == order_id
        if after:
            wanted &= Payment.id < after
        return self._select(wanted, limit)

    def _select(self, wanted: Any, limit: int | None = None) -> list[dict[str, Any]]:
        query = Payment.select().where(wanted).order_by(Payment.id.desc()).limit(limit)
        return [_shown(row) for row in query.dicts().execute(self._database)]

    def unannounced(self, limit: int) -> list[dict[str, Any]]:
        """The oldest payments that the console has not shown, at most ``limit``."""
        query = Payment.select().where(~Payment.announced).order_by(Payment.id).limit(limit)
        return [_shown(row) for row in query.dicts().execute(self._database)]

    def mark_announced(self, up_to: int) -> None:
        """Note that the console has shown all payments up to this id."""
        with self._database.write():
            self._database.run(ANNOUNCED, True, up_to)


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    """A payment as the HTTP interface shows it; there are no others than those that succeeded."""
    known = {name: row[name] for name in ("id", "user_id", "price", "order_id")}
    return {**known, "status": "succeeded", "paid_at": row["paid_at"]}
