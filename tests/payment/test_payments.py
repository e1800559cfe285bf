"""The rules of payments, and what is told of them."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any
from unittest.mock import Mock
from uuid import UUID, uuid4

import pytest
from playhouse.migrations import Runner

from messaging.outbox import Outbox
from payment.app import Payment
from runtime import ROOT
from runtime.process.settings import Settings
from tests.contract import events, told, unchanged
from tests.rules import pay, take_over

BEFORE = "INSERT INTO payment (user_id, price, paid_at, announced) VALUES (?, ?, 'then', ?)"
ORDER = UUID("0b5e0000-0000-4000-8000-000000000001")


@pytest.mark.parametrize("order_id", [None, ORDER])
def test_a_payment_is_told(payment: Payment, order_id: UUID | None) -> None:
    paid = pay(payment, 7, 4300, order_id)
    order = str(order_id) if order_id else None
    data = {"payment_id": 1, "order_id": order, "user_id": 7, "price": 4300}
    assert told(payment) == [("payment.succeeded", "1", data)]
    (event,) = events(payment)
    assert (event["source"], event["time"]) == ("/payment", paid["paid_at"])


def test_an_order_is_paid_once(payment: Payment) -> None:
    """Paying it again gives the first payment, whoever pays and how much, and tells nothing."""
    first = pay(payment, 1, 4300, ORDER)
    with unchanged(payment):
        assert pay(payment, 1, 4300, ORDER) == first
        assert pay(payment, 2, 1, ORDER) == first


def test_an_order_is_paid_once_by_many_at_the_same_time(payment: Payment) -> None:
    def pay_it(_: int) -> int:
        try:
            return int(pay(payment, 1, 4300, ORDER)["id"])
        finally:
            payment.database.close()  # this thread's connection

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(pay_it, range(8))) == {1}
    assert len(events(payment)) == 1


def test_no_payment_without_its_event(payment: Payment, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fact and event are one transaction: if one fails, there is neither."""
    monkeypatch.setattr(Outbox, "emit", Mock(side_effect=OSError("disk full")))
    with unchanged(payment), pytest.raises(OSError, match="disk full"):
        pay(payment, 1, 4300, ORDER)


THEN = "2026-11-23T10:00:00.123Z"


def test_a_payment_is_taken_over_as_it_was_and_not_told_again(payment: Payment) -> None:
    """Under its id, and with no line on the console; new ids go on behind it."""
    for order_id, number in ((ORDER, 7), (None, 3), (ORDER, 7), (None, 3)):
        take_over(payment, number, 1, 4300, order_id, THEN)
    rows = payment.payments.all()
    assert [(row["id"], row["order_id"], row["paid_at"]) for row in rows] == [
        (7, ORDER, THEN),
        (3, None, THEN),
    ]
    assert (events(payment), payment.payments.unannounced(9)) == ([], [])
    assert pay(payment, 1, 4300, ORDER)["id"] == 7
    assert pay(payment, 1, 4300)["id"] == 8


def test_a_payment_whose_id_is_taken_gets_another(payment: Payment) -> None:
    """The one that has it was made since, or is for the same order: that is the same payment."""
    new = [pay(payment, 1, 4300), pay(payment, 1, 5, ORDER)]
    other = uuid4()
    take_over(payment, 1, 1, 4300, None, THEN)
    take_over(payment, 2, 2, 6, other, THEN)
    take_over(payment, 9, 1, 5, ORDER, THEN)
    rows = payment.payments.all()[::-1]
    assert rows[:2] == new
    assert [(row["price"], row["order_id"], row["paid_at"]) for row in rows[2:]] == [
        (4300, None, THEN),
        (6, other, THEN),
    ]


def check_totals(payment: Payment) -> None:
    """The totals are those of the rows, of everybody and of each, who paid most first."""
    users: dict[int, dict[str, int]] = {}
    for row in payment.payments.all():
        user = users.setdefault(row["user_id"], {"user_id": row["user_id"], "count": 0, "sum": 0})
        user["count"] += 1
        user["sum"] += row["price"]
    shown = sorted(users.values(), key=lambda user: (-user["sum"], user["user_id"]))
    assert payment.payments.totals() == summed(shown)
    for user in shown:
        assert payment.payments.totals(user["user_id"]) == summed([user])


