"""The shop's HTTP interface."""

import json
from typing import ClassVar
from uuid import UUID, uuid4

import pytest
from falcon.testing import TestClient

from shop.app import Shop
from tests.contract import (
    EPOCH,
    MAX_ID,
    NAMES_REFUSED,
    NAMES_TAKEN,
    NOT_IDS,
    TIME,
    ListContract,
    PostContract,
    events,
    fields,
    post,
    problem,
    unchanged,
)
from tests.rules import checkout, create_user, mark_paid
from tests.shop.conftest import item

TOO_LONG = ([1] * 1001, [1] * 100_000, [0] * 300_000)


class TestUserPost(PostContract):
    path = "/api/user"
    body: ClassVar = {"name": "Kesha"}
    taken: ClassVar = {"name": NAMES_TAKEN}
    wrong: ClassVar = {"name": NAMES_REFUSED}


@pytest.mark.usefixtures("stocked")
class TestCheckoutPost(PostContract):
    path = "/api/checkout"
    body: ClassVar = {"user_id": 1, "item_ids": [1, 2, 2]}
    taken: ClassVar = {"user_id": {1: 1, 2: 2}}
    wrong: ClassVar = {
        "user_id": NOT_IDS,
        "item_ids.1": NOT_IDS,
        "item_ids": ["[]", "null", "{}", '"1"', "1", *(json.dumps(ids) for ids in TOO_LONG)],
    }


class TestUserList(ListContract):
    path = "/api/users"

    def add(self, service: Shop) -> int:
        return int(create_user(service, "Kesha")["id"])


class TestItemList(ListContract):
    """Between the items that are shown there are some that are not for sale."""

    path = "/api/items"
    whole = True

    def add(self, service: Shop) -> int:
        last = max((row["id"] for row in service.catalogue.on_sale()), default=0)
        service.catalogue.update(EPOCH, [item(last + 1, active=False)])
        service.catalogue.update(EPOCH, [item(last + 2)])
        return int(last + 2)


@pytest.mark.usefixtures("stocked")
class TestOrderList(ListContract):
    """Between a user's orders there are another's."""

    path = "/api/orders"
    query: ClassVar = {"user_id": 1}
    newest_first = True

    def add(self, service: Shop) -> UUID:
        checkout(service, 2, [1])
        return UUID(str(checkout(service, 1, [3, 1, 1])["id"]))


def test_create_a_user(client: TestClient) -> None:
    answer = post(client, "/api/user", {"name": "Kesha"})
    assert (answer.status_code, answer.json) == (201, {"id": 1, "name": "Kesha"})
    assert client.simulate_get("/api/users").json == [answer.json]


def test_checkout(stocked: Shop, client: TestClient) -> None:
    """An id that is there twice means two of it."""
    answer = post(client, "/api/checkout", {"user_id": 1, "item_ids": [2, 1, 2]})
    order = answer.json
    assert answer.status_code == 201
    assert answer.headers["Location"] == f"/api/orders/{UUID(order['id'])}"
    assert TIME.fullmatch(order["placed_at"])
    assert order == {
        "id": order["id"],
        "user_id": 1,
        "items": [
            {"item_id": 1, "name": "Item 1", "price": 100, "quantity": 1},
            {"item_id": 2, "name": "Item 2", "price": 200, "quantity": 2},
        ],
        "price": 500,
        "status": "placed",
        "placed_at": order["placed_at"],
        "paid_at": None,
    }
    shown = client.simulate_get(answer.headers["Location"])
    assert (shown.status_code, shown.json) == (200, order)
    assert client.simulate_get("/api/orders?user_id=1").json == [order]
    assert client.simulate_get("/api/orders?user_id=2").json == []


def test_a_paid_order_is_shown_as_paid(stocked: Shop, client: TestClient) -> None:
    """The kept answer to its checkout stays what it was."""
    body = {"user_id": 1, "item_ids": [1]}
    placed = post(client, "/api/checkout", body, key="a")
    mark_paid(stocked, UUID(placed.json["id"]), "2026-11-23T10:00:00.123Z")
    shown = client.simulate_get(placed.headers["Location"]).json
    paid = {"status": "paid", "paid_at": "2026-11-23T10:00:00.123Z"}
    assert shown == placed.json | paid
    assert post(client, "/api/checkout", body, key="a").content == placed.content


def test_everything_that_cannot_be_bought_is_named_at_once(
    stocked: Shop, client: TestClient
) -> None:
    """The user, and each place of an item that is unknown or not for sale."""
    with unchanged(stocked):
        body = {"user_id": 3, "item_ids": [9, 1, 4, 9, MAX_ID]}
        wrong = ["user_id", "item_ids.0", "item_ids.2", "item_ids.3", "item_ids.4"]
        assert fields(post(client, "/api/checkout", body)) == wrong
        assert fields(post(client, "/api/checkout", {"user_id": 1, "item_ids": [1, 4]})) == [
            "item_ids.1"
        ]


