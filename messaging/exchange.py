"""The exchange: the one thread of a service that talks to the broker, for its outbox and inbox."""

import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any

import structlog
from prometheus_client import Metric

from messaging import metrics
from messaging.inbox import Handlers, Reader, count_dead
from messaging.outbox import Outbox, Publisher
from messaging.transport import ForwarderTransport, Transport
from messaging.wire import Ack, Event, Message, Refuse, Replay, topic
from runtime.database import Database, adapter, is_outage
from runtime.settings import Settings

log = structlog.get_logger(__name__)

TICK_S = 0.05  # how late a timer may be; what happens wakes the thread at once
OUTAGE_RETRY_S = 1.0
STOP_TIMEOUT_S = 2.0  # for outstanding acks


def transport(
    settings: Settings, reader: str, writes: str | None, reads: Iterable[str]
) -> Transport:
    """The way to the broker of a service that writes one stream, or none, and reads some."""
    if settings.broker_url:
        jetstream = adapter("messaging.jetstream")
        return jetstream.JetStreamTransport(settings, reader, writes, reads)  # type: ignore[no-any-return]
    topics = [topic(Replay, reader), *(topic(Event, stream) for stream in reads)]
    topics += [topic(Ack, writes), topic(Refuse, writes)] if writes else []
    return ForwarderTransport(settings, reader, topics)


class Exchange(threading.Thread):
    """Publishes an outbox and applies streams, until it is stopped.

    ``handlers`` maps each stream that is read to its table of event type and function.
    """

    def __init__(
        self,
        database: Database,
        outbox: Outbox,
        handlers: dict[str, Handlers],
        transport: Transport,
    ) -> None:
        super().__init__(name="exchange", daemon=True)
        self._database = database
        self._outbox = outbox
        self._handlers = handlers
        self._transport = transport
        self._stream = outbox.stream
        self._begin()
        self._stop_at: float | None = None
        self._publish_at = float("-inf")
        database.listeners.append(transport.wake)

    def _begin(self) -> None:
        """Forget how far it has come: the database and the journal know."""
        self._publisher = Publisher(self._outbox, self._transport.publish, self._transport.fetch)
        self._readers = {
            stream: Reader(self._database, stream, table)
            for stream, table in self._handlers.items()
        }

    def start(self) -> None:
        """Begin to connect, or raise `StartError`; the rest goes on in the thread."""
        self._transport.open()
        super().start()

    def run(self) -> None:
        """Exchange events while this process leads, whatever happens, until `stop`."""
        ended, term = False, 1
        while not ended:
            try:
                messages = self._transport.poll(TICK_S)
                if leads := self._database.leads:
                    if leads != term:
                        self._begin()
                    term = leads
                    self._turn(messages)
                ended = self._may_end()
            except Exception as error:  # whatever it was, the others' events must go on
                log.error("error in the exchange", error=repr(error), exc_info=not is_outage(error))
                ended = self._stop_at is not None
        self._transport.close()
        self._database.close()

    def stop(self) -> None:
        """End the thread, after at most 2 s for the acks that are still to come."""
        self._stop_at = time.monotonic() + STOP_TIMEOUT_S
        self._transport.wake()
        self.join()

    def status(self) -> dict[str, Any]:
        """The state of messaging, as ``/readyz`` shows it; with ``problem`` if it cannot go on."""
        running = self.is_alive()
        state: dict[str, Any] = {
            "broker": ("up" if self._transport.up else "down") if running else "unknown",
            "outbox_waiting": self._publisher.waiting,
            "inbox_behind": {stream: reader.behind for stream, reader in self._readers.items()},
            "dead": count_dead(self._database),
        }
        if running and not self._database.leads:
            state["standby"] = True
        return state | ({"problem": self._publisher.problem} if self._publisher.problem else {})

    def collect(self) -> Iterator[Metric]:
        """The state of messaging, as ``/metrics`` shows it."""
        return metrics.collect(self._database, self._publisher, self._readers, self._transport)

    def _may_end(self) -> bool:
        if self._stop_at is None:
            return False
        goes_on = self._transport.up and self._database.leads and not self._publisher.problem
        outstanding = goes_on and self._publisher.waiting
        return not outstanding or time.monotonic() >= self._stop_at

    def _turn(self, messages: list[Message]) -> None:
        # A database that is older than what it has told must not act on events again, either.
        readers = self._readers if self._publisher.ready else {}
        asking: dict[str, Publisher | Reader] = {self._stream: self._publisher, **readers}
        for message in messages:
            match message:
                case Ack(_, place):
                    self._publisher.handle_ack(place)
                case Refuse(_, place):
                    self._publisher.handle_refuse(place)
                case Replay(_, stream, _, place, b"") if stream in asking:
                    asking[stream].handle_end(place)
                case Event(stream) | Replay(_, stream) if stream in asking:
                    asking[stream].receive(message)
        for stream, reader in readers.items():
            if not self._transport.up:
                reader.disconnect()
            elif (wanted := reader.want()) is not None:
                self._transport.fetch(stream, wanted)
        for reader in readers.values():
            reader.apply()
        self._publish()

    def _publish(self) -> None:
        if not self._transport.up or time.monotonic() < self._publish_at:
            return
        try:
            self._publisher.step()
        except Exception as error:
            log.error("publishing waits for the database", error=repr(error))
            self._publish_at = time.monotonic() + OUTAGE_RETRY_S
