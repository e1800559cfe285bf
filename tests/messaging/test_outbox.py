import threading
import time
from pathlib import Path

import pytest

from messaging.event import EventTooLarge
from messaging.outbox import Outbox, Publisher
from messaging.wire import START, Event, Place, Replay
from runtime.database import SqliteFile
from tests.messaging.conftest import NEWER, NOON, OLDER, Clock


@pytest.fixture
def outbox(database: SqliteFile) -> Outbox:
    return Outbox(database, "numbers", "/test")


def emit(database: SqliteFile, outbox: Outbox, count: int = 1, size: int = 0) -> None:
    """Tell ``count`` events, each in a transaction of its own."""
    for _ in range(count):
        with database.write():
            outbox.emit("counted", 1, NOON, {"text": "x" * size})


def sequences(outbox: Outbox) -> list[int]:
    return [sequence for sequence, _ in outbox.rows(0, 10**9)]


def test_events_are_emitted_in_transactions_only(outbox: Outbox) -> None:
    with pytest.raises(AssertionError):
        outbox.emit("counted", 1, NOON, {})
    assert (outbox.head()[0].sequence, sequences(outbox)) == (0, [])


def test_a_database_is_one_epoch_counted_from_1(tmp_path: Path) -> None:
    """The epoch is the time when the database was made and 8 random bytes, and stays."""
    before = time.time_ns()
    database = SqliteFile(tmp_path / "other.db", "messaging")
    database.open()
    made = time.time_ns()
    outbox = Outbox(database, "numbers", "/test")
    emit(database, outbox, 2)
    epoch = outbox.head()[0].epoch
    assert len(epoch) == 16
    assert before <= int.from_bytes(epoch[:8], "big") <= made
    database.close()

    again = SqliteFile(database.path, "messaging")
    again.open()
    outbox = Outbox(again, "numbers", "/test")
    emit(again, outbox)
    assert outbox.head() == (Place(epoch, 3), 0)
    assert sequences(outbox) == [1, 2, 3]
    again.close()


@pytest.mark.parametrize("told_before", [0, 2])
def test_what_is_rolled_back_leaves_no_hole(
    database: SqliteFile, outbox: Outbox, told_before: int
) -> None:
    emit(database, outbox, told_before)
    with pytest.raises(ZeroDivisionError), database.write():
        outbox.emit("counted", 1, NOON, {})
        raise ZeroDivisionError
    with pytest.raises(EventTooLarge):
        emit(database, outbox, size=256 * 1024)
    assert sequences(outbox) == list(range(1, told_before + 1))
    emit(database, outbox)
    assert sequences(outbox) == list(range(1, told_before + 2))


def test_events_of_many_threads_and_processes_appear_in_sequence(tmp_path: Path) -> None:
    """Whoever looks meanwhile sees 1, 2, 3…: an event is never visible before an earlier one."""
    databases = [SqliteFile(tmp_path / "service.db", "messaging") for _ in range(2)]
    for database in databases:
        database.open()

    def work(database: SqliteFile) -> None:
        emit(database, Outbox(database, "numbers", "/test"), 20)
        database.close()

    threads = [threading.Thread(target=work, args=(databases[n % 2],)) for n in range(8)]
    for thread in threads:
        thread.start()
    outbox = Outbox(databases[0], "numbers", "/test")
    while any(thread.is_alive() for thread in threads):
        seen = sequences(outbox)
        assert seen == list(range(1, len(seen) + 1))
    assert len(sequences(outbox)) == 160
    for database in databases:
        database.close()


