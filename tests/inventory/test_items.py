"""The rules of items, and what is told of them."""

import pytest

from inventory.app import Inventory
from inventory.items import ToCreate
from messaging.outbox import Outbox
from tests.contract import TIME, events, told, unchanged
from tests.rules import create_item, toggle


def test_each_toggle_is_told_with_a_new_version(inventory: Inventory) -> None:
    item = create_item(inventory, "Millet", 4000)
    for _ in range(2):
        toggle(inventory, item["id"])
    assert told(inventory)[1:] == [
        ("item.status_changed", "1", {**item, "active": False, "version": 2}),
        ("item.status_changed", "1", {**item, "active": True, "version": 3}),
    ]


def test_an_event_is_a_cloud_event(inventory: Inventory) -> None:
    """It is numbered within its epoch, and carries the id of the request that caused it."""
    inventory.items.create([ToCreate("Millet", 4000, "abc")] * 2)
    first, second = events(inventory)
    epoch, number = second.pop("id").split(":")
    assert (len(bytes.fromhex(epoch)), number) == (16, "2")
    assert first["id"] == f"{epoch}:1"
    assert TIME.fullmatch(second.pop("time"))
    assert second.pop("previous")
    assert second == {
        "specversion": "1.0",
        "source": "/inventory",
        "type": "item.created",
        "subject": "2",
        "datacontenttype": "application/json",
        "data": {"id": 2, "name": "Millet", "price": 4000, "active": True, "version": 1},
        "sequence": "2",
        "correlationid": "abc",
    }


def test_no_change_without_its_event(inventory: Inventory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fact and event are one transaction: if one fails, there is neither."""
    create_item(inventory, "Millet", 4000)

    def emit(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(Outbox, "emit", emit)
    with unchanged(inventory):
        with pytest.raises(OSError, match="disk full"):
            create_item(inventory, "Hemp", 150)
        with pytest.raises(OSError, match="disk full"):
            toggle(inventory, 1)
