"""The catalogue: the shop's own copy of the warehouse's items, so that it sells without it."""

from collections.abc import Iterable
from typing import Any

from peewee import EXCLUDED, chunked, fn

from runtime.database import Database
from shop.models import Item

FIND = "SELECT id, name, price, active FROM item WHERE id IN ({})"
VERSION = "SELECT number FROM catalogue_version"
CHANGED = "UPDATE catalogue_version SET number = number + 1"
SHOWN = (Item.id, Item.name, Item.price, Item.active)


class Catalogue:
    """The items of one database. Rows are dicts: ``id, name, price, active``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def on_sale(self, after: int | None = None, limit: int | None = None) -> list[dict[str, Any]]:
        """Active items by id, from the one behind ``after`` on, at most ``limit``."""
        behind = Item.active & (Item.id > (after or 0))
        query = Item.select(*SHOWN).where(behind).order_by(Item.id).limit(limit)
        return list(query.dicts().execute(self._database))

    def version(self) -> int:
        """How often the catalogue has changed."""
        return int(self._database.run(VERSION).fetchone()[0])

    def find(self, item_ids: Iterable[int]) -> dict[int, dict[str, Any]]:
        """Those of these items that exist, active or not, by id."""
        ids = tuple(item_ids)
        found = self._database.run(FIND.format(", ".join("?" * len(ids))), *ids)
        return {
            item_id: {"id": item_id, "name": name, "price": price, "active": bool(active)}
            for item_id, name, price, active in found
        }

    def update(self, epoch: bytes, item: dict[str, Any]) -> None:
        """Take over an item as the warehouse tells of it: ``id, name, price, active, version``.

        An older version never replaces a newer one, nor an older epoch a newer one. A newer
        epoch is a new warehouse, with which the catalogue starts empty.
        """
        with self._database.write():
            newest = Item.select(fn.MAX(Item.epoch)).scalar(self._database) or epoch
            if epoch < newest:
                return
            if epoch > newest:
                Item.delete().execute(self._database)
            upsert = Item.insert(epoch=epoch, **item).on_conflict(
                conflict_target=[Item.id],
                preserve=[Item.name, Item.price, Item.active, Item.version],
                where=EXCLUDED.version > Item.version,
            )
            if upsert.as_rowcount().execute(self._database):
                self._database.run(CHANGED)

    def replace(self, other: "Catalogue") -> None:
        """Take over all that another catalogue holds, and nothing else."""
        with self._database.write():
            self._database.run(CHANGED)
            Item.delete().execute(self._database)
            for rows in chunked(Item.select().dicts().iterator(other._database), 1000):
                Item.insert_many(rows).execute(self._database)
