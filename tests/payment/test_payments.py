"""The rules of payments, and what is told of them."""

from concurrent.futures import ThreadPoolExecutor
from unittest.mock import Mock
from uuid import UUID, uuid4

import pytest

from messaging.outbox import Outbox
from payment.app import Payment
from tests.contract import events, told, unchanged

ORDER = UUID("0b5e0000-0000-4000-8000-000000000001")


@pytest.mark.parametrize("order_id", [None, ORDER])
def test_a_payment_is_told(payment: Payment, order_id: UUID | None) -> None:
    paid = payment.payments.pay(7, 4300, order_id)
    order = str(order_id) if order_id else None
    data = {"payment_id": 1, "order_id": order, "user_id": 7, "price": 4300}
    assert told(payment) == [("payment.succeeded", "1", data)]
    (event,) = events(payment)
    assert (event["source"], event["time"]) == ("/payment", paid["paid_at"])


def test_an_order_is_paid_once(payment: Payment) -> None:
    """Paying it again gives the first payment, whoever pays and how much, and tells nothing."""
    first = payment.payments.pay(1, 4300, ORDER)
    with unchanged(payment):
        assert payment.payments.pay(1, 4300, ORDER) == first
        assert payment.payments.pay(2, 1, ORDER) == first


def test_an_order_is_paid_once_by_many_at_the_same_time(payment: Payment) -> None:
    def pay(_: int) -> int:
        try:
            return int(payment.payments.pay(1, 4300, ORDER)["id"])
        finally:
            payment.database.close()  # this thread's connection

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(pay, range(8))) == {1}
    assert len(events(payment)) == 1


def test_direct_payments_are_each_their_own(payment: Payment) -> None:
    assert [payment.payments.pay(1, 4300)["id"] for _ in range(3)] == [1, 2, 3]
    assert len(events(payment)) == 3


def test_no_payment_without_its_event(payment: Payment, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fact and event are one transaction: if one fails, there is neither."""
    monkeypatch.setattr(Outbox, "emit", Mock(side_effect=OSError("disk full")))
    with unchanged(payment), pytest.raises(OSError, match="disk full"):
        payment.payments.pay(1, 4300, ORDER)


def test_payments_come_newest_first(payment: Payment) -> None:
    other = uuid4()
    first, second, third = (
        payment.payments.pay(user, 1, order) for user, order in ((1, None), (2, ORDER), (1, other))
    )
    assert payment.payments.all() == [third, second, first]
    assert payment.payments.all(user_id=1) == [third, first]
    assert payment.payments.all(order_id=ORDER) == [second]
    assert payment.payments.all(user_id=1, order_id=ORDER) == []
    assert payment.payments.all(after=3, limit=1) == [second]
