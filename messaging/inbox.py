"""The inbox: each event of a stream is applied once and in order, with the reader's new place."""

import time
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import groupby
from operator import attrgetter

import structlog
from peewee import OperationalError
from pydantic import ValidationError

from messaging.event import Event, log_run
from messaging.follower import Follower, Received
from messaging.tables import Cursor, DeadLetter
from messaging.transports.wire import RUN_EVENTS, START, Place, Run
from runtime.process.clock import age_s, timestamp
from runtime.storage.database import Database, is_outage

log = structlog.get_logger(__name__)

MAX_TRIES = 8
FIRST_RETRY_S = 0.1  # doubled by each try: the eighth comes 12.7 s after the first
OUTAGE_RETRY_S = 1.0
BELOW_S = 5.0  # how long a journal that is being filled may stand still below our place,
BELOW_ANSWERS = 5  # and the least number of such answers, since the line may be bad

NOTE = """INSERT INTO inbox (stream, epoch, sequence, type, body, applied_at)
          VALUES {}
          ON CONFLICT (stream, epoch, sequence) DO UPDATE
          SET type = excluded.type, body = excluded.body, applied_at = excluded.applied_at"""
MOVE = """INSERT INTO cursor (stream, epoch, sequence) VALUES (?, ?, ?)
          ON CONFLICT (stream) DO UPDATE
          SET epoch = excluded.epoch, sequence = excluded.sequence
          WHERE cursor.epoch = ? AND cursor.sequence = ?"""

KEPT = """SELECT sequence, body FROM inbox
          WHERE stream = ? AND epoch = ? AND sequence BETWEEN ? AND ? UNION ALL
          SELECT sequence, body FROM dead_letter
          WHERE stream = ? AND epoch = ? AND sequence BETWEEN ? AND ?"""

# The kinds of problems:
HOLE, BROKEN, OTHER, BELOW, DOUBT = "hole", "broken", "other", "below", "doubt"

Handlers = Mapping[str, Callable[[list[Event]], None]]
# Why a stream cannot begin with these events; empty if that is not known yet, None if it can.
Doubt = Callable[[str, Sequence[Received]], str | None]


