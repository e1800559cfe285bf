"""Servers to test against: NATS with JetStream, and PostgreSQL."""

import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import pytest

from scenarios.servers import NatsServer, PostgresServer
from tests.conftest import free_port
from tests.pairs import require_servers

LOCAL = "postgresql://postgres@127.0.0.1:5432/postgres"

try:
    import nats
    import psycopg
except ImportError:  # what needs them asks for a fixture of this module, which skips
    nats = psycopg = None  # type: ignore[assignment]


@pytest.fixture(scope="session")
def nats_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """A running server, which tests share: each has streams of its own, and ends nothing."""
    require_servers()
    server = NatsServer(tmp_path_factory.mktemp("nats"), free_port())
    server.start()
    yield server
    server.kill()


@pytest.fixture
def own_nats(tmp_path: Path) -> Iterator[NatsServer]:
    """A server of one test, which starts and ends it as it likes."""
    require_servers()
    server = NatsServer(tmp_path / "nats", free_port())
    yield server
    server.kill()


@pytest.fixture(scope="session")
def postgres_server(cluster: PostgresServer) -> PostgresServer:
    """A running cluster; a test that ends it starts it again."""
    return cluster


@pytest.fixture
def postgres_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """A new database, on the server of ``TEST_DATABASE_URL``, a local one, or one of our own."""
    require_servers()
    server = os.environ.get("TEST_DATABASE_URL") or LOCAL
    if server == LOCAL and not _answers(LOCAL):
        server = request.getfixturevalue("postgres_server").url("postgres")
    yield from new_database(server)


def new_database(server: str) -> Iterator[str]:
    """Make a database, give its URL, and drop it; ``server`` is the URL of another one there."""
    name = f"parrot_{uuid4().hex}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    yield urlsplit(server)._replace(path=f"/{name}").geturl()
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@cache
def _answers(url: str) -> bool:
    try:
        psycopg.connect(url, connect_timeout=2).close()
    except psycopg.OperationalError:
        return False
    return True
