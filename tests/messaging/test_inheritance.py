"""What a new database takes over from the journal before it applies the first event."""

from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

import pytest
from peewee import OperationalError

from messaging.event import Event, Fact, document, journal_begun
from messaging.exchange import Exchange
from messaging.inbox import place_of
from messaging.outbox import Outbox
from messaging.recovery import set_place
from messaging.transports.forwarder import Transport
from messaging.transports.wire import (
    BEGUN,
    JOURNAL,
    START,
    Ack,
    Message,
    Place,
    Replay,
    Run,
    digest,
)
from runtime.process.clock import timestamp
from runtime.storage.sqlite import SqliteFile
from tests.messaging.conftest import Clock, effects, single

HOUR = timedelta(hours=1)
NOW = datetime.now(UTC)


def epoch(made: datetime) -> bytes:
    """The epoch of a database that was made then."""
    return (int(made.timestamp()) * 10**9).to_bytes(8, "big") + bytes(8)


FIRST, SECOND = epoch(NOW - 5 * HOUR), epoch(NOW - 3 * HOUR)
SHOP = epoch(NOW - 6 * HOUR)


class Journal:
    """A transport with a journal behind it that answers at once."""

    address = "here"

    def __init__(self, begun: datetime | None) -> None:
        self.up, self.malformed = True, 0
        self.begun = begun
        self.kept: dict[str, list[Run]] = defaultdict(list)
        self.arrived: deque[Message] = deque()
        self.asked = 0

    def tell(self, stream: str, place: Place, n: int, at: datetime = NOW, type: str = "") -> None:
        body = document("/test", place, type or f"{stream} told", Fact(n, timestamp(at), {"n": n}))
        self.kept[stream].append(single(stream, place, body))

    def fetch(self, stream: str, after: Place) -> None:
        self.asked += 1
        if stream == JOURNAL:
            if self.begun:
                told = journal_begun("/test", timestamp(self.begun))
                self.arrived.append(Replay("me", Run(JOURNAL, after, BEGUN, [told])))
            return
        follows = after
        for run in [run for run in self.kept[stream] if run.first > after][:2]:
            self.arrived.append(Replay("me", run._replace(follows=follows)))
            follows = run.first
        head = self.kept[stream][-1].first if self.kept[stream] else START
        self.arrived.append(Replay("me", Run(stream, follows, head, [])))

    def publish(self, run: Run) -> None:
        for place, body in run.events():
            if not self.kept[run.stream] or place > self.kept[run.stream][-1].first:
                self.kept[run.stream].append(single(run.stream, place, body))
        self.arrived.append(Ack(run.stream, run.last, digest(run.bodies[-1])))

    def poll(self, timeout_s: float) -> list[Message]:
        return [self.arrived.popleft() for _ in range(len(self.arrived))]

    def wake(self) -> None: ...


class Desk:
    """A service that acts once on each order, and tells so; ``effect`` has what was taken over,
    as a negative number, and what was acted on.
    """

    def __init__(self, database: SqliteFile, journal: Journal, clock: Clock) -> None:
        self.database, self.clock = database, clock
        self.outbox = Outbox(database, "acts", "/desk")
        self.failures: dict[int, Exception] = {}  # of what is taken over
        self.exchange = Exchange(
            database,
            self.outbox,
            {"orders": {"orders told": self._act}},
            cast(Transport, journal),
            clock,
            inherits={"acts told": self._take_over},
        )

    def _take_over(self, events: list[Event]) -> None:
        for event in events:
            if error := self.failures.get(event.data["n"]):
                raise error
            self._note(-event.data["n"])

    def _act(self, events: list[Event]) -> None:
        for n in (event.data["n"] for event in events):
            if -n not in effects(self.database):
                self._note(n)
                self.outbox.emit("acts told", [Fact(n, timestamp(), {"n": n})])

    def _note(self, n: int) -> None:
        self.database.execute_sql("INSERT INTO effect VALUES (?)", (n,))

    def tell(self, n: int) -> None:
        with self.database.write():
            self.outbox.emit("acts told", [Fact(n, timestamp(), {"n": n})])

    def run(self, for_s: float = 3) -> list[int]:
        """Turn for so long, and give the effects."""
        for _ in range(int(for_s * 20)):
            self.exchange.step()
            self.clock.now += 0.05
        return effects(self.database)

    @property
    def problem(self) -> str:
        return str(self.exchange.status().get("problem", ""))


Make = Callable[[Journal], Desk]


@pytest.fixture
def desk(tmp_path: Path, clock: Clock) -> Iterator[Make]:
    """Make a service on a new database; again, and it is the same service, started again."""
    database = SqliteFile(tmp_path / "desk.db", "messaging")
    database.open()
    database.execute_sql("CREATE TABLE effect (n INTEGER)")
    yield lambda journal: Desk(database, journal, clock)
    database.close()