def summed(users: list[dict[str, int]]) -> dict[str, Any]:
    count, total = (sum(user[name] for user in users) for name in ("count", "sum"))
    return {"count": count, "sum": total, "users": users}


def test_totals_are_those_of_the_payments(payment: Payment) -> None:
    """However a payment comes in, and however often; what is undone does not count."""
    nothing = {"count": 0, "sum": 0, "users": []}
    assert payment.payments.totals() == payment.payments.totals(7) == nothing
    for user_id, price in ((1, 100), (2, 700), (1, 600), (3, 0), (4, 10**12), (4, 10**12)):
        pay(payment, user_id, price)
    pay(payment, 2, 5, ORDER)
    pay(payment, 9, 5, ORDER)  # which is paid
    take_over(payment, 99, 1, 4300, uuid4(), THEN)
    take_over(payment, 99, 1, 4300, uuid4(), THEN)  # its id is taken
    take_over(payment, 3, 1, 4300, ORDER, THEN)
    with suppress(ZeroDivisionError), payment.database.write():
        pay(payment, 1, 1_000_000)
        raise ZeroDivisionError
    check_totals(payment)
    assert [user["user_id"] for user in payment.payments.totals()["users"]] == [4, 1, 2, 3]


def test_a_hundred_payers_are_shown(payment: Payment) -> None:
    with payment.database.write():
        for user_id in range(1, 152):
            pay(payment, user_id, 1000 - user_id % 150)
    totals = payment.payments.totals()
    assert (totals["count"], len(totals["users"])) == (151, 100)
    assert [user["user_id"] for user in totals["users"]][:3] == [150, 1, 151]


@pytest.fixture(params=["a file", "a server"])
def unopened(settings: Settings, request: pytest.FixtureRequest) -> Iterator[Payment]:
    """Payment, on a database that is still empty."""
    changes = {}
    if request.param == "a server":
        changes = {"payment_database_url": request.getfixturevalue("postgres_url")}
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    payment = Payment(settings.model_copy(update=changes))
    yield payment
    (payment.database.close_all if changes else payment.database.close)()


def test_totals_end_at_the_largest_number(unopened: Payment) -> None:
    """Nine million of the largest payments make so much; no payment fails because of it."""
    largest, payment = 2**63 - 1, unopened
    payment.database.open()
    pay(payment, 1, 10**12)
    payment.database.run("UPDATE total SET sum = ?", largest - 5)
    for price in (5, 5, 10**12):
        pay(payment, 1, price)
    users = [{"user_id": 1, "count": 4, "sum": largest}]
    assert payment.payments.totals() == {"count": 4, "sum": largest, "users": users}
    assert type(payment.payments.totals()["sum"]) is int


def test_totals_that_were_rounded_are_whole_numbers(settings: Settings) -> None:
    """SQLite goes on in floating point where integers end."""
    payment = Payment(settings)
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    folder = ROOT / "payment" / "migrations"
    Runner(payment.database, folder, table_name="payment_migration").up("0002_totals")
    payment.database.run(BEFORE, 1, 10**12, False)
    payment.database.run("UPDATE total SET sum = 9.3e18")
    payment.database.open()
    assert repr(payment.payments.totals()["sum"]) == str(2**63 - 1)
    payment.database.close()


def test_totals_of_a_database_of_before(unopened: Payment) -> None:
    """They are filled from the payments that are there, and go on from there."""
    payment = unopened
    folder = ROOT / "payment" / "migrations"
    Runner(payment.database, folder, table_name="payment_migration").up("0001_payments")
    for user_id, price in ((1, 100), (2, 50), (1, 7)):
        payment.database.run(BEFORE, user_id, price, False)
    payment.database.open()
    assert payment.payments.totals()["count"] == 3
    payment.database.run(f"{BEFORE}, (3, 8, 'then', ?)", 3, 1, False, False)
    payment.database.run(f"{BEFORE} ON CONFLICT DO NOTHING", 2, 90, False)
    with payment.database.write():
        payment.database.run("INSERT INTO payment SELECT * FROM payment WHERE id < 0")  # nothing
    check_totals(payment)
    assert payment.payments.totals(2)["sum"] == 140
