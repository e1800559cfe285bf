"""The catalogue, damaged and built anew, while the shop sells."""

from argparse import Namespace
from collections.abc import Callable
from typing import Any

import pytest

import messaging.replay
from inventory.app import Inventory
from messaging.inbox import place_of
from runtime.process.errors import StartError
from shop.app import Shop
from shop.replay import COMMAND
from shop.tables import Item
from tests.conftest import Broker, eventually
from tests.rules import checkout, create_item, create_user, toggle


@pytest.fixture
def stocked(broker: Broker, inventory: Inventory, shop: Shop) -> Shop:
    """A shop that has heard of three items, of which the second is out of sale."""
    inventory.exchange.start()
    shop.exchange.start()
    for n in range(1, 4):
        create_item(inventory, f"Perch {n}", n)
    toggle(inventory, 2)
    eventually(lambda: [item["id"] for item in shop.catalogue.on_sale()] == [1, 3])
    return shop


def test_the_catalogue_is_rebuilt_from_the_first_event_on(
    stocked: Shop, inventory: Inventory, capfd: pytest.CaptureFixture[str]
) -> None:
    """Items that were lost, altered or never there are as the warehouse told of them."""
    Item.delete().where(Item.id == 1).execute(stocked.database)
    Item.update(active=True, price=9, version=99).where(Item.id == 2).execute(stocked.database)
    Item.insert(id=7, name="?", price=1, active=True, version=1, epoch=b"?").execute(
        stocked.database
    )
    place = place_of(stocked.database, "items")

    assert COMMAND.run(stocked, Namespace()) == 0
    assert list(stocked.catalogue.find(range(9)).values()) == inventory.items.all()
    assert place_of(stocked.database, "items") == place
    assert "from 4 events" in capfd.readouterr().out
    toggle(inventory, 2)
    eventually(lambda: [item["id"] for item in stocked.catalogue.on_sale()] == [1, 2, 3])


def caught_up(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    """Let something happen each time the new catalogue has caught up."""
    catch_up = messaging.replay.catch_up

    def catch_up_and_act(*arguments: Any, **named: Any) -> None:
        catch_up(*arguments, **named)
        act()

    monkeypatch.setattr("shop.replay.catch_up", catch_up_and_act)


def test_the_shop_sells_from_the_old_catalogue_meanwhile(
    stocked: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old and the new change places in one step."""
    user = create_user(stocked, "Kesha")
    seen: list[int] = []
    stocked.database.on_commit.append(lambda: seen.append(len(stocked.catalogue.on_sale())))
    caught_up(monkeypatch, lambda: checkout(stocked, user["id"], [1, 3]))
    assert COMMAND.run(stocked, Namespace()) == 0
    assert set(seen) == {2}


def test_only_what_differs_is_written(stocked: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """In steps, between which others get in; nothing at all if nothing differs."""
    monkeypatch.setattr("shop.replay.STEP_ITEMS", 1)
    token = stocked.catalogue.token()
    assert COMMAND.run(stocked, Namespace()) == 0
    assert stocked.catalogue.token() == token

    Item.update(name="?").where(Item.id != 3).execute(stocked.database)
    unnamed: list[int] = []
    wrong = Item.select().where(Item.name == "?")
    stocked.database.on_commit.append(lambda: unnamed.append(wrong.count(stocked.database)))
    assert COMMAND.run(stocked, Namespace()) == 0
    assert unnamed == [1, 0]


def test_without_a_broker_the_catalogue_stays(
    stocked: Shop, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker.journal.stop()
    broker.forwarder.stop()
    monkeypatch.setattr(messaging.replay, "NO_PROGRESS_S", 0.2)
    monkeypatch.setattr(broker, "stop", lambda: None)
    with pytest.raises(StartError, match="broker"):
        COMMAND.run(stocked, Namespace())
    assert len(stocked.catalogue.on_sale()) == 2


def test_what_the_shop_hears_meanwhile_is_not_lost(
    stocked: Shop, inventory: Inventory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A catalogue that is older than the shop's by the time it is ready is brought up to date."""

    def hear() -> None:
        if len(stocked.catalogue.on_sale()) == 2:
            create_item(inventory, "Perch 4", 4)
            eventually(lambda: len(stocked.catalogue.on_sale()) == 3)

    caught_up(monkeypatch, hear)
    assert COMMAND.run(stocked, Namespace()) == 0
    assert [item["id"] for item in stocked.catalogue.on_sale()] == [1, 3, 4]


def test_a_journal_that_lost_its_end_is_not_believed(
    stocked: Shop, broker: Broker, inventory: Inventory, monkeypatch: pytest.MonkeyPatch
) -> None:
    inventory.exchange.stop()
    broker.journal._database.execute_sql("DELETE FROM entry WHERE sequence > 1")
    monkeypatch.setattr(messaging.replay, "NO_PROGRESS_S", 0.5)
    with pytest.raises(StartError, match="does not have all events yet"):
        COMMAND.run(stocked, Namespace())
    assert [item["id"] for item in stocked.catalogue.on_sale()] == [1, 3]
