import sqlite3
from collections.abc import Callable
from itertools import pairwise

import pytest
from peewee import DatabaseError, OperationalError
from pydantic import TypeAdapter
from structlog.testing import capture_logs

from messaging.event import Event, Fact, document
from messaging.follower import EARLY_RUNS
from messaging.inbox import Reader, count_dead, move
from messaging.tables import DeadLetter, Inbox
from messaging.transports.wire import START, Place, Run, digest
from runtime.storage.sqlite import SqliteFile
from tests.messaging.conftest import (
    EPOCH,
    NEWER,
    NOON,
    OLDER,
    Clock,
    effects,
    fail_after_commit,
    live,
    single,
)


class Bench:
    """A reader whose handler writes to the table ``effect`` and then fails as ``fail`` says."""

    def __init__(self, database: SqliteFile, clock: Clock) -> None:
        self.database, self.clock = database, clock
        self.tries: list[tuple[float, int]] = []  # when, and the number of which event
        self.lists: list[int] = []  # how many events the handler was called with
        self.fail: Callable[[int], object] = lambda n: None
        self.reader = self.restarted()

    def restarted(self) -> Reader:
        """Another process's reader, or a copy's."""
        return Reader(self.database, "numbers", {"counted": self._handle}, self.clock)

    def _handle(self, events: list[Event]) -> None:
        self.lists.append(len(events))
        for event in events:
            self.tries.append((self.clock.now, event.data["n"]))
            self.database.execute_sql("INSERT INTO effect VALUES (?)", (event.data["n"],))
            self.fail(event.data["n"])

    def receive(self, *events: Run) -> None:
        """Receive live events, and apply them in one go."""
        for event in events:
            self.reader.receive(event)
        self.reader.apply()

    def end(self, head: Place, follows: Place | None = None) -> None:
        """End an answer of the journal, which holds the stream up to ``head``."""
        self.reader.handle_end(Run("numbers", follows or head, head, []))

    def answer(self, head: Place, after_s: float = 0) -> None:
        """Answer the next want after a while, without an event."""
        while (wanted := self.reader.want()) is None:
            self.clock.now += 0.01
        self.clock.now += after_s
        self.end(head, follows=wanted)

    def pump(self, *kept: Run, for_s: float) -> None:
        """Turn as an exchange does, with a journal that answers from ``kept`` at once."""
        end = self.clock.now + for_s
        while self.clock.now < end:
            if (wanted := self.reader.want()) is not None:
                follows = wanted
                for event in kept:
                    if event.last > wanted:
                        self.reader.receive(event._replace(follows=follows))
                        follows = event.last
                self.end(kept[-1].last, follows)
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
    bench.reader.receive(live(1)._replace(follows=START))
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
    assert begun.inbox == [
        ("numbers", EPOCH, n, "counted", live(n).bodies[0]) for n in (1, 2, 3, 4)
    ]
    assert begun.reader.duplicates == 4
    assert begun.restarted().place == Place(EPOCH, 4)


def test_events_after_a_gap_wait_for_the_missing_ones_which_are_wanted_once(
    begun: Bench,
) -> None:
    begun.pump(live(2), for_s=0.01)  # nothing is outstanding after this
    begun.receive(live(4))
    assert (begun.effects, begun.reader.gaps) == ([1, 2], 1)
    assert begun.reader.want() == Place(EPOCH, 2)
    begun.receive(live(5), live(7), live(5))
    assert begun.reader.want() is None
    begun.receive(live(3))
    assert begun.effects == [1, 2, 3, 4, 5]
    begun.end(Place(EPOCH, 7), follows=Place(EPOCH, 5))
    assert begun.reader.want() == Place(EPOCH, 5)
    begun.receive(live(6))
    assert begun.effects == [1, 2, 3, 4, 5, 6, 7]
    begun.end(Place(EPOCH, 7), follows=Place(EPOCH, 7))
    assert (begun.reader.duplicates, begun.reader.want()) == (0, None)


