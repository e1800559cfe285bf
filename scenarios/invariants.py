"""What must be so between the four databases, at rest or at one moment of a shop that sells.

Each rule is a query for the rows that contradict it, with the reason: WRONG; or COMING, since an
event is still to be acknowledged or applied; or GONE, since what would show it was archived, or
is of an earlier database. At rest, after a drill, nothing is on its way, and any row is a fault.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from uuid import UUID

from runtime.process.settings import NAMES, SERVICES

WRITERS = {"items": "inventory", "orders": "shop", "payments": "payment"}
READERS = {"items": "shop", "orders": "payment", "payments": "shop"}
SUBJECTS = {"items": "id", "orders": "order_id", "payments": "order_id"}  # what readers change
WRONG, COMING, GONE = "wrong", "coming", "gone"

# Where a stream stands: its writer's head, how far its reader is, what journal and outbox have.
PLACE = """
    CREATE TEMP TABLE {stream}_place AS
    SELECT head.epoch, head.sequence AS head,
           coalesce(iif(cursor.epoch = head.epoch, cursor.sequence, 0), 0) AS seen,
           coalesce((cursor.epoch, cursor.sequence) > (head.epoch, head.sequence), 0) AS is_ahead,
           (SELECT coalesce(min(sequence), 1) FROM {writer}.outbox) AS first_published,
           (SELECT coalesce(min(sequence), 1) FROM broker.entry
            WHERE stream = '{stream}' AND epoch = head.epoch) AS first_kept,
           (SELECT coalesce(max(sequence), 0) FROM broker.entry
            WHERE stream = '{stream}' AND epoch = head.epoch) AS kept
    FROM {writer}.head AS head LEFT JOIN {reader}.cursor AS cursor ON cursor.stream = '{stream}'"""
# The objects of events that the reader has yet to apply.
AHEAD = """
    CREATE TEMP TABLE {stream}_coming AS
    SELECT DISTINCT bare({named}) AS id FROM {writer}.outbox, {stream}_place
    WHERE sequence > seen"""


def member(field: str, of: str = "") -> str:
    """A field of an event's data, in SQL."""
    return f"json_extract(CAST({of}body AS TEXT), '$.data.{field}')"


def differ(one: str, other: str) -> str:
    """What is in only one of two queries."""
    return f"SELECT * FROM ({one} EXCEPT {other}) UNION ALL SELECT * FROM ({other} EXCEPT {one})"


def _stream_rules(stream: str) -> Iterator[tuple[str, str]]:
    writer, reader, place = WRITERS[stream], READERS[stream], f"{stream}_place"
    lacking = WRONG if stream == "items" else GONE  # all items stay when a journal is archived
    yield (
        f"the numbers of {stream} have no gap",
        f"""
        SELECT head.sequence, '{WRONG}' FROM {writer}.head AS head, {place},
            (SELECT count(*) AS n, coalesce(max(sequence), 0) AS newest FROM {writer}.outbox)
        WHERE head.sequence != newest OR n != newest - first_published + 1""",
    )
    yield (
        f"the journal of {stream} matches the outbox of {writer}",
        f"""
        SELECT own.sequence, CASE WHEN own.sequence > kept THEN '{COMING}'
                                  WHEN own.sequence < first_kept THEN '{lacking}'
                                  ELSE '{WRONG}' END
        FROM {place} CROSS JOIN {writer}.outbox AS own LEFT JOIN broker.entry AS entry
            ON entry.stream = '{stream}' AND entry.epoch = {place}.epoch
            AND entry.sequence = own.sequence
        WHERE entry.body IS NOT own.body
        UNION ALL
        SELECT entry.sequence, iif((entry.epoch, entry.sequence) < ({place}.epoch, first_published),
                                   '{GONE}', '{WRONG}')
        FROM {place} JOIN broker.entry AS entry ON entry.stream = '{stream}'
        LEFT JOIN {writer}.outbox AS own
            ON own.sequence = entry.sequence AND entry.epoch = {place}.epoch
        WHERE own.sequence IS NULL AND length(entry.body) > 0""",
    )
    yield (
        f"the {stream} that {reader} has applied match the journal",
        f"""
        SELECT inbox.sequence, iif((inbox.epoch, inbox.sequence) < ({place}.epoch, first_published),
                                   '{GONE}', '{WRONG}')
        FROM {place} JOIN {reader}.inbox AS inbox ON inbox.stream = '{stream}'
        LEFT JOIN {writer}.outbox AS own
            ON own.sequence = inbox.sequence AND inbox.epoch = {place}.epoch
        WHERE own.body IS NOT inbox.body""",
    )
    yield (
        f"{reader} is at the head of {stream}",
        f"""
        SELECT sequence, '{COMING}' FROM {writer}.outbox, {place} WHERE sequence > seen
        UNION ALL SELECT head, '{WRONG}' FROM {place} WHERE is_ahead""",
    )


