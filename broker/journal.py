"""The journal: writes every event to disk, acknowledges it, and sends it to who missed it."""

import contextlib
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import structlog
from peewee import DatabaseError, fn
from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from broker.models import Entry
from messaging.event import correlation_id
from messaging.transport import Peer
from messaging.wire import START, Ack, Event, Message, Place, Refuse, Replay, Want
from runtime.database import SqliteFile, is_unreadable
from runtime.errors import StartError

log = structlog.get_logger(__name__)

REPLAY_EVENTS = 256  # in one answer; below ZeroMQ's high-water mark of 1000
OUTAGE_RETRY_S = 1.0

APPEND = "INSERT INTO entry (stream, epoch, sequence, body) VALUES (?, ?, ?, ?)"
AFTER = """SELECT epoch, sequence, body FROM entry WHERE stream = ? AND (epoch, sequence) > (?, ?)
           ORDER BY epoch, sequence LIMIT ?"""
NEWEST = """SELECT epoch, sequence FROM entry WHERE stream = ?
            ORDER BY epoch DESC, sequence DESC LIMIT 1"""


class Journal(threading.Thread):
    """An ordinary peer of the forwarder, that holds each stream once and in order."""

    def __init__(self, path: Path, peer: Peer) -> None:
        super().__init__(name="journal", daemon=True)
        self._path = path
        self._peer = peer
        self._heads: dict[str, Place] = {}
        self._write_at = float("-inf")
        self._stopping = False
        self._damage: Exception | None = None
        self._trouble: str | None = None
        self._stored = self._replayed = 0

    def open(self) -> None:
        """Open the file, or a new one if it is unreadable; `StartError` if another has it."""
        self._database = SqliteFile(self._path, "broker")
        try:
            self._database.claim()
        except StartError as error:
            if not is_unreadable(error.__cause__):
                raise
            self._set_aside(error)

    def _set_aside(self, error: Exception) -> None:
        """Begin a new file: the writers have every event still, and will fill it again."""
        aside = self._path.with_name(f"{self._path.name}.unreadable-{time.time_ns()}")
        self._database.close()
        for suffix in ("", "-wal", "-shm"):
            with contextlib.suppress(FileNotFoundError):
                Path(f"{self._path}{suffix}").rename(f"{aside}{suffix}")
        log.error("the journal is unreadable and was set aside", error=str(error), file=str(aside))
        self._heads = {}
        self._database = SqliteFile(self._path, "broker")
        self._database.open()
        self._damage = None

    def start(self) -> None:
        """Begin to connect, or raise `StartError`; the rest goes on in the thread."""
        self._peer.open()
        super().start()

    def run(self) -> None:
        """Listen until `stop`."""
        try:
            while not self._stopping:
                self._turn(self._peer.poll(timeout_s=1))
        finally:
            self._peer.close()
            self._database.close()

    def stop(self) -> None:
        """End after what is being written."""
        self._stopping = True
        self._peer.wake()
        self.join()

    def status(self) -> dict[str, Any]:
        """Heads by stream, as ``/readyz`` shows them; with ``problem`` while it cannot write."""
        state = {"journal": {stream: place.sequence for stream, place in self._streams()}}
        return state | ({"problem": self._trouble} if self._trouble else {})

    def collect(self) -> Iterator[Metric]:
        """The state of the journal, as ``/metrics`` shows it."""
        text = "The sequence of the newest event of the newest epoch."
        head = GaugeMetricFamily("journal_head", text, labels=["stream"])
        with contextlib.suppress(DatabaseError, sqlite3.Error):
            for stream, place in self._streams():
                head.add_metric([stream], place.sequence)
        yield head
        counts = {
            "journal_stored_events": (self._stored, "Events written to disk."),
            "journal_replayed_events": (self._replayed, "Events sent to who missed them."),
            "events_malformed": (self._peer.malformed, "Messages that were none."),
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
            yield stream, self._newest(stream)

    def _turn(self, messages: list[Message]) -> None:
        try:
            if self._damage:
                self._set_aside(self._damage)
            self.handle(messages)
        except Exception as error:
            self._trouble = repr(error)
            self._damage = error if is_unreadable(error) else self._damage
            log.error("the journal waits for its disk", error=repr(error))
            self._heads = {}  # whatever became of the commit, the database knows
            self._write_at = time.monotonic() + OUTAGE_RETRY_S

    def handle(self, messages: list[Message]) -> None:
        """Write the events in one commit, then acknowledge them; then answer the wants."""
        events = [message for message in messages if isinstance(message, Event)]
        if events and time.monotonic() >= self._write_at:
            for reply in self._append(events):
                self._peer.send(reply)
        wants = {(m.reader, m.stream): m for m in messages if isinstance(m, Want)}
        for want in wants.values():
            self._answer(want)

    def _append(self, events: list[Event]) -> list[Ack | Refuse]:
        heads: dict[str, Place] = {}
        fresh: dict[tuple[str, Place], bytes] = {}
        refused: list[Ack | Refuse] = []
        for stream, place, body in events:
            head = heads.setdefault(stream, self._head(stream))
            first = place.sequence == 1 and place.epoch > head.epoch
            if first or place == Place(head.epoch, head.sequence + 1):
                heads[stream] = place
                fresh[stream, place] = body
            elif place.epoch == head.epoch and place <= head:
                kept = fresh.get((stream, place)) or self._body(stream, place)
                if kept not in (body, None):
                    refused.append(Refuse(stream, place))
        if fresh:
            rows = [(stream, *place, body) for (stream, place), body in fresh.items()]
            with self._database.write():
                self._database.run_many(APPEND, rows)
            self._heads |= heads
            self._stored += len(rows)
            for (stream, place), body in fresh.items():
                log.info("stored", stream=stream, place=str(place), request_id=correlation_id(body))
        self._trouble = None
        return [*refused, *(Ack(stream, head) for stream, head in heads.items())]

    def _head(self, stream: str) -> Place:
        if stream not in self._heads:
            self._heads[stream] = self._newest(stream)
        return self._heads[stream]

    def _newest(self, stream: str) -> Place:
        return Place(*self._database.run(NEWEST, stream).fetchone() or START)

    def _body(self, stream: str, place: Place) -> bytes | None:
        """What is on disk under a place; None if that was archived."""
        same = (Entry.stream == stream) & (Entry.epoch == place.epoch)
        row = Entry.select(Entry.body).where(same & (Entry.sequence == place.sequence))
        body: bytes | None = row.scalar(self._database)
        return body

    def _answer(self, want: Want) -> None:
        """Send what comes after a place.

        The first event follows that place itself, whatever it is, so that a reader gets on even
        where the end of an older epoch was lost.
        """
        follows = want.place
        rows = self._database.run(AFTER, want.stream, *want.place, REPLAY_EVENTS).fetchall()
        for epoch, sequence, body in rows:
            place = Place(epoch, sequence)
            self._peer.send(Replay(want.reader, want.stream, follows, place, body))
            self._replayed += 1
            follows = place
        self._peer.send(Replay(want.reader, want.stream, follows, self._head(want.stream), b""))
