"""Transactions that wait for one another share a commit, and nothing else."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
import structlog
from peewee import OperationalError

from runtime.database import SqliteFile
from runtime.errors import NotFound
from runtime.group_commit import GroupCommit
from tests.conftest import eventually
from tests.runtime.conftest import in_threads, note, notes


class Commits:
    """Counts the commits of a database."""

    def __init__(self, database: SqliteFile) -> None:
        self.database, self.count = database, 0
        database.listeners.append(self._count)

    def _count(self) -> None:
        self.count += 1

    def all_at_once(self, actions: list[Callable[[], object]]) -> list[object]:
        """Let these be one group, which queues up behind a transaction; an error is a result."""

        def guard(action: Callable[[], object]) -> Callable[[], object]:
            def run() -> object:
                try:
                    return self.database.transact(action)
                except Exception as error:
                    return error

            return run

        results: list[object] = []
        guarded = [guard(action) for action in actions]
        runs = threading.Thread(target=lambda: results.extend(in_threads(self.database, guarded)))

        def hold() -> None:
            runs.start()
            eventually(lambda: len(self.database._group._queue) == len(actions))

        self.database.transact(hold)
        runs.join()
        return results


@pytest.fixture
def commits(database: SqliteFile) -> Commits:
    return Commits(database)


def test_a_group_shares_one_commit(commits: Commits, database: SqliteFile) -> None:
    """Each gets its own result, and sees what those before it did."""

    def add(number: int) -> Callable[[], object]:
        def action() -> int:
            note(database, number)
            return number

        return action

    assert commits.all_at_once([add(number) for number in range(8)]) == list(range(8))
    assert sorted(notes(database)) == list(range(8))  # type: ignore[type-var]
    assert commits.count == 2  # the one that held them up, and theirs


@pytest.mark.parametrize("error", [NotFound("refused"), RuntimeError("a mistake")])
@pytest.mark.parametrize("written", [False, True], ids=["before writing", "after writing"])
def test_who_fails_fails_alone(
    commits: Commits, database: SqliteFile, error: Exception, written: bool
) -> None:
    """What it has written is undone; the others are confirmed, and done once."""

    def fail() -> None:
        if written:
            note(database, "half done")
        raise error

    def add() -> None:
        note(database, "done")

    results = commits.all_at_once([add, fail, add])
    assert results == [None, error, None]
    assert notes(database) == ["done", "done"]


def test_a_commit_that_fails_confirms_nobody() -> None:
    """Each of the group is told; the next group is none the worse."""
    begun = []

    @contextmanager
    def transaction() -> Iterator[None]:
        begun.append("a transaction")
        yield
        if len(begun) == 2:
            raise OperationalError("database or disk is full")

    group = GroupCommit(transaction, lambda: 0)

    def call(action: Callable[[], object]) -> object:
        try:
            return group.run(action)
        except OperationalError as error:
            return str(error)

    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(call, lambda: eventually(lambda: len(group._queue) == 3))
        eventually(lambda: begun)
        others = [pool.submit(call, lambda: "done") for _ in range(3)]
        assert first.result(10) is True
        assert [other.result(10) for other in others] == ["database or disk is full"] * 3
    assert call(lambda: "done") == "done"


def test_each_runs_as_its_own_thread_would(database: SqliteFile) -> None:
    """With the id of its own request, whoever leads."""
    group = database._group

    def asked_by(name: str) -> Callable[[], object]:
        def request() -> object:
            with structlog.contextvars.bound_contextvars(name=name):
                return database.transact(lambda: structlog.contextvars.get_contextvars()["name"])

        return request

    begun = threading.Event()

    def hold() -> object:
        begun.set()
        return eventually(lambda: len(group._queue) == len("abcd"))

    with ThreadPoolExecutor(1) as pool:
        held = pool.submit(database.transact, hold)
        assert begun.wait(10)
        assert in_threads(database, [asked_by(name) for name in "abcd"]) == ["a", "b", "c", "d"]
        assert held.result(10)
        pool.submit(database.close).result(10)


def test_many_groups_one_after_another(database: SqliteFile) -> None:
    """Whatever meets whatever, each is done once, and nobody waits for ever."""

    def add_some(start: int) -> Callable[[], None]:
        def add() -> None:
            for number in range(start, start + 50):
                database.transact(lambda number=number: note(database, number))  # type: ignore[misc]

        return add

    in_threads(database, [add_some(start) for start in range(0, 400, 50)])
    assert sorted(notes(database)) == list(range(400))  # type: ignore[type-var]
