"""Requests that wait for the writer share a transaction, and nothing else."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import structlog
from peewee import IntegrityError, OperationalError

from runtime.process.errors import NotFound, Unavailable
from runtime.storage.database import Database
from runtime.storage.writer import MAX_LIST, Writer, commit, hand_in
from tests.conftest import eventually
from tests.runtime.conftest import Copy, note, notes


def keep(database: Database, texts: Sequence[str]) -> list[str | Exception]:
    """Keep texts; one that says so is refused, or fails once it is written, and a list with it."""
    outcomes: list[str | Exception] = []
    for text in texts:
        if text == "refused":
            outcomes.append(NotFound(text))
            continue
        number = note(database, text)
        if text == "is there already":  # then PostgreSQL takes nothing more in this transaction
            database.run("INSERT INTO note VALUES (?, ?)", number, text)
        if text in FAILURES:
            raise FAILURES[text]
        outcomes.append(f"{text} of {len(texts)}")
    return outcomes


FAILURES = {
    "fails": LookupError("a mistake"),
    "cannot be told": Unavailable("the journal contradicts"),
    "finds the disk full": OperationalError("database or disk is full"),
}


class Asked:
    """A request that hands in a text, and notes what came of it."""

    def __init__(self, database: Database, text: str | None) -> None:
        self.database, self.text = database, text
        self.outcome: Any = None
        self.is_cancelled = False
        self.thread = ""

    def service(self) -> None:
        self.thread = threading.current_thread().name
        with structlog.contextvars.bound_contextvars(text=self.text):
            if self.text is None:
                raise LookupError("before it has handed in anything")
            try:
                self.outcome = hand_in(self.database, keep, self.text)
            except Exception as error:
                self.outcome = error
            assert structlog.contextvars.get_contextvars()["text"] == self.text

    def cancel(self) -> None:
        self.is_cancelled = True


class Desk:
    """A writer, and how often what it writes was committed."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.answered = threading.Semaphore(0)
        self.writer = Writer(self.answered.release)
        self.commits = 0
        database.on_commit.append(self._count)

    def _count(self) -> None:
        self.commits += 1

    def ask(self, *texts: str | None) -> list[Any]:
        """Let these come together; gives what comes of them, once the writer says so."""
        requests = [Asked(self.database, text) for text in texts]
        for request in requests:
            self.writer.add_task(request)
        self.writer.wake()
        for _ in range(-(-len(texts) // MAX_LIST)):
            assert self.answered.acquire(timeout=10)
        return [request.outcome for request in requests]


@pytest.fixture
def desk(copy: Copy) -> Iterator[Desk]:
    desk = Desk(copy())
    yield desk
    desk.writer.shutdown(10)


@pytest.fixture
def database(desk: Desk) -> Database:
    return desk.database


def test_what_comes_together_is_one_list(desk: Desk, database: Database) -> None:
    """With one commit, after which each goes on with its own outcome."""
    assert desk.ask("a", "b", "c") == ["a of 3", "b of 3", "c of 3"]
    assert (notes(database), desk.commits) == (["a", "b", "c"], 1)
    assert desk.ask("d") == ["d of 1"]


def test_a_list_has_an_end(desk: Desk) -> None:
    texts = [str(n) for n in range(MAX_LIST + 2)]
    outcomes = desk.ask(*texts)
    assert outcomes[0] == f"0 of {MAX_LIST}"
    assert outcomes[-1] == f"{MAX_LIST + 1} of 2"
    assert desk.commits == 2


def test_a_refusal_is_nobody_elses(desk: Desk, database: Database) -> None:
    first, refused, last = desk.ask("a", "refused", "b")
    assert isinstance(refused, NotFound)
    assert (first, last) == ("a of 3", "b of 3")
    assert (notes(database), desk.commits) == (["a", "b"], 1)


@pytest.mark.parametrize("text", ["fails", "cannot be told", "is there already"])
def test_who_fails_fails_alone(text: str, desk: Desk, database: Database) -> None:
    """What it has written is undone; the others are done once, each alone."""
    first, failed, last = desk.ask("a", text, "b")
    assert (first, last) == ("a of 1", "b of 1")
    assert isinstance(failed, type(FAILURES.get(text, IntegrityError())))
    assert (notes(database), desk.commits) == (["a", "b"], 2)
    assert desk.ask("c") == ["c of 1"]


def test_an_outage_is_everybodys(desk: Desk, database: Database) -> None:
    """It is not waited for once more by each."""
    text = "finds the disk full"
    assert desk.ask("a", text, "b") == [FAILURES[text]] * 3
    assert (notes(database), desk.commits) == ([], 0)
    assert desk.ask("c") == ["c of 1"]


def test_a_commit_that_fails_confirms_nobody(
    desk: Desk, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = OperationalError("disk I/O error")

    @contextmanager
    def write() -> Iterator[None]:
        yield
        raise error

    monkeypatch.setattr(database, "write", write)
    assert desk.ask("a", "b") == [error, error]
    monkeypatch.undo()
    assert desk.ask("c") == ["c of 1"]


def test_who_hands_in_nothing_holds_up_nobody(desk: Desk, database: Database) -> None:
    assert desk.ask("a", None, "b") == ["a of 2", None, "b of 2"]


def test_elsewhere_one_is_a_list_of_one(database: Database) -> None:
    """Under another server, or in a thread for large bodies."""
    assert hand_in(database, keep, "a") == "a of 1"
    with pytest.raises(NotFound):
        hand_in(database, keep, "refused")
    with pytest.raises(LookupError):
        hand_in(database, keep, "fails")
    assert notes(database) == ["a"]
    assert commit(database, keep, ["b", "c"]) == ["b of 2", "c of 2"]


def test_the_end_comes_after_the_list_that_is_under_way(desk: Desk, database: Database) -> None:
    """Who has come after that is told nothing."""
    begun, release = threading.Event(), threading.Event()

    class Slow(Asked):
        def service(self) -> None:
            begun.set()
            assert release.wait(10)
            super().service()

    slow, late = Slow(database, "a"), Asked(database, "b")
    desk.writer.add_task(slow)
    desk.writer.wake()
    assert begun.wait(10)
    ending = threading.Thread(target=desk.writer.shutdown, args=(10,))
    ending.start()
    eventually(lambda: desk.writer._is_stopping)
    release.set()
    ending.join()
    assert slow.outcome == "a of 1"
    desk.writer.add_task(late)
    desk.writer.shutdown(10)
    assert (late.outcome, late.is_cancelled) == (None, True)


def test_many_come_from_many_threads(desk: Desk, database: Database) -> None:
    """Each is done once, in the writer's thread, and nobody waits for ever."""
    requests = [Asked(database, str(n)) for n in range(400)]

    def come(some: list[Asked]) -> None:
        for request in some:
            desk.writer.add_task(request)
            desk.writer.wake()

    threads = [threading.Thread(target=come, args=(requests[n::8],)) for n in range(8)]
    for thread in threads:
        thread.start()
    eventually(lambda: all(request.outcome for request in requests))
    for thread in threads:
        thread.join()
    assert sorted(map(int, notes(database))) == list(range(400))
    assert {request.thread for request in requests} == {"writer"}
