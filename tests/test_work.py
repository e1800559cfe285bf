"""How much work is done for how much: counted, since times say more about the machine.

That checkouts which wait share a commit is in `tests/runtime/test_group_commit.py`.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from falcon.testing import TestClient

from messaging.event import document
from messaging.wire import Event, Place
from payment.app import Payment
from runtime.database import SqliteFile
from shop.app import Shop, create_app
from tests.shop.conftest import stocked  # noqa: F401  # a fixture, asked for by its name

NOON = "2026-11-23T12:00:00.000Z"
ORDER = "0b5e6f0a-3c1d-4a57-9a59-0c6b5c9a{:04x}"


@contextmanager
def statements(database: SqliteFile) -> Iterator[list[str]]:
    """What this thread's connection is told meanwhile, by their first words."""
    told: list[str] = []

    def note(statement: str) -> None:
        told.append(statement.split(maxsplit=1)[0])

    database.connection().set_trace_callback(note)
    yield told
    database.connection().set_trace_callback(None)


@pytest.mark.parametrize("item_ids", [[1], [1, 2, 2]])
def test_a_checkout_is_six_statements_in_one_commit(stocked: Shop, item_ids: list[int]) -> None:  # noqa: F811
    client = TestClient(create_app(stocked))
    body = {"user_id": 1, "item_ids": item_ids}
    assert client.simulate_post("/api/checkout", json=body).status_code == 201
    with statements(stocked.database) as told:
        assert client.simulate_post("/api/checkout", json=body).status_code == 201
    assert told[0] == "BEGIN"
    assert told[-1] == "COMMIT"
    assert sorted(told[1:-1]) == ["INSERT"] * 3 + ["SELECT"] * 2 + ["UPDATE"]


def test_a_listing_that_has_not_changed_asks_the_database_nothing(
    stocked: Shop,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("runtime.api.LOOK_INTERVAL_S", 60)
    client = TestClient(create_app(stocked))
    first = client.simulate_get("/api/items")
    with statements(stocked.database) as told:
        assert client.simulate_get("/api/items").content == first.content
        again = client.simulate_get("/api/items", headers={"If-None-Match": first.headers["ETag"]})
        assert again.status_code == 304
    assert told == []


def test_what_waits_is_applied_in_one_commit(payment: Payment) -> None:
    """Of many orders that have piled up; each costs no more than these statements."""
    count = 200
    epoch = bytes(7) + bytes([1]) + bytes(8)

    def placed(number: int) -> Event:
        order = {"order_id": ORDER.format(number), "user_id": 1, "price": 300, "items": []}
        place = Place(epoch, number)
        body = document("/shop", place, "order.placed", order["order_id"], NOON, order)
        return Event("orders", place, body)

    reader = payment.exchange._readers["orders"]
    reader.place = Place(epoch, 0)
    for number in range(1, count + 1):
        reader.receive(placed(number))
    with statements(payment.database) as told:
        reader.apply()
    assert len(payment.payments.all()) == count
    assert told.count("COMMIT") == 1
    assert len(told) == 6 * count + 3
