import sqlite3
from collections.abc import Callable
from itertools import pairwise

import pytest
import structlog
from peewee import DatabaseError, OperationalError
from pydantic import TypeAdapter

from messaging.event import Event
from messaging.inbox import Reader, count_dead
from messaging.models import DeadLetter, Inbox
from messaging.wire import START, Place
from messaging.wire import Event as LiveEvent
from runtime.database import SqliteFile
from tests.messaging.conftest import (
    EPOCH,
    NEWER,
    OLDER,
    Clock,
    effects,
    fail_after_commit,
    live,
    replay,
)


class Bench:
    """A reader whose handler writes to the table ``effect`` and then fails as ``fail`` says."""

    def __init__(self, database: SqliteFile, clock: Clock) -> None:
        self.database, self.clock = database, clock
        self.tries: list[tuple[float, int]] = []  # when, and the number of which event
        self.fail: Callable[[int], object] = lambda n: None
        self.reader = self.restarted()

    def restarted(self) -> Reader:
        return Reader(self.database, "numbers", {"counted": self._handle}, self.clock)

    def _handle(self, event: Event) -> None:
        self.tries.append((self.clock.now, event.data["n"]))
        self.database.execute_sql("INSERT INTO effect VALUES (?)", (event.data["n"],))
        self.fail(event.data["n"])

    def receive(self, *events: LiveEvent) -> None:
        """Receive live events, and apply them in one go."""
        for event in events:
            self.reader.receive(event)
        self.reader.apply()

    def pump(self, *kept: LiveEvent, for_s: float) -> None:
        """Turn as an exchange does, with a journal that answers from ``kept`` at once."""
        end = self.clock.now + for_s
        while self.clock.now < end:
            if (wanted := self.reader.want()) is not None:
                follows = wanted
                for event in kept:
                    if event.place > wanted:
                        self.reader.receive(replay(event, follows))
                        follows = event.place
                self.reader.handle_end(kept[-1].place)
            self.reader.apply()
            self.clock.now += 0.01

    @property
    def effects(self) -> list[int]:
        return effects(self.database)

    @property
    def inbox(self) -> list[tuple[str, bytes, int, str, bytes]]:
        columns = Inbox.stream, Inbox.epoch, Inbox.sequence, Inbox.type, Inbox.body
        return list(Inbox.select(*columns).tuples().execute(self.database))


@pytest.fixture
def bench(database: SqliteFile, clock: Clock) -> Bench:
    return Bench(database, clock)


@pytest.fixture
def begun(bench: Bench) -> Bench:
    """A reader at the place (EPOCH, 2)."""
    bench.reader.receive(replay(live(1), START))
    bench.receive(live(2))
    assert bench.reader.place == Place(EPOCH, 2)
    return bench


def fail_at(number: int, error: BaseException) -> Callable[[int], None]:
    def fail(n: int) -> None:
        if n == number:
            raise error

    return fail


def test_events_are_applied_once_and_in_order(begun: Bench) -> None:
    begun.receive(live(3), live(2), live(3), live(4), live(1))
    begun.receive(live(4))
    assert begun.effects == [1, 2, 3, 4]
    assert begun.inbox == [("numbers", EPOCH, n, "counted", live(n).body) for n in (1, 2, 3, 4)]
    assert begun.reader.duplicates == 4
    assert begun.restarted().place == Place(EPOCH, 4)


def test_events_after_a_gap_are_dropped_and_the_missing_wanted_once(begun: Bench) -> None:
    begun.pump(live(2), for_s=0.01)  # nothing is outstanding after this
    begun.receive(live(4))
    assert begun.effects == [1, 2]
    assert begun.reader.want() == Place(EPOCH, 2)
    begun.receive(live(5))
    assert begun.reader.want() is None
    begun.reader.receive(replay(live(3)))
    begun.receive(live(4))
    assert begun.effects == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("event", "follows", "applied"),
    [
        (live(3), Place(EPOCH, 2), True),
        (live(1, NEWER), Place(EPOCH, 2), True),  # the journal says that nothing is between
        (live(9, NEWER), Place(EPOCH, 2), True),
        (live(3), Place(EPOCH, 1), False),
        (live(4), Place(EPOCH, 3), False),
        (live(1, NEWER), Place(EPOCH, 1), False),
        (live(2, NEWER), Place(NEWER, 1), False),
        (live(2), Place(EPOCH, 2), False),
        (live(9, OLDER), Place(EPOCH, 2), False),
    ],
)
def test_a_replayed_event_is_applied_where_it_follows_the_place(
    begun: Bench, event: LiveEvent, follows: Place, applied: bool
) -> None:
    begun.reader.receive(replay(event, follows))
    begun.reader.apply()
    assert begun.reader.place == (event.place if applied else Place(EPOCH, 2))