def test_of_many_faults_the_first_are_listed(stocked: Shop, client: TestClient) -> None:
    """And how many there are: a refusal is no larger than what was asked."""
    with unchanged(stocked):
        for ids in (range(1000, 2000), [0] * 1000):
            refusal = problem(
                post(client, "/api/checkout", {"user_id": 1, "item_ids": [*ids]}), 422
            )
            listed = [error["field"] for error in refusal["errors"]]
            assert listed == [f"item_ids.{n}" for n in range(20)]
            assert refusal["detail"].startswith("1000 fields are wrong")
        assert (
            len(fields(post(client, "/api/checkout", {"user_id": 1, "item_ids": [9] * 20}))) == 20
        )


def test_a_kept_answer_costs_no_more_than_its_order(stocked: Shop, client: TestClient) -> None:
    """Of a thousand items; it is the same answer again all the same."""
    ids = list(range(1, 1001))
    with stocked.database.write():
        for item_id in ids:
            name = f"{uuid4()} {uuid4()} {uuid4()}"
            stocked.catalogue.update(EPOCH, [item(item_id, version=9, name=name)])
    body = {"user_id": 1, "item_ids": ids}
    first = post(client, "/api/checkout", body, key="a")
    assert first.status_code == 201
    assert post(client, "/api/checkout", body, key="a").content == first.content
    (kept,) = stocked.database.run("SELECT length(body) FROM kept_answer").fetchone()
    # A number takes two bytes and more, and each value one for its type.
    order = "SELECT sum(length(name) + 5 + 4 * 2) FROM order_line"
    assert kept < stocked.database.run(order).fetchone()[0] < len(first.content)


def test_orders_with_many_lines_come_on_shorter_pages(
    stocked: Shop, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page has an end in lines, too; following the links gives each order once."""
    monkeypatch.setattr("shop.api.MAX_LINES", 4)
    orders = [checkout(stocked, 1, [1, 2][: 1 + n % 2])["id"] for n in range(7)][::-1]
    pages, link = [], "</api/orders?user_id=1>"
    while link:
        page = client.simulate_get(link[1:].partition(">")[0])
        pages.append([row["id"] for row in page.json])
        link = page.headers.get("Link")
    assert [len(page) for page in pages] == [3, 2, 2]
    assert [order for page in pages for order in page] == [str(order) for order in orders]
    monkeypatch.setattr("shop.api.MAX_LINES", 1)
    assert len(client.simulate_get("/api/orders?user_id=1").json) == 1


def test_a_thousand_item_ids(stocked: Shop, client: TestClient) -> None:
    answer = post(client, "/api/checkout", {"user_id": 1, "item_ids": [1] * 1000})
    assert answer.status_code == 201
    assert (answer.json["price"], answer.json["items"][0]["quantity"]) == (100_000, 1000)


def test_the_largest_order(stocked: Shop, client: TestClient) -> None:
    """A thousand items with the longest ids and the highest price still fit into an event."""
    ids = list(range(MAX_ID - 999, MAX_ID + 1))
    with stocked.database.write():
        for item_id in ids:
            stocked.catalogue.update(EPOCH, [item(item_id, price=10**9, name="🦜" * 200)])
    answer = post(client, "/api/checkout", {"user_id": 1, "item_ids": ids}, key="a")
    assert (answer.status_code, answer.json["price"]) == (201, 10**12)
    assert len(events(stocked)[0]["data"]["items"]) == 1000


def test_unknown_orders(stocked: Shop, client: TestClient) -> None:
    for order_id in ("1", "0", "abc", "%00", str(UUID(int=1)), f"{UUID(int=1)}0"):
        problem(client.simulate_get(f"/api/orders/{order_id}"), 404)


def test_wrong_queries(stocked: Shop, client: TestClient) -> None:
    assert fields(client.simulate_get("/api/orders")) == ["user_id"]
    assert fields(client.simulate_get(f"/api/orders?user_id=1&after={uuid4()}")) == ["after"]


def test_users_are_found_by_name(service: Shop, client: TestClient) -> None:
    """By the page, whose link keeps the name; the last one has no link."""
    for name in ("Zoë", "Bob", "zoe\u0308 2", "ZOË & Co"):
        create_user(service, name)
    pages, link = [], "</api/users?name=zo%C3%AB&limit=2>"
    while link:
        answer = client.simulate_get(link[1:].partition(">")[0])
        pages.append([user["id"] for user in answer.json])
        link = answer.headers.get("Link")
    assert pages == [[1, 3], [4]]
    (found,) = client.simulate_get("/api/users", params={"name": "  & co "}).json
    assert found == {"id": 4, "name": "ZOË & Co"}
    for wrong in ("", " ", "x" * 201, "%00"):
        assert fields(client.simulate_get(f"/api/users?name={wrong}")) == ["name"]
