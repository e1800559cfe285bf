"""The payment service's HTTP interface."""

from typing import Any, ClassVar
from uuid import UUID, uuid4

import pytest
from falcon.testing import TestClient

from payment.api import Payment as Shown
from payment.api import Totals
from payment.app import Payment
from runtime.web.problem import Problem
from tests.contract import (
    MAX_ID,
    NOT_IDS,
    NOT_NUMBERS,
    TIME,
    ListContract,
    PostContract,
    brief,
    fields,
    matches,
    post,
    unchanged,
    written,
)
from tests.rules import pay

ORDER = UUID("0b5e0000-0000-4000-8000-000000000001")


class TestPaymentPost(PostContract):
    path = "/api/payment"
    body: ClassVar[dict[str, Any]] = {"user_id": 1, "price": 4300}


class TestPaymentList(ListContract):
    path = "/api/payments"
    newest_first = True

    def add(self, service: Payment) -> int:
        return int(pay(service, 1, 4300, uuid4())["id"])


class TestPaymentListOfUser(TestPaymentList):
    """Between a user's payments there are another's, on no page."""

    query: ClassVar[dict[str, Any]] = {"user_id": 1}

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


@pytest.mark.parametrize("price", [0, 1, 10**12])
@pytest.mark.parametrize("user_id", [1, MAX_ID])
def test_bounds(client: TestClient, user_id: int, price: int) -> None:
    """Any valid user id will do: users are not known here."""
    answer = post(client, "/api/payment", {"user_id": user_id, "price": price})
    assert answer.status_code == 201
    assert client.simulate_get(f"/api/payments?user_id={user_id}").json == [answer.json]
    assert (answer.json["user_id"], answer.json["price"]) == (user_id, price)


@pytest.mark.parametrize("price", [*NOT_NUMBERS, "-1", str(10**12 + 1), str(2**63)], ids=brief)
def test_wrong_prices(service: Payment, client: TestClient, price: str) -> None:
    with unchanged(service):
        body = written({"user_id": 1, "price": ...}, price)
        assert fields(post(client, "/api/payment", body)) == ["price"]


@pytest.mark.parametrize("user_id", NOT_IDS, ids=brief)
def test_wrong_user_ids(service: Payment, client: TestClient, user_id: str) -> None:
    with unchanged(service):
        body = written({"user_id": ..., "price": 4300}, user_id)
        assert fields(post(client, "/api/payment", body)) == ["user_id"]
        query = {"user_id": user_id}
        assert fields(client.simulate_get("/api/payments", params=query)) == ["user_id"]


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


@pytest.mark.parametrize("field", ["user_id", "order_id"])
def test_wrong_filters(client: TestClient, field: str) -> None:
    for query in (field, f"{field}=", f"{field}=abc", f"{field}={ORDER}&{field}={ORDER}"):
        assert fields(client.simulate_get(f"/api/payments?{query}")) == [field], query


def test_totals(service: Payment, client: TestClient) -> None:
    for user_id, price in ((1, 100), (2, 700), (1, 50)):
        pay(service, user_id, price)
    first, second = (
        {"user_id": 2, "count": 1, "sum": 700},
        {"user_id": 1, "count": 2, "sum": 150},
    )
    answer = client.simulate_get("/api/payments/totals")
    assert matches(answer, Totals)
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


def test_answers_are_as_declared(service: Payment, client: TestClient) -> None:
    pay(service, 1, 4300, ORDER)
    assert matches(post(client, "/api/payment", {"user_id": 1, "price": 4300}), Shown)
    assert matches(client.simulate_get("/api/payments"), list[Shown])
    assert matches(post(client, "/api/payment", {}), Problem)
