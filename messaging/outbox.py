"""The outbox: events are written with their facts, and sent until the journal has them."""

import time
from collections.abc import Callable
from typing import Any

import structlog

from messaging.event import Event as Told
from messaging.event import document
from messaging.wire import Event, Place, Replay
from runtime.clock import age_s
from runtime.database import Database

log = structlog.get_logger(__name__)

WINDOW_EVENTS = 256  # sent ahead of the last ack; below ZeroMQ's high-water mark of 1000
ACK_TIMEOUT_S = 0.25  # many times the journal's flush; also the least time between rewinds
PROBE_INTERVAL_S = 2.0  # how soon an idle writer finds that the journal was lost
NOTE_INTERVAL_S = 1.0  # how often the acked sequence is noted in the database

HEAD = "SELECT epoch, sequence, acked FROM head"
ADVANCE = "UPDATE head SET sequence = sequence + 1 RETURNING epoch, sequence"
APPEND = "INSERT INTO outbox (sequence, body) VALUES (?, ?)"
ROWS = "SELECT sequence, body FROM outbox WHERE sequence > ? AND sequence <= ? ORDER BY sequence"
NOTE_ACKED = "UPDATE head SET acked = ?"


class Outbox:
    """The events of one stream, which this database alone writes."""

    def __init__(self, database: Database, stream: str, source: str) -> None:
        self.stream = stream
        self._database = database
        self._source = source

    def emit(self, type: str, subject: object, time: str, data: dict[str, Any]) -> None:
        """Write an event in the business transaction that is open, and that makes it true.

        ``time`` is when it became so, as `runtime.clock.timestamp` gives it.
        """
        assert self._database.in_transaction(), "emit() belongs in the transaction of its fact"
        place = Place(*self._database.run(ADVANCE).fetchone())
        body = document(self._source, place, type, subject, time, data)
        self._database.run(APPEND, place.sequence, body)

    def head(self) -> tuple[Place, int]:
        """The place of the newest event, and the sequence last noted as acked."""
        epoch, sequence, acked = self._database.run(HEAD).fetchone()
        return Place(epoch, sequence), acked

    def rows(self, after: int, up_to: int) -> list[tuple[int, bytes]]:
        """Sequence and body of the events in that range, in order."""
        rows: list[tuple[int, bytes]] = self._database.run(ROWS, after, up_to).fetchall()
        return rows

    def note_acked(self, sequence: int) -> None:
        """Remember how far the journal has come, for `head`."""
        with self._database.write():
            self._database.run(NOTE_ACKED, sequence)


