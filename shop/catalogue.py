"""The catalogue: the shop's own copy of the warehouse's items, so that it sells without it."""

from collections.abc import Collection
from typing import Any

from peewee import EXCLUDED, chunked

from runtime.database import Database
from shop.models import Item

FIND = "SELECT id, name, price, active FROM item WHERE id IN ({})"
VERSION = "SELECT token FROM catalogue_version"
SHOWN = (Item.id, Item.name, Item.price, Item.active)


class Catalogue:
    """The items of one database. Rows are dicts: ``id, name, price, active``."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self._known: tuple[int, dict[int, dict[str, Any]]] = 0, {}  # as of this version

    def on_sale(self, after: int | None = None, limit: int | None = None) -> list[dict[str, Any]]:
        """Active items by id, from the one behind ``after`` on, at most ``limit``."""
        behind = Item.active & (Item.id > (after or 0))
        query = Item.select(*SHOWN).where(behind).order_by(Item.id).limit(limit)
        return list(query.dicts().execute(self.database))

    def version(self) -> int:
        """A number that is another one after each change, whoever makes it (by a trigger)."""
        return int(self.database.run(VERSION).fetchone()[0])

    def find(self, item_ids: Collection[int]) -> dict[int, dict[str, Any]]:
        """Those of these items that exist, active or not, by id; not to be changed."""
        version = self.version()
        if self._known[0] != version:
            self._known = version, {}
        _, known = self._known
        if unknown := [item_id for item_id in item_ids if item_id not in known]:
            found = self.database.run(FIND.format(", ".join("?" * len(unknown))), *unknown)
            known |= {
                item_id: {"id": item_id, "name": name, "price": price, "active": bool(active)}
                for item_id, name, price, active in found
            }
        return {item_id: known[item_id] for item_id in item_ids if item_id in known}

    def update(self, epoch: bytes, item: dict[str, Any]) -> None:
        """Take over an item as the warehouse tells of it: ``id, name, price, active, version``.

        An older version never replaces a newer one, nor an older epoch a newer one. A newer
        epoch is a new warehouse, with which the catalogue starts empty.
        """
        with self.database.write():
            epochs = Item.select(Item.epoch).order_by(Item.epoch.desc()).limit(1)
            newest = epochs.scalar(self.database) or epoch
            if epoch < newest:
                return
            if epoch > newest:
                Item.delete().execute(self.database)
            Item.insert(epoch=epoch, **item).on_conflict(
                conflict_target=[Item.id],
                preserve=[Item.name, Item.price, Item.active, Item.version],
                where=EXCLUDED.version > Item.version,
            ).execute(self.database)

    def replace(self, other: "Catalogue") -> None:
        """Take over all that another catalogue holds, and nothing else."""
        with self.database.write():
            Item.delete().execute(self.database)
            for rows in chunked(Item.select().dicts().iterator(other.database), 1000):
                Item.insert_many(rows).execute(self.database)
