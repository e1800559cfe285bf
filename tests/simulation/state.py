"""What is on the disks: every database as it is read from its file, and nobody's word for it."""

import sqlite3
from collections import defaultdict
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic_core import from_json

from messaging.transports.wire import START, Place

if TYPE_CHECKING:
    from tests.simulation.world import World

STREAMS = {"inventory": "items", "shop": "orders", "payment": "payments", "loyalty": "loyalty"}
READS = {"shop": ["items", "payments"], "payment": ["orders"], "loyalty": ["payments"]}
Bodies = dict[Place, bytes]


class Service(NamedTuple):
    """The database of one service."""

    role: str
    stream: str
    head: Place
    outbox: dict[int, bytes]
    cursors: dict[str, Place]
    inbox: dict[str, Bodies]  # with what retention has taken away
    dead: dict[str, Bodies]
    moved_back: list[Any]
    tables: dict[str, list[dict[str, Any]]]

    @property
    def events(self) -> list[dict[str, Any]]:
        """What it has told, parsed."""
        return [from_json(body) for body in self.outbox.values()]


class State(NamedTuple):
    """All of them: the journal by stream, in order, and the services by process."""

    journal: dict[str, Bodies]
    services: dict[str, Service]

    def newest(self, stream: str) -> Place:
        """Where the journal stands."""
        return max(self.journal[stream], default=START)


TABLES = {
    "inventory": ["item"],
    "shop": ["user", "item", "order", "order_line"],
    "payment": ["payment"],
    "loyalty": ["loyalty"],
}


def read(world: "World") -> State:
    """Read all databases of a world; those of its copies once."""
    journal: dict[str, Bodies] = defaultdict(dict)
    with closing(sqlite3.connect(world.broker.path)) as database:
        for stream, epoch, sequence, body in database.execute(
            "SELECT stream, epoch, sequence, body FROM entry ORDER BY stream, epoch, sequence"
        ):
            if body:  # an empty one stands for events that nobody has any more
                journal[stream][Place(epoch, sequence)] = body
    services = {}
    for process in world.services():
        services[process.name] = _service(process.role, process.path)
    return State(journal, services)


def _service(role: str, path: Path) -> Service:
    with closing(sqlite3.connect(path)) as database:

        def bodies(query: str) -> dict[str, Bodies]:
            found: dict[str, Bodies] = defaultdict(dict)
            for stream, epoch, sequence, body in database.execute(query):
                found[stream][Place(epoch, sequence)] = body
            return found

        def rows(table: str) -> list[dict[str, Any]]:
            cursor = database.execute(f'SELECT * FROM "{table}"')
            names = [column[0] for column in cursor.description]
            return [dict(zip(names, row, strict=True)) for row in cursor]

        epoch, sequence = database.execute("SELECT epoch, sequence FROM head").fetchone()
        return Service(
            role,
            STREAMS[role],
            Place(epoch, sequence),
            dict(database.execute("SELECT sequence, body FROM outbox ORDER BY sequence")),
            {
                stream: Place(epoch, sequence)
                for stream, epoch, sequence in database.execute(
                    "SELECT stream, epoch, sequence FROM cursor"
                )
            },
            bodies(
                "SELECT stream, epoch, sequence, body FROM pruned UNION ALL "
                "SELECT stream, epoch, sequence, body FROM inbox ORDER BY stream, epoch, sequence"
            ),
            bodies("SELECT stream, epoch, sequence, body FROM dead_letter"),
            database.execute("SELECT * FROM moved_back").fetchall(),
            {table: rows(table) for table in TABLES[role]},
        )