def test_sixteen_runs_at_most_wait_for_the_missing_ones(begun: Bench) -> None:
    early = [live(n) for n in range(4, 24)]
    begun.receive(*early)
    begun.receive(live(3))
    assert begun.reader.place == Place(EPOCH, 3 + EARLY_RUNS)
    begun.receive(*early)
    assert begun.reader.place == Place(EPOCH, 23)


def story(text: str, *numbers: int, after: bytes = live(2).bodies[0]) -> list[Run]:
    """Events of one writer, each of which names the one before it."""
    runs = []
    for n in numbers:
        place, fact = Place(EPOCH, n), Fact(text, NOON, {"n": n})
        after = document("/test", place, "counted", fact, digest(after))
        runs.append(single("numbers", place, after))
    return runs


@pytest.mark.parametrize("together", [False, True])
def test_an_early_event_of_another_story_is_dropped(begun: Bench, together: bool) -> None:
    """Its writer was restored meanwhile, or it is a copy's."""
    begun.receive(story("lost", 3, 4)[1])
    told = story("new", 3, 4, 5)
    if together:
        begun.receive(joined_run(told))
    else:
        begun.receive(*told)
    assert [body for *_, body in begun.inbox[2:]] == [body for run in told for body in run.bodies]
    assert begun.reader.problem is None


def joined_run(runs: list[Run]) -> Run:
    """These events as one run."""
    return runs[0]._replace(bodies=[body for run in runs for body in run.bodies])


def test_an_early_run_is_cut_where_it_overlaps(begun: Bench) -> None:
    told = story("new", 3, 4, 5, 6)
    begun.receive(joined_run(told[1:]))
    begun.receive(joined_run(told[:2]))
    assert begun.effects == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    "forget",
    [
        Reader.disconnect,
        lambda reader: reader.pause(0),
        lambda reader: reader.handle_end(Run("numbers", reader.want(), Place(EPOCH, 2), [])),
    ],
    ids=["disconnect", "pause", "the journal has none"],
)
def test_early_events_are_forgotten(begun: Bench, forget: Callable[[Reader], None]) -> None:
    begun.receive(live(4))
    forget(begun.reader)
    begun.pump(live(2), for_s=0.01)  # to compare
    begun.receive(live(3))
    assert begun.effects == [1, 2, 3]


@pytest.mark.parametrize(
    ("event", "follows", "applied"),
    [
        (live(3), Place(EPOCH, 2), True),
        (live(1, NEWER), Place(EPOCH, 2), True),  # the journal says that nothing is between
        (live(9, NEWER), Place(EPOCH, 2), False),  # but it may not begin amid an epoch
        (live(3), Place(EPOCH, 1), False),
        (live(4), Place(EPOCH, 3), False),
        (live(1, NEWER), Place(EPOCH, 1), False),
        (live(2, NEWER), Place(NEWER, 1), False),
        (live(2), Place(EPOCH, 2), False),
        (live(9, OLDER), Place(EPOCH, 2), False),
        (live(1, NEWER), Place(NEWER, 0), False),  # as it comes live: a gap may be before it
        (live(3, NEWER), Place(NEWER, 2), False),
    ],
)
def test_an_event_is_applied_where_it_follows_the_place(
    begun: Bench, event: Run, follows: Place, applied: bool
) -> None:
    begun.receive(event._replace(follows=follows))
    assert begun.reader.place == (event.first if applied else Place(EPOCH, 2))


def test_the_first_want_carries_zeros_and_the_next_go_every_half_second(
    bench: Bench, clock: Clock
) -> None:
    """The last event of all leaves no gap to see, and neither does an answer that was lost."""
    assert bench.reader.want() == Place(bytes(16), 0)
    clock.now += 0.49
    assert bench.reader.want() is None
    clock.now += 0.01
    assert bench.reader.want() == START
    bench.end(START)
    clock.now += 0.99  # whose answer that was is not known, and the second may be under way
    assert bench.reader.want() is None
    clock.now += 0.01
    assert bench.reader.want() == START
    bench.end(START)
    clock.now += 0.5
    assert bench.reader.want() == START


