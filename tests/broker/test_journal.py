import os
import shutil
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest
from peewee import DatabaseError
from playhouse.migrations import Runner
from structlog.testing import capture_logs

from broker.journal import Journal
from messaging.event import Event as Told
from messaging.event import Fact, document
from messaging.transports.forwarder import Peer
from messaging.transports.wire import START, Ack, Message, Place, Refuse, Replay, Run, Want, digest
from runtime import ROOT
from runtime.process.errors import StartError
from runtime.storage.sqlite import SqliteFile
from tests.messaging.conftest import fail_after_commit, single

OLDER, EPOCH, NEWER = (bytes([*range(15), number]) for number in (1, 2, 3))


class FakePeer:
    """Collects what is sent, and delivers what is to be received."""

    def __init__(self) -> None:
        self.sent: list[Message] = []
        self.received: list[Message] = []

    def poll(self, timeout_s: float) -> list[Message]:
        received, self.received = self.received, []
        return received

    def send(self, message: Message) -> None:
        self.sent.append(message)


def event(sequence: int, epoch: bytes = EPOCH, body: bytes = b"", stream: str = "items") -> Run:
    return single(stream, Place(epoch, sequence), body or b"body %d" % sequence)


def ack(sequence: int, epoch: bytes = EPOCH) -> Ack:
    return Ack("items", Place(epoch, sequence), digest(event(sequence).bodies[0]))


def want(sequence: int, epoch: bytes = EPOCH, reader: str = "shop", stream: str = "items") -> Want:
    return Want(stream, reader, Place(epoch, sequence))


class Bench:
    """A journal, asked and answering directly."""

    def __init__(self, path: Path) -> None:
        self.peer = FakePeer()
        self.journal = Journal(path, cast(Peer, self.peer))
        self.journal.open()

    def handle(self, *messages: Message) -> list[Message]:
        """Handle messages that arrived together, and give the answers."""
        self.peer.sent.clear()
        self.journal.handle(list(messages))
        return list(self.peer.sent)

    def step(self, *messages: Message) -> None:
        """Let the journal receive messages, and fail as it may."""
        self.peer.received = list(messages)
        self.journal.step()

    def kept(self, after: Place = START) -> list[tuple[Place, bytes]]:
        """The events behind a place, as a reader gets them."""
        answer = self.handle(Want("items", "test", after))
        replays = [m for m in answer[:-1] if isinstance(m, Replay)]
        return [each for m in replays for each in m.run.events()]


def rows(path: Path) -> list[tuple[str, int]]:
    """What is on disk: stream and sequence, in order."""
    database = sqlite3.connect(path)
    query = "SELECT stream, sequence FROM entry ORDER BY stream, epoch, sequence"
    found = database.execute(query).fetchall()
    database.close()
    return found


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "broker.db"


@pytest.fixture
def bench(path: Path) -> Iterator[Bench]:
    bench = Bench(path)
    yield bench
    bench.journal._database.close()


@pytest.mark.parametrize("together", [False, True])
def test_a_duplicate_with_another_body_is_refused(bench: Bench, together: bool) -> None:
    first, forged = [event(1), event(2)], event(1, body=b"other")
    if together:
        answers = bench.handle(*first, forged)
    else:
        bench.handle(*first)
        answers = bench.handle(forged)
    assert Refuse("items", forged.first) in answers
    assert [body for _, body in bench.kept()] == [b"body 1", b"body 2"]


def test_a_run_is_appended_from_where_it_goes_on(bench: Bench) -> None:
    """What of it is there already is compared: a run may be sent again from further back."""

    def run(*numbers: int) -> Run:
        first = event(numbers[0])
        return first._replace(bodies=[event(n).bodies[0] for n in numbers])

    assert bench.handle(run(2)) == [Ack("items", START)]
    assert bench.handle(run(1, 2, 3)) == [ack(3)]
    assert bench.handle(run(5, 6)) == [ack(3)]
    assert bench.handle(run(2, 3, 4), run(1, 2), run(4, 5)) == [ack(5)]
    other = run(4, 5, 6)._replace(bodies=[b"other", b"another", b"more"])
    assert bench.handle(run(5, 6), other, run(7)) == [Refuse("items", event(4).first), ack(6)]
    assert bench.handle(run(7)) == [ack(7)]
    assert bench.kept() == [(event(n).first, event(n).bodies[0]) for n in range(1, 8)]


def test_of_a_run_that_is_repeated_only_its_own_rows_are_read(bench: Bench) -> None:
    """However far below the head it is: there may be millions between."""
    bench.handle(*map(event, range(1, 301)))
    asked: list[tuple[object, ...]] = []
    run = bench.journal._database.run

    def noted(sql: str, *parameters: object) -> object:
        asked.append(parameters)
        return run(sql, *parameters)

    bench.journal._database.run = noted  # type: ignore[method-assign]
    assert bench.handle(event(2)) == [ack(300)]
    assert asked == [("items", EPOCH, 2, 2)]


