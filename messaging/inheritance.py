"""Inheritance: a service with a new database takes over the events of earlier ones.

It reads the events of its own stream that earlier databases published, and takes them over; and it
finds out whether these are all.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime

import structlog
from pydantic import ValidationError

from messaging.event import Event
from messaging.follower import Follower, Received
from messaging.inbox import BROKEN, Handlers, Reader
from messaging.outbox import Outbox
from messaging.tables import Cursor
from messaging.transports.wire import JOURNAL, START, Place, Run
from runtime.storage.database import Database

log = structlog.get_logger(__name__)

BROKEN_RETRY_S = 5.0
OLDEST = """SELECT epoch, sequence FROM inbox WHERE stream = ?
            ORDER BY epoch, sequence LIMIT 1"""


class Heir(Reader):
    """Reads the stream that the service itself writes, up to the first event of its own database.

    It leaves nothing out: an event that fails stops it, and is not set aside.
    """

    def __init__(
        self, database: Database, outbox: Outbox, handlers: Handlers, clock: Callable[[], float]
    ) -> None:
        super().__init__(database, outbox.stream, handlers, clock)
        self.done = False
        self.knows_all = False  # the journal still holds what was taken over
        self._outbox = outbox

    def receive(self, run: Run) -> None:
        """Take over events of earlier epochs, up to the first own one.

        If that follows the place before ours, the journal has lost what was taken over.
        """
        place = self.place
        if run.first.epoch < self._outbox.head().place.epoch:
            super().receive(run)
        elif run.follows in (place, Place(place.epoch, place.sequence - 1)):
            self._end(knows_all=run.follows == place)

    def handle_end(self, end: Run) -> None:
        """The end of the journal's answer, and of the stream if there is no more."""
        super().handle_end(end)
        if end.first <= self.place:
            self._end(knows_all=end.first == self.place)

    def _end(self, knows_all: bool) -> None:
        if not self._received and not self.problem:
            self.done, self.knows_all = True, knows_all
            if self.applied:
                log.info("took over earlier events", stream=self.stream, events=self.applied)

    def _give_up(self, place: Place, error: Exception) -> bool:
        if super()._give_up(place, error):
            self._stop(
                BROKEN,
                f"{place} cannot be taken over ({error!r}): mend that, or go on without it: "
                f"{self._command(place)}",
            )
            self.pause(BROKEN_RETRY_S)
        return False


class Beginning(Follower):
    """Reads the journal's own stream, for the time at which the journal was made.

    ``begun`` is None while the journal is not connected.
    """

    begun: datetime | None = None

    def receive(self, run: Run) -> None:
        """Take the time from the one event."""
        self.begun = Event.parse(self.stream, run.first, run.bodies[0]).time

    def disconnect(self) -> None:
        """Forget the time: the next journal may be another one."""
        super().disconnect()
        self.begun = None

    def apply(self) -> None:
        """There is nothing to apply."""


class Inheritance:
    """Takes over the service's earlier events before any stream's first event is applied.

    A stream may begin if its first event is not older than this database: no earlier one can have
    acted on it. It may also begin if that event is not older than the journal, or than the oldest
    database that refilled the journal: the journal then holds what was done about it, unless the
    beginning of that is missing. Otherwise an operator must decide, by setting the stream's place.
    """

    def __init__(
        self, database: Database, outbox: Outbox, handlers: Handlers, clock: Callable[[], float]
    ) -> None:
        self._database = database
        self._outbox = outbox
        self._heir = Heir(database, outbox, handlers, clock)
        self._beginning = Beginning(JOURNAL, START, clock)

    @property
    def problem(self) -> str | None:
        """Why nothing can be taken over, and what to do about it."""
        return self._heir.problem

    def listeners(self, readers: Mapping[str, Reader]) -> Mapping[str, Reader | Beginning]:
        """The followers to listen for the journal now, by stream: last the ``readers``."""
        if any(reader.place != START for reader in readers.values()):
            return readers
        if not self._heir.done:
            return {JOURNAL: self._beginning, self._heir.stream: self._heir}
        return {JOURNAL: self._beginning, **(readers if self._beginning.begun else {})}

    def doubt(self, stream: str, events: Sequence[Received]) -> str | None:
        """Why a stream cannot begin with these events; empty if that is not known yet."""
        begun = self._beginning.begun
        if begun is None:
            return ""
        is_placed = Cursor.select().where(Cursor.stream == stream).exists(self._database)
        if is_placed or self._knows(begun, _time(stream, events)):
            return None
        return (
            "this database is new, and the journal cannot know all that was done about these "
            "events: it is younger than they are, or was cut; docs/operations.md says how to go "
            "on; to apply them all, perhaps for a second time: "
            f"python -m {self._database.packages[-1]} place {stream} {START}"
        )

    def _knows(self, begun: datetime, first: datetime) -> bool:
        """Whether the journal holds all that was done about events from this time on."""
        if first >= _made_at(self._outbox.head().place.epoch):
            return True
        if self._heir.place == START:
            return first >= begun
        row = self._database.run(OLDEST, self._heir.stream).fetchone()
        if row is None or row[1] != 1:  # it was cut, or so old that it was pruned here
            return False
        return first >= begun or (self._heir.knows_all and first >= _made_at(row[0]))


def _time(stream: str, events: Sequence[Received]) -> datetime:
    """When the first of these events happened; long ago if none is a document."""
    for _, place, body in events:
        with suppress(ValidationError):
            return Event.parse(stream, place, body).time
    return datetime.min.replace(tzinfo=UTC)


def _made_at(epoch: bytes) -> datetime:
    """When the database of an epoch was made."""
    return datetime.fromtimestamp(int.from_bytes(epoch[:8], "big") / 1e9, UTC)
