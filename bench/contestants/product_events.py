"""The shop's own way: an outbox and an exchange here, an exchange and an inbox there.

The URL is a folder for the two databases; the broker is found through the settings.
"""

import threading
import time
from pathlib import Path

from bench.contestants.client import (
    BODY_BYTES,
    IN_FLIGHT,
    Job,
    Tally,
    main,
    tell_moment,
    tell_ready,
)
from messaging.event import Event, Fact
from messaging.exchange import Exchange, transport
from messaging.inbox import Handlers
from messaging.outbox import Outbox
from runtime.process.clock import timestamp
from runtime.process.logs import configure_logs
from runtime.process.settings import load_settings
from runtime.storage.database import SqliteFile

BATCH = IN_FLIGHT // 2  # in one transaction, so that one half is made while the other is under way
ENVELOPE_BYTES = 300  # of an event's document, around its data
PAUSE_S = 0.0005


def publish(job: Job) -> None:
    """Emit events, as long as no more than 256 of them wait for their ack."""
    database = _database(job, "writer")
    outbox = Outbox(database, job.name, "/bench")
    exchange = _exchange(database, outbox, {})
    tell_ready()
    tell_moment()
    pad = "." * (BODY_BYTES - ENVELOPE_BYTES)
    for first in range(0, job.number, BATCH):
        while exchange.status()["outbox_waiting"] > IN_FLIGHT - BATCH:
            time.sleep(PAUSE_S)
        with database.write():
            facts = [
                Fact(number, timestamp(), {"number": str(number), "pad": pad})
                for number in range(first, min(first + BATCH, job.number))
            ]
            outbox.emit("bench.happened", facts)
    while exchange.status()["outbox_waiting"]:
        time.sleep(PAUSE_S)
    exchange.stop()


def consume(job: Job) -> None:
    """Apply events, each with its row in the inbox, until all are committed."""
    database = _database(job, "reader")
    tally, complete = Tally(job), threading.Event()

    def happened(events: list[Event]) -> None:
        for event in events:
            tally.add(event.data["number"].encode())

    def committed() -> None:
        if tally.complete:
            complete.set()

    database.listeners.append(committed)
    handlers: dict[str, Handlers] = {job.name: {"bench.happened": happened}}
    exchange = _exchange(database, Outbox(database, f"{job.name}-reader", "/bench"), handlers)
    tell_ready()
    complete.wait()
    tell_moment()
    exchange.stop()


def _database(job: Job, role: str) -> SqliteFile:
    database = SqliteFile(Path(job.url) / f"{job.name}-{role}.db", "runtime", "messaging")
    database.open()
    return database


def _exchange(database: SqliteFile, outbox: Outbox, handlers: dict[str, Handlers]) -> Exchange:
    """An exchange that runs, once the broker has heard from it."""
    way = transport(load_settings(), outbox.stream, outbox.stream, handlers)
    exchange = Exchange(database, outbox, handlers, way)
    exchange.start()
    while exchange.status()["broker"] != "up" or None in exchange.status()["inbox_behind"].values():
        time.sleep(PAUSE_S)
    return exchange


if __name__ == "__main__":
    configure_logs("bench", load_settings())
    main(publish, consume)