def test_the_end_of_an_answer_to_the_want_before_starts_none(bench: Bench, clock: Clock) -> None:
    """An answer that takes longer than the time-out: what was asked twice comes twice."""
    answer = [live(n) for n in (1, 2)]
    head = Place(EPOCH, 9)
    assert bench.reader.want() == START
    clock.now += 0.5
    assert bench.reader.want() == START
    for _ in range(2):
        bench.receive(*(run._replace(follows=START) for run in answer[:1]), *answer[1:])
        bench.end(head, follows=answer[-1].last)
        wanted = bench.reader.want()
        clock.now += 0.1
        assert bench.reader.want() is None
    assert wanted is None
    assert bench.reader.duplicates == 2


def test_while_events_come_there_is_nothing_to_ask(bench: Bench, clock: Clock) -> None:
    bench.reader.want()
    bench.receive(live(1)._replace(follows=START))
    bench.end(Place(EPOCH, 1))
    for n in range(2, 20):
        clock.now += 0.3
        bench.receive(live(n))
        assert bench.reader.want() is None
        assert bench.reader.behind == 0
    clock.now += 0.5
    assert bench.reader.want() == Place(EPOCH, 19)


def test_a_want_waits_as_long_as_answers_take(bench: Bench, clock: Clock) -> None:
    """With 600 ms to and fro, only the first is asked again before it is answered."""
    repeated = 0
    answered_at: list[float] = []
    for _ in range(1000):  # 10 s
        if bench.reader.want() is not None:
            repeated += bool(answered_at)
            answered_at.append(clock.now + 0.6)
        if answered_at and clock.now >= answered_at[0]:
            answered_at.pop(0)
            bench.end(START)
        clock.now += 0.01
    assert repeated == 1
    bench.reader.disconnect()
    assert bench.reader.want() == START


def test_an_answer_that_was_slow_once_delays_no_later_want(bench: Bench, clock: Clock) -> None:
    """The last event of all may be lost after it, and only the next want finds that."""
    bench.answer(START, after_s=0.45)
    answered_at = clock.now
    bench.answer(START)
    assert clock.now - answered_at < 0.1


def test_the_end_of_an_answer_starts_the_next_while_there_is_more(bench: Bench) -> None:
    bench.reader.want()
    bench.reader.receive(live(1)._replace(follows=START))
    bench.reader.apply()
    assert bench.reader.want() is None
    bench.end(Place(EPOCH, 2))
    assert bench.reader.behind == 1
    assert bench.reader.want() == Place(EPOCH, 1)
    bench.receive(live(2))
    bench.end(Place(EPOCH, 2))
    assert bench.reader.behind == 0
    assert bench.reader.want() is None


