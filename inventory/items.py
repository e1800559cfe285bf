"""The items of the warehouse. Each change and its event are written in one transaction."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from inventory.tables import Item
from messaging.event import Fact
from messaging.outbox import Outbox
from runtime.process.clock import timestamp
from runtime.process.errors import NotFound
from runtime.storage.database import Database

ALL = "SELECT id, name, price, active FROM item ORDER BY id"
TOKEN = "SELECT token FROM items_version"
SHOWN = (Item.id, Item.name, Item.price, Item.active)
CREATE = "INSERT INTO item (name, price, active, version) VALUES {}"
FIND = "SELECT id, name, price, active, version FROM item WHERE id IN ({})"
CHANGE = """UPDATE item SET active = column2, version = column3 FROM (VALUES {}) AS changed
            WHERE id = column1"""


class ToCreate(NamedTuple):
    """An item to create, with a price in the smallest coin."""

    name: str
    price: int
    correlation_id: str | None = None


class NewStatus(NamedTuple):
    """A new status for an item; an ``active`` of None toggles it."""

    item_id: int
    active: bool | None = None
    correlation_id: str | None = None


class Items:
    """The items of one database. Rows are dicts: ``id, name, price, active``."""

    def __init__(self, database: Database, outbox: Outbox) -> None:
        self.database = database
        self._outbox = outbox

    def all(self) -> list[dict[str, Any]]:
        """All items, by id."""
        return [
            {"id": item_id, "name": name, "price": price, "active": bool(active)}
            for item_id, name, price, active in self.database.run(ALL)
        ]

    def token(self) -> int:
        """A number that a trigger changes with every change of an item."""
        return int(self.database.run(TOKEN).fetchone()[0])

    def get(self, item_id: int) -> dict[str, Any]:
        """One item; `NotFound` if there is none."""
        row = Item.select(*SHOWN).where(Item.id == item_id).dicts().first(self.database)
        if row is None:
            raise _not_found(item_id)
        return dict(row)

    def create(self, items: Sequence[ToCreate]) -> list[dict[str, Any]]:
        """Add items, active, and return each."""
        with self.database.write():
            new = [(item.name, item.price, True, 1) for item in items]
            ids = self.database.add(CREATE, new)
            rows = [_Row(item_id, *row) for item_id, row in zip(ids, new, strict=True)]
            pairs = zip(rows, items, strict=True)
            facts = [row.fact(item.correlation_id) for row, item in pairs]
            self._outbox.emit("item.created", facts)
        return [row.shown() for row in rows]

    def change(self, changes: Sequence[NewStatus]) -> list[dict[str, Any] | NotFound]:
        """Change the status of items, one by one; returns each after its change, or `NotFound`.

        An item that already has the status is left unchanged.
        """
        outcomes: list[dict[str, Any] | NotFound] = []
        changed: dict[int, _Row] = {}
        facts = []
        with self.database.write():
            found = self.database.find(FIND, {each.item_id for each in changes})
            rows = {row.id: row for row in map(_Row._make, found)}
            for item_id, active, correlation_id in changes:
                row = changed.get(item_id) or rows.get(item_id)
                if row is None:
                    outcomes.append(_not_found(item_id))
                    continue
                if active is None or active != row.active:
                    row = row._replace(active=not row.active, version=row.version + 1)
                    changed[item_id] = row
                    facts.append(row.fact(correlation_id))
                outcomes.append(row.shown())
            new = [(row.id, row.active, row.version) for row in changed.values()]
            self.database.run_rows(CHANGE, new)
            self._outbox.emit("item.status_changed", facts)
        return outcomes


class _Row(NamedTuple):
    """An item as it is stored."""

    id: int
    name: str
    price: int
    active: bool
    version: int

    def shown(self) -> dict[str, Any]:
        """The item as the HTTP interface shows it."""
        return {"id": self.id, "name": self.name, "price": self.price, "active": bool(self.active)}

    def fact(self, correlation_id: str | None) -> Fact:
        """The content of its events."""
        return Fact(self.id, timestamp(), {**self.shown(), "version": self.version}, correlation_id)


def _not_found(item_id: int) -> NotFound:
    return NotFound(f"There is no item {item_id}.")
