"""The inbox: each event of a stream is applied once and in order, with the reader's new place."""

import time
from collections.abc import Callable, Mapping

import structlog
from pydantic import ValidationError

from messaging.event import Event
from messaging.models import Cursor, DeadLetter, Inbox
from messaging.wire import START, Place, Replay
from messaging.wire import Event as LiveEvent
from runtime.clock import timestamp
from runtime.database import Database, is_outage

log = structlog.get_logger(__name__)

WANT_INTERVAL_S = 0.5  # the last event of all leaves no gap to see, so a reader keeps asking
MAX_TRIES = 8
FIRST_RETRY_S = 0.1  # doubled by each try: the eighth comes 12.7 s after the first
OUTAGE_RETRY_S = 1.0

Handlers = Mapping[str, Callable[[Event], None]]


class Reader:
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
        self.stream = stream
        self.applied = self.duplicates = self.gaps = 0
        self._database = database
        self._handlers = handlers
        self._clock = clock
        self._place: Place | None = None
        self._received: list[LiveEvent | Replay] = []  # received, in order, not yet applied
        self._journal_head: Place | None = None
        self._gap = self._outstanding = False
        self._wanted_at = self._retry_at = float("-inf")
        self._failing: Place | None = None
        self._tries = 0

    @property
    def place(self) -> Place:
        """The place of the last event that was applied or set aside."""
        if self._place is None:
            self._place = place_of(self._database, self.stream)
        return self._place

    @property
    def behind(self) -> int | None:
        """How many events the journal holds above our place, in its epoch; None if unknown."""
        head, place = self._journal_head, self._place
        if head is None or place is None:
            return None
        if head <= place:
            return 0
        return head.sequence - (place.sequence if head.epoch == place.epoch else 0)

    def disconnect(self) -> None:
        """Forget what is only true while the journal answers."""
        self._journal_head, self._outstanding = None, False

    def receive(self, message: LiveEvent | Replay) -> None:
        """Take an event that follows what is here; drop duplicates, and what comes after a gap."""
        if self._clock() < self._retry_at:
            return
        tip = self._received[-1].place if self._received else self.place
        next_live = Place(tip.epoch, tip.sequence + 1)
        if message.place <= tip:
            self.duplicates += 1
        elif message.follows == tip if isinstance(message, Replay) else message.place == next_live:
            self._received.append(message)
        else:
            self.gaps += 1
            self._gap = True

    def handle_end(self, head: Place) -> None:
        """An answer of the journal ends here, and it holds the stream up to ``head``."""
        self._journal_head, self._outstanding = head, False

    def want(self) -> Place | None:
        """The place to ask the journal about, if it is time; one want at most is under way."""
        now = self._clock()
        more = self._gap or (self._journal_head is not None and self._journal_head > self.place)
        waited = now - self._wanted_at >= WANT_INTERVAL_S
        if now < self._retry_at or not (waited or (more and not self._outstanding)):
            return None
        self._wanted_at, self._outstanding, self._gap = now, True, False
        return self.place

    def apply(self) -> None:
        """Apply what was received.

        An event that fails undoes its own savepoint; the ones before it are kept, and it is
        tried again. In an outage of the database nothing is kept, and no try is counted.
        """
        run, self._received = self._received, []
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
            self._retry(OUTAGE_RETRY_S)
            self._place = None  # whatever became of the commit, the database knows
            # Dead events are not in `applied`: what is left is short, but in order and right.
            return run[: len(applied)] if len(applied) < len(run) else []
        self._place = place
        self.applied += len(applied)
        for event in applied:
            with structlog.contextvars.bound_contextvars(request_id=event.correlation_id):
                log.info("applied", stream=self.stream, place=str(event.place), type=event.type)
        return []

    def _apply(self, run: list[LiveEvent | Replay], applied: list[Event]) -> Place:
        place = self.place
        for message in run:
            try:
                event = Event.parse(self.stream, message.place, message.body)
                with self._database.atomic():
                    handle(self._database, self._handlers, event, message.body)
                applied.append(event)
            except Exception as error:
                if is_outage(error):
                    raise  # SQLite may have rolled back by itself: nothing more may be written
                if not self._give_up(message.place, error):
                    break
                self._bury(message, error)
            place = message.place
        _upsert(self._database, Cursor, ["stream"], stream=self.stream, **place._asdict())
        return place

    def _give_up(self, place: Place, error: Exception) -> bool:
        """Whether a failed event is dead; if not, it is tried again after a while."""
        self._tries = self._tries + 1 if place == self._failing else 1
        self._failing = place
        if isinstance(error, ValidationError) or self._tries >= MAX_TRIES:
            return True
        self._retry(FIRST_RETRY_S * 2 ** (self._tries - 1))
        log.warning(
            "event failed and will be tried again",
            stream=self.stream,
            place=str(place),
            tries=self._tries,
            error=repr(error),
        )
        return False

    def _retry(self, delay_s: float) -> None:
        """Let the stream wait, then want again what is dropped meanwhile."""
        self._retry_at = self._clock() + delay_s
        self._gap = True

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
    _upsert(
        database,
        Inbox,
        ["stream", "epoch", "sequence"],
        stream=event.stream,
        **event.place._asdict(),
        type=event.type,
        body=body,
        applied_at=timestamp(),
    )
    if event.type in handlers:
        with structlog.contextvars.bound_contextvars(request_id=event.correlation_id):
            handlers[event.type](event)


def count_dead(database: Database) -> int:
    """How many events are set aside."""
    return int(DeadLetter.select().count(database))


def _upsert(database: Database, model: type, key: list[str], **row: object) -> None:
    """Insert a row, or overwrite the one that has the same key."""
    rest = {name: value for name, value in row.items() if name not in key}
    insert = model.insert(**row)  # type: ignore[attr-defined]  # peewee has no type hints
    insert.on_conflict(conflict_target=key, update=rest).execute(database)