def test_a_crash_leaves_nothing_of_a_transaction(begun: Bench) -> None:
    """Place, inbox row and effect are one: after a crash they are there together or not at all."""
    begun.fail = fail_at(4, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        begun.receive(live(3), live(4))
    assert (begun.effects, len(begun.inbox)) == ([1, 2], 2)
    begun.fail = lambda n: None
    begun.reader = begun.restarted()
    assert begun.reader.place == Place(EPOCH, 2)
    begun.receive(live(2), live(3), live(4))
    assert (begun.effects, len(begun.inbox)) == ([1, 2, 3, 4], 4)


def run_of(*numbers: int) -> Run:
    first = live(numbers[0])
    return first._replace(bodies=[live(n).bodies[0] for n in numbers])


def test_a_handler_is_given_a_list(begun: Bench) -> None:
    """Its consecutive events, however they came; at most 256 in a transaction.

    An event of a type that nobody knows is kept, and changes nothing.
    """
    commits: list[None] = []
    begun.database.on_commit.append(lambda: commits.append(None))
    begun.lists.clear()
    unknown = live(302, type="renamed")
    begun.receive(run_of(*range(3, 260)), *map(live, range(260, 302)), unknown, live(303))
    assert len(commits) == 2
    begun.receive(live(304))
    assert begun.effects == [n for n in range(1, 305) if n != 302]
    assert begun.lists == [256, 43, 1, 1]
    assert begun.inbox[301][2:4] == (302, "renamed")
    assert count_dead(begun.database) == 0


@pytest.mark.parametrize("first", [1, 2, 3])
def test_a_run_that_overlaps_the_place_is_cut(begun: Bench, first: int) -> None:
    begun.receive(run_of(*range(first, 6)))
    assert begun.effects == [1, 2, 3, 4, 5]
    assert begun.reader.duplicates == 3 - first


def test_a_failing_event_of_a_run_is_found_and_the_others_applied(begun: Bench) -> None:
    """Those before it at once, those behind it when it is dead, in lists again."""
    begun.fail = fail_at(100, LookupError("no"))
    begun.receive(run_of(*range(3, 259)))
    assert begun.effects == [*range(1, 100)]
    begun.pump(run_of(*range(2, 259)), for_s=14)
    assert begun.effects == [n for n in range(1, 259) if n != 100]
    assert count_dead(begun.database) == 1
    assert max(begun.lists[-8:]) >= 64


def test_an_inbox_row_that_is_there_is_overwritten(begun: Bench) -> None:
    """The place alone decides what is applied."""
    row = {"stream": "numbers", "epoch": EPOCH, "sequence": 3, "type": "old", "body": b"old"}
    Inbox.insert(**row, applied_at="").execute(begun.database)
    begun.receive(live(3))
    assert begun.effects == [1, 2, 3]
    assert begun.inbox[2:] == [("numbers", EPOCH, 3, "counted", live(3).bodies[0])]


@pytest.mark.parametrize("error", [LookupError("no"), OSError("no space left on device")])
def test_a_failing_event_keeps_those_before_it(begun: Bench, error: Exception) -> None:
    begun.fail = fail_at(4, error)
    begun.pump(live(3), live(4), live(5), for_s=3)
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
    waits = [after - before for before, after in pairwise(sorted({*tries}))]
    assert waits == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4], abs=0.05)
    assert begun.effects == [1, 2, 4]
    (dead,) = DeadLetter.select().tuples().execute(begun.database)
    assert dead[1:5] == ("numbers", EPOCH, 3, live(3).bodies[0])
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


