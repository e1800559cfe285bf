"""What these tests share: a clock to turn by hand, a database, and events to send."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from peewee import OperationalError

from messaging.event import document
from messaging.wire import Event, Place, Replay
from runtime.database import SqliteFile

OLDER, EPOCH, NEWER = (bytes([*range(15), number]) for number in (1, 2, 3))
NOON = "2026-11-23T12:00:00.000Z"


class Clock:
    """Stands still until a test moves it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def live(sequence: int, epoch: bytes = EPOCH, body: bytes = b"", type: str = "counted") -> Event:
    """An event of the stream ``numbers``."""
    place = Place(epoch, sequence)
    return Event("numbers", place, body or document("/test", place, type, 1, NOON, {"n": sequence}))


def replay(event: Event, follows: Place | None = None) -> Replay:
    """An event as the journal sends it again, by default after the one before it."""
    before = follows or Place(event.place.epoch, event.place.sequence - 1)
    return Replay("me", event.stream, before, event.place, event.body)


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


def effects(database: SqliteFile) -> list[int]:
    """What the handlers have done, in order."""
    return [n for (n,) in database.execute_sql("SELECT n FROM effect ORDER BY rowid").fetchall()]
