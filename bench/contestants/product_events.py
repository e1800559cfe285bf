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
from messaging.transports.forwarder import Transport
from messaging.transports.wire import Ack, Message
from runtime.process.clock import timestamp
from runtime.process.lifecycle import tune_interpreter
from runtime.process.logs import configure_logs
from runtime.process.settings import load_settings
from runtime.storage.sqlite import SqliteFile

BATCH = IN_FLIGHT // 4
ENVELOPE_BYTES = 300  # of an event's document, around its data
PAUSE_S = 0.0005


class Acks:
    """Listens to the acks that come through a transport."""

    def __init__(self, broker: Transport) -> None:
        self._acked = 0
        self._came = threading.Condition()
        self._poll = broker.poll
        broker.poll = self._heard  # type: ignore[method-assign]

    def wait_for(self, sequence: int) -> None:
        """Wait until the journal has everything up to there."""
        with self._came:
            self._came.wait_for(lambda: self._acked >= sequence)

    def _heard(self, timeout_s: float) -> list[Message]:
        messages = self._poll(timeout_s)
        for message in messages:
            if isinstance(message, Ack):
                with self._came:
                    self._acked = message.place.sequence
                    self._came.notify()
        return messages


def publish(job: Job) -> None:
    """Emit events, as long as no more than 1,024 of them wait for their ack."""
    database = _database(job, "writer")
    outbox = Outbox(database, job.name, "/bench")
    broker = _transport(outbox, {})
    acks = Acks(broker)
    exchange = _exchange(database, outbox, {}, broker)
    pad = "." * (BODY_BYTES - ENVELOPE_BYTES)
    facts = [
        Fact(number, timestamp(), {"number": str(number), "pad": pad})
        for number in range(job.number)
    ]
    tell_ready()
    tell_moment()
    for first in range(0, job.number, BATCH):
        acks.wait_for(first + BATCH - IN_FLIGHT)
        with database.write():
            outbox.emit("bench.happened", facts[first : first + BATCH])
    acks.wait_for(job.number)
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

    database.on_commit.append(committed)
    handlers: dict[str, Handlers] = {job.name: {"bench.happened": happened}}
    outbox = Outbox(database, f"{job.name}-reader", "/bench")
    exchange = _exchange(database, outbox, handlers, _transport(outbox, handlers))
    tell_ready()
    complete.wait()
    tell_moment()
    exchange.stop()


def _database(job: Job, role: str) -> SqliteFile:
    database = SqliteFile(Path(job.url) / f"{job.name}-{role}.db", "runtime", "messaging")
    database.open()
    return database


def _transport(outbox: Outbox, handlers: dict[str, Handlers]) -> Transport:
    return transport(load_settings(), outbox.stream, outbox.stream, handlers)


def _exchange(
    database: SqliteFile, outbox: Outbox, handlers: dict[str, Handlers], broker: Transport
) -> Exchange:
    """An exchange that runs, once the broker has heard from it."""
    exchange = Exchange(database, outbox, handlers, broker)
    exchange.start()
    while exchange.status()["broker"] != "up" or None in exchange.status()["inbox_behind"].values():
        time.sleep(PAUSE_S)
    return exchange


if __name__ == "__main__":
    configure_logs("bench", load_settings())
    tune_interpreter()
    main(publish, consume)
