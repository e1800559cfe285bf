"""The inventory's HTTP interface."""

import json
from typing import Any, ClassVar

from falcon.testing import Result, TestClient

from inventory.app import Inventory
from tests.contract import (
    MAX_ID,
    NAMES_REFUSED,
    NAMES_TAKEN,
    NOT_NUMBERS,
    ListContract,
    PostContract,
    events,
    fields,
    post,
    problem,
    unchanged,
    written,
)
from tests.rules import create_item

MILLET = {"item": {"name": "Millet", "price": 4000}}


class TestItemPost(PostContract):
    path = "/api/item"
    body: ClassVar = MILLET
    taken: ClassVar = {"item.name": NAMES_TAKEN, "item.price": {0: 0, 1: 1, 10**9: 10**9}}
    wrong: ClassVar = {
        "item.name": NAMES_REFUSED,
        "item.price": [*NOT_NUMBERS, "-1", str(10**9 + 1), str(2**63)],
        "item": ["[]", "null"],
    }


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
    """Under its key, and the answer is the same text."""
    path = f"{post(client, '/api/item', MILLET).headers['Location']}/toggle_status"
    for key, active, count in (("a", False, 2), ('"a"', False, 2), ("b", True, 3)):
        answer = client.simulate_put(path, headers={"Idempotency-Key": key})
        assert (answer.status_code, answer.text) == (200, "ok")
        assert answer.headers["Content-Type"].startswith("text/plain")
        assert "Location" not in answer.headers
        assert client.simulate_get("/api/items/1").json["active"] is active
        assert len(events(service)) == count


def put(client: TestClient, path: str, body: Any) -> Result:
    """PUT bytes as they are, and anything else as JSON."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return client.simulate_put(path, body=content, headers={"Content-Type": "application/json"})


def test_the_status_that_is_wanted(service: Inventory, client: TestClient) -> None:
    """However often it is asked for: it is told where it changes something."""
    item = post(client, "/api/item", MILLET).json
    told = 1
    for active in (True, False, False, True, True):
        told += item["active"] != active
        answer = put(client, "/api/items/1/status", {"active": active})
        item["active"] = active
        assert (answer.status_code, answer.json) == (200, item)
        assert client.simulate_get("/api/items/1").json == item
        assert len(events(service)) == told
    last = events(service)[-1]
    assert (last["type"], last["data"]["active"]) == ("item.status_changed", True)
    assert last["correlationid"]


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


def test_everything_wrong_is_named_at_once(service: Inventory, client: TestClient) -> None:
    with unchanged(service):
        for item in ({}, {"name": "", "price": -1}):
            answer = post(client, "/api/item", {"item": item})
            assert fields(answer) == ["item.name", "item.price"]
            assert answer.json["instance"] == "/api/item"


def test_unknown_items(service: Inventory, client: TestClient) -> None:
    post(client, "/api/item", MILLET)
    with unchanged(service):
        for item_id in ("0", "2", str(MAX_ID), str(MAX_ID + 1), "9" * 5000, "%EF%BC%91"):
            problem(client.simulate_get(f"/api/items/{item_id}"), 404)
            problem(client.simulate_put(f"/api/items/{item_id}/toggle_status"), 404)
            problem(put(client, f"/api/items/{item_id}/status", {"active": False}), 404)


def test_a_toggle_carries_its_request_id(service: Inventory, client: TestClient) -> None:
    """Also one that had to be made."""
    post(client, "/api/item", MILLET)
    answer = client.simulate_put("/api/items/1/toggle_status")
    assert events(service)[-1]["correlationid"] == answer.headers["X-Request-ID"]