def test_an_event_that_follows_another_than_the_one_stored_is_refused(bench: Bench) -> None:
    """A copy's event was lost, and its next one comes: its writer must hear of the first."""
    ours = chained(b"ours", b"ours 2")
    theirs = chained(b"theirs", b"theirs 2")
    bench.handle(ours[0])
    assert bench.handle(theirs[1]) == [Refuse("items", ours[0].first), bench.journal._head("items")]
    bench.handle(ours[1])
    assert [body for _, body in bench.kept()] == [event.bodies[0] for event in ours]


def chained(*texts: bytes) -> list[Run]:
    """Events from 1 on, of which each tells the digest of the one before it."""
    events: list[Run] = []
    for sequence, text in enumerate(texts, 1):
        before = digest(events[-1].bodies[0]) if events else None
        body = document("/test", Place(EPOCH, sequence), "t", Fact(text, "", {}), before)
        events.append(event(sequence, body=body))
    return events


def test_a_newer_epoch_starts_at_1_and_closes_the_one_before(bench: Bench) -> None:
    bench.handle(event(1), event(2))
    assert bench.handle(event(3, NEWER)) == [ack(2)]
    assert bench.handle(event(1, NEWER), event(2, NEWER), event(3)) == [ack(2, NEWER)]
    assert [place for place, _ in bench.kept()] == [
        Place(EPOCH, 1),
        Place(EPOCH, 2),
        Place(NEWER, 1),
        Place(NEWER, 2),
    ]


@pytest.mark.parametrize("sequence", [1, 2, 3])
def test_an_event_of_an_older_epoch_is_answered_with_the_newest_ack(
    bench: Bench, sequence: int
) -> None:
    bench.handle(event(1), event(2))
    assert bench.handle(event(sequence, OLDER, b"other")) == [ack(2)]
    assert len(bench.kept()) == 2


def test_all_that_has_arrived_is_one_commit(bench: Bench, path: Path) -> None:
    commits: list[None] = []
    bench.journal._database.on_commit.append(lambda: commits.append(None))
    numbers = range(1, 513)
    orders = [event(n, stream="orders") for n in numbers]
    answers = bench.handle(*map(event, numbers), *orders)
    assert answers == [ack(512), ack(512)._replace(stream="orders")]
    assert (len(rows(path)), len(commits)) == (1024, 1)
    bench.handle(*map(event, numbers))
    assert len(commits) == 1


def test_nothing_is_acknowledged_before_it_is_on_disk(bench: Bench, path: Path) -> None:
    found: list[int] = []
    bench.peer.send = lambda message: found.append(len(rows(path)))  # type: ignore[method-assign]
    bench.handle(event(1), event(2))
    assert found == [2]


def test_only_the_newest_waiting_want_of_a_reader_and_stream_is_answered(bench: Bench) -> None:
    bench.handle(event(1), event(2), event(1, stream="orders"))
    answers = bench.handle(
        want(0), want(1), want(1, stream="orders"), want(2, reader="payment"), want(2)
    )
    ends = [
        (m.reader, m.run.stream, m.run.follows.sequence) for m in answers if isinstance(m, Replay)
    ]
    assert sorted(ends) == [("payment", "items", 2), ("shop", "items", 2), ("shop", "orders", 1)]


def test_events_that_arrive_with_a_want_are_in_its_answer(bench: Bench) -> None:
    answers = bench.handle(want(0), event(1))
    assert [type(m) for m in answers] == [Ack, Replay, Replay]


def test_a_second_journal_on_the_same_file_does_not_start(bench: Bench, path: Path) -> None:
    with pytest.raises(StartError, match="another process is running on"):
        Bench(path)
    assert bench.handle(event(1)) == [ack(1)]


@pytest.mark.parametrize(
    "garbage", [b"garbage", os.urandom(20_000), b"SQLite format 3\0" + b"\xff" * 9000], ids=len
)
def test_an_unreadable_file_is_set_aside_with_one_line(path: Path, garbage: bytes) -> None:
    path.write_bytes(garbage)
    with capture_logs() as lines:
        bench = Bench(path)
    assert bench.handle(event(1)) == [ack(1)]
    (line,) = lines
    assert "set aside" in line["event"]
    assert Path(line["file"]).read_bytes() == garbage
    bench.journal._database.close()


def test_a_file_that_cannot_be_opened_is_left_alone(path: Path) -> None:
    path.mkdir()
    with pytest.raises(StartError, match="DATA_DIR"):
        Bench(path)
    assert path.is_dir()