class Reader(Follower):
    """One stream as one service reads it. The place alone decides what is applied.

    ``handlers`` maps event types to functions of a list of events; events of other types are noted,
    and change nothing.
    At its start, and whenever the broker was away, a reader asks the journal for the event at its
    place, and applies nothing before it has seen that this is the event that it applied.
    It begins a stream only if there is no ``doubt`` about its first events.
    """

    def __init__(
        self,
        database: Database,
        stream: str,
        handlers: Handlers,
        clock: Callable[[], float] = time.monotonic,
        doubt: Doubt | None = None,
    ) -> None:
        super().__init__(stream, None, clock)
        self.applied = 0
        self._database = database
        self._handlers = handlers
        self._doubt = doubt
        self._failing: Place | None = None
        self._tries = 0
        self._at_once = RUN_EVENTS
        self._oldest: Received | None = None  # of those received and not applied
        self._is_compared = False
        self._other: Place | None = None  # where an event came that differs from ours
        # A head below our place, since when the journal has had it, and how many answers said so.
        self._below: tuple[Place, float, int] | None = None
        self._problems: dict[str, str] = {}

    @property
    def problem(self) -> str | None:
        """Why this stream does not go on, and what to do about it."""
        return "; ".join(self._problems.values()) or None

    def _stop(self, kind: str, reason: str) -> None:
        problem = f"the stream {self.stream} stopped, {reason}"
        if self._problems.get(kind) != problem:
            self._problems[kind] = problem
            log.error(problem)

    def _go_on(self, *kinds: str) -> None:
        for kind in kinds:
            if self._problems.pop(kind, None):
                log.info("the stream goes on", stream=self.stream)

    def load_place(self) -> Place:
        """The place of the last event that was applied or set aside."""
        return place_of(self._database, self.stream)

    def disconnect(self) -> None:
        """Forget what is only true while the journal answers."""
        super().disconnect()
        self._is_compared = False
        self._problems.pop(DOUBT, None)

    def want(self) -> Place | None:
        """The place to ask the journal about, if it is time."""
        if self._problems and not self._received and self.place != (place := self.load_place()):
            self.place, self._is_compared = place, False  # an operator or another copy has moved it
            self._other = None
            self._go_on(*tuple(self._problems))
        return super().want()

    def _asked(self) -> Place:
        tip = self._tip()
        if tip.sequence and tip == self.place and not self._is_compared:
            epoch, sequence = self._other or tip
            return Place(epoch, sequence - 1)
        return tip

    def receive(self, run: Run) -> None:
        """Keep events that follow, once the journal is known to hold the event at our place."""
        place = self.place
        if run.first > place:
            if OTHER in self._problems:
                return
            before = Place(place.epoch, place.sequence - 1)
            if not self._is_compared and place.sequence and run.follows != before:
                return
            self._is_compared = True  # nothing to compare with: it was archived
        super().receive(run)

    def compare(self, known: list[tuple[Place, bytes]]) -> bool:
        """Whether events at known places are those that were applied or set aside; if not, stop."""
        (epoch, first), (_, last) = known[0][0], known[-1][0]
        known_here = self.stream, epoch, first, last
        kept = dict(self._database.run(KEPT, *known_here, *known_here).fetchall())
        for place, body in known:
            if bytes(kept.get(place.sequence, body)) != body:
                self._is_compared, self._other = False, place
                self._stop(
                    OTHER,
                    f"another event than the one applied is sent under {place}: its writer "
                    "was restored, or runs twice; docs/operations.md says how to go on",
                )
                return False
            if place == self._other:  # the event that differed was not the journal's
                self._other = None
                self._go_on(OTHER)
        if self._other is None and known[0][0] <= self.place <= known[-1][0]:
            self._is_compared = True
        return self._other is None

    def skip(self, first: Place, last: Place) -> bool:
        """Begin in the middle of a stream only where nothing of it was applied yet."""
        if self._tip().sequence == 0:
            return super().skip(first, last)
        self._stop(
            HOLE,
            f"the journal has no events from {first} to {last}: restore it, or go on without "
            f"them: {self._command(last)}",
        )
        return False

    def _command(self, place: Place) -> str:
        """The command that lets the stream go on after a place."""
        return f"python -m {self._database.packages[-1]} place {self.stream} {place}"

    def handle_end(self, end: Run) -> None:
        """The end of the journal's answer; the stream stops if the head stays below our place."""
        is_new = self.is_answered_by(end)
        super().handle_end(end)
        now, head = self._clock(), end.first
        if head <= self.place:  # no event is in doubt any more: the journal is another one
            self._go_on(DOUBT)
        if not START < head < self.place:
            self._below = None
            self._go_on(BELOW)
        elif is_new:  # and not an answer from long ago
            if self._below is None or self._below[0] != head:
                self._below = head, now, 0
            _, since, answers = self._below
            self._below = head, since, answers + 1
            if answers + 1 >= BELOW_ANSWERS and now - since >= BELOW_S:
                self._stop(
                    BELOW,
                    f"the journal ends at {head}, and {self.place} was applied: it was restored "
                    "with its writer, or that has a database made under an older clock; "
                    "docs/operations.md says how to go on",
                )

    def apply(self) -> None:
        """Apply the received events, as one list in one transaction.

        If that fails, the transaction keeps nothing, and they are applied one at a time; the list
        doubles after each success. An event that fails alone is tried again later, or set aside. A
        try during an outage of the database does not count.
        """
        received = self._admitted(self.take())
        while (events := self._due(received)) and not self.is_paused:
            self._commit(events[: self._at_once])
            received = events
        if received:
            self._oldest = next((each for each in received if self._is_waiting(each)), None)

    @property
    def oldest_age_s(self) -> float | None:
        """The age of the oldest event not applied, by the wall clock.

        0 if there is none; None while it is not known which it is.
        """
        for message in (self._oldest, *self._received[:1]):
            if message and self._is_waiting(message):
                with suppress(ValueError):  # a malformed event will be dead at once
                    return age_s(Event.parse(self.stream, message.place, message.body).time)
        return None if self.behind != 0 else 0.0

    def _is_waiting(self, message: Received) -> bool:
        return self._place is None or message.place > self._place

    def _admitted(self, events: list[Received]) -> list[Received]:
        """The events that may be applied: none while the stream has not begun and is in doubt."""
        if events and self._doubt and self.place == START:
            if (reason := self._doubt(self.stream, events)) is not None:
                if reason:
                    self._stop(DOUBT, reason)
                return []
            self._go_on(DOUBT)
        return events

    def _due(self, events: list[Received]) -> list[Received]:
        """The events above our place, if they follow it: the place may have moved meanwhile."""
        due = events[bisect_right(events, self.place, key=attrgetter("place")) :]
        return due if due and due[0].follows == self.place else []

    def _commit(self, events: list[Received]) -> None:
        try:
            self._apply(events)
        except Exception as error:
            self._is_stale = True  # the database knows what became of the commit
            self._at_once = 1
            if is_outage(error):
                self._wait_for_database(error)
            elif len(events) == 1:
                self._fail(events[0], error)
        else:
            self._at_once = min(2 * self._at_once, RUN_EVENTS)
            self._move_on(events[-1].place)
            self.applied += len(events)

    def _apply(self, events: list[Received]) -> None:
        """Handlers, inbox rows and the new place, all in one transaction."""
        parsed = [Event.parse(self.stream, place, body) for _, place, body in events]
        with self._database.write():
            handle(self._database, self._handlers, parsed, [each.body for each in events])
            move(self._database, self.stream, self.place, events[-1].place)
        ids = (event.correlation_id for event in parsed)
        first, last = events[0].place, events[-1].place
        log_run(log, "applied", self.stream, first, last, len(events), ids)

    def _move_on(self, place: Place) -> None:
        self.place = place
        self._go_on(HOLE, BROKEN)

    def _wait_for_database(self, error: Exception) -> None:
        log.error("events wait for the database", stream=self.stream, error=repr(error))
        self.pause(OUTAGE_RETRY_S)

    def _fail(self, event: Received, error: Exception) -> None:
        if not self._due([event]):
            return  # another copy has dealt with it
        if self._give_up(event.place, error):
            try:
                self._bury(event, error)
            except Exception as outage:
                self._wait_for_database(outage)

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

    def _bury(self, event: Received, error: Exception) -> None:
        with self._database.write():
            DeadLetter.insert(
                stream=self.stream,
                **event.place._asdict(),
                body=event.body,
                error=repr(error),
                died_at=timestamp(),
            ).execute(self._database)
            move(self._database, self.stream, self.place, event.place)
        log.error("event is dead", stream=self.stream, place=str(event.place), error=repr(error))
        self._move_on(event.place)


def place_of(database: Database, stream: str) -> Place:
    """The place of the last event of a stream that this database has applied or set aside."""
    row = Cursor.select().where(Cursor.stream == stream).first(database)
    return Place(row.epoch, row.sequence) if row else START


def move(database: Database, stream: str, old: Place, new: Place) -> None:
    """Move on in the open transaction; `OperationalError` if another copy has done so."""
    if not database.run(MOVE, stream, *new, *old).rowcount:
        raise OperationalError(f"another copy has moved on from {old}")


def handle(
    database: Database, handlers: Handlers, events: list[Event], bodies: list[bytes]
) -> None:
    """Note events in the inbox, and call the handlers, all in the open transaction.

    Consecutive events with one handler are one list.
    """
    applied_at = timestamp()
    rows = [
        (event.stream, *event.place, event.type, body, applied_at)
        for event, body in zip(events, bodies, strict=True)
    ]
    database.run_rows(NOTE, rows)
    for handler, some in groupby(events, lambda event: handlers.get(event.type)):
        if handler:
            handler(list(some))


def count_dead(database: Database) -> int:
    """How many events are dead."""
    return int(DeadLetter.select().count(database))
