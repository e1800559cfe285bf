"""What these tests share: a clock to turn by hand, a database, and events to send."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex
from typing import Any

import pytest
from peewee import OperationalError

from messaging.event import Event, Fact, document
from messaging.exchange import Exchange, transport
from messaging.outbox import Outbox
from messaging.transports.forwarder import Transport
from messaging.transports.wire import Place, Run
from runtime.process.settings import Settings
from runtime.storage.sqlite import SqliteFile

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


class Numbers:
    """A service that tells numbers on one stream, and keeps those of the streams that it reads."""

    def __init__(self, path: Path, writes: str, reads: tuple[str, ...], way: Any) -> None:
        self.database = SqliteFile(path, "messaging")
        self.database.open()
        self.database.execute_sql("CREATE TABLE IF NOT EXISTS effect (n INTEGER)")
        self.outbox = Outbox(self.database, writes, "/test")
        self.broken, self.failures = "", 0
        handlers = {stream: {"counted": self.take} for stream in reads}
        self.exchange = Exchange(self.database, self.outbox, handlers, way)

    def take(self, events: list[Event]) -> None:
        for event in events:
            if event.stream == self.broken:
                self.failures += 1
                raise LookupError
            self.database.execute_sql("INSERT INTO effect VALUES (?)", (event.data["n"],))

    def tell(self, *numbers: int) -> None:
        for n in numbers:
            with self.database.write():
                self.outbox.emit("counted", [Fact(n, NOON, {"n": n})])

    @property
    def heard(self) -> list[int]:
        return effects(self.database)

    @property
    def is_told(self) -> bool:
        """Whether the broker is known to have all that was told."""
        publisher = self.exchange._publisher
        return publisher.ready and not publisher.waiting

    def close(self) -> None:
        if self.exchange.is_alive():
            self.exchange.stop()
        self.database.close()


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


@pytest.fixture
def stream() -> str:
    """A stream that no other test has."""
    return f"numbers-{token_hex(4)}"


@pytest.fixture(params=["forwarder", "jetstream"])
def kind(request: pytest.FixtureRequest) -> str:
    """Of which kind the broker is."""
    return str(request.param)


@pytest.fixture
def served(kind: str, settings: Settings, request: pytest.FixtureRequest) -> Settings:
    """The settings of a broker that runs."""
    if kind == "forwarder":
        request.getfixturevalue("broker")
        return settings
    url = request.getfixturevalue("nats_server").url
    return settings.model_copy(update={"broker_url": url})


@pytest.fixture
def connect() -> Iterator[Callable[..., Any]]:
    """Open transports, each as another reader; they are closed after the test."""
    opened: list[Any] = []

    def connect(settings: Settings, writes: str | None = None, *reads: str) -> Transport:
        opened.append(transport(settings, f"reader-{len(opened)}", writes, reads))
        opened[-1].open()
        return opened[-1]

    yield connect
    for way in opened:
        way.close()


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Callable[..., Numbers]]:
    """Make services with a database and an exchange of their own, and start them."""
    made: list[Numbers] = []

    def make(settings: Settings, writes: str, *reads: str, file: str = "") -> Numbers:
        way = transport(settings, writes, writes, reads)
        made.append(Numbers(tmp_path / f"{file or writes}.db", writes, reads, way))
        made[-1].exchange.start()
        return made[-1]

    yield make
    for service in made:
        service.close()


def emit(database: SqliteFile, outbox: Outbox, count: int = 1, size: int = 0) -> None:
    """Tell ``count`` events, each in a transaction of its own."""
    for _ in range(count):
        with database.write():
            outbox.emit("counted", [Fact(1, NOON, {"text": "x" * size})])


def effects(database: SqliteFile) -> list[int]:
    """What the handlers have done, in order."""
    return [n for (n,) in database.execute_sql("SELECT n FROM effect ORDER BY rowid").fetchall()]
