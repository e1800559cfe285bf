"""The payment service's HTTP interface."""

from typing import ClassVar
from uuid import UUID, uuid4

from falcon.testing import TestClient

from payment.app import Payment
from tests.contract import (
    MAX_ID,
    NOT_IDS,
    NOT_NUMBERS,
    TIME,
    ListContract,
    PostContract,
    fields,
    post,
)
from tests.rules import pay

ORDER = UUID("0b5e0000-0000-4000-8000-000000000001")


class TestPaymentPost(PostContract):
    """Any valid user id will do: users are not known here."""

    path = "/api/payment"
    body: ClassVar = {"user_id": 1, "price": 4300}
    taken: ClassVar = {
        "user_id": {1: 1, MAX_ID: MAX_ID},
        "price": {0: 0, 1: 1, 10**12: 10**12},
    }
    wrong: ClassVar = {
        "user_id": NOT_IDS,
        "price": [*NOT_NUMBERS, "-1", str(10**12 + 1), str(2**63)],
    }


class TestPaymentList(ListContract):
    path = "/api/payments"
    newest_first = True

    def add(self, service: Payment) -> int:
        return int(pay(service, 1, 4300, uuid4())["id"])


class TestPaymentListOfUser(TestPaymentList):
    """Between a user's payments there are another's, on no page."""

    query: ClassVar = {"user_id": 1}

    def add(self, service: Payment) -> int:
        pay(service, 2, 4300)
        return super().add(service)


def test_pay(client: TestClient) -> None:
    answer = post(client, "/api/payment", {"user_id": 1, "price": 4300})
    assert answer.status_code == 201
    assert TIME.fullmatch(answer.json["paid_at"])
    assert answer.json == {
        "id": 1,
        "user_id": 1,
        "price": 4300,
        "order_id": None,
        "status": "succeeded",
        "paid_at": answer.json["paid_at"],
    }
    assert client.simulate_get("/api/payments").json == [answer.json]


def test_an_order_is_not_paid_over_http(service: Payment, client: TestClient) -> None:
    """An order id is a field that nobody knows: orders are paid when the shop tells of them."""
    body = {"user_id": 1, "price": 4300, "order_id": str(ORDER)}
    assert post(client, "/api/payment", body).json["order_id"] is None
    assert service.payments.all(order_id=ORDER) == []


def test_payments_of_an_order(service: Payment, client: TestClient) -> None:
    pay(service, 1, 4300)
    paid = pay(service, 1, 4300, ORDER)
    (shown,) = client.simulate_get(f"/api/payments?order_id={ORDER}&limit=1").json
    assert (shown["id"], shown["order_id"]) == (paid["id"], str(ORDER))
    for none in (f"order_id={ORDER}&user_id=2", f"order_id={uuid4()}"):
        assert client.simulate_get(f"/api/payments?{none}").json == []


def test_wrong_order_ids(client: TestClient) -> None:
    for query in ("order_id", "order_id=", "order_id=abc", f"order_id={ORDER}&order_id={ORDER}"):
        assert fields(client.simulate_get(f"/api/payments?{query}")) == ["order_id"], query


def test_totals(service: Payment, client: TestClient) -> None:
    for user_id, price in ((1, 100), (2, 700), (1, 50)):
        pay(service, user_id, price)
    first, second = (
        {"user_id": 2, "count": 1, "sum": 700},
        {"user_id": 1, "count": 2, "sum": 150},
    )
    answer = client.simulate_get("/api/payments/totals")
    assert answer.json == {"count": 3, "sum": 850, "users": [first, second]}
    assert answer.headers["Cache-Control"] == "no-cache"
    own = client.simulate_get("/api/payments/totals?user_id=2")
    assert own.json == {"count": 1, "sum": 700, "users": [first]}
    assert own.headers["Cache-Control"] == "private, no-cache"
    known = {"If-None-Match": answer.headers["ETag"]}
    assert client.simulate_get("/api/payments/totals", headers=known).status_code == 304
    pay(service, 3, 0)
    assert client.simulate_get("/api/payments/totals", headers=known).status_code == 200
    none = client.simulate_get(f"/api/payments/totals?user_id={MAX_ID}")
    assert none.json == {"count": 0, "sum": 0, "users": []}
    for wrong in ("0", "", "abc", str(MAX_ID + 1)):
        answer = client.simulate_get(f"/api/payments/totals?user_id={wrong}")
        assert fields(answer) == ["user_id"]
