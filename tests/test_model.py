"""The whole shop against a model of it: who is asked, stopped, started and lost in any order."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import pytest
from falcon.testing import Result, TestClient
from hypothesis import HealthCheck
from hypothesis import settings as run
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from inventory.app import Inventory
from inventory.app import create_app as inventory_app
from payment.app import Payment
from payment.app import create_app as payment_app
from runtime.database import SqliteFile
from runtime.settings import Settings
from shop.app import Shop
from shop.app import create_app as shop_app
from tests.conftest import Broker, eventually, free_port
from tests.processes import ALL, SERVICES

APPS = {
    "inventory": (Inventory, inventory_app),
    "shop": (Shop, shop_app),
    "payment": (Payment, payment_app),
}
STREAMS = {  # with their writer and reader; payments last, since orders cause them
    "items": ("inventory", "shop"),
    "orders": ("shop", "payment"),
    "payments": ("payment", "shop"),
}

Row = dict[str, Any]
Catalogue = dict[int, Row]


class Service:
    """A service with its exchange, and a client that asks it."""

    def __init__(self, name: str, settings: Settings) -> None:
        make, create_app = APPS[name]
        self.parts = make(settings)
        self.parts.database.open()
        self.parts.exchange.start()
        self.client = TestClient(create_app(self.parts))

    def stop(self) -> None:
        self.parts.exchange.stop()
        self.parts.database.close()


def needs(name: str) -> Callable[[Any], Any]:
    return precondition(lambda machine: name in machine.up)


class ParrotShop(RuleBasedStateMachine):
    """The four in this process, on real sockets, and what a customer may expect of them.

    What the shop shows of the warehouse may be late, but never goes back: ``moments`` are what
    there was after each event, and ``seen`` is the last of them that the shop is known to know.
    """

    def __init__(self) -> None:
        super().__init__()
        self.folder = TemporaryDirectory()
        self.settings = Settings(
            DATA_DIR=Path(self.folder.name),
            BROKER_PUBLISH_URL=f"tcp://127.0.0.1:{free_port()}",
            BROKER_SUBSCRIBE_URL=f"tcp://127.0.0.1:{free_port()}",
        )
        self.up: dict[str, Any] = {}
        self.items: list[Row] = []  # of the newest inventory
        self.moments: list[Catalogue] = [{}]
        self.seen = 0
        self.users: list[Row] = []  # of the newest shop
        self.orders: dict[str, Row] = {}  # likewise
        self.placed: dict[str, Row] = {}  # the orders of every shop that there was
        self.kept: set[str] = set()  # orders that the journal has for sure
        self.paid: set[str] = set()  # orders that the newest payment service has paid for sure
        self.direct: list[Row] = []  # its payments for no order

    @initialize()
    def open_up(self) -> None:
        for name in ALL:
            self.start(name)
        self.create_user()
        self.create_item(price=100)

    @rule(name=st.sampled_from(ALL), crash=st.booleans())
    def stop_or_start(self, name: str, crash: bool) -> None:
        if name in self.up:
            self.stop(name, crash)
        else:
            self.start(name)

    def start(self, name: str) -> None:
        make = Broker if name == "broker" else partial(Service, name)
        self.up[name] = make(self.settings)

    def stop(self, name: str, crash: bool) -> None:
        """A crash waits for no acks; what it does to transactions takes processes to see."""
        with patch("messaging.exchange.STOP_TIMEOUT_S", 0 if crash else 2):
            self.up.pop(name).stop()

    @rule(name=st.sampled_from(ALL))
    def lose(self, name: str) -> None:
        """Start it again with a new database.

        A journal is filled again, but not by databases that are lost themselves. A new payment
        service pays again all that the journal has. A new shop sells nothing until it has heard
        of the items; the old items are sold until a new inventory tells of its first one.
        """
        if name in self.up:
            self.stop(name, crash=True)
        for path in self.settings.data_dir.glob(f"{name}.db*"):
            path.unlink()
        match name:
            case "broker":
                self.kept = set()
            case "inventory":
                self.items = []
            case "shop":
                self.seen, self.users, self.orders = 0, [], {}
            case "payment":
                self.paid, self.direct = set(), []
        self.start(name)

    @needs("inventory")
    @rule(price=st.integers(0, 10**9))
    def create_item(self, price: int) -> None:
        new = {"name": f"Item for {price}", "price": price}
        answer = self.post("inventory", "/api/item", {"item": new})
        item = {"id": len(self.items) + 1, **new, "active": True}
        assert (answer.status_code, answer.json) == (201, item)
        self.change(item)

    @needs("inventory")
    @rule(item_id=st.integers(1, 3))
    def toggle(self, item_id: int) -> None:
        path = f"/api/items/{item_id}/toggle_status"
        status = self.up["inventory"].client.simulate_put(path).status_code
        assert status == (200 if item_id <= len(self.items) else 404)
        if status == 200:
            item = self.items[item_id - 1]
            self.change({**item, "active": not item["active"]})

    def change(self, item: Row) -> None:
        self.items[item["id"] - 1 : item["id"]] = [item]
        self.moments.append({item["id"]: item for item in self.items})

    @needs("shop")
    @rule()
    def create_user(self) -> None:
        user = {"id": len(self.users) + 1, "name": "Kesha"}
        answer = self.post("shop", "/api/user", {"name": "Kesha"})
        assert (answer.status_code, answer.json) == (201, user)
        self.users.append(user)

    @needs("shop")
    @rule(item_ids=st.lists(st.sampled_from([1, 1, 2]), min_size=1, max_size=3))
    def checkout(self, item_ids: list[int]) -> None:
        self.try_to_buy(1, item_ids)

    @needs("shop")
    @rule(user_id=st.integers(1, 2), item_ids=st.lists(st.integers(1, 3), min_size=1))
    def checkout_of_anything(self, user_id: int, item_ids: list[int]) -> None:
        self.try_to_buy(user_id, item_ids)

    def try_to_buy(self, user_id: int, item_ids: list[int]) -> None:
        answer = self.post("shop", "/api/checkout", {"user_id": user_id, "item_ids": item_ids})
        if answer.status_code == 201:
            order = answer.json
            assert (order["user_id"], order["status"]) == (user_id, "placed")
            assert order["price"] == sum(
                line["price"] * line["quantity"] for line in order["items"]
            )
            self.orders[order["id"]] = self.placed[order["id"]] = unchanging(order)
            outcome = order["items"]
        else:
            assert answer.status_code == 422
            outcome = [error["field"] for error in answer.json["errors"]]
        self.show(lambda catalogue: outcome == self.expected(catalogue, user_id, item_ids))

    def expected(self, catalogue: Catalogue, user_id: int, item_ids: list[int]) -> list[Any]:
        """The lines of an order, or the fields that are at fault."""
        wrong = ["user_id"] * (user_id > len(self.users))
        for position, item_id in enumerate(item_ids):
            if item_id not in catalogue or not catalogue[item_id]["active"]:
                wrong.append(f"item_ids.{position}")
        return wrong or [
            {
                "item_id": item_id,
                "name": catalogue[item_id]["name"],
                "price": catalogue[item_id]["price"],
                "quantity": item_ids.count(item_id),
            }
            for item_id in sorted(set(item_ids))
        ]

    def show(self, matches: Callable[[Catalogue], bool]) -> None:
        """What the shop shows was true at a moment that is not before one that it has shown."""
        later = range(self.seen, len(self.moments))
        self.seen = next((n for n in later if matches(self.moments[n])), -1)
        assert self.seen >= 0

    @needs("payment")
    @rule(user_id=st.integers(1, 2), price=st.integers(0, 10**12))
    def pay(self, user_id: int, price: int) -> None:
        body = {"user_id": user_id, "price": price}
        answer = self.post("payment", "/api/payment", body)
        assert answer.status_code == 201
        assert answer.json.items() >= body.items()
        self.direct.append(answer.json)

    @needs("inventory")
    @invariant()
    def the_inventory_is_as_it_was_left(self) -> None:
        assert self.get("inventory", "/api/items") == self.items

    @needs("shop")
    @invariant()
    def the_shop_shows_what_is_or_was(self) -> None:
        on_sale = self.get("shop", "/api/items")
        self.show(lambda known: on_sale == [item for item in known.values() if item["active"]])
        assert self.get("shop", "/api/users") == self.users
        assert {order["id"]: unchanging(order) for order in self.all_orders()} == self.orders

    @needs("payment")
    @invariant()
    def no_order_is_paid_twice_or_out_of_nothing(self) -> None:
        payments = self.get("payment", "/api/payments")[::-1]
        assert [payment for payment in payments if not payment["order_id"]] == self.direct
        bills = [payment for payment in payments if payment["order_id"]]
        ids = [bill["order_id"] for bill in bills]
        assert len(set(ids)) == len(ids)
        assert self.paid <= set(ids) <= self.placed.keys()
        for bill in bills:
            order = self.placed[bill["order_id"]]
            assert (bill["user_id"], bill["price"]) == (order["user_id"], order["price"])

    @invariant()
    def nothing_is_dead_and_nobody_has_a_problem(self) -> None:
        for name in self.up.keys() & SERVICES:
            assert self.get(name, "/readyz")["dead"] == 0  # it would be 503 with a problem

    @rule()
    def settle(self) -> None:
        """With all of them up, everything that was told arrives."""
        for name in ALL:
            if name not in self.up:
                self.start(name)
        eventually(lambda: all(self.has_arrived(stream) for stream in STREAMS))
        eventually(lambda: all(self.is_quiet(name) for name in SERVICES))
        self.kept |= self.orders.keys()
        self.paid |= self.kept
        self.no_order_is_paid_twice_or_out_of_nothing()
        assert {order["status"] for order in self.all_orders()} <= {"paid"}
        if self.items:
            self.seen = len(self.moments) - 1
        catalogue = self.up["shop"].parts.catalogue.find(range(1, len(self.moments)))
        self.show(lambda known: known == catalogue)

    def has_arrived(self, stream: str) -> bool:
        writer, reader = STREAMS[stream]
        told = self.place(writer, "SELECT epoch, sequence FROM head")
        kept = self.place(
            "broker",
            f"SELECT epoch, sequence FROM entry WHERE stream = '{stream}' ORDER BY 1 DESC, 2 DESC",
        )
        read = self.place(reader, f"SELECT epoch, sequence FROM cursor WHERE stream = '{stream}'")
        return (told == kept or told[1] == 0) and read >= kept

    def place(self, name: str, query: str) -> tuple[bytes, int]:
        with closing(sqlite3.connect(self.settings.data_dir / f"{name}.db")) as database:
            return database.execute(query).fetchone() or (b"", 0)

    def is_quiet(self, name: str) -> bool:
        state = self.get(name, "/readyz")
        waiting = [state["outbox_waiting"], *state["inbox_behind"].values()]
        return state["broker"] == "up" and set(waiting) == {0}

    def all_orders(self) -> list[Row]:
        return [order for n in (1, 2) for order in self.get("shop", f"/api/orders?user_id={n}")]

    def get(self, name: str, path: str) -> Any:
        answer = self.up[name].client.simulate_get(path)
        assert answer.status_code == 200, answer.text
        return answer.json

    def post(self, name: str, path: str, body: Any) -> Result:
        return self.up[name].client.simulate_post(path, json=body)

    def teardown(self) -> None:
        try:
            self.settle()
        finally:
            for name in list(self.up):
                self.stop(name, crash=True)
            self.folder.cleanup()


def unchanging(order: Row) -> Row:
    """What no payment changes of an order."""
    return {name: order[name] for name in order.keys() - {"status", "paid_at"}}


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorter waits; and no lock on files, as that is held until the end of a process."""
    monkeypatch.setattr("messaging.exchange.TICK_S", 0.005)
    monkeypatch.setattr("messaging.outbox.ACK_TIMEOUT_S", 0.05)
    monkeypatch.setattr("messaging.outbox.PROBE_INTERVAL_S", 0.1)
    monkeypatch.setattr("messaging.follower.WANT_INTERVAL_S", 0.05)
    monkeypatch.setattr(SqliteFile, "claim", SqliteFile.open)


# An example takes a second, since it opens databases and waits for events.
slow = run(deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow])


@pytest.mark.timeout(600)  # a failing example is made smaller first
def test_the_parrot_shop_keeps_its_promises() -> None:
    """The same examples in every run, so that one that fails blames the change, and not luck."""
    run_state_machine_as_test(
        ParrotShop, settings=run(slow, max_examples=5, stateful_step_count=50, derandomize=True)
    )


@pytest.mark.chaos
@pytest.mark.timeout(1500)
def test_the_parrot_shop_keeps_its_promises_for_long() -> None:
    """Other examples in every run."""
    run_state_machine_as_test(
        ParrotShop, settings=run(slow, max_examples=300, stateful_step_count=50, database=None)
    )