@pytest.mark.parametrize("event", [live(1, NEWER), live(3, NEWER), live(4)])
def test_a_live_event_of_another_epoch_or_beyond_the_next_is_a_gap(
    begun: Bench, event: LiveEvent
) -> None:
    begun.receive(event)
    assert (begun.reader.place, begun.reader.gaps) == (Place(EPOCH, 2), 1)


def test_the_first_want_carries_zeros_and_the_next_go_every_half_second(
    bench: Bench, clock: Clock
) -> None:
    """The last event of all leaves no gap to see, and neither does an answer that was lost."""
    assert bench.reader.want() == Place(bytes(16), 0)
    clock.now += 0.49
    assert bench.reader.want() is None
    clock.now += 0.01
    assert bench.reader.want() == START
    bench.reader.handle_end(START)
    assert bench.reader.want() is None
    clock.now += 0.5
    assert bench.reader.want() == START


def test_the_end_of_an_answer_starts_the_next_while_there_is_more(bench: Bench) -> None:
    bench.reader.want()
    bench.reader.receive(replay(live(1), START))
    bench.reader.apply()
    assert bench.reader.want() is None
    bench.reader.handle_end(Place(EPOCH, 2))
    assert bench.reader.behind == 1
    assert bench.reader.want() == Place(EPOCH, 1)
    bench.receive(live(2))
    bench.reader.handle_end(Place(EPOCH, 2))
    assert bench.reader.behind == 0
    assert bench.reader.want() is None


def test_a_reader_ahead_of_a_young_journal_waits_for_it(begun: Bench) -> None:
    begun.pump(live(1), for_s=1)
    begun.receive(live(3))
    assert begun.effects == [1, 2, 3]
    assert begun.reader.behind == 0


def test_a_crash_leaves_nothing_of_a_transaction(begun: Bench) -> None:
    """Place, inbox row and effect are one: after a crash they are there together or not at all."""
    begun.fail = fail_at(4, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        begun.receive(live(3), live(4))
    assert (begun.effects, len(begun.inbox)) == ([1, 2], 2)
    begun.fail = lambda n: None
    begun.reader = begun.restarted()
    assert begun.reader.place == Place(EPOCH, 2)
    begun.receive(live(3), live(4))
    assert (begun.effects, len(begun.inbox)) == ([1, 2, 3, 4], 4)


def test_waiting_events_are_applied_in_one_commit(begun: Bench) -> None:
    commits: list[None] = []
    begun.database.listeners.append(lambda: commits.append(None))
    begun.receive(*map(live, range(3, 53)))
    assert (len(begun.effects), len(commits)) == (52, 1)


def test_an_inbox_row_that_is_there_is_overwritten(begun: Bench) -> None:
    """The place alone decides what is applied."""
    row = {"stream": "numbers", "epoch": EPOCH, "sequence": 3, "type": "old", "body": b"old"}
    Inbox.insert(**row, applied_at="").execute(begun.database)
    begun.receive(live(3))
    assert begun.effects == [1, 2, 3]
    assert begun.inbox[2:] == [("numbers", EPOCH, 3, "counted", live(3).body)]


def test_an_event_of_an_unknown_type_is_kept_and_changes_nothing(begun: Bench) -> None:
    begun.receive(live(3, type="renamed"), live(4))
    assert begun.effects == [1, 2, 4]
    assert begun.inbox[2][2:4] == (3, "renamed")
    assert count_dead(begun.database) == 0


def test_the_correlation_id_is_that_of_the_request_in_the_handler(begun: Bench) -> None:
    seen: list[object] = []
    begun.fail = lambda n: seen.append(structlog.contextvars.get_contextvars().get("request_id"))
    body = live(3).body[:-1] + b',"correlationid":"r-1"}'
    begun.receive(live(3, body=body), live(4))
    assert seen == ["r-1", None]


def test_a_failing_event_keeps_those_before_it(begun: Bench) -> None:
    begun.fail = fail_at(4, LookupError("no"))
    begun.receive(live(3), live(4), live(5))
    assert (begun.effects, len(begun.inbox)) == ([1, 2, 3], 3)
    assert begun.reader.place == begun.restarted().place == Place(EPOCH, 3)


@pytest.mark.parametrize("arrives_live", [False, True])
def test_a_failing_event_is_dead_after_8_tries(
    begun: Bench, clock: Clock, arrives_live: bool
) -> None:
    """The first wait is 0.1 s, each other one twice the one before; then the stream goes on."""
    begun.fail = fail_at(3, LookupError("no such thing"))
    if arrives_live:
        begun.pump(live(2), for_s=0.3)
        begun.receive(live(3), live(4))
    begun.pump(live(3), live(4), for_s=14)
    tries = [when for when, n in begun.tries if n == 3]
    waits = [after - before for before, after in pairwise(tries)]
    assert waits == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4], abs=0.05)
    assert begun.effects == [1, 2, 4]
    (dead,) = DeadLetter.select().tuples().execute(begun.database)
    assert dead[1:5] == ("numbers", EPOCH, 3, live(3).body)
    assert "no such thing" in dead[5]
    assert count_dead(begun.database) == 1


