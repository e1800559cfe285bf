"""The journal: writes every event to disk, acknowledges it, and sends it again to readers."""

import contextlib
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import structlog
from peewee import DatabaseError, fn
from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from broker.tables import Entry
from messaging.event import correlation_id, journal_begun, log_run, previous
from messaging.rest import Rest
from messaging.transports.forwarder import Peer
from messaging.transports.wire import (
    BEGUN,
    JOURNAL,
    NO_DIGEST,
    START,
    Ack,
    Message,
    Place,
    Refuse,
    Replay,
    Run,
    Want,
    digest,
    runs,
)
from runtime.process.clock import Complaints
from runtime.process.errors import StartError
from runtime.storage.database import is_unreadable
from runtime.storage.sqlite import SqliteFile

log = structlog.get_logger(__name__)

REPLAY_EVENTS = 256  # in one answer
REPLAY_RUN_BYTES = 32 * 1024  # a message, so that a slow line delivers the first soon
OUTAGE_RETRY_S = 1.0

APPEND = "INSERT INTO entry (stream, epoch, sequence, body) VALUES {}"
AFTER = """SELECT epoch, sequence, body FROM entry WHERE stream = ? AND (epoch, sequence) > (?, ?)
           AND length(body) > 0 ORDER BY epoch, sequence LIMIT ?"""
KEPT = """SELECT sequence, body FROM entry
          WHERE stream = ? AND epoch = ? AND sequence BETWEEN ? AND ?"""
NEWEST = """SELECT epoch, sequence, body FROM entry WHERE stream = ?
            ORDER BY epoch DESC, sequence DESC LIMIT 1"""