# What was bought, item by item, as one text.
LINES = """SELECT json_group_array(line) FROM (
    SELECT json_array({0}, {1}, {2}) AS line FROM {3} WHERE {4} ORDER BY {0})"""

RULES = {
    **{text: query for stream in WRITERS for text, query in _stream_rules(stream)},
    **{
        f"{name} has no dead letters": f"""
            SELECT stream || ' ' || sequence, '{WRONG}' FROM {name}.dead_letter"""
        for name in SERVICES
    },
    "each order is paid once, at its price": f"""
        SELECT dashed(o.id), CASE
            WHEN o.paid_at IS NULL AND count(p.id) = 0
                 AND o.id IN (SELECT id FROM orders_coming) THEN '{COMING}'
            WHEN o.paid_at IS NULL AND count(p.id) = 1 AND max(p.price) = o.price
                 AND max(p.user_id) = o.user_id
                 AND o.id IN (SELECT id FROM payments_coming) THEN '{COMING}'
            ELSE '{WRONG}' END
        FROM shop."order" AS o LEFT JOIN payment.payment AS p ON p.order_id = o.id
        GROUP BY o.number
        HAVING count(p.id) != 1 OR max(p.price) != o.price OR max(p.user_id) != o.user_id
            OR o.paid_at IS NULL""",
    "each payment is for an existing order or none": f"""
        SELECT id, '{WRONG}' FROM payment.payment
        WHERE order_id IS NOT NULL AND order_id NOT IN (SELECT id FROM shop."order")""",
    "the shop's catalogue matches the inventory": f"""
        SELECT id, iif(id IN (SELECT id FROM items_coming), '{COMING}', '{WRONG}') FROM (
            {
        differ(
            "SELECT id, name, price, active FROM shop.item",
            "SELECT id, name, price, active FROM inventory.item",
        )
    })""",
    "each item matches its newest event": f"""
        SELECT item.id, '{WRONG}' FROM inventory.outbox AS e
        JOIN inventory.item AS item ON item.id = {member("id", "e.")}
        WHERE {member("version", "e.")} >= item.version AND (
            {member("version", "e.")} != item.version OR {member("name", "e.")} != item.name
            OR {member("price", "e.")} != item.price OR {member("active", "e.")} != item.active)""",
    "each order matches its event": f"""
        SELECT e.sequence, '{WRONG}'
        FROM shop.outbox AS e
        LEFT JOIN shop."order" AS o ON o.id = bare({member("order_id", "e.")})
        WHERE o.price IS NOT {member("price", "e.")} OR o.user_id IS NOT {member("user_id", "e.")}
        OR ({
        LINES.format("item_id", "quantity", "price", "shop.order_line", "order_id = o.number")
    })
            IS NOT ({
        LINES.format(
            *(f"json_extract(value, '$.{name}')" for name in ("item_id", "quantity", "price")),
            "json_each(CAST(e.body AS TEXT), '$.data.items')",
            "true",
        )
    })""",
    "each order has an event": f"""
        SELECT n || ' orders', '{WRONG}'
        FROM orders_place, (SELECT count(*) AS n FROM shop."order")
        WHERE first_published = 1 AND n != head""",
    "each payment matches its event": f"""
        SELECT p.id, '{WRONG}'
        FROM payment.outbox AS e
        LEFT JOIN payment.payment AS p ON p.id = {member("payment_id", "e.")}
        WHERE p.price IS NOT {member("price", "e.")} OR p.user_id IS NOT {member("user_id", "e.")}
            OR p.order_id IS NOT bare({member("order_id", "e.")})""",
}


@contextmanager
def opened(folder: Path) -> Iterator[sqlite3.Connection]:
    """All four databases of a folder as schemas of one connection, which changes none of them."""
    with closing(sqlite3.connect("", isolation_level=None, uri=True)) as db:
        db.create_function("dashed", 1, lambda text: text and str(UUID(text)), deterministic=True)
        db.create_function("bare", 1, _bare, deterministic=True)
        for name in NAMES:
            db.execute(f"ATTACH ? AS {name}", [f"{(folder / f'{name}.db').as_uri()}?mode=ro"])
        yield db


def _bare(id: str | int | None) -> str | int | None:
    """An id as the tables have it: those of orders are without dashes there."""
    return id.replace("-", "") if isinstance(id, str) else id


def prepare(db: sqlite3.Connection) -> None:
    """Note where each stream stands: the rules need it."""
    for stream, writer in WRITERS.items():
        words = {"stream": stream, "writer": writer, "reader": READERS[stream]}
        db.execute(PLACE.format(**words))
        db.execute(AHEAD.format(**words, named=member(SUBJECTS[stream])))


def damages(db: sqlite3.Connection) -> Iterator[str]:
    """A line for each file that is damaged."""
    for name in NAMES:
        for (line,) in db.execute(f"PRAGMA {name}.integrity_check(1)"):
            if line != "ok":
                yield f"{name}.db is damaged: {line}"
