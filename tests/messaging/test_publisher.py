import pytest
from peewee import OperationalError

from messaging.event import Fact
from messaging.outbox import Outbox
from messaging.publisher import Publisher
from messaging.transports.wire import NO_DIGEST, START, Place, Run, digest
from runtime.process.errors import Unavailable
from runtime.storage.sqlite import SqliteFile
from tests.messaging.conftest import NEWER, NOON, OLDER, Clock, emit, single


class Bench:
    """A publisher, and the sequences that it has sent."""

    def __init__(self, database: SqliteFile, outbox: Outbox, clock: Clock) -> None:
        self.database, self.outbox, self.clock = database, outbox, clock
        self.sent: list[int] = []
        self.runs: list[int] = []
        self.asked: list[Place] = []
        self.publisher = Publisher(outbox, self, clock)

    def fetch(self, stream: str, after: Place) -> None:
        assert stream == "numbers"
        self.asked.append(after)

    def answer(self, journal: list[tuple[int, bytes]], epoch: bytes | None = None) -> None:
        """Let a journal that holds these events answer what was asked last."""
        epoch = epoch or self.epoch
        follows = self.asked[-1]
        for sequence, body in journal:
            place = Place(epoch, sequence)
            if place > self.asked[-1]:
                self.publisher.receive(single("numbers", place, body, follows))
                follows = place
        head = Place(epoch, journal[-1][0]) if journal else START
        self.publisher.handle_end(Run("numbers", follows, head, []))

    def compare(self, journal: list[tuple[int, bytes]], epoch: bytes | None = None) -> list[int]:
        """What is sent once this journal has answered all that is asked."""
        sent: list[int] = []
        for _ in range(3):
            asked = len(self.asked)
            sent = sent or self.step()
            if len(self.asked) > asked:
                self.answer(journal, epoch)
        return sent

    def publish(self, run: Run) -> None:
        assert run.first.epoch == self.epoch
        self.sent += [place.sequence for place, _ in run.events()]
        self.runs.append(len(run.bodies))

    @property
    def epoch(self) -> bytes:
        return self.outbox.head()[0].epoch

    def emit(self, count: int) -> None:
        emit(self.database, self.outbox, count)

    def ack(self, sequence: int) -> None:
        self.publisher.handle_ack(Place(self.epoch, sequence), self.digest(sequence))

    def digest(self, sequence: int) -> bytes:
        """What the journal says of this outbox's event."""
        return next((digest(body) for _, body in self.rows(sequence, sequence)), NO_DIGEST)

    def rows(self, first: int, last: int) -> list[tuple[int, bytes]]:
        return self.outbox.rows(first - 1, last)

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


def test_at_most_1024_events_are_ahead_of_the_last_ack(bench: Bench) -> None:
    """It begins with 256, and sends two for one that is acknowledged, until it is 1,024 ahead."""
    with bench.database.write():
        bench.outbox.emit("counted", [Fact(1, NOON, {})] * 3100)
    assert bench.step() == numbers(1, 256)
    assert bench.step() == []
    acked, sent, window = 0, 256, 256
    while sent - acked < 1024:
        acked = sent
        bench.ack(acked)
        window = min(2 * window, 1024)
        assert bench.step() == numbers(sent + 1, sent + window)
        sent += window
    assert sent - acked == 1024
    bench.ack(acked + 10)
    assert bench.step() == numbers(sent + 1, sent + 10)
    assert bench.publisher.waiting == 3100 - acked - 10
    bench.ack(sent)
    bench.runs.clear()
    bench.step()
    assert max(bench.runs) == 256


def test_a_rewind_begins_small_again_and_waits_twice_as_long(bench: Bench) -> None:
    with bench.database.write():
        bench.outbox.emit("counted", [Fact(1, NOON, {})] * 500)
    bench.step()
    bench.ack(16)
    assert bench.step() == numbers(257, 288)
    assert bench.step(after_s=0.25) == numbers(17, 32)
    assert bench.step(after_s=0.49) == []
    assert bench.step(after_s=0.01) == numbers(17, 32)
    assert bench.step(after_s=0.5) == []
    bench.ack(32)
    assert bench.step() == numbers(33, 64)
    assert bench.step(after_s=0.99) == []  # the answer to what was sent twice measures nothing
    assert bench.step(after_s=0.01) == numbers(33, 48)


def test_it_waits_as_long_as_acks_take(bench: Bench) -> None:
    """With 600 ms to and fro, little is sent twice, and that at the beginning."""
    with bench.database.write():
        bench.outbox.emit("counted", [Fact(1, NOON, {})] * 2000)
    acks: list[tuple[float, int]] = []
    total = head = 0
    for _ in range(6000):  # 60 s
        if sent := bench.step(after_s=0.01):
            total += len(sent)
            head = max(head, sent[-1])
            acks.append((bench.clock.now + 0.6, head))
        while acks and bench.clock.now >= acks[0][0]:
            bench.ack(acks.pop(0)[1])
    assert bench.publisher.waiting == 0
    assert total <= 2000 * 1.05