class Journal(threading.Thread):
    """An ordinary peer of the forwarder, that holds each stream once and in order."""

    def __init__(
        self,
        path: Path,
        peer: Peer,
        clock: Callable[[], float] = time.monotonic,
        file: type[SqliteFile] = SqliteFile,
    ) -> None:
        super().__init__(name="journal", daemon=True)
        self._path = path
        self._peer = peer
        self._clock = clock
        self._file = file
        self._heads: dict[str, Ack] = {}
        self._complaints = Complaints(clock)
        self._write_at = float("-inf")
        self._stopping = False
        self._damage: Exception | None = None
        self._trouble: str | None = None
        self._stored = self._replayed = 0

    def open(self) -> None:
        """Open the file, or a new one if it is unreadable; `StartError` if another has it."""
        self._database = self._file(self._path, "broker")
        try:
            self._database.claim()
        except StartError as error:
            if not is_unreadable(error.__cause__):
                raise
            self._set_aside(error)

    def _set_aside(self, error: Exception) -> None:
        """Begin a new file: the writers still have every event, and will fill it again."""
        aside = self._path.with_name(f"{self._path.name}.unreadable-{time.time_ns()}")
        self._database.close()
        for suffix in ("", "-wal", "-shm"):
            with contextlib.suppress(FileNotFoundError):
                Path(f"{self._path}{suffix}").rename(f"{aside}{suffix}")
        log.error("the journal is unreadable and was set aside", error=str(error), file=str(aside))
        self._heads = {}
        self._database = self._file(self._path, "broker")
        self._database.open()
        self._damage = self._trouble = None

    def begin(self, stream: str, first: Place) -> None:
        """Let a stream go on at this place; `StartError` unless it is above the head.

        An entry with no body stands for all earlier events, which nobody has any more.
        """
        self._database.open()
        head = self._newest(stream).place
        if first.sequence < 1 or head >= first:
            raise StartError(f"{stream} cannot begin at {first}: the journal holds it up to {head}")
        with self._database.write():
            self._database.run_rows(APPEND, [(stream, first.epoch, first.sequence - 1, b"")])
        self._database.close()

    def start(self) -> None:
        """Begin to connect, or raise `StartError`; the rest goes on in the thread."""
        self._peer.open()
        super().start()

    def run(self) -> None:
        """Listen until `stop`."""
        rest = Rest()
        try:
            while not self._stopping:
                self.step()
                rest.after(self._stored)
        finally:
            self._peer.close()
            self._database.close()

    def stop(self) -> None:
        """End after what is being written."""
        self._stopping = True
        self._peer.wake()
        self.join()

    def status(self) -> dict[str, Any]:
        """Heads by stream, as ``/readyz`` shows them; with ``problem`` while it cannot write.

        Raises `StartError` while the file cannot be opened.
        """
        self._database.open()
        state = {"journal": {stream: place.sequence for stream, place in self._streams()}}
        self._database.check()
        trouble = self._trouble or self._database.try_writing()
        return state | ({"problem": trouble} if trouble else {})

    def collect(self) -> Iterator[Metric]:
        """The state of the journal, as ``/metrics`` shows it."""
        text = "The sequence of the newest event of the newest epoch."
        head = GaugeMetricFamily("parrot_journal_head", text, labels=["stream"])
        with contextlib.suppress(DatabaseError, sqlite3.Error):
            for stream, place in self._streams():
                head.add_metric([stream], place.sequence)
        yield head
        counts = {
            "parrot_journal_stored_events": (self._stored, "Events written to disk."),
            "parrot_journal_replayed_events": (
                self._replayed,
                "Events sent to readers that missed them.",
            ),
            "parrot_events_malformed": (self._peer.malformed, "Malformed messages dropped."),
        }
        for name, (count, text) in counts.items():
            yield CounterMetricFamily(name, text, value=count)

    def _streams(self) -> Iterator[tuple[str, Place]]:
        """Each stream with its head, for other threads than the journal's own."""
        stream = ""
        while True:  # a look into the index for each, where DISTINCT would read all of it
            behind = Entry.select(fn.MIN(Entry.stream)).where(Entry.stream > stream)
            stream = behind.scalar(self._database)
            if stream is None:
                return
            yield stream, self._newest(stream).place

    def step(self) -> None:
        """Wait for messages, for a second at most, and do what they ask for."""
        messages = self._peer.poll(timeout_s=1)
        try:
            if self._damage:
                self._set_aside(self._damage)
            self.handle(messages)
        except Exception as error:
            self._trouble = repr(error)
            self._damage = error if is_unreadable(error) else self._damage
            log.error("the journal waits for its disk", error=repr(error))
            self._heads = {}  # the database knows what became of the commit
            self._write_at = self._clock() + OUTAGE_RETRY_S

    def handle(self, messages: list[Message]) -> None:
        """Write the events in one commit, then acknowledge them; then answer the wants."""
        arrived = [message for message in messages if isinstance(message, Run)]
        if arrived and self._clock() >= self._write_at:
            for reply in self._append(arrived):
                self._peer.send(reply)
        wants = {(m.reader, m.stream): m for m in messages if isinstance(m, Want)}
        for want in wants.values():
            self._answer(want)

    def _append(self, arrived: list[Run]) -> list[Ack | Refuse]:
        heads: dict[str, Ack] = {}
        refused: dict[str, Refuse] = {}
        stored: list[Run] = []
        for run in arrived:
            stream, first = run.stream, run.first
            _, head, last = heads.setdefault(stream, self._head(stream))
            begins = first.sequence == 1 and first.epoch > head.epoch
            known = 0 if begins else min(head.sequence + 1 - first.sequence, len(run.bodies))
            if known < 0 or (first.epoch != head.epoch and not begins):
                continue  # it leaves a gap, or is of an older epoch
            if place := self._other(run, known, stored):
                refused[stream] = Refuse(stream, place)
            elif not begins and _follows_another(run.bodies[known:], last):
                refused[stream] = Refuse(stream, head)
            if stream in refused:  # what follows may be of the writer whose event was refused
                continue
            if bodies := run.bodies[known:]:
                stored.append(Run(stream, head, Place(first.epoch, first.sequence + known), bodies))
                heads[stream] = Ack(stream, run.last, digest(bodies[-1]))
        if stored:
            rows = [(run.stream, *place, body) for run in stored for place, body in run.events()]
            with self._database.write():
                self._database.run_rows(APPEND, rows)
            self._heads |= heads
            self._stored += len(rows)
            for run in stored:
                count, ids = len(run.bodies), map(correlation_id, run.bodies)
                log_run(log, "stored", run.stream, run.first, run.last, count, ids)
        self._trouble = None
        for refuse in refused.values():
            self._complain(refuse)
        return [*refused.values(), *heads.values()]

    def _other(self, run: Run, known: int, stored: list[Run]) -> Place | None:
        """The place of the first of ``known`` events that differs from ours.

        Ours may be among those that are about to be ``stored``.
        """
        if known <= 0:
            return None
        (epoch, first), stream = run.first, run.stream
        kept = self._database.run(KEPT, stream, epoch, first, first + known - 1).fetchall()
        ours = {Place(epoch, sequence): body for sequence, body in kept}
        for each in stored:
            ours |= each.events() if each.stream == stream else ()
        for place, body in islice(run.events(), known):
            if (held := ours.get(place)) and bytes(held) != body:
                return place
        return None

    def _complain(self, refuse: Refuse) -> None:
        if self._complaints.are_due(refuse.stream):
            log.error(
                "refused an event unlike the one stored: its writer has an old database, "
                "or two writers have copies of one; docs/operations.md says how to go on",
                stream=refuse.stream,
                place=str(refuse.place),
            )

    def _head(self, stream: str) -> Ack:
        if stream not in self._heads:
            self._heads[stream] = self._newest(stream)
        return self._heads[stream]

    def _newest(self, stream: str) -> Ack:
        """A stream's head, as the ack that its writer gets."""
        found = self._database.run(NEWEST, stream).fetchone()
        if not found:
            return Ack(stream, START)
        epoch, sequence, body = found
        return Ack(stream, Place(epoch, sequence), digest(body) if body else NO_DIGEST)

    def _after(self, want: Want) -> list[tuple[Place, bytes]]:
        """Place and body of the next events after a place."""
        if want.stream == JOURNAL:
            (at,) = self._database.run("SELECT at FROM begun").fetchone()
            return [(BEGUN, journal_begun("/broker", at))]
        rows = self._database.run(AFTER, want.stream, *want.place, REPLAY_EVENTS)
        return [(Place(epoch, sequence), body) for epoch, sequence, body in rows]

    def _answer(self, want: Want) -> None:
        """Send what comes after a place.

        The first event is sent as following that very place, so that a reader can go on even
        where the end of an older epoch was lost.
        """
        reader, after = want.reader, want.place
        for run in runs(want.stream, after, self._after(want), REPLAY_RUN_BYTES):
            self._peer.send(Replay(reader, run))
            self._replayed += len(run.bodies)
            after = run.last
        self._peer.send(Replay(reader, Run(want.stream, after, self._head(want.stream).place, [])))


def _follows_another(bodies: list[bytes], held: bytes) -> bool:
    """Whether the first of these names a predecessor that does not have this digest."""
    return bool(bodies) and any(held) and previous(bodies[0]) not in (None, held)
