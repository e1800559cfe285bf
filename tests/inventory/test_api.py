"""The inventory's HTTP interface."""

import json
from typing import Any, ClassVar

import pytest
from falcon.testing import TestClient

from inventory.api import Item
from inventory.app import Inventory
from runtime.web.problem import Problem
from tests.contract import (
    MAX_ID,
    NAMES_REFUSED,
    NAMES_TAKEN,
    NOT_IDS_IN_PATH,
    NOT_NUMBERS,
    ListContract,
    PostContract,
    brief,
    events,
    fields,
    matches,
    post,
    problem,
    unchanged,
    written,
)
from tests.rules import create_item

MILLET = {"item": {"name": "Millet", "price": 4000}}


class TestItemPost(PostContract):
    path = "/api/item"
    body: ClassVar[dict[str, Any]] = MILLET


class TestItemList(ListContract):
    path = "/api/items"
    whole = True

    def add(self, service: Inventory) -> int:
        return int(create_item(service, "Millet", 4000)["id"])


def test_create_an_item(client: TestClient) -> None:
    answer = post(client, "/api/item", MILLET)
    assert answer.status_code == 201
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.headers["Location"] == "/api/items/1"
    assert answer.json == {"id": 1, "name": "Millet", "price": 4000, "active": True}
    shown = client.simulate_get(answer.headers["Location"])
    assert (shown.status_code, shown.json) == (200, answer.json)
    assert client.simulate_get("/api/items").json == [answer.json]


def test_toggle_an_item(client: TestClient) -> None:
    """It answers ``ok``, and the item goes out of sale, and back."""
    path = post(client, "/api/item", MILLET).headers["Location"]
    for active in (False, True):
        answer = client.simulate_put(f"{path}/toggle_status")
        assert (answer.status_code, answer.text) == (200, "ok")
        assert answer.headers["Content-Type"].startswith("text/plain")
        assert client.simulate_get(path).json["active"] is active
        assert [row["active"] for row in client.simulate_get("/api/items").json] == [active]


def test_a_toggle_that_is_sent_again_is_one_toggle(service: Inventory, client: TestClient) -> None:
    """Under its key; its scope is the path, and the answer is the same text."""
    paths = [f"{post(client, '/api/item', MILLET).headers['Location']}/toggle_status" for _ in "ab"]
    before = len(events(service))
    for path in paths:
        first, again = (
            client.simulate_put(path, headers={"Idempotency-Key": key}) for key in ("a", '"a"')
        )
        assert (first.status_code, first.text) == (again.status_code, again.text) == (200, "ok")
        assert first.headers["Content-Type"] == again.headers["Content-Type"]
        assert "Location" not in again.headers
    rows = client.simulate_get("/api/items").json
    assert [row["active"] for row in rows] == [False, False]
    assert len(events(service)) == before + 2
    client.simulate_put(paths[0], headers={"Idempotency-Key": "b"})
    assert client.simulate_get("/api/items/1").json["active"] is True
    wrong = client.simulate_put(paths[0], headers={"Idempotency-Key": "a b"})
    assert fields(wrong) == ["Idempotency-Key"]