def test_what_was_under_way_with_a_lost_connection_is_sent_again_at_once(bench: Bench) -> None:
    bench.emit(3)
    assert bench.step() == [1, 2, 3]
    for _ in range(9):
        bench.step(after_s=4)  # the time-out has been doubled
    bench.publisher.step(up=False)
    assert bench.step(after_s=0.01) == [1, 2, 3]
    assert bench.step(after_s=0.25) == [1, 2, 3]


def test_without_progress_for_250_ms_it_goes_back_to_the_first_unacked(bench: Bench) -> None:
    bench.emit(3)
    assert bench.step() == [1, 2, 3]
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
            if journal:
                bench.ack(journal)
            else:
                bench.publisher.handle_ack(START, NO_DIGEST)
    assert journal == 9


def test_an_idle_writer_sends_its_newest_row_every_2_s(bench: Bench) -> None:
    bench.emit(3)
    bench.step()
    bench.ack(3)
    assert bench.step(after_s=1.9) == []
    assert bench.step(after_s=0.1) == [3]
    assert bench.step(after_s=1.9) == []
    assert bench.step(after_s=0.1) == [3]


def test_a_started_publisher_first_compares_what_the_journal_holds(restarted: Bench) -> None:
    """Until all of it is known to be ours, nothing is sent at all."""
    journal = restarted.rows(1, 2)
    assert restarted.step() == []
    assert restarted.asked == [Place(restarted.epoch, 0)]
    assert restarted.step(after_s=0.2) == []
    assert restarted.step(after_s=0.05) == []
    assert len(restarted.asked) == 2
    restarted.ack(5)  # late, to the process that was here before
    held = Place(restarted.epoch, 2)  # the journal has lost what came before it
    restarted.publisher.handle_end(Run("numbers", START, held, []))
    assert restarted.step(after_s=0.25) == []
    restarted.answer(journal)
    assert restarted.step() == [3, 4, 5]
    restarted.ack(5)
    assert restarted.step(after_s=1) == []


def test_what_waits_is_counted_from_the_first_event_that_is_another(restarted: Bench) -> None:
    """Also where it comes in one run with events that are our own."""
    restarted.step()
    own = [body for _, body in restarted.rows(1, 4)]
    start, first = Place(restarted.epoch, 0), Place(restarted.epoch, 1)
    restarted.publisher.receive(Run("numbers", start, first, [*own[:3], b"another"]))
    assert f"another event under {Place(restarted.epoch, 4)}" in (restarted.publisher.problem or "")
    assert restarted.publisher.waiting == 2