def test_a_journal_that_turns_out_to_be_damaged_amid_an_answer_is_begun_anew(path: Path) -> None:
    """Its writers fill it again."""
    bench, whole = Bench(path), [event(n, body=b"x" * 1000) for n in range(1, 301)]
    bench.handle(*whole)
    bench.journal._database.execute_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    data = bytearray(path.read_bytes())
    bench.journal._database.close()
    quarter = len(data) // 4
    data[quarter : 2 * quarter] = b"\xff" * quarter
    damaged = path.with_name("damaged.db")  # the lock of the other one is still held
    damaged.write_bytes(data)
    bench = Bench(damaged)
    with capture_logs() as lines:
        bench.step(want(0))
        bench.step()
    assert ["waits for its disk" in line["event"] for line in lines] == [True, False]
    assert list(path.parent.glob("damaged.db.unreadable-*"))
    bench.journal._write_at = float("-inf")
    assert bench.handle(*whole) == [Ack("items", whole[-1].first, digest(whole[-1].bodies[0]))]
    bench.journal._database.close()


def test_a_commit_that_says_it_failed_may_have_succeeded(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The heads are read again: what is on disk after all is not written a second time."""
    bench.handle(event(1))
    bench.peer.sent.clear()
    fail_after_commit(bench.journal._database, monkeypatch)
    bench.step(event(2))
    assert bench.peer.sent == []
    assert "problem" in bench.journal.status()
    monkeypatch.setattr(bench.journal, "_write_at", float("-inf"))
    bench.step(event(2), event(3))
    assert bench.peer.sent == [ack(3)]
    assert "problem" not in bench.journal.status()


def test_a_repetition_of_what_was_archived_is_acknowledged(bench: Bench) -> None:
    """There is nothing left to compare it with, and nothing wrong."""
    bench.handle(*(event(number) for number in range(1, 6)))
    bench.journal._database.execute_sql("DELETE FROM entry WHERE sequence < 5")
    assert bench.handle(event(2, body=b"whatever")) == [ack(5)]


def test_a_damaged_journal_on_a_full_disk_is_begun_anew_when_there_is_space(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.handle(event(1))
    real, failures = SqliteFile.open, iter([True])

    def full(database: SqliteFile) -> None:
        if next(failures, False):
            raise StartError("database or disk is full")
        real(database)

    monkeypatch.setattr(SqliteFile, "open", full)
    bench.journal._damage = DatabaseError("malformed")
    for _ in range(2):
        monkeypatch.setattr(bench.journal, "_write_at", float("-inf"))
        bench.step(event(1))
    assert bench.kept() == [(Place(EPOCH, 1), b"body 1")]


def test_a_stream_begins_in_the_middle_where_somebody_says_so(path: Path) -> None:
    """Above what is held alone; nothing stands for the events that nobody has any more."""
    bench = Bench(path)
    bench.handle(event(1), event(2))
    for place in (Place(EPOCH, 2), Place(OLDER, 9), Place(NEWER, 0)):
        with pytest.raises(StartError, match="cannot begin"):
            bench.journal.begin("items", place)
    bench.journal.begin("items", Place(EPOCH, 9))
    bench.journal._heads = {}  # a process of its own does that
    assert bench.handle(event(3), event(9)) == [ack(9)]
    assert [place.sequence for place, _ in bench.kept()] == [1, 2, 9]
    bench.journal._database.close()


def begun_s(bench: Bench) -> float:
    """Since when a journal says that it is there, in seconds of the wall clock."""
    answer = bench.handle(Want("journal", "payment", START))
    (said, _) = answer
    assert isinstance(said, Replay)
    told = Told.parse(said.run.stream, said.run.first, said.run.bodies[0])
    assert (said.reader, said.run.follows, told.type) == ("payment", START, "journal.begun")
    return told.time.timestamp()


def test_a_journal_says_since_when_it_is_there(path: Path) -> None:
    """Which is no event that it keeps; the moment stays the same, until the file is lost."""
    before_s = int(time.time())
    bench = Bench(path)
    at_s = begun_s(bench)
    assert before_s <= at_s <= time.time()
    bench.handle(event(1))
    assert bench.journal.status() == {"journal": {"items": 1}}
    bench.journal._database.close()
    assert rows(path) == [("items", 1)]
    copied = shutil.copy(path, path.with_name("copied.db"))  # the first one's lock is still held
    assert begun_s(Bench(copied)) == at_s


@pytest.mark.parametrize("entries", [0, 1])
def test_an_older_file_that_has_entries_was_always_there(path: Path, entries: int) -> None:
    """Nobody knows since when; one that is empty has kept nothing so far."""
    before_s = int(time.time())
    older = SqliteFile(path)
    Runner(older, ROOT / "broker" / "migrations", table_name="broker_migration").up("0001_journal")
    for _ in range(entries):
        older.execute_sql("INSERT INTO entry VALUES ('items', x'00', 1, x'00')")
    older.close()
    assert (begun_s(Bench(path)) < before_s) == bool(entries)
