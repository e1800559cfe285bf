"""What a system holds on its servers, written down as the files of an embedded one."""

import os
from pathlib import Path

import inventory.tables
import payment.tables
import shop.tables
from broker.journal import APPEND
from broker.tables import Entry
from messaging.exchange import transport
from messaging.follower import Follower
from messaging.transports.wire import START, Place
from runtime.process.settings import Settings
from runtime.storage.factory import database_of
from runtime.storage.migrate_to import copy
from runtime.storage.sqlite import SqliteFile
from scenarios.invariants import WRITERS

MODELS = (inventory.tables, shop.tables, payment.tables)
POLL_S = 0.05


def snapshot(settings: Settings, folder: Path) -> None:
    """Write each database that is on a server, and the streams of NATS, to ``NAME.db``."""
    for models in MODELS:
        name = models.__name__.partition(".")[0]
        if settings.database_url(name):
            packages = ("runtime", "messaging", name)
            source = database_of(settings, name, *packages)
            target = SqliteFile(folder / f"{name}.db", *packages)
            target.open()
            with target.write():
                copy(source, target)
            target.close()
            source.close()
    if settings.broker_url:
        target = SqliteFile(folder / "broker.db", "broker")
        target.open()
        with target.write():
            Entry.delete().execute(target)
            for stream in WRITERS:
                rows = ((stream, *place, body) for place, body in journal(settings, stream))
                target.run_rows(APPEND, rows)
        target.close()


def journal(settings: Settings, stream: str) -> list[tuple[Place, bytes]]:
    """Everything that the broker holds of a stream, in order."""
    broker = transport(settings, f"journal-{os.getpid()}", None, [stream])
    follower = Follower(stream, START)
    events: list[tuple[Place, bytes]] = []
    broker.open()
    try:
        while follower.behind != 0:
            follower.listen(broker, POLL_S)
            for event in follower.take():
                events.append((event.place, event.body))
                follower.place = event.place
    finally:
        broker.close()
    return events