@pytest.fixture
def journal() -> Journal:
    """One that is older than all, with five orders of which three were acted on, by two databases,
    each of which told something else as well.
    """
    journal = Journal(begun=NOW - 10 * HOUR)
    for n in range(1, 6):
        journal.tell("orders", Place(SHOP, n), n, NOW - 4 * HOUR)
    for place, n in ((Place(FIRST, 1), 1), (Place(FIRST, 2), 100), (Place(FIRST, 3), 2)):
        journal.tell("acts", place, n)
    for place, n in ((Place(SECOND, 1), 3), (Place(SECOND, 2), 200)):
        journal.tell("acts", place, n)
    return journal


TAKEN = [-1, -100, -2, -3, -200]


def test_what_was_told_before_is_taken_over_and_then_the_rest_done(
    desk: Make, journal: Journal
) -> None:
    service = desk(journal)
    assert service.run() == [*TAKEN, 4, 5]
    assert [run.first.sequence for run in journal.kept["acts"]] == [1, 2, 3, 1, 2, 1, 2]
    assert service.problem == ""
    assert service.exchange.status()["inbox_behind"] == {"orders": 0}
    assert service.exchange.status()["dead"] == 0
    assert desk(journal).run() == [*TAKEN, 4, 5]


def test_own_events_are_where_it_ends(desk: Make, journal: Journal) -> None:
    """It may have told something before it began, and meanwhile."""
    service = desk(journal)
    own = service.outbox.head().place.epoch
    for _ in range(3):
        service.tell(7)
    assert service.run() == [*TAKEN, 4, 5]
    told = [run.first.sequence for run in journal.kept["acts"] if run.first.epoch == own]
    assert told == [1, 2, 3, 4, 5]


def test_it_goes_on_where_it_was_interrupted(desk: Make, journal: Journal) -> None:
    service = desk(journal)
    service.failures[2] = OperationalError("disk full")
    assert service.run() == TAKEN[:2]
    assert desk(journal).run() == [*TAKEN, 4, 5]


def test_what_cannot_be_taken_over_is_not_done_again_without_a_word(
    desk: Make, journal: Journal
) -> None:
    """Where an event fails: it may be the one that tells of what would be done again."""
    service = desk(journal)
    service.failures[100] = LookupError()
    assert service.run(30) == TAKEN[:1]
    assert "the stream acts stopped" in service.problem
    assert "python -m messaging place acts" in service.problem
    assert service.exchange.status()["dead"] == 0
    service.failures.clear()  # mended
    assert service.run(10) == [*TAKEN, 4, 5]
    assert service.problem == ""


def test_one_can_go_on_without_what_cannot_be_taken_over(desk: Make, journal: Journal) -> None:
    service = desk(journal)
    service.failures[2] = LookupError()
    service.run(30)
    assert f"place acts {Place(FIRST, 3)}" in service.problem
    set_place(service.database, "acts", Place(FIRST, 3), back=False)
    assert service.run(10) == [-1, -100, -3, -200, 2, 4, 5]
    assert service.problem == ""


def test_a_hole_in_what_is_taken_over_stops_it(desk: Make, journal: Journal) -> None:
    del journal.kept["acts"][1]
    service = desk(journal)
    assert service.run() == TAKEN[:1]
    assert f"no events from {Place(FIRST, 2)} to {Place(FIRST, 2)}" in service.problem
    set_place(service.database, "acts", Place(FIRST, 2), back=False)
    assert service.run() == [-1, *TAKEN[2:], 4, 5]


def decided_by_hand(service: Desk) -> list[int]:
    """What is done after the word that the problem asks for."""
    before = service.run()
    assert "cannot know" in service.problem
    assert f"python -m messaging place orders {START}" in service.problem
    assert all(n < 0 for n in before)
    set_place(service.database, "orders", START, back=False)
    after = service.run()
    assert service.problem == ""
    return after


YOUNGER = [-3, -200, 1, 2, 4, 5]  # what only a younger database has told, and then the rest


@pytest.mark.parametrize(
    ("age", "lost", "done"),
    [
        pytest.param(10 * HOUR, 2, [*TAKEN[2:], 1, 4, 5], id="its beginning was cut"),
        pytest.param(HOUR, 5, [1, 2, 3, 4, 5], id="it is younger, and knows of nothing"),
        pytest.param(4 * HOUR - timedelta(minutes=1), 3, YOUNGER, id="it was lost meanwhile"),
        pytest.param(HOUR, 3, YOUNGER, id="it was lost after all was taken over"),
    ],
)
def test_a_journal_that_cannot_know_leaves_it_to_somebody(
    desk: Make, journal: Journal, age: timedelta, lost: int, done: list[int]
) -> None:
    """All that there is is taken over meanwhile; and no restart decides it."""
    journal.begun = NOW - age
    del journal.kept["acts"][:lost]
    desk(journal).run()
    assert decided_by_hand(desk(journal)) == done


