"""How much work is done for how much: counted, since times say more about the machine.

That requests which wait are one list is in `tests/runtime/test_writer.py`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from uuid import UUID

import pytest
from falcon.testing import TestClient

from broker.journal import Journal
from inventory.app import Inventory
from inventory.items import NewStatus, ToCreate
from messaging.publisher import Publisher
from messaging.transports.wire import START, Ack, Message, Place, Run
from payment.app import Payment
from payment.payments import Pay
from runtime.storage.sqlite import SqliteFile
from runtime.storage.writer import commit
from runtime.web.once import Answer, Change, Key, created, once
from shop.app import Shop
from shop.orders import Checkout, PaidOrder
from tests.rules import checkout, create_item, orders_of
from tests.shop.conftest import EPOCH, stocked  # noqa: F401  # a fixture, asked for by its name

LISTS = [1, 8, 256]
NOON = "2026-11-23T12:00:00.000Z"


@contextmanager
def statements(database: SqliteFile) -> Iterator[list[str]]:
    """What this thread's connection is told meanwhile, by their first words."""
    told: list[str] = []
    whole: list[str] = []

    def note(statement: str) -> None:
        if whole[-1:] != [statement]:  # which is there again for each step of a trigger
            whole.append(statement)
            told.append(statement.split(maxsplit=1)[0])

    database.connection().set_trace_callback(note)
    yield told
    database.connection().set_trace_callback(None)


@pytest.mark.parametrize("keyed", [False, True], ids=["", "keyed"])
@pytest.mark.parametrize("number", LISTS)
def test_checkouts_are_six_statements_in_one_commit(
    number: int,
    keyed: bool,
    stocked: Shop,  # noqa: F811
) -> None:
    """With keys eight: what was kept under them, and what is."""
    stocked.catalogue.find([1])
    change = Change(stocked.orders.checkout, Checkout(1, [1, 1]), created)
    changes = [
        change._replace(key=Key.of("/api/checkout", f"key-{n}", {}) if keyed else None)
        for n in range(number)
    ]
    with statements(stocked.database) as told:
        answers = commit(stocked.database, once, changes)
    assert {answer.status for answer in answers if isinstance(answer, Answer)} == {201}
    assert len(orders_of(stocked, 1)) == number
    one_commit(told, ["INSERT", "SELECT"] * (3 if keyed else 2) + ["INSERT", "UPDATE"])


def one_commit(told: list[str], expected: list[str]) -> None:
    assert (told[0], told[-1]) == ("BEGIN", "COMMIT")  # which is one flush
    assert sorted(told[1:-1]) == sorted(expected)


@pytest.mark.parametrize("number", LISTS)
def test_other_rules_are_a_few_statements_in_one_commit(
    number: int,
    payment: Payment,
    inventory: Inventory,
    stocked: Shop,  # noqa: F811
) -> None:
    """What is told is in them: a step of its stream's head, and a list of events."""
    orders, emitted = [UUID(int=n) for n in range(number)], ["UPDATE", "INSERT"]
    items = [
        {"id": n, "name": "Millet", "price": 1, "active": True, "version": 2} for n in range(number)
    ]
    with statements(inventory.database) as told:
        inventory.items.create([ToCreate("Millet", 4000)] * number)
    one_commit(told, ["INSERT", *emitted])
    with statements(inventory.database) as told:
        inventory.items.change([NewStatus(n + 1) for n in range(number)])
    one_commit(told, ["SELECT", "UPDATE", *emitted])
    for paid in ([], orders):
        with statements(payment.database) as told:
            payment.payments.pay([Pay(1, 300, each) for each in orders])
        one_commit(told, ["SELECT", "INSERT", *emitted] if not paid else ["SELECT"])
    with statements(stocked.database) as told:
        stocked.users.create(["Kesha"] * number)
    one_commit(told, ["INSERT"])
    with statements(stocked.database) as told:
        stocked.catalogue.update(EPOCH, items)
    one_commit(told, ["SELECT", "INSERT"])
    placed = stocked.orders.checkout([Checkout(1, [1])] * number)
    with statements(stocked.database) as told:
        stocked.orders.mark_paid(
            [PaidOrder(order["id"], NOON) for order in placed if isinstance(order, dict)]
        )
    one_commit(told, ["UPDATE"])


@pytest.mark.parametrize("name", ["inventory", "stocked"])
def test_a_listing_that_has_not_changed_asks_the_database_nothing(
    name: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the warehouse and in the shop, whole or by the page."""
    monkeypatch.setattr("runtime.web.lists.LOOK_INTERVAL_S", 60)
    service = request.getfixturevalue(name)
    if name == "inventory":
        for _ in range(3):
            create_item(service, "Millet", 4000)
    client = TestClient(service.app())
    for path in ("/api/items", "/api/items?limit=1&after=1"):
        first = client.simulate_get(path)
        with statements(service.database) as told:
            assert client.simulate_get(path).content == first.content
            known = {"If-None-Match": first.headers["ETag"]}
            assert client.simulate_get(path, headers=known).status_code == 304
        assert told == []


def test_orders_that_have_not_changed_are_not_put_together(stocked: Shop) -> None:  # noqa: F811
    """Their lines are read for those alone who have not got them."""
    client = TestClient(stocked.app())
    for _ in range(3):
        checkout(stocked, 1, [1, 2])
    path = "/api/orders?user_id=1"
    first = client.simulate_get(path)
    with statements(stocked.database) as told:
        client.simulate_get(path, headers={"If-None-Match": first.headers["ETag"]})
    assert told == ["SELECT"]


@pytest.mark.parametrize("number", LISTS)
def test_a_list_of_orders_is_one_message_one_ack_and_three_commits(
    number: int,
    stocked: Shop,  # noqa: F811
    payment: Payment,
    tmp_path: Path,
) -> None:
    """From outbox to inbox; each commit is one flush, the writer's own (above) included."""
    stocked.orders.checkout([Checkout(1, [1])] * number)
    sent: list[Run] = []
    publisher = Publisher(
        stocked.outbox, SimpleNamespace(publish=sent.append, fetch=lambda *_: None)
    )
    publisher.step()
    publisher.handle_end(Run("orders", START, START, []))  # an empty journal
    publisher.step()
    assert [len(run.bodies) for run in sent] == [number]

    replies: list[Message] = []
    journal = Journal(tmp_path / "journal.db", SimpleNamespace(send=replies.append, malformed=0))
    journal.open()
    with statements(journal._database) as told:
        journal.handle([*sent])
    assert [type(reply) for reply in replies] == [Ack]
    assert told.count("COMMIT") == told.count("INSERT") == 1

    reader = payment.exchange._readers["orders"]
    reader.place = Place(sent[0].first.epoch, 0)
    reader.receive(sent[0])
    with statements(payment.database) as told:
        reader.apply()
    assert len(payment.payments.all(limit=number + 1)) == number
    assert told.count("COMMIT") == 1
    assert len(told) == 8
