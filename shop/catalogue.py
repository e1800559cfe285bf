"""The catalogue: a copy of the warehouse's items, so that the shop sells without it."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from runtime.storage.database import Database
from shop.tables import Item

FIND = "SELECT id, name, price, active FROM item WHERE id IN ({})"
EPOCH = "SELECT epoch FROM item ORDER BY epoch DESC LIMIT 1"
UPDATE = """INSERT INTO item (id, name, price, active, version, epoch) VALUES {}
    ON CONFLICT (id) DO UPDATE
    SET name = excluded.name, price = excluded.price,
        active = excluded.active, version = excluded.version
    WHERE excluded.version > item.version"""
TOKEN = "SELECT token FROM catalogue_version"
ON_SALE = "SELECT id, name, price, active FROM item WHERE active ORDER BY id"
WHOLE = "SELECT id, name, price, active, version, epoch FROM item WHERE id > ? ORDER BY id LIMIT ?"
REMOVE = "DELETE FROM item WHERE id IN ({})"
PAGE_ROWS = 10_000


class Row(NamedTuple):
    """An item as it is stored."""

    id: int
    name: str
    price: int
    active: bool
    version: int
    epoch: bytes


class Catalogue:
    """The items of one database. Rows are dicts: ``id, name, price, active``."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self._known: tuple[int, dict[int, dict[str, Any]]] = 0, {}  # at this token

    def on_sale(self) -> list[dict[str, Any]]:
        """All active items, by id."""
        return [_shown(row) for row in self.database.run(ON_SALE)]

    def token(self) -> int:
        """A number that a trigger changes with every change of an item."""
        return int(self.database.run(TOKEN).fetchone()[0])

    def find(self, item_ids: Collection[int]) -> dict[int, dict[str, Any]]:
        """Those of these items that exist, active or not, by id; callers must not modify them."""
        token = self.token()
        if self._known[0] != token:
            self._known = token, {}
        _, known = self._known
        if unknown := [item_id for item_id in item_ids if item_id not in known]:
            known |= {row[0]: _shown(row) for row in self.database.find(FIND, unknown)}
        return {item_id: known[item_id] for item_id in item_ids if item_id in known}

    def update(self, epoch: bytes, items: Sequence[dict[str, Any]]) -> None:
        """Take over items as the warehouse announces them: ``id, name, price, active, version``.

        An older version never replaces a newer one, nor an older epoch a newer one. A newer
        epoch is a new warehouse, with which the catalogue starts empty.
        """
        newest: dict[int, Row] = {}  # PostgreSQL refuses one row twice in a statement
        for item in items:
            row = Row(**item, epoch=epoch)
            if row.id not in newest or row.version > newest[row.id].version:
                newest[row.id] = row
        with self.database.write():
            ours = self._epoch() or epoch
            if epoch < ours:
                return
            if epoch > ours:
                Item.delete().execute(self.database)
            self.database.run_rows(UPDATE, newest.values())

    def _epoch(self) -> bytes | None:
        """The epoch of the stream that these items came from; None while there are none."""
        row = self.database.run(EPOCH).fetchone()
        return row and bytes(row[0])

    def differences(self, rows: Mapping[int, Row]) -> list[int]:
        """The ids of all items that differ from these rows, including those to delete."""
        found = {row.id: row for row in self._rows()}
        return sorted(
            item_id for item_id in found.keys() | rows if found.get(item_id) != rows.get(item_id)
        )

    def _rows(self) -> Iterator[Row]:
        after = 0
        while page := self.database.run(WHOLE, after, PAGE_ROWS).fetchall():
            yield from map(Row._make, page)
            after = page[-1][0]

    def replace(self, item_ids: Sequence[int], rows: Mapping[int, Row]) -> None:
        """Replace these items by their rows, or delete them, in the open transaction."""
        self.database.run(REMOVE.format(", ".join("?" * len(item_ids))), *item_ids)
        self.database.load(Item, [rows[id_] for id_ in item_ids if id_ in rows])


def _shown(row: tuple[int, str, int, int]) -> dict[str, Any]:
    item_id, name, price, active = row
    return {"id": item_id, "name": name, "price": price, "active": bool(active)}
