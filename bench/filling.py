"""Databases filled by SQL, as if their rows had been written long ago by the services."""

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

from messaging.transports.wire import EPOCH_BYTES
from runtime.process.clock import timestamp
from runtime.storage.sqlite import SqliteFile

PACKAGES = {
    "broker": ("broker",),
    "inventory": ("runtime", "messaging", "inventory"),
    "shop": ("runtime", "messaging", "shop"),
    "payment": ("runtime", "messaging", "payment"),
}
USER_ID = 1
ITEMS_BOUGHT = (1, 2, 3)
PRICE = 4000
AT = "2026-01-01T00:00:00.000Z"

ITEMS = """
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :items)
    INSERT INTO item (id, name, price, active, version, epoch)
    SELECT i, 'Item ' || i, :price, 1, 1, :epoch FROM n"""

ORDERS = """
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :orders)
    INSERT INTO "order" (id, user_id, price, placed_at, paid_at)
    SELECT lower(printf('%012x7%.3s8%.15s', strftime('%s', :at) * 1000 + i,
                        hex(randomblob(2)), hex(randomblob(8)))),
           :user, 3 * :price, :at, :paid_at FROM n"""

LINES = """
    INSERT INTO order_line (order_id, item_id, name, price, quantity)
    SELECT number, item.id, item.name, item.price, 1
    FROM "order", item WHERE item.id IN (1, 2, 3) ORDER BY number, item.id"""

USERS = """
    WITH RECURSIVE n(i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM n WHERE i < :users)
    INSERT INTO user (id, name) SELECT i, 'User ' || i FROM n WHERE i <= :users"""

KEYS = """
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :keys)
    INSERT INTO kept_answer (path, key, fingerprint, status, location, body, kept_at)
    SELECT '/api/checkout', '"' || dashed(lower(hex(randomblob(16)))) || '"', randomblob(32), 201,
        '/api/orders/' || dashed(lower(hex(randomblob(16)))), randomblob(256), :now FROM n"""

STOCK = """
    INSERT INTO item (id, name, price, active, version)
    SELECT id, name, price, active, version FROM shop.item ORDER BY id"""

PAYMENTS = """
    INSERT INTO payment (user_id, price, order_id, paid_at, announced)
    SELECT user_id, price, id, :at, 1 FROM shop."order" ORDER BY number"""

# The events of these rows, each of them the document that their service would have written.
EVENTS = """
    INSERT INTO outbox (sequence, body)
    SELECT {number}, CAST(json_object(
        'specversion', '1.0', 'id', lower(hex(head.epoch)) || ':' || {number},
        'source', '{source}', 'type', '{type}', 'subject', {subject}, 'time', :at,
        'datacontenttype', 'application/json', 'data', json_object({data}),
        'sequence', CAST({number} AS TEXT), 'correlationid', lower(hex(randomblob(16)))) AS BLOB)
    FROM {table}, head ORDER BY {number}"""

ORDERS_TOLD = EVENTS.format(
    table='"order"',
    number="number",
    source="/shop",
    type="order.placed",
    subject='dashed("order".id)',
    data="""'order_id', dashed("order".id), 'user_id', user_id, 'price', price, 'items', json_array(
        json_object('item_id', 1, 'quantity', 1, 'price', :price),
        json_object('item_id', 2, 'quantity', 1, 'price', :price),
        json_object('item_id', 3, 'quantity', 1, 'price', :price))""",
)
ITEMS_TOLD = EVENTS.format(
    table="item",
    number="item.id",
    source="/inventory",
    type="item.created",
    subject="CAST(item.id AS TEXT)",
    data="""'id', item.id, 'name', name, 'price', price, 'active', json('true'),
        'version', version""",
)
PAYMENTS_TOLD = EVENTS.format(
    table="payment",
    number="payment.id",
    source="/payment",
    type="payment.succeeded",
    subject="CAST(payment.id AS TEXT)",
    data="""'payment_id', payment.id, 'user_id', user_id, 'price', price,
        'order_id', dashed(order_id)""",
)
TOLD = """
    UPDATE head SET sequence = (SELECT count(*) FROM outbox),
                    acked = (SELECT count(*) FROM outbox)"""

JOURNAL = """
    INSERT INTO entry (stream, epoch, sequence, body)
    SELECT :stream, epoch, outbox.sequence, body FROM writer.outbox, writer.head
    ORDER BY outbox.sequence"""

