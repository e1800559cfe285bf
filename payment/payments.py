"""Payments: each order is paid once, and anybody may pay directly."""

from collections.abc import Sequence
from typing import Any, NamedTuple
from uuid import UUID

from messaging.event import Fact
from messaging.outbox import Outbox
from payment.tables import Payment
from runtime.process.clock import timestamp
from runtime.storage.database import Database

INSERT_PAYMENTS = "INSERT INTO payment (user_id, price, order_id, paid_at, announced) VALUES {}"
TAKE_OVER = "INSERT INTO payment (id, user_id, price, order_id, paid_at, announced) VALUES {}"
BY_ID = "SELECT id, user_id, price, order_id, paid_at FROM payment WHERE id IN ({})"
BY_ORDER = "SELECT id, user_id, price, order_id, paid_at FROM payment WHERE order_id IN ({})"
OF_USER = "SELECT count, sum FROM total WHERE user_id = ?"
BIGGEST = """SELECT user_id, count, sum FROM total WHERE user_id > 0
             ORDER BY sum DESC, user_id LIMIT ?"""
EVERYBODY = 0  # a row of the table of totals, which triggers keep
MAX_PAYERS = 100
UNANNOUNCED = """SELECT id, user_id, price, order_id, paid_at FROM payment WHERE NOT announced
                 ORDER BY id LIMIT ?"""
ANNOUNCED = "UPDATE payment SET announced = ? WHERE id <= ? AND NOT announced"


class Pay(NamedTuple):
    """A payment to make: by a user, with a price in the smallest coin, perhaps for an order."""

    user_id: int
    price: int
    order_id: UUID | None = None
    correlation_id: str | None = None


class Paid(NamedTuple):
    """A payment that was made."""

    id: int
    user_id: int
    price: int
    order_id: UUID | None
    paid_at: str

    @classmethod
    def read(cls, row: Sequence[Any]) -> "Paid":
        """The payment of a row, whose order's id is a UUID of the driver's kind."""
        number, user_id, price, order_id, paid_at = row
        return cls(number, user_id, price, order_id and UUID(str(order_id)), paid_at)

    def shown(self) -> dict[str, Any]:
        """The payment as the HTTP interface shows it."""
        return _shown(self._asdict())

    def fact(self, correlation_id: str | None) -> Fact:
        """The content of its ``payment.succeeded``."""
        data = {"payment_id": self.id, "user_id": self.user_id, "price": self.price}
        return Fact(self.id, self.paid_at, {**data, "order_id": self.order_id}, correlation_id)


class Payments:
    """The payments of one database. Rows are dicts of the form that the HTTP interface shows:

    ``id, user_id, price, order_id, status, paid_at``.
    """

    def __init__(self, database: Database, outbox: Outbox) -> None:
        self._database = database
        self._outbox = outbox

    def pay(self, commands: Sequence[Pay]) -> list[dict[str, Any]]:
        """Take payments, and return each; an order that is paid already is not paid again."""
        paid_at = timestamp()
        with self._database.write():
            orders = [each.order_id for each in commands if each.order_id]
            paid: dict[object, Paid] = {row.order_id: row for row in self._find(BY_ORDER, orders)}
            new: dict[object, Pay] = {}  # by order, or by position if there is no order
            for number, each in enumerate(commands):
                if each.order_id not in paid:
                    new.setdefault(each.order_id or number, each)
            rows = [(each.user_id, each.price, each.order_id, paid_at) for each in new.values()]
            ids = self._database.add(INSERT_PAYMENTS, [(*row, False) for row in rows])
            added = [Paid(number, *row) for number, row in zip(ids, rows, strict=True)]
            pairs = zip(added, new.values(), strict=True)
            facts = [row.fact(each.correlation_id) for row, each in pairs]
            self._outbox.emit("payment.succeeded", facts)
        paid.update(zip(new, added, strict=True))
        return [paid[each.order_id or number].shown() for number, each in enumerate(commands)]

    def take_over(self, payments: Sequence[Paid]) -> None:
        """Enter payments known from events of earlier databases, except those that are here.

        If its id is taken, a payment gets another. Neither console nor events report it again.
        """
        with self._database.write():
            here = {row.id: row for row in self._find(BY_ID, [each.id for each in payments])}
            orders = [each.order_id for each in payments if each.order_id]
            paid = {row.order_id for row in self._find(BY_ORDER, orders)}
            own: list[Paid] = []
            others: list[Paid] = []
            for each in payments:
                if (each.order_id and each.order_id in paid) or here.get(each.id) == each:
                    continue
                (others if each.id in here else own).append(each)
                here.setdefault(each.id, each)
                paid.add(each.order_id)
            self._database.run_rows(TAKE_OVER, [(*row, True) for row in own])
            self._database.let_ids_follow(Payment)
            self._database.run_rows(INSERT_PAYMENTS, [(*row[1:], True) for row in others])

    def _find(self, sql: str, values: Sequence[object]) -> list[Paid]:
        return [Paid.read(row) for row in self._database.find(sql, values)]

    def all(
        self,
        user_id: int | None = None,
        order_id: UUID | None = None,
        after: int | None = None,
        limit: int | None = None,
    ) -> list[dict[str, Any]]:
        """Payments after ``after``, newest first, at most ``limit``."""
        wanted = Payment.id > 0
        if user_id:
            wanted &= Payment.user_id == user_id
        if order_id:
            wanted &= Payment.order_id == order_id
        if after:
            wanted &= Payment.id < after
        query = Payment.select().where(wanted).order_by(Payment.id.desc()).limit(limit)
        return [_shown(row) for row in query.dicts().execute(self._database)]

    def totals(self, user_id: int | None = None) -> dict[str, Any]:
        """What all users have paid, with the biggest payers first, or one user:

        ``count, sum, users: [{user_id, count, sum}]``.
        """
        row = self._database.run(OF_USER, user_id or EVERYBODY).fetchone()
        count, total = row or (0, 0)
        if user_id:
            payers = [(user_id, count, total)] if row else []
        else:
            payers = self._database.run(BIGGEST, MAX_PAYERS).fetchall()
        users = [dict(zip(("user_id", "count", "sum"), payer, strict=True)) for payer in payers]
        return {"count": count, "sum": total, "users": users}

    def unannounced(self, limit: int) -> list[Paid]:
        """The oldest payments that the console has not shown, at most ``limit``."""
        return [Paid.read(row) for row in self._database.run(UNANNOUNCED, limit)]

    def mark_announced(self, up_to: int) -> None:
        """Note that the console has shown all payments up to this id."""
        with self._database.write():
            self._database.run(ANNOUNCED, True, up_to)


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    """A payment as the HTTP interface shows it; all payments have succeeded."""
    known = {name: row[name] for name in ("id", "user_id", "price", "order_id")}
    return {**known, "status": "succeeded", "paid_at": row["paid_at"]}