def test_a_commit_that_says_it_failed_may_have_succeeded(
    begun: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The place is read again: what was applied after all is not applied a second time."""
    fail_after_commit(begun.database, monkeypatch)
    begun.receive(live(3), live(4))
    begun.clock.now += 2
    begun.receive(live(3), live(4), live(5))
    assert begun.effects == [1, 2, 3, 4, 5]


# Two readers of one database, or one whose commit was answered with an error


@pytest.mark.parametrize("failure", ["poisoned", "fails once"])
def test_what_another_copy_has_applied_is_not_applied_again(begun: Bench, failure: str) -> None:
    """A copy that slept with received events finds the place moved on, and drops them all."""
    events = live(3), live(4, body=b"poison" if failure == "poisoned" else b""), live(5)
    if failure == "fails once":
        begun.fail = fail_at(4, LookupError())
    slept = begun.restarted()
    slept.receive(live(2))
    for event in events:
        slept.receive(event)
    begun.receive(*events)
    begun.fail = lambda n: None
    begun.pump(live(2), *events, for_s=1)
    assert begun.restarted().place == Place(EPOCH, 5)
    done = begun.effects
    for _ in range(3):
        slept.apply()
    assert begun.effects == done == sorted(set(done))
    assert slept.place == begun.restarted().place == Place(EPOCH, 5)


def test_what_another_copy_has_set_aside_moves_no_place_back(begun: Bench) -> None:
    """A copy that slept with one received event, which is dead, finds the place beyond it."""
    events = live(3, body=b"rubbish"), live(4)
    slept = begun.restarted()
    slept.receive(live(2))
    slept.receive(events[0])
    begun.pump(live(2), *events, for_s=1)
    assert begun.restarted().place == Place(EPOCH, 4)
    slept.apply()
    assert begun.restarted().place == Place(EPOCH, 4)
    assert begun.database.execute_sql("SELECT count(*) FROM dead_letter").fetchone() == (1,)


# What must not be skipped in silence


def test_a_hole_within_an_epoch_stops_its_stream(begun: Bench) -> None:
    """Until somebody says, by the command that it names, that it is to go on behind that."""
    with capture_logs() as logs:
        begun.pump(live(2), live(7), live(8), for_s=3)
    assert begun.effects == [1, 2]
    problem = begun.reader.problem or ""
    assert f"from {Place(EPOCH, 3)} to {Place(EPOCH, 6)}" in problem
    assert f"python -m messaging place numbers {Place(EPOCH, 6)}" in problem
    assert [entry["log_level"] for entry in logs] == ["error"]
    with begun.database.write():
        move(begun.database, "numbers", Place(EPOCH, 2), Place(EPOCH, 6))
    begun.pump(live(2), live(7), live(8), for_s=1)
    assert (begun.effects, begun.reader.problem) == ([1, 2, 7, 8], None)


def test_a_stopped_stream_is_asked_for_no_more_than_before(begun: Bench) -> None:
    asked = 0
    for _ in range(100):  # in a second
        if (wanted := begun.reader.want()) is not None:
            asked += 1
            begun.reader.receive(live(7)._replace(follows=wanted))
            begun.end(live(9).first)
        begun.clock.now += 0.01
    assert asked <= 3


def test_a_hole_that_is_filled_is_none_any_more(begun: Bench) -> None:
    begun.pump(live(2), live(4), for_s=1)
    assert begun.reader.problem
    begun.pump(*(live(n) for n in (2, 3, 4)), for_s=1)
    assert begun.effects == [1, 2, 3, 4]
    assert begun.reader.problem is None


@pytest.mark.parametrize("epoch", [EPOCH, NEWER])
def test_a_new_reader_begins_where_the_journal_does(bench: Bench, epoch: bytes) -> None:
    with capture_logs() as logs:
        bench.pump(live(7, epoch), live(8, epoch), for_s=1)
    assert (bench.effects, bench.reader.problem) == ([7, 8], None)
    missing = [entry for entry in logs if entry["event"] == "events are missing"]
    assert [(entry["first"], entry["last"]) for entry in missing] == [
        (str(Place(epoch, 1)), str(Place(epoch, 6)))
    ]


def test_what_is_dead_is_compared_as_what_was_applied(begun: Bench) -> None:
    """A copy of the writer's database told it, and the journal holds another event there."""
    begun.pump(live(1), live(2), live(3, body=b"rubbish"), for_s=1)
    assert begun.restarted().place == Place(EPOCH, 3)
    begun.receive(live(3))
    assert "another event than the one applied" in (begun.reader.problem or "")


def test_a_stray_event_stops_it_only_until_the_journal_was_asked(begun: Bench) -> None:
    """A copy of the writer's database tells it; the event at our place was given up meanwhile."""
    kept = [live(1), live(2), live(3, body=b"rubbish"), live(4)]
    begun.pump(*kept[:3], for_s=1)
    begun.database.execute_sql("DELETE FROM dead_letter")
    begun.receive(OTHERS[0])
    assert "another event than the one applied" in (begun.reader.problem or "")
    begun.pump(*kept, for_s=1)
    assert (begun.effects, begun.reader.problem) == ([1, 2, 4], None)


def test_a_new_epoch_is_gone_on_with_and_said(begun: Bench) -> None:
    """Its writer has a new database; what the journal lost of the older one nobody has."""
    with capture_logs() as logs:
        begun.pump(live(2), live(1, NEWER), for_s=1)
    assert (begun.effects, begun.reader.problem) == ([1, 2, 1], None)
    assert [entry["after"] for entry in logs if entry["event"] == "a new epoch"] == [
        str(Place(EPOCH, 2))
    ]


@pytest.mark.parametrize("head", [Place(EPOCH, 1), Place(OLDER, 9)])
def test_a_journal_that_stands_still_below_our_place_is_a_problem(
    begun: Bench, head: Place
) -> None:
    """It was restored with its writer, or that has a database made under an older clock."""
    began = begun.clock.now
    while begun.clock.now < began + 5:
        assert begun.reader.problem is None
        begun.answer(head)
    begun.answer(head)
    assert str(head) in (begun.reader.problem or "")
    begun.answer(Place(EPOCH, 2))
    assert begun.reader.problem is None


def test_a_few_answers_from_below_our_place_are_no_problem(begun: Bench) -> None:
    """Over a bad line the writer's event takes its time, and what the journal says comes late."""
    head = Place(EPOCH, 1)
    for _ in range(4):
        begun.answer(head)
        begun.clock.now += 5
    for _ in range(9):
        begun.end(head)  # nothing was asked
    assert begun.reader.problem is None


def test_a_journal_that_is_being_filled_again_is_no_problem(begun: Bench) -> None:
    begun.receive(*(live(n) for n in range(3, 100)))
    for n in range(1, 100):
        begun.end(Place(EPOCH, n))
        begun.clock.now += 1
    begun.end(START)
    begun.clock.now += 60
    begun.end(START)
    assert begun.reader.problem is None
    begun.receive(live(100))
    assert (begun.effects, begun.reader.behind) == ([*range(1, 101)], 0)


OTHERS = [live(n, body=live(n, type="other").bodies[0]) for n in range(1, 9)]


@pytest.mark.parametrize("restarts", [False, True])
def test_another_history_that_has_passed_our_place_is_found_at_the_start(
    begun: Bench, restarts: bool
) -> None:
    """And when the broker comes back: nothing is applied before ours was seen."""
    if restarts:
        begun.reader = begun.restarted()
    else:
        begun.reader.disconnect()
    begun.receive(OTHERS[2])
    begun.pump(*OTHERS, for_s=2)
    assert begun.effects == [1, 2]
    assert str(Place(EPOCH, 2)) in (begun.reader.problem or "")
    begun.pump(*(live(n) for n in range(1, 4)), for_s=1)
    assert (begun.effects, begun.reader.problem) == ([1, 2, 3], None)


@pytest.mark.parametrize("is_one_run", [False, True])
def test_an_event_under_a_number_that_was_applied_is_no_repetition(
    begun: Bench, is_one_run: bool
) -> None:
    """Its writer was restored and the journal with it, or two run on copies of one database."""
    forked = run_of(1, 2, 3)._replace(bodies=[*OTHERS[0].bodies, *run_of(2, 3).bodies])
    begun.receive(*([forked] if is_one_run else [live(2), OTHERS[0]]))
    assert str(Place(EPOCH, 1)) in (begun.reader.problem or "")
    begun.receive(live(3))
    assert begun.effects == [1, 2]


def test_where_ours_was_archived_there_is_nothing_to_compare(begun: Bench) -> None:
    """By the journal, or by the inbox: what follows is applied."""
    begun.reader = begun.restarted()
    begun.pump(*(live(n) for n in (2, 3)), for_s=1)
    begun.database.execute_sql("DELETE FROM inbox")
    begun.reader = begun.restarted()
    begun.pump(*(live(n) for n in (3, 4)), for_s=1)
    begun.reader = begun.restarted()
    begun.pump(live(1, NEWER), for_s=1)
    assert (begun.effects, begun.reader.problem) == ([1, 2, 3, 4, 1], None)


def test_what_comes_during_a_pause_is_tried_when_that_is_over(begun: Bench) -> None:
    """However often it is sent meanwhile: the eighth try comes 12.7 s after the first."""
    begun.fail = fail_at(3, LookupError())
    began = begun.clock.now
    begun.receive(live(3))
    while begun.reader.place < Place(EPOCH, 3):
        begun.clock.now += 0.05
        begun.receive(live(3))
    assert 12.7 <= begun.clock.now - began < 14


def test_behind_counts_a_new_epoch_from_its_beginning(begun: Bench) -> None:
    begun.end(Place(NEWER, 5))
    assert begun.reader.behind == 5
    begun.end(Place(OLDER, 5))
    assert begun.reader.behind == 0
