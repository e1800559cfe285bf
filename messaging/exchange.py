"""The exchange: the one thread of a service that talks to the broker, for its outbox and inbox."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import structlog
from prometheus_client import Metric

from messaging import metrics
from messaging.follower import Follower
from messaging.inbox import Handlers, Reader, count_dead
from messaging.inheritance import Beginning, Inheritance
from messaging.outbox import Outbox
from messaging.publisher import Publisher
from messaging.rest import Rest
from messaging.transports.forwarder import ForwarderTransport, Transport
from messaging.transports.wire import Ack, Message, Refuse, Replay, Run, topic
from runtime.process.extras import optional
from runtime.process.settings import Settings
from runtime.storage.database import Database, is_outage

log = structlog.get_logger(__name__)

TICK_S = 0.05  # how late a timer may be; messages and commits wake the thread at once
OUTAGE_RETRY_S = 1.0
STOP_TIMEOUT_S = 2.0  # for outstanding acks
UNREACHED_S = 5.0  # how long it may take to reach the broker before a log line says so


def transport(
    settings: Settings, reader: str, writes: str | None, reads: Iterable[str]
) -> Transport:
    """The transport of a service that writes one stream, or none, and reads some."""
    if settings.broker_url:
        jetstream = optional("messaging.transports.jetstream")
        return jetstream.JetStreamTransport(settings, reader, writes, reads)  # type: ignore[no-any-return]
    topics = [topic(Replay, reader), *(topic(Run, stream) for stream in reads)]
    topics += [topic(Ack, writes), topic(Refuse, writes)] if writes else []
    return ForwarderTransport(settings, reader, topics)


class Exchange(threading.Thread):
    """Publishes an outbox and applies streams, until it is stopped.

    ``handlers`` maps each stream that is read to its table of event type and function;
    ``inherits`` is that for events of the outbox's own stream from earlier databases.
    """

    def __init__(
        self,
        database: Database,
        outbox: Outbox,
        handlers: dict[str, Handlers],
        transport: Transport,
        clock: Callable[[], float] = time.monotonic,
        inherits: Handlers | None = None,
    ) -> None:
        super().__init__(name="exchange", daemon=True)
        self._database = database
        self._outbox = outbox
        self._handlers = handlers
        self._transport = transport
        self._clock = clock
        self._inherits = inherits
        self._term = 1
        self._begin()
        self._stop_at: float | None = None
        self._publish_at = float("-inf")
        self._was_up = False
        self._unreached_at: float | None = clock() + UNREACHED_S
        database.on_commit.append(transport.wake)

    def _begin(self) -> None:
        """Forget the progress so far: the database and the journal know it."""
        self._publisher = Publisher(self._outbox, self._transport, self._clock)
        self._inheritance = self._inherits and Inheritance(
            self._database, self._outbox, self._inherits, self._clock
        )
        doubt = self._inheritance.doubt if self._inheritance else None
        self._readers = {
            stream: Reader(self._database, stream, table, self._clock, doubt)
            for stream, table in self._handlers.items()
        }

    def start(self) -> None:
        """Begin to connect, or raise `StartError`; the rest goes on in the thread."""
        self._transport.open()
        super().start()

    def run(self) -> None:
        """Exchange events until `stop`."""
        rest = Rest()
        while self.step():
            publisher, readers = self._publisher, self._readers.values()
            applied = sum(reader.applied for reader in readers)
            rest.after(publisher.published + publisher.acked + applied)
        with contextlib.suppress(Exception):  # otherwise the next start resends some events
            if self._database.leads:
                self._publisher.note()
        self._transport.close()
        self._database.close()

    def step(self) -> bool:
        """Wait for messages or a tick, and handle them; returns False at the end.

        It does so only while this process leads. An error in one stream stops no other.
        """
        try:
            messages = self._transport.poll(TICK_S)
            self._log_broker()
            if term := self._database.leads:
                if term != self._term:
                    self._begin()
                self._term = term
                self._turn(messages)
            elif self._term:
                self._begin()  # what it knew as a leader is no longer true
                self._term = 0
                self._outbox.unnoted = None  # the process that leads notes what it finds
            return not self._may_end()
        except Exception as error:
            log.error("error in the exchange", error=repr(error), exc_info=not is_outage(error))
            return self._stop_at is None

    def stop(self) -> None:
        """End the thread, after at most 2 s for outstanding acks."""
        self._stop_at = self._clock() + STOP_TIMEOUT_S
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
        found = [self._outbox.head().problem]  # as noted: once it is, nothing is confirmed
        found += [reader.problem for reader in self._readers.values()]
        found += [self._inheritance.problem] if self._inheritance else []
        problems = "; ".join(problem for problem in found if problem)
        return state | ({"problem": problems} if problems else {})

    def collect(self) -> Iterator[Metric]:
        """The state of messaging, as ``/metrics`` shows it.

        A process in which this thread does not run leaves out what it cannot know.
        """
        yield from metrics.collect_stored(self._database, self._publisher)
        if self.is_alive():
            yield from metrics.collect_exchanged(self._publisher, self._readers, self._transport)

    def _log_broker(self) -> None:
        """Log once when the broker is reached, is lost, or cannot be reached at first."""
        up, address = self._transport.up, self._transport.address
        if up and not self._was_up:
            log.info("the broker is reached", address=address)
            self._unreached_at = None
        elif self._was_up and not up:
            log.warning("the broker is lost", address=address)
        elif self._unreached_at and self._clock() >= self._unreached_at:
            log.warning("the broker cannot be reached", address=address)
            self._unreached_at = None
        self._was_up = up

    def _may_end(self) -> bool:
        if self._stop_at is None:
            return False
        goes_on = self._transport.up and self._database.leads and not self._publisher.problem
        outstanding = goes_on and self._publisher.waiting
        return not outstanding or self._clock() >= self._stop_at

    def _turn(self, messages: list[Message]) -> None:
        readers = self._listeners()
        # The publisher, too, compares the journal's events of its own stream.
        receivers: Mapping[str, Publisher | Follower] = {
            self._outbox.stream: self._publisher,
            **readers,
        }
        for message in messages:
            match message:
                case Ack(_, place, digest):
                    self._publisher.handle_ack(place, digest)
                case Refuse(_, place):
                    self._publisher.handle_refuse(place)
                case Replay(_, Run(stream, bodies=[]) as end) if stream in receivers:
                    receivers[stream].handle_end(end)
                case (Run(stream) as run) | Replay(_, Run(stream) as run) if stream in receivers:
                    receivers[stream].receive(run)
        for reader in readers.values():
            reader.ask(self._transport)
        for reader in readers.values():
            reader.apply()
        self._publish()

    def _listeners(self) -> Mapping[str, Reader | Beginning]:
        found = self._inheritance.listeners(self._readers) if self._inheritance else self._readers
        if self._publisher.ready:
            return found
        # A database older than what it has published must not apply events again, either; and the
        # journal that it will agree with may be another one than its readers know.
        for follower in found.values():
            follower.disconnect()
        return {}

    def _publish(self) -> None:
        if self._clock() < self._publish_at:
            return
        try:
            self._publisher.step(self._transport.up)
        except Exception as error:
            log.error("publishing waits for the database", error=repr(error))
            self._publish_at = self._clock() + OUTAGE_RETRY_S
