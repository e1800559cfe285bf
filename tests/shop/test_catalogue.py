"""The catalogue: what becomes of what the warehouse tells."""

import sqlite3
from contextlib import closing
from random import Random
from typing import Any

from falcon.testing import TestClient
from hypothesis import HealthCheck, given
from hypothesis import settings as run
from hypothesis import strategies as st

from inventory.app import Inventory
from shop.app import Shop
from shop.handlers import handlers
from tests.conftest import eventually
from tests.contract import heard, unchanged
from tests.rules import create_item, toggle
from tests.shop.conftest import item

OLD, NEW = (bytes(15) + bytes([number]) for number in (1, 2))


def names(shop: Shop) -> list[str]:
    return [row["name"] for row in shop.catalogue.on_sale()]


def test_an_older_version_or_the_same_changes_nothing(shop: Shop) -> None:
    shop.catalogue.update(OLD, [item(1, version=2)])
    with unchanged(shop):
        for version in (1, 2):
            shop.catalogue.update(OLD, [item(1, version=version, name="old", active=False)])


def test_a_new_epoch_starts_with_an_empty_catalogue(shop: Shop) -> None:
    """Even with a lower version of the same item: it is another warehouse."""
    for item_id in (1, 2):
        shop.catalogue.update(OLD, [item(item_id, version=9)])
    shop.catalogue.update(NEW, [item(1, name="new")])
    assert names(shop) == ["new"]
    with unchanged(shop):
        shop.catalogue.update(OLD, [item(1, version=10)])
        shop.catalogue.update(OLD, [item(2, version=10)])


@run(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(st.sampled_from([OLD, NEW]), st.integers(1, 3), st.integers(1, 4)), max_size=25
    )
)
def test_the_newest_stays_whatever_comes_in_whatever_order(
    shop: Shop, updates: list[tuple[bytes, int, int]]
) -> None:
    """Doubled, late and mixed: each item of the newest epoch is as its newest version says."""
    expected: dict[int, dict[str, Any]] = {}
    newest = max((epoch for epoch, _, _ in updates), default=OLD)
    with shop.database.atomic() as transaction:
        for epoch, item_id, version in updates:
            told = item(
                item_id, name=f"{epoch.hex()} {version}", active=version % 2, version=version
            )
            shop.catalogue.update(epoch, [told])
            if epoch == newest and version >= expected.get(item_id, told)["version"]:
                expected[item_id] = told
        found = shop.catalogue.find([1, 2, 3])
        transaction.rollback()
    assert {item_id: row["name"] for item_id, row in found.items()} == {
        item_id: row["name"] for item_id, row in expected.items()
    }
    assert all(row["active"] == expected[item_id]["active"] for item_id, row in found.items())


@run(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(1, 4), max_size=12), st.randoms(use_true_random=False))
def test_it_becomes_what_the_warehouse_is(
    shop: Shop, inventory: Inventory, changes: list[int], chance: Random
) -> None:
    """After the events of any history of the warehouse, each of them twice, in any order."""
    item_changed = handlers(shop.catalogue, shop.orders)["items"]
    with shop.database.atomic() as ours, inventory.database.atomic() as theirs:
        for item_id in changes:
            if item_id <= len(inventory.items.all()):
                toggle(inventory, item_id)
            else:
                create_item(inventory, f"Item {item_id}", item_id)
        told = heard(inventory, "items") * 2
        chance.shuffle(told)
        for event in told:
            item_changed[event.type]([event])
        known, kept = shop.catalogue.find(range(1, 13)), inventory.items.all()
        ours.rollback()
        theirs.rollback()
    assert known == {item["id"]: item for item in kept}


def test_whoever_changes_an_item_changes_what_is_answered(shop: Shop) -> None:
    """Also by hand, in another process, and also where it is undone: no answer is older than it."""
    client = TestClient(shop.app())

    def shown() -> list[int]:
        return [row["id"] for row in client.simulate_get("/api/items").json]

    shop.catalogue.update(OLD, [item(1)])
    assert shown() == [1]
    with closing(sqlite3.connect(shop.database.path)) as other, other:
        other.execute("DELETE FROM item")
    eventually(lambda: shown() == [])
    assert shop.catalogue.find([1]) == {}
    with shop.database.atomic() as transaction:
        shop.catalogue.update(OLD, [item(2)])
        assert shop.catalogue.find([2])
        transaction.rollback()
    shop.catalogue.update(OLD, [item(3)])
    assert shop.catalogue.find([2, 3]).keys() == {3}
    assert shown() == [3]
