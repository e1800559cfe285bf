"""Items: what the warehouse keeps. Every change is told in its own transaction."""

from typing import Any

from inventory.models import Item
from messaging.outbox import Outbox
from runtime.clock import timestamp
from runtime.database import Database
from runtime.errors import NotFound

SHOWN = (Item.id, Item.name, Item.price, Item.active)


class Items:
    """The items of one database. Rows are dicts: ``id, name, price, active``."""

    def __init__(self, database: Database, outbox: Outbox) -> None:
        self._database = database
        self._outbox = outbox

    def all(self, after: int | None = None, limit: int | None = None) -> list[dict[str, Any]]:
        """Items by id, from the one behind ``after`` on, at most ``limit``."""
        query = Item.select(*SHOWN).where(Item.id > (after or 0)).order_by(Item.id).limit(limit)
        return list(query.dicts().execute(self._database))

    def get(self, item_id: int) -> dict[str, Any]:
        """One item; `NotFound` if there is none."""
        row = Item.select(*SHOWN).where(Item.id == item_id).dicts().first(self._database)
        if row is None:
            raise NotFound(f"There is no item {item_id}.")
        return dict(row)

    def create(self, name: str, price: int) -> dict[str, Any]:
        """Add an item, active, at a price in the smallest coin."""
        with self._database.write():
            item_id = Item.insert(name=name, price=price).execute(self._database)
            self._tell("item.created", item_id)
            return self.get(item_id)

    def toggle(self, item_id: int) -> None:
        """Take an active item out of sale, or put an inactive one back; `NotFound` if none."""
        with self._database.write():
            change = Item.update(active=~Item.active, version=Item.version + 1)
            if not change.where(Item.id == item_id).execute(self._database):
                raise NotFound(f"There is no item {item_id}.")
            self._tell("item.status_changed", item_id)

    def _tell(self, event: str, item_id: int) -> None:
        query = Item.select().where(Item.id == item_id).dicts()
        (row,) = query.execute(self._database)
        self._outbox.emit(event, item_id, timestamp(), row)
