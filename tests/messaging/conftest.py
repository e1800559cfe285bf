"""What these tests share: a clock to turn by hand, a database, and events to send."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from peewee import OperationalError

from messaging.event import Fact, document
from messaging.outbox import Outbox
from messaging.transports.wire import Place, Run
from runtime.storage.database import SqliteFile

OLDER, EPOCH, NEWER = (bytes([*range(15), number]) for number in (1, 2, 3))
NOON = "2026-11-23T12:00:00.000Z"


class Clock:
    """Stands still until a test moves it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def live(sequence: int, epoch: bytes = EPOCH, body: bytes = b"", type: str = "counted") -> Run:
    """An event of the stream ``numbers``."""
    place = Place(epoch, sequence)
    told = body or document("/test", place, type, Fact(1, NOON, {"n": sequence}))
    return single("numbers", place, told)


def single(stream: str, place: Place, body: bytes, follows: Place | None = None) -> Run:
    """A run of one event, by default after the one before it."""
    before = follows or Place(place.epoch, place.sequence - 1)
    return Run(stream, before, place, [body])


def fail_after_commit(database: SqliteFile, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the next transaction be committed and yet fail, as a disk may have it."""
    write = database.write

    @contextmanager
    def committed_and_failed() -> Iterator[None]:
        monkeypatch.setattr(database, "write", write)
        with write():
            yield
        raise OperationalError("disk I/O error")

    monkeypatch.setattr(database, "write", committed_and_failed)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def database(tmp_path: Path) -> Iterator[SqliteFile]:
    """A service's database with one table of its own, ``effect``, for its handlers."""
    opened = SqliteFile(tmp_path / "service.db", "messaging")
    opened.open()
    opened.execute_sql("CREATE TABLE effect (n INTEGER)")
    yield opened
    opened.close()


@pytest.fixture
def outbox(database: SqliteFile) -> Outbox:
    return Outbox(database, "numbers", "/test")


def emit(database: SqliteFile, outbox: Outbox, count: int = 1, size: int = 0) -> None:
    """Tell ``count`` events, each in a transaction of its own."""
    for _ in range(count):
        with database.write():
            outbox.emit("counted", [Fact(1, NOON, {"text": "x" * size})])


def effects(database: SqliteFile) -> list[int]:
    """What the handlers have done, in order."""
    return [n for (n,) in database.execute_sql("SELECT n FROM effect ORDER BY rowid").fetchall()]