def test_tries_are_counted_for_one_event_at_a_time(begun: Bench) -> None:
    """An event that got through in the end leaves all eight tries to the next."""
    failures = {3: 7, 4: 7}

    def fail(n: int) -> None:
        if failures.get(n):
            failures[n] -= 1
            raise LookupError

    begun.fail = fail
    begun.pump(live(3), live(4), for_s=30)
    assert begun.effects == [1, 2, 3, 4]
    assert count_dead(begun.database) == 0


@pytest.mark.parametrize("body", [b"nonsense", b"{}", b"\xff", b'{"type":"counted","data":[]}'])
def test_an_event_that_does_not_validate_is_dead_at_once(begun: Bench, body: bytes) -> None:
    begun.receive(live(3, body=body), live(4))
    assert begun.effects == [1, 2, 4]
    (dead,) = DeadLetter.select(DeadLetter.body, DeadLetter.error).tuples().execute(begun.database)
    assert dead[0] == body
    assert "validation error" in dead[1]


def test_data_that_a_handler_finds_invalid_is_dead_at_once(begun: Bench) -> None:
    begun.fail = lambda n: TypeAdapter(int).validate_python("x") if n == 3 else None
    begun.receive(live(3), live(4))
    assert begun.effects == [1, 2, 4]
    assert count_dead(begun.database) == 1


@pytest.mark.parametrize(
    "outage",
    [
        OperationalError("database or disk is full"),
        OSError("no space left on device"),
        DatabaseError("database disk image is malformed"),
        sqlite3.OperationalError("disk I/O error"),  # so it comes out of a cursor halfway
    ],
    ids=repr,
)
def test_an_outage_kills_no_event(begun: Bench, outage: Exception) -> None:
    """It is tried every second for ever, and no try is counted."""
    begun.fail = fail_at(3, outage)
    begun.pump(live(3), live(4), for_s=20)
    tries = [when for when, _ in begun.tries[2:]]
    assert [after - before for before, after in pairwise(tries)] == pytest.approx(
        [1] * 19, abs=0.05
    )
    assert (begun.effects, count_dead(begun.database)) == ([1, 2], 0)

    begun.fail = fail_at(3, LookupError())
    begun.pump(live(3), live(4), for_s=7)  # seven tries
    assert (begun.effects, count_dead(begun.database)) == ([1, 2], 0)
    begun.fail = lambda n: None
    begun.pump(live(3), live(4), for_s=7)
    assert begun.effects == [1, 2, 3, 4]


def test_an_outage_in_a_handler_keeps_the_events_before_it(begun: Bench) -> None:
    begun.fail = fail_at(4, OSError("no space left on device"))
    begun.pump(live(3), live(4), for_s=3)
    assert begun.effects == [1, 2, 3]
    assert begun.reader.place == Place(EPOCH, 3)


def test_a_commit_that_says_it_failed_may_have_succeeded(
    begun: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The place is read again: what was applied after all is not applied a second time."""
    fail_after_commit(begun.database, monkeypatch)
    begun.receive(live(3))
    begun.clock.now += 2
    begun.receive(live(3), live(4))
    assert begun.effects == [1, 2, 3, 4]