def put(client: TestClient, path: str, body: Any, **headers: str) -> Any:
    """PUT bytes as they are, and anything else as JSON."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    named = {"Content-Type": "application/json"} | {
        name.replace("_", "-"): value for name, value in headers.items()
    }
    return client.simulate_put(path, body=content, headers=named)


def test_the_status_that_is_wanted(service: Inventory, client: TestClient) -> None:
    """However often it is asked for: it is told where it changes something."""
    item = post(client, "/api/item", MILLET).json
    told = 1
    for active in (True, False, False, True, True):
        told += item["active"] != active
        answer = put(client, "/api/items/1/status", {"active": active})
        item["active"] = active
        assert (answer.status_code, answer.json) == (200, item)
        assert matches(answer, Item)
        assert client.simulate_get("/api/items/1").json == item
        assert len(events(service)) == told
    last = events(service)[-1]
    assert (last["type"], last["data"]["active"]) == ("item.status_changed", True)
    assert last["correlationid"]


def test_a_status_under_a_key(service: Inventory, client: TestClient) -> None:
    post(client, "/api/item", MILLET)
    first = put(client, "/api/items/1/status", {"active": False}, Idempotency_Key="a")
    put(client, "/api/items/1/status", {"active": True})
    with unchanged(service):
        again = put(client, "/api/items/1/status", {"active": False}, Idempotency_Key="a")
        assert again.content == first.content
        other = put(client, "/api/items/1/status", {"active": True}, Idempotency_Key="a")
        assert fields(other) == ["Idempotency-Key"]


def test_wrong_statuses(service: Inventory, client: TestClient) -> None:
    post(client, "/api/item", MILLET)
    path = "/api/items/1/status"
    with unchanged(service):
        for wrong in ("0", "1", '"false"', "null", "[]", "{}"):
            assert fields(put(client, path, written({"active": ...}, wrong))) == ["active"], wrong
        assert fields(put(client, path, {})) == ["active"]
        problem(put(client, path, b"{"), 400)
        problem(put(client, path, b""), 400)
        problem(client.simulate_put(path, body=b'{"active": false}'), 415)
        problem(put(client, path, b'{"active": false}'.ljust(1024 * 1024 + 1)), 413)
        problem(put(client, "/api/items/2/status", {"active": False}), 404)
        for method in ("GET", "POST", "PATCH", "DELETE"):
            answer = client.simulate_request(method, path)
            problem(answer, 405)
            assert "PUT" in answer.headers["Allow"]


@pytest.mark.parametrize("given", NAMES_TAKEN, ids=brief)
def test_names_are_trimmed(client: TestClient, given: str) -> None:
    answer = post(client, "/api/item", {"item": {"name": given, "price": 0}})
    assert (answer.status_code, answer.json["name"]) == (201, NAMES_TAKEN[given])


@pytest.mark.parametrize("name", NAMES_REFUSED, ids=brief)
def test_wrong_names(service: Inventory, client: TestClient, name: str) -> None:
    body = written({"item": {"name": ..., "price": 4000}}, name)
    with unchanged(service):
        assert fields(post(client, "/api/item", body)) == ["item.name"]


@pytest.mark.parametrize("price", [0, 1, 10**9])
def test_prices(client: TestClient, price: int) -> None:
    answer = post(client, "/api/item", {"item": {"name": "Millet", "price": price}})
    assert (answer.status_code, answer.json["price"]) == (201, price)


@pytest.mark.parametrize("price", [*NOT_NUMBERS, "-1", str(10**9 + 1), str(2**63)], ids=brief)
def test_wrong_prices(service: Inventory, client: TestClient, price: str) -> None:
    body = written({"item": {"name": "Millet", "price": ...}}, price)
    with unchanged(service):
        assert fields(post(client, "/api/item", body)) == ["item.price"]


@pytest.mark.parametrize(
    ("item", "wrong"),
    [
        ({}, ["item.name", "item.price"]),
        ({"name": "", "price": -1}, ["item.name", "item.price"]),
        ([], ["item"]),
        (None, ["item"]),
    ],
)
def test_everything_wrong_is_named_at_once(
    service: Inventory, client: TestClient, item: Any, wrong: list[str]
) -> None:
    with unchanged(service):
        answer = post(client, "/api/item", {"item": item})
        assert fields(answer) == wrong
        assert answer.json["instance"] == "/api/item"


@pytest.mark.parametrize("item_id", ["2", str(MAX_ID), *NOT_IDS_IN_PATH], ids=brief)
def test_unknown_items(service: Inventory, client: TestClient, item_id: str) -> None:
    post(client, "/api/item", MILLET)
    with unchanged(service):
        problem(client.simulate_get(f"/api/items/{item_id}"), 404)
        problem(client.simulate_put(f"/api/items/{item_id}/toggle_status"), 404)
        problem(put(client, f"/api/items/{item_id}/status", {"active": False}), 404)


def test_wrong_methods(service: Inventory, client: TestClient) -> None:
    post(client, "/api/item", MILLET)
    with unchanged(service):
        for path, allowed in (("/api/items/1", "GET"), ("/api/items/1/toggle_status", "PUT")):
            answer = client.simulate_delete(path)
            problem(answer, 405)
            assert allowed in answer.headers["Allow"]


def test_a_toggle_carries_its_request_id(service: Inventory, client: TestClient) -> None:
    """Also one that had to be made."""
    post(client, "/api/item", MILLET)
    answer = client.simulate_put("/api/items/1/toggle_status")
    assert events(service)[-1]["correlationid"] == answer.headers["X-Request-ID"]


def test_answers_are_as_declared(client: TestClient) -> None:
    assert matches(post(client, "/api/item", MILLET), Item)
    client.simulate_put("/api/items/1/toggle_status")
    assert matches(client.simulate_get("/api/items/1"), Item)
    assert matches(client.simulate_get("/api/items"), list[Item])
    assert matches(post(client, "/api/item", {}), Problem)