class Bench:
    """A publisher, and the sequences that it has sent."""

    def __init__(self, database: SqliteFile, outbox: Outbox, clock: Clock) -> None:
        self.database, self.outbox, self.clock = database, outbox, clock
        self.sent: list[int] = []
        self.asked: list[Place] = []
        self.publisher = Publisher(outbox, self._publish, self._fetch, clock)

    def _fetch(self, stream: str, after: Place) -> None:
        assert stream == "numbers"
        self.asked.append(after)

    def answer(self, journal: list[tuple[int, bytes]], epoch: bytes | None = None) -> None:
        """Let a journal that holds these events answer what was asked last."""
        epoch = epoch or self.epoch
        for sequence, body in journal:
            place = Place(epoch, sequence)
            if place > self.asked[-1]:
                self.publisher.receive(Replay("me", "numbers", self.asked[-1], place, body))
        self.publisher.handle_end(Place(epoch, journal[-1][0]) if journal else START)

    def compare(self, journal: list[tuple[int, bytes]], epoch: bytes | None = None) -> list[int]:
        """What is sent once this journal has answered all that is asked at a start."""
        self.step()
        self.answer(journal, epoch)
        sent = self.step()
        if len(self.asked) == 1:
            return sent
        self.answer(journal, epoch)
        return self.step()

    def _publish(self, event: Event) -> None:
        assert event.place.epoch == self.epoch
        self.sent.append(event.place.sequence)

    @property
    def epoch(self) -> bytes:
        return self.outbox.head()[0].epoch

    def emit(self, count: int) -> None:
        emit(self.database, self.outbox, count)

    def ack(self, sequence: int) -> None:
        self.publisher.handle_ack(Place(self.epoch, sequence))

    def step(self, after_s: float = 0) -> list[int]:
        """What is sent in a step so much later."""
        self.clock.now += after_s
        self.sent.clear()
        self.publisher.step()
        return list(self.sent)


def numbers(first: int, last: int) -> list[int]:
    return list(range(first, last + 1))


@pytest.fixture
def bench(database: SqliteFile, outbox: Outbox, clock: Clock) -> Bench:
    """The publisher of a database that has told nothing yet, and of which the journal has none."""
    bench = Bench(database, outbox, clock)
    bench.publisher.step()
    bench.answer([])
    return bench


@pytest.fixture
def restarted(database: SqliteFile, outbox: Outbox, clock: Clock) -> Bench:
    """The publisher of a database with five events, just started."""
    emit(database, outbox, 5)
    return Bench(database, outbox, clock)


def test_at_most_256_events_are_ahead_of_the_last_ack(bench: Bench) -> None:
    with bench.database.write():
        for _ in range(300):
            bench.outbox.emit("counted", 1, NOON, {})
    assert bench.step() == numbers(1, 256)
    assert bench.step() == []
    bench.ack(10)
    assert bench.step() == numbers(257, 266)
    assert bench.publisher.waiting == 290
    bench.ack(266)
    assert bench.step() == numbers(267, 300)


def test_without_progress_for_250_ms_it_goes_back_to_the_first_unacked(bench: Bench) -> None:
    bench.emit(3)
    assert bench.step() == [1, 2, 3]
    assert bench.step(after_s=0.24) == []
    bench.ack(1)  # is progress
    assert bench.step(after_s=0.24) == []
    bench.ack(1)  # is none
    assert bench.step(after_s=0.02) == [2, 3]
    assert bench.publisher.resent == 2
    bench.ack(3)
    assert bench.step(after_s=1) == []
    assert bench.publisher.waiting == 0


def test_a_lower_ack_goes_back_at_most_once_in_250_ms(bench: Bench) -> None:
    """So that the acks of what was sent too early do not each start everything again."""
    bench.emit(9)
    bench.step()
    bench.ack(9)
    bench.step()
    bench.ack(4)
    assert bench.step() == numbers(5, 9)
    for _ in range(3):
        bench.ack(3)
        assert bench.step(after_s=0.08) == []
    bench.ack(3)
    assert bench.step(after_s=0.02) == numbers(4, 9)


def test_a_journal_that_is_lost_with_rows_in_flight_is_filled_again(bench: Bench) -> None:
    """Its first low ack comes right after a rewind, and every other one too."""
    bench.emit(9)
    bench.step()
    bench.ack(7)  # and then the journal is lost
    journal = 0
    for _ in range(200):
        for sequence in bench.step(after_s=0.01):
            journal += sequence == journal + 1
        if bench.sent:
            bench.publisher.handle_ack(Place(bench.epoch, journal) if journal else START)
    assert journal == 9