def test_a_problem_that_cannot_be_noted_yet_holds_the_outbox_up_all_the_same(
    restarted: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    restarted.step()
    another = Run("numbers", Place(restarted.epoch, 0), Place(restarted.epoch, 1), [b"another"])
    restarted.publisher.receive(another)
    with monkeypatch.context() as patch:
        patch.setattr("messaging.outbox.NOTE", "UPDATE nothing SET acked = ?, problem = ?")
        with pytest.raises(OperationalError):
            restarted.step()
    with pytest.raises(Unavailable, match="another event under"):
        restarted.emit(1)
    restarted.step()
    assert restarted.outbox.head().problem == restarted.publisher.problem
    with pytest.raises(Unavailable, match="another event under"):
        restarted.emit(1)


@pytest.mark.parametrize("held", [5, 2])
def test_it_compares_from_where_the_journal_was_known_to_be(restarted: Bench, held: int) -> None:
    """Or, if that has lost its end, at its newest event."""
    restarted.outbox.note(4, None)
    assert restarted.compare(restarted.rows(1, held)) == numbers(held + 1, 5)
    places = [Place(restarted.epoch, number) for number in (3, 1)]
    assert restarted.asked == (places[:1] if held == 5 else places)
    assert restarted.publisher.ready


@pytest.mark.parametrize("older", [False, True])
def test_a_journal_that_has_nothing_of_this_epoch_gets_all(restarted: Bench, older: bool) -> None:
    assert restarted.compare([(9, b"{}")] if older else [], OLDER) == [1, 2, 3, 4, 5]
    restarted.ack(5)
    restarted.step()
    restarted.clock.now += 1
    restarted.publisher.handle_ack(Place(OLDER, 9) if older else START, NO_DIGEST)
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
    assert restarted.step(after_s=5) == []


def another(bench: Bench, count: int) -> list[tuple[int, bytes]]:
    """What a copy of the database has told: our first events, and as many of its own."""
    return [*bench.rows(1, 3), *((4 + n, b"{}") for n in range(count))]


@pytest.mark.parametrize("message", ["ack", "ack of ours", "ack of more", "newer epoch", "refuse"])
def test_a_copy_that_tells_events_meanwhile_is_noticed(restarted: Bench, message: str) -> None:
    """Whatever of it is heard: the journal is compared again before anything else is sent."""
    restarted.compare(restarted.rows(1, 3))
    publisher, epoch = restarted.publisher, restarted.epoch
    match message:
        case "ack":
            publisher.handle_ack(Place(epoch, 5), digest(b"{}"))
        case "ack of ours":  # which lost the race for the number before it
            restarted.step()
            publisher.handle_ack(Place(epoch, 5), digest(b"{}"))
        case "ack of more":
            publisher.handle_ack(Place(epoch, 6), digest(b"{}"))
        case "newer epoch":
            publisher.handle_ack(Place(b"\xff" * 16, 1), digest(b"{}"))
        case "refuse":
            publisher.handle_refuse(Place(epoch, 4))
    assert not publisher.ready
    newer = b"\xff" * 16 if message == "newer epoch" else None
    assert restarted.compare(another(restarted, 2), newer) == []
    assert "a copy of it is in use" in (publisher.problem or "")
    assert publisher.waiting == 2


def test_what_cannot_be_told_is_not_taken(restarted: Bench) -> None:
    """Not by another process on this database, either, until the journal agrees again."""
    restarted.compare(another(restarted, 1))
    for _ in range(2):
        with pytest.raises(Unavailable, match="another event under"):
            restarted.emit(1)
    assert (restarted.outbox.head().place.sequence, restarted.outbox.head().acked) == (5, 3)
    again = Bench(restarted.database, restarted.outbox, restarted.clock)
    again.step()
    with pytest.raises(Unavailable):
        again.emit(1)
    again.answer(again.rows(1, 3))
    assert again.step() == [4, 5]
    again.emit(1)
    assert again.step() == [6]


def test_a_journal_that_was_restored_is_agreed_with_again(restarted: Bench) -> None:
    restarted.compare(another(restarted, 1))
    assert restarted.step(after_s=1.9) == []
    asked = len(restarted.asked)
    assert restarted.step(after_s=0.1) == []
    assert len(restarted.asked) == asked + 1
    restarted.answer(restarted.rows(1, 3))
    assert restarted.step() == [4, 5]
    assert restarted.publisher.problem is None


def test_a_refusal_that_was_for_a_copy_changes_nothing(restarted: Bench) -> None:
    """Ours is the event that the journal holds; what is compared is what came since the start."""
    restarted.compare(restarted.rows(1, 3))
    restarted.ack(5)
    restarted.publisher.handle_refuse(Place(restarted.epoch, 5))
    assert restarted.compare(restarted.rows(1, 5)) == []
    assert restarted.asked[-1] == Place(restarted.epoch, 2)
    restarted.emit(1)
    assert restarted.step() == [6]


def cut(bench: Bench, oldest: int) -> None:
    """Archive the outbox up to its event with this number."""
    bench.database.execute_sql("DELETE FROM outbox WHERE sequence < ?", (oldest,))


@pytest.mark.parametrize("running", [False, True])
def test_a_lost_journal_that_cannot_be_filled_again_is_a_problem(
    restarted: Bench, running: bool
) -> None:
    """Until it begins where the outbox does."""
    if running:
        restarted.compare(restarted.rows(1, 5))
    cut(restarted, 4)
    if running:
        restarted.publisher.handle_ack(START, NO_DIGEST)
    assert restarted.compare([]) == []
    first = Place(restarted.epoch, 4)
    assert f"python -m broker begin numbers {first}" in (restarted.publisher.problem or "")
    restarted.step(after_s=2)
    restarted.publisher.handle_end(Run("numbers", START, Place(restarted.epoch, 3), []))
    assert restarted.step() == [4, 5]
    assert restarted.publisher.problem is None


def test_a_cut_outbox_trusts_the_journal_for_what_it_has_no_more(restarted: Bench) -> None:
    journal = restarted.rows(1, 4)
    cut(restarted, 5)
    assert restarted.compare(journal) == [5]


def test_what_was_meant_for_the_database_that_was_here_before_is_harmless(bench: Bench) -> None:
    bench.publisher.handle_ack(Place(NEWER, 7), NO_DIGEST)
    bench.publisher.handle_refuse(Place(NEWER, 7))
    assert bench.publisher.problem is None
    bench.emit(2)
    assert bench.step() == [1, 2]


def test_the_acked_sequence_is_noted_for_the_next_start(bench: Bench) -> None:
    """Noted at most once a second: it is for people, not for the protocol."""
    commits: list[None] = []
    bench.emit(3)
    bench.database.on_commit.append(lambda: commits.append(None))
    for sequence in (1, 2, 3):
        bench.step()
        bench.ack(sequence)
    bench.step(after_s=0.9)
    bench.step(after_s=0.1)
    assert len(commits) == 2
    assert Bench(bench.database, bench.outbox, bench.clock).publisher.waiting == 0
