"""The outbox: events are written in one transaction with the facts that they report."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from messaging import tables
from messaging.event import Fact, document
from messaging.transports.wire import Place, digest
from runtime.process.errors import Unavailable
from runtime.storage.database import Database

HEAD = "SELECT epoch, sequence, acked, problem FROM head"
ADVANCE = """UPDATE head SET sequence = sequence + ? WHERE problem IS NULL
             RETURNING epoch, sequence,
             (SELECT body FROM outbox WHERE outbox.sequence = head.sequence - ?)"""
OLDEST = "SELECT min(sequence) FROM outbox"
ROWS = "SELECT sequence, body FROM outbox WHERE sequence > ? AND sequence <= ? ORDER BY sequence"
NOTE = "UPDATE head SET acked = ?, problem = ?"


class Head(NamedTuple):
    """Where a writer stands."""

    place: Place  # of the newest event
    acked: int  # the newest that was noted as acknowledged
    problem: str | None  # why no events are taken


class Outbox:
    """The events of one stream, which this database alone writes."""

    def __init__(self, database: Database, stream: str, source: str) -> None:
        self.stream = stream
        self.unnoted: str | None = None  # a problem that could not be written to the database
        self._database = database
        self._source = source

    def emit(self, type: str, facts: Sequence[Fact]) -> None:
        """Append events to the outbox, in the open transaction that stores the facts they report.

        Raises `EventTooLarge`, and `Unavailable` while the journal contradicts this database:
        what cannot be published must not be confirmed.
        """
        assert self._database.in_transaction(), "emit() belongs in the transaction of its facts"
        if not facts:
            return
        if self.unnoted:
            raise Unavailable(self.unnoted)
        count = len(facts)
        advanced = self._database.run(ADVANCE, count, count).fetchone()
        if advanced is None:
            raise Unavailable(self.head().problem)
        epoch, last, body = advanced
        previous = digest(bytes(body)) if body else None
        rows = self._rows(epoch, last - count, previous, type, facts)
        self._database.load(tables.Outbox, rows)

    def _rows(
        self, epoch: bytes, after: int, previous: bytes | None, type: str, facts: Sequence[Fact]
    ) -> Iterator[tuple[int, bytes]]:
        """Sequence and body of new events; each names the digest of the one before it."""
        for sequence, fact in enumerate(facts, after + 1):
            body = document(self._source, Place(epoch, sequence), type, fact, previous)
            previous = digest(body)
            yield sequence, body

    def head(self) -> Head:
        """The newest event, and what was last noted."""
        epoch, sequence, acked, problem = self._database.run(HEAD).fetchone()
        return Head(Place(epoch, sequence), acked, problem)

    def oldest(self) -> int:
        """The sequence of the oldest event that was kept; of the next one if there is none."""
        (oldest,) = self._database.run(OLDEST).fetchone()
        return int(oldest or self.head().place.sequence + 1)

    def rows(self, after: int, up_to: int) -> list[tuple[int, bytes]]:
        """Sequence and body of the events in that range, in order."""
        rows: list[tuple[int, bytes]] = self._database.run(ROWS, after, up_to).fetchall()
        return rows

    def note(self, acked: int, problem: str | None) -> None:
        """Remember how far the journal has come, and why no events are taken, for `head`."""
        self.unnoted = problem
        with self._database.write():
            self._database.run(NOTE, acked, problem)
        self.unnoted = None
