"""What tests of the shell can ask for: a database, and logging that they may change."""

import logging
import socket
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest
import structlog
from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily

from runtime.process.logs import REQUEST_ID
from runtime.storage.database import Database
from runtime.storage.factory import server
from runtime.storage.sqlite import SqliteFile
from runtime.web.server import HttpServer

T = TypeVar("T")
Copy = Callable[[], Any]


class Probe:
    """Stands for an exchange: it tells this status."""

    def __init__(self, status: Callable[[], dict[str, Any]] = dict) -> None:
        self.status = status

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily("answer", "of all", value=42)


def in_threads(database: SqliteFile, actions: Sequence[Callable[[], T]]) -> list[T]:
    """Call each action in a thread of its own, all at once, and give what they answer."""

    def call(action: Callable[[], T]) -> T:
        try:
            return action()
        finally:
            database.close()

    with ThreadPoolExecutor(len(actions)) as pool:
        return list(pool.map(call, actions))


def database_at(place: str, *packages: str) -> Any:
    """A file, or what a URL leads to, as a process of the shop has it."""
    packages = packages or ("runtime", "messaging", "shop")
    return server(place, *packages) if "://" in place else SqliteFile(Path(place), *packages)


@contextmanager
def opening() -> Iterator[Callable[[Any], Any]]:
    """Open databases, each with a table for a test's notes, and close them at the end."""
    opened: list[Any] = []

    def open_one(database: Any) -> Any:
        opened.append(database)
        database.open()
        key = "INTEGER" if isinstance(database, SqliteFile) else "BIGSERIAL"
        database.run(f"CREATE TABLE IF NOT EXISTS note (id {key} PRIMARY KEY, text TEXT)")
        return database

    yield open_one
    for database in opened:
        database.close() if isinstance(database, SqliteFile) else database.close_all()


@pytest.fixture
def database(tmp_path: Path) -> Iterator[SqliteFile]:
    """An open file with the shell's own table, and one for a test's notes."""
    with opening() as opened:
        yield opened(SqliteFile(tmp_path / "data" / "test.db", "runtime"))


@pytest.fixture(params=["SQLite", "PostgreSQL"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a database may be: in a new file, or in a new one on a server."""
    if request.param == "PostgreSQL":
        return str(request.getfixturevalue("postgres_url"))
    return str(tmp_path / "data" / "test.db")


@pytest.fixture
def copy(place: str) -> Iterator[Copy]:
    """Open the database there once more, as another process would."""
    with opening() as opened:
        yield lambda: opened(database_at(place))


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SqliteFile]:
    """An open database for tests that change nothing in it."""
    opened = SqliteFile(tmp_path_factory.mktemp("data") / "shared.db", "runtime")
    opened.open()
    yield opened
    opened.close()


def note(database: Database, text: object) -> int:
    """Keep a text, in the transaction that is open or in one of its own; gives its id."""
    added = database.run("INSERT INTO note (text) VALUES (?) RETURNING id", text)
    return int(added.fetchall()[0][0])


def notes(database: Database) -> list[str]:
    return [text for (text,) in database.run("SELECT text FROM note ORDER BY id").fetchall()]


def port(server: HttpServer) -> int:
    return int(server.url.rpartition(":")[2])


def connect(server: HttpServer, receive_bytes: int = 0) -> socket.socket:
    """Connect; with a small buffer for what is received if that is to be read slowly."""
    client = socket.socket()
    if receive_bytes:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    client.settimeout(10)
    client.connect(("127.0.0.1", port(server)))
    return client


def read_all(client: socket.socket) -> bytes:
    """What is received until the server closes; a connection that is reset fails."""
    return b"".join(iter(lambda: client.recv(65536), b""))


def ask(server: HttpServer, request: bytes) -> bytes:
    """Send bytes, and read until the server closes."""
    with connect(server) as client:
        client.sendall(request)
        return read_all(client)


@pytest.fixture
def own_logging(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Logging may be configured in the test, and is as before after it."""
    loggers = [logging.getLogger(name) for name in (None, "waitress.queue", "peewee")]
    levels = [logger.level for logger in loggers]
    was_configured, config = structlog.is_configured(), structlog.get_config()
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    monkeypatch.setattr(logging, "raiseExceptions", logging.raiseExceptions)
    yield
    for handler in logging.getLogger().handlers:
        handler.flush()  # its thread writes nothing into the next test
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)
    structlog.configure(**config) if was_configured else structlog.reset_defaults()
    REQUEST_ID.set(None)