class Publisher:
    """Sends an outbox in order, going back to the first unacknowledged event where it must.

    Go-back-N with cumulative acks: a send is never taken for a delivery. At its start it
    compares the newest event of the journal with its own, and sends nothing before: a restored
    backup must not tell other events under numbers that it has told already.
    """

    def __init__(
        self,
        outbox: Outbox,
        publish: Callable[[Event], None],
        fetch: Callable[[str, Place], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.problem: str | None = None
        self.published = self.resent = self.acked = 0  # since the start
        self._outbox = outbox
        self._publish = publish
        self._fetch = fetch
        self._clock = clock
        self._acked: int | None = None  # None until the journal's newest event was compared
        self._compare_after: Place | None = None
        self._compared: Place | None = None
        self._sent = 0
        self._sent_at = self._progress_at = self._rewound_at = self._noted_at = float("-inf")

    @property
    def waiting(self) -> int:
        """How many events the journal has not acknowledged, as far as is known."""
        head, noted = self._outbox.head()
        return head.sequence - (noted if self._acked is None else self._acked)

    @property
    def oldest_age_s(self) -> float:
        """For how long the oldest event that waits has done so, in seconds by the wall clock."""
        head, noted = self._outbox.head()
        acked = noted if self._acked is None else self._acked
        for _, body in self._outbox.rows(acked, acked + 1):
            told = Told.parse(self._outbox.stream, head, body)
            return age_s(told.time)
        return 0.0

    @property
    def ready(self) -> bool:
        """Whether the journal was heard, and does not contradict this database."""
        return self._acked is not None and not self.problem

    # A publisher compares until it knows `_acked`; from then on it follows the acks; once there is
    # a `problem` it has halted. To compare, it asks for what is above its newest event, which tells
    # the journal's head, and then for the event at that head, which must be its own.

    def step(self) -> None:
        """Send what may be sent now."""
        if self.problem:
            return
        head, noted = self._outbox.head()
        now = self._clock()
        if self._acked is None:
            if now - self._sent_at >= ACK_TIMEOUT_S:
                self._sent_at = now
                self._fetch(self._outbox.stream, self._compare_after or head)
            return
        if self._sent > self._acked and now - self._progress_at >= ACK_TIMEOUT_S:
            self._rewind(now, self._acked)
        if self._sent == self._acked:
            self._progress_at = now
        up_to = min(head.sequence, self._acked + WINDOW_EVENTS)
        if self._sent < up_to:
            self._send(head, self._sent, up_to)
            self.published += up_to - self._sent
            self._sent = up_to
        elif self._acked == head.sequence and now - self._sent_at >= PROBE_INTERVAL_S:
            self._send(head, head.sequence - 1, head.sequence)
        if self._acked != noted and now - self._noted_at >= NOTE_INTERVAL_S:
            self._noted_at = now
            self._outbox.note_acked(self._acked)

    def receive(self, message: Event | Replay) -> None:
        """An event of this stream, as the journal holds it."""
        sequence = message.place.sequence
        if self._outbox.rows(sequence - 1, sequence) == [(sequence, message.body)]:
            self._compared = message.place
        else:
            self.handle_refuse(message.place)

    def handle_end(self, place: Place) -> None:
        """The journal holds this stream up to ``place``."""
        head, _ = self._outbox.head()
        if self._acked is not None:
            return
        if place > head:
            self._halt(f"the journal holds events up to {place}, this database up to {head}")
        elif place.epoch < head.epoch:
            self._acked = self._sent = 0  # it has nothing of this database
        elif place == self._compared:
            self._acked = self._sent = place.sequence
        else:
            self._compare_after = Place(place.epoch, place.sequence - 1)
            self._sent_at = float("-inf")

    def handle_ack(self, place: Place) -> None:
        """The journal has everything up to ``place`` on disk."""
        head, _ = self._outbox.head()
        if self._acked is None:
            return  # a late ack, to the process that was here before
        if place > head:
            self._halt(f"the journal holds events up to {place}, this database up to {head}")
            return
        acked = place.sequence if place.epoch == head.epoch else 0
        now = self._clock()
        if acked > self._acked:
            self.acked += acked - self._acked
            self._progress_at = now
            self._sent = max(self._sent, acked)
        elif acked < self._acked and now - self._rewound_at >= ACK_TIMEOUT_S:
            self._rewind(now, acked)
        self._acked = acked

    def handle_refuse(self, place: Place) -> None:
        """The journal holds another event than ours under this number."""
        head, _ = self._outbox.head()
        if place.epoch >= head.epoch:
            self._halt(f"the journal holds another event under {place}")

    def _send(self, head: Place, after: int, up_to: int) -> None:
        for sequence, body in self._outbox.rows(after, up_to):
            self._publish(Event(self._outbox.stream, Place(head.epoch, sequence), body))
        self._sent_at = self._clock()

    def _rewind(self, now: float, acked: int) -> None:
        self.resent += max(0, self._sent - acked)
        self._sent, self._rewound_at, self._progress_at = acked, now, now

    def _halt(self, reason: str) -> None:
        if not self.problem:
            self.problem = (
                f"publishing stopped, the database is older than what it has told: {reason}; "
                "docs/operations.md says how to restore"
            )
            log.error(self.problem, stream=self._outbox.stream)
