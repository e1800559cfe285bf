"""The inbox: each event of a stream is applied once and in order, with the reader's new place."""

import time
from collections.abc import Callable, Mapping

import structlog
from peewee import OperationalError
from pydantic import ValidationError

from messaging.event import Event
from messaging.follower import Follower
from messaging.models import Cursor, DeadLetter
from messaging.wire import START, Place, Replay
from messaging.wire import Event as LiveEvent
from runtime.clock import timestamp
from runtime.database import Database, is_outage

log = structlog.get_logger(__name__)

MAX_TRIES = 8
FIRST_RETRY_S = 0.1  # doubled by each try: the eighth comes 12.7 s after the first
OUTAGE_RETRY_S = 1.0

NOTE = """INSERT INTO inbox (stream, epoch, sequence, type, body, applied_at)
          VALUES (?, ?, ?, ?, ?, ?)
          ON CONFLICT (stream, epoch, sequence) DO UPDATE
          SET type = excluded.type, body = excluded.body, applied_at = excluded.applied_at"""
MOVE = """INSERT INTO cursor (stream, epoch, sequence) VALUES (?, ?, ?)
          ON CONFLICT (stream) DO UPDATE
          SET epoch = excluded.epoch, sequence = excluded.sequence
          WHERE cursor.epoch = ? AND cursor.sequence = ?"""

Handlers = Mapping[str, Callable[[Event], None]]


class Reader(Follower):
    """One stream as one service reads it. The place alone decides what is applied.

    ``handlers`` maps event types to functions; events of other types are kept, and change nothing.
    """

    def __init__(
        self,
        database: Database,
        stream: str,
        handlers: Handlers,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(stream, None, clock)
        self.applied = 0
        self._database = database
        self._handlers = handlers
        self._failing: Place | None = None
        self._tries = 0

    def load_place(self) -> Place:
        """The place of the last event that was applied or set aside."""
        return place_of(self._database, self.stream)

    def apply(self) -> None:
        """Apply what was received.

        An event that fails undoes its own savepoint; the ones before it are kept, and it is
        tried again. In an outage of the database nothing is kept, and no try is counted.
        """
        run = self.take()
        while run:
            run = self._commit(run)

    def _commit(self, run: list[LiveEvent | Replay]) -> list[LiveEvent | Replay]:
        """Handlers, inbox rows and the new place, all in one transaction.

        Gives the events that can be kept yet: those before one whose handler met an outage.
        """
        applied: list[Event] = []
        try:
            with self._database.write():
                place = self._apply(run, applied)
        except Exception as error:
            log.error("events wait for the database", stream=self.stream, error=repr(error))
            self.pause(OUTAGE_RETRY_S)
            self._place = None  # whatever became of the commit, the database knows
            # Dead events are not in `applied`: what is left is short, but in order and right.
            return run[: len(applied)] if len(applied) < len(run) else []
        self.place = place
        self.applied += len(applied)
        for event in applied:
            log.info(
                "applied",
                stream=self.stream,
                place=str(event.place),
                type=event.type,
                request_id=event.correlation_id,
            )
        return []

    def _apply(self, run: list[LiveEvent | Replay], applied: list[Event]) -> Place:
        place = self.place
        for message in run:
            try:
                event = Event.parse(self.stream, message.place, message.body)
                with self._database.undoable():
                    handle(self._database, self._handlers, event, message.body)
                applied.append(event)
            except Exception as error:
                if is_outage(error):
                    raise  # SQLite may have rolled back by itself: nothing more may be written
                if not self._give_up(message.place, error):
                    break
                self._bury(message, error)
            place = message.place
        moved = self._database.run(MOVE, self.stream, *place, *self.place).rowcount
        if not moved:
            raise OperationalError(f"another copy has moved on from {self.place}")
        return place

    def _give_up(self, place: Place, error: Exception) -> bool:
        """Whether a failed event is dead; if not, it is tried again after a while."""
        self._tries = self._tries + 1 if place == self._failing else 1
        self._failing = place
        if isinstance(error, ValidationError) or self._tries >= MAX_TRIES:
            return True
        self.pause(FIRST_RETRY_S * 2 ** (self._tries - 1))
        log.warning(
            "event failed and will be tried again",
            stream=self.stream,
            place=str(place),
            tries=self._tries,
            error=repr(error),
        )
        return False

    def _bury(self, message: LiveEvent | Replay, error: Exception) -> None:
        log.error("event is dead", stream=self.stream, place=str(message.place), error=repr(error))
        DeadLetter.insert(
            stream=self.stream,
            **message.place._asdict(),
            body=message.body,
            error=repr(error),
            died_at=timestamp(),
        ).execute(self._database)


def place_of(database: Database, stream: str) -> Place:
    """The place of the last event of a stream that this database has applied or set aside."""
    row = Cursor.select().where(Cursor.stream == stream).first(database)
    return Place(row.epoch, row.sequence) if row else START


def handle(database: Database, handlers: Handlers, event: Event, body: bytes) -> None:
    """Give an event to its handler, and note it in the inbox, in the transaction that is open."""
    database.run(NOTE, event.stream, *event.place, event.type, body, timestamp())
    if event.type in handlers:
        with structlog.contextvars.bound_contextvars(request_id=event.correlation_id):
            handlers[event.type](event)


def count_dead(database: Database) -> int:
    """How many events are set aside."""
    return int(DeadLetter.select().count(database))