INBOX = """
    INSERT INTO inbox (stream, epoch, sequence, type, body, applied_at)
    SELECT :stream, epoch, outbox.sequence, json_extract(CAST(body AS TEXT), '$.type'), body, :now
    FROM writer.outbox, writer.head ORDER BY outbox.sequence"""
APPLIED = """
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :events)
    INSERT INTO inbox (stream, epoch, sequence, type, body, applied_at)
    SELECT 'payments', :epoch, i, 'payment.succeeded', randomblob(400), :at FROM n"""
CURSOR = """
    INSERT INTO cursor (stream, epoch, sequence)
    SELECT :stream, epoch, sequence FROM writer.head"""
OF_THIS_WAREHOUSE = "UPDATE item SET epoch = (SELECT epoch FROM writer.head)"


class Rows(NamedTuple):
    """How many there are of each; each order is of three items, paid, and everybody knows it."""

    orders: int
    items: int
    users: int
    keys: int

    def __str__(self) -> str:
        return f"{self.orders:,} orders, {self.items:,} items"


def shop_packages() -> tuple[str, ...]:
    """The packages that have tables in a shop's database; its models are known then."""
    import shop.tables  # noqa: F401, PLC0415  # the benchmark of a queue needs none

    return PACKAGES["shop"]


def make(path: Path) -> Path:
    """Make the empty database of the service after which the file is named."""
    database = SqliteFile(path, *PACKAGES[path.stem])
    database.open()
    database.close()
    return path


def fill_shop(path: Path, items: int, orders: int = 0, *, paid: bool = True) -> Path:
    """Make a shop's database with one user, so many items, and so many orders of three items."""
    values = {
        "items": items,
        "orders": orders,
        "price": PRICE,
        "user": USER_ID,
        "at": AT,
        "paid_at": AT if paid else None,
        "epoch": time.time_ns().to_bytes(8, "big") + os.urandom(EPOCH_BYTES - 8),
    }
    with _opened(path) as db:
        db.execute("INSERT INTO user (id, name) VALUES (:user, 'Kesha')", values)
        db.execute(ITEMS, values)
        if orders:
            for statement in (ORDERS, LINES, ORDERS_TOLD, TOLD):
                db.execute(statement, values)
    return path


def fill_old(path: Path, number: int) -> Path:
    """Make a shop's database with so many answers and applied events that are to be pruned."""
    fill_shop(path, items=100)
    values = {"keys": number, "events": number, "epoch": os.urandom(EPOCH_BYTES), "at": AT}
    with _opened(path) as db:
        db.execute(KEYS, {**values, "now": AT})
        db.execute(APPLIED, values)
    return path


def fill_journal(path: Path, **writers: Path) -> None:
    """Make a journal that holds every event of the writers' databases, which are by stream."""
    for stream, writer in writers.items():
        with _opened(path, writer=writer) as db:
            db.execute(JOURNAL, {"stream": stream})
    with _opened(path) as db:
        db.execute("UPDATE begun SET at = ?", [AT])


def fill_all(folder: Path, rows: Rows) -> None:
    """Make the databases of a whole system in which nothing waits for anybody."""
    shop = fill_shop(folder / "shop.db", rows.items, rows.orders)
    inventory, payment = folder / "inventory.db", folder / "payment.db"
    values = {**rows._asdict(), "price": PRICE, "at": AT, "now": timestamp()}
    with _opened(inventory, shop=shop) as db:
        for statement in (STOCK, ITEMS_TOLD, TOLD):
            db.execute(statement, values)
    with _opened(payment, shop=shop) as db:
        for statement in (PAYMENTS, PAYMENTS_TOLD, TOLD):
            db.execute(statement, values)
    with _opened(shop, writer=inventory) as db:
        for statement in (USERS, KEYS, OF_THIS_WAREHOUSE):
            db.execute(statement, values)
    writers = {"items": inventory, "orders": shop, "payments": payment}
    for reader, stream in ((shop, "items"), (shop, "payments"), (payment, "orders")):
        with _opened(reader, writer=writers[stream]) as db:
            for statement in (INBOX, CURSOR):
                db.execute(statement, {**values, "stream": stream})
    fill_journal(folder / "broker.db", **writers)


@contextmanager
def _opened(path: Path, **others: Path) -> Iterator[sqlite3.Connection]:
    """A database in which to write, made where it is missing, with others attached by name."""
    if not path.exists():
        make(path)
    with closing(sqlite3.connect(path)) as db:
        db.create_function("dashed", 1, _dashed, deterministic=True)
        for name, other in others.items():
            db.execute(f"ATTACH ? AS {name}", [str(other)])
        with db:
            yield db


def _dashed(text: str) -> str:
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))