def test_an_idle_writer_sends_its_newest_row_every_2_s(bench: Bench) -> None:
    bench.emit(3)
    bench.step()
    bench.ack(3)
    assert bench.step(after_s=1.9) == []
    assert bench.step(after_s=0.1) == [3]
    assert bench.step(after_s=1.9) == []
    assert bench.step(after_s=0.1) == [3]


def test_a_started_publisher_first_compares_the_journals_newest_event(restarted: Bench) -> None:
    """Until it is known to be ours, nothing is sent at all."""
    journal = restarted.outbox.rows(0, 2)
    assert restarted.step() == []
    assert restarted.asked == [Place(restarted.epoch, 5)]
    assert restarted.step(after_s=0.2) == []
    assert restarted.step(after_s=0.05) == []
    assert len(restarted.asked) == 2
    restarted.ack(5)  # late, to the process that was here before
    restarted.answer(journal)
    assert restarted.step() == []
    assert restarted.asked[-1] == Place(restarted.epoch, 1)
    restarted.answer(journal)
    assert restarted.step() == [3, 4, 5]
    restarted.ack(5)
    assert restarted.step(after_s=1) == []


@pytest.mark.parametrize("older", [False, True])
def test_a_journal_that_has_nothing_of_this_epoch_gets_all(restarted: Bench, older: bool) -> None:
    assert restarted.compare([(9, b"{}")] if older else [], OLDER) == [1, 2, 3, 4, 5]
    restarted.ack(5)
    restarted.step()
    restarted.clock.now += 1
    restarted.publisher.handle_ack(Place(OLDER, 9) if older else START)
    assert restarted.step() == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("newer_epoch", [False, True])
@pytest.mark.parametrize("told", [3, 5, 8])
def test_a_database_older_than_what_it_has_told_tells_nothing(
    restarted: Bench, told: int, newer_epoch: bool
) -> None:
    """Whether the journal holds more events than it, as many, or fewer: but others."""
    journal = [(n, b"{}") for n in range(1, told + 1)]
    assert restarted.compare(journal, b"\xff" * 16 if newer_epoch else None) == []
    assert "docs/operations.md" in (restarted.publisher.problem or "")
    restarted.emit(3)
    assert restarted.step(after_s=5) == []


@pytest.mark.parametrize(
    ("kind", "epoch", "sequence"), [("ack", None, 6), ("ack", b"\xff" * 16, 1), ("refuse", None, 1)]
)
def test_a_contradiction_stops_publishing_at_any_time(
    restarted: Bench, kind: str, epoch: bytes | None, sequence: int
) -> None:
    restarted.compare([])
    assert restarted.publisher.problem is None
    getattr(restarted.publisher, f"handle_{kind}")(Place(epoch or restarted.epoch, sequence))
    assert "docs/operations.md" in (restarted.publisher.problem or "")
    restarted.ack(2)
    restarted.emit(3)
    assert restarted.step(after_s=5) == []


def test_a_late_refusal_to_a_database_that_was_here_before_is_harmless(restarted: Bench) -> None:
    restarted.publisher.handle_refuse(Place(OLDER, 1))
    assert restarted.publisher.problem is None


def test_a_late_ack_to_an_empty_database_is_harmless(bench: Bench) -> None:
    """It was meant for the database that was here before."""
    bench.publisher.handle_ack(Place(NEWER, 7))
    bench.publisher.handle_refuse(Place(NEWER, 7))
    assert bench.publisher.problem is None
    bench.emit(2)
    assert bench.step() == [1, 2]


def test_the_acked_sequence_is_noted_for_the_next_start(bench: Bench) -> None:
    """Noted at most once a second: it is for people, not for the protocol."""
    commits: list[None] = []
    bench.emit(3)
    bench.database.listeners.append(lambda: commits.append(None))
    for sequence in (1, 2, 3):
        bench.step()
        bench.ack(sequence)
    bench.step(after_s=0.9)
    bench.step(after_s=0.1)
    assert len(commits) == 2
    assert Bench(bench.database, bench.outbox, bench.clock).publisher.waiting == 0
