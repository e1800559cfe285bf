"""Databases filled by SQL, as if their rows had been written long ago by the services."""

import os
import sqlite3
import time
from contextlib import closing
from pathlib import Path

from messaging.wire import EPOCH_BYTES
from runtime.database import SqliteFile

PACKAGES = {
    "broker": ("broker",),
    "shop": ("runtime", "messaging", "shop"),
    "payment": ("runtime", "messaging", "payment"),
}
USER_ID = 1
ITEMS_BOUGHT = (1, 2, 3)
PRICE = 4000

ITEMS = """
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :items)
    INSERT INTO item (id, name, price, active, version, epoch)
    SELECT i, 'Item ' || i, :price, 1, 1, :epoch FROM n"""

ORDERS = """
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :orders)
    INSERT INTO "order" (id, user_id, price, placed_at, paid_at)
    SELECT lower(hex(randomblob(16))), :user, 3 * :price, :at, :paid_at FROM n"""

LINES = """
    INSERT INTO order_line (order_id, item_id, name, price, quantity)
    SELECT number, item.id, item.name, item.price, 1
    FROM "order", item WHERE item.id IN (1, 2, 3) ORDER BY number, item.id"""

# The events of these orders, each of them the document that the shop would have written.
EVENTS = """
    INSERT INTO outbox (sequence, body)
    SELECT number, CAST(json_object(
        'specversion', '1.0', 'id', lower(hex(epoch)) || ':' || number, 'source', '/shop',
        'type', 'order.placed', 'subject', dashed("order".id), 'time', placed_at,
        'datacontenttype', 'application/json', 'data', json_object(
            'order_id', dashed("order".id), 'user_id', user_id, 'price', price, 'items', json_array(
                json_object('item_id', 1, 'quantity', 1, 'price', :price),
                json_object('item_id', 2, 'quantity', 1, 'price', :price),
                json_object('item_id', 3, 'quantity', 1, 'price', :price))),
        'sequence', CAST(number AS TEXT), 'correlationid', lower(hex(randomblob(16)))) AS BLOB)
    FROM "order", head ORDER BY number"""

JOURNAL = """
    INSERT INTO entry (stream, epoch, sequence, body)
    SELECT 'orders', epoch, outbox.sequence, body FROM shop.outbox, shop.head
    ORDER BY outbox.sequence"""


def shop_packages() -> tuple[str, ...]:
    """The packages that have tables in a shop's database; its models are known then."""
    import shop.models  # noqa: F401, PLC0415  # the benchmark of a queue needs none

    return PACKAGES["shop"]


def make(path: Path) -> Path:
    """Make the empty database of the service after which the file is named."""
    database = SqliteFile(path, *PACKAGES[path.stem])
    database.open()
    database.close()
    return path


def fill_shop(path: Path, items: int, orders: int = 0, *, paid: bool = True) -> Path:
    """Make a shop's database with one user, so many items, and so many orders of three items."""
    at = "2026-01-01T00:00:00.000Z"
    values = {
        "items": items,
        "orders": orders,
        "price": PRICE,
        "user": USER_ID,
        "at": at,
        "paid_at": at if paid else None,
        "epoch": time.time_ns().to_bytes(8, "big") + os.urandom(EPOCH_BYTES - 8),
    }
    with closing(sqlite3.connect(make(path))) as db, db:
        db.create_function("dashed", 1, _dashed, deterministic=True)
        db.execute("INSERT INTO user (id, name) VALUES (:user, 'Kesha')", values)
        db.execute(ITEMS, values)
        if orders:
            for statement in (ORDERS, LINES, EVENTS):
                db.execute(statement, values)
            db.execute("UPDATE head SET sequence = :orders, acked = :orders", values)
    return path


def fill_journal(path: Path, shop: Path) -> None:
    """Make a journal that holds every event of a shop's database."""
    with closing(sqlite3.connect(make(path))) as db, db:
        db.execute("ATTACH ? AS shop", [str(shop)])
        db.execute(JOURNAL)


def _dashed(text: str) -> str:
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))
