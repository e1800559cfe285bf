"""What tests of the shell can ask for: a database, and logging that they may change."""

import logging
import socket
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import pytest
import structlog
from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily

from runtime.process.logs import REQUEST_ID
from runtime.storage.database import SqliteFile
from runtime.web.server import HttpServer

T = TypeVar("T")


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


@pytest.fixture
def database(tmp_path: Path) -> Iterator[SqliteFile]:
    """An open database with the shell's own table, and one for a test's notes."""
    opened = SqliteFile(tmp_path / "data" / "test.db", "runtime")
    opened.open()
    opened.execute_sql("CREATE TABLE note (text)")
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SqliteFile]:
    """An open database for tests that change nothing in it."""
    opened = SqliteFile(tmp_path_factory.mktemp("data") / "shared.db", "runtime")
    opened.open()
    yield opened
    opened.close()


def note(database: SqliteFile, text: object) -> None:
    database.execute_sql("INSERT INTO note VALUES (?)", (text,))


def notes(database: SqliteFile) -> list[object]:
    return [text for (text,) in database.execute_sql("SELECT text FROM note ORDER BY rowid")]


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