def test_a_journal_that_was_filled_again_by_a_database_older_than_the_events_knows_all(
    desk: Make, journal: Journal
) -> None:
    journal.begun = NOW - HOUR
    assert desk(journal).run() == [*TAKEN, 4, 5]


def test_a_journal_that_is_lost_meanwhile_knows_nothing(desk: Make, journal: Journal) -> None:
    service = desk(journal)
    service.failures[2] = OperationalError("disk full")
    assert service.run() == TAKEN[:2]
    another = Journal(begun=NOW)
    another.kept["orders"] = journal.kept["orders"]
    assert decided_by_hand(desk(another)) == [*TAKEN[:2], 2, 3, 4, 5]


def test_events_younger_than_the_database_need_no_word_either(desk: Make, journal: Journal) -> None:
    """However young the journal is: no other database can have acted on them."""
    journal.kept.clear()
    journal.begun = NOW + 2 * HOUR
    for n in (1, 2):
        journal.tell("orders", Place(SHOP, n), n, NOW + HOUR)
    assert desk(journal).run() == [1, 2]


def test_a_journal_that_has_only_its_own_events_any_more(desk: Make, journal: Journal) -> None:
    """Filled again after a loss: it has taken over all, and asks what is older than itself."""
    del journal.kept["orders"][:]
    service = desk(journal)
    service.tell(7)
    assert service.run() == TAKEN
    own = service.outbox.head().place.epoch
    journal.kept["acts"] = [run for run in journal.kept["acts"] if run.first.epoch == own]
    journal.begun = NOW
    service = desk(journal)
    assert service.run() == TAKEN
    assert service.exchange.status()["inbox_behind"] == {"orders": 0}
    journal.tell("orders", Place(SHOP, 1), 1, NOW - 4 * HOUR)
    assert decided_by_hand(service) == TAKEN


def test_a_first_start_needs_no_word(desk: Make, journal: Journal) -> None:
    """However late it is; what was told before the journal was heard is no reason to doubt."""
    journal.kept["acts"].clear()
    service = desk(journal)
    service.tell(7)
    assert service.run() == [1, 2, 3, 4, 5]
    assert len(journal.kept["acts"]) == 6


def test_a_database_that_has_applied_something_takes_nothing_over(
    desk: Make, journal: Journal
) -> None:
    service = desk(journal)
    set_place(service.database, "orders", Place(SHOP, 4), back=False)
    assert service.run() == [5]
    assert place_of(service.database, "acts") == START


def test_nothing_is_applied_before_the_journal_has_said_its_age(
    desk: Make, journal: Journal
) -> None:
    begun, journal.begun = journal.begun, None
    service = desk(journal)
    assert service.run() == TAKEN
    assert (service.problem, service.exchange.status()["inbox_behind"]) == ("", {"orders": None})
    assert journal.asked <= 9  # what is taken over is not asked for meanwhile
    journal.begun = begun
    assert service.run() == [*TAKEN, 4, 5]


def test_another_journal_is_asked_again(desk: Make, journal: Journal) -> None:
    """While the broker was away, its journal may have been replaced by a younger one."""
    journal.kept["acts"].clear()
    orders = journal.kept["orders"][:]
    journal.kept["orders"].clear()
    service = desk(journal)
    assert service.run() == []
    journal.up = False
    service.run(0.1)
    journal.up, journal.begun = True, NOW
    journal.kept["orders"] = orders
    assert decided_by_hand(service) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("is_noticed", [True, False])
def test_a_doubt_ends_with_the_journal_that_gave_rise_to_it(
    desk: Make, journal: Journal, is_noticed: bool
) -> None:
    """Where the orders are lost as well, there is nothing left to decide.

    A broker that finds its journal unreadable replaces it without an interruption.
    """
    journal.begun = NOW - HOUR
    journal.kept["acts"].clear()
    service = desk(journal)
    service.run()
    assert "cannot know" in service.problem
    journal.up = not is_noticed
    service.run(0.1)
    journal.up, journal.begun = True, NOW
    journal.kept["orders"].clear()
    assert service.run() == []
    assert service.problem == ""


def test_events_that_are_no_documents_decide_nothing(desk: Make, journal: Journal) -> None:
    """The first one that is one tells of its time; without any, somebody has to decide."""
    journal.begun = NOW - HOUR
    journal.kept["acts"].clear()
    place = journal.kept["orders"][0].first
    journal.kept["orders"][0] = single("orders", place, b"rubbish")
    service = desk(journal)
    assert decided_by_hand(service) == [2, 3, 4, 5]
    assert service.exchange.status()["dead"] == 1
