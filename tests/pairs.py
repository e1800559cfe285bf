"""The pairs that the shop runs on: files and its own broker, or PostgreSQL and NATS JetStream."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple
from urllib.parse import urlsplit
from uuid import uuid4

import pytest

from runtime.process.settings import Settings
from scenarios.servers import NatsServer, PostgresServer, Server, missing
from tests.processes import SERVICES, World

EMBEDDED, SCALE = "embedded", "scale"
on_both_pairs = pytest.mark.parametrize("world", [EMBEDDED, SCALE], indirect=True)
# On servers with ``-m chaos`` alone: it is the same code that is tried.
on_files = pytest.mark.parametrize(
    "world", [EMBEDDED, pytest.param(SCALE, marks=pytest.mark.chaos)], indirect=True
)
on_servers = pytest.mark.parametrize("world", [SCALE], indirect=True)


class Ground(NamedTuple):
    """What processes run on: their settings, and the servers that these name."""

    settings: Settings
    servers: dict[str, Server]


def require_servers() -> None:
    """Skip the test where something is missing; REQUIRE_SERVERS=1 lets it fail."""
    lacking = missing()
    if lacking and os.environ.get("REQUIRE_SERVERS"):
        pytest.fail(lacking)
    if lacking:
        pytest.skip(lacking)


def administer(url: str, *statements: str) -> None:
    """Run statements on the server of a database, outside of a transaction and of that database."""
    import psycopg  # noqa: PLC0415  # few need it

    server, _, _ = url.rpartition("/")
    with psycopg.connect(f"{server}/postgres", autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)


def back_up_database(url: str) -> Callable[[], None]:
    """Copy a database that nobody uses; gives what puts the copy in its place."""
    _, _, name = url.rpartition("/")
    backup = f"{name}-backup"
    administer(url, f'CREATE DATABASE "{backup}" TEMPLATE "{name}"')

    def restore() -> None:
        rename = f'ALTER DATABASE "{backup}" RENAME TO "{name}"'
        administer(url, f'DROP DATABASE "{name}" WITH (FORCE)', rename)

    return restore


@contextmanager
def new_databases(cluster: PostgresServer) -> Iterator[dict[str, str]]:
    """A new database for each service, which go away again; their URLs, by the setting's name."""
    if not cluster.answers():  # a test that failed may have left it so
        cluster.start()
    names = {name: f"{name}-{uuid4().hex}" for name in SERVICES}
    cluster.create(*names.values())
    try:
        yield {f"{name}_database_url": cluster.url(names[name]) for name in SERVICES}
    finally:
        if not cluster.answers():
            cluster.start()
        dropped = [f'DROP DATABASE "{name}" WITH (FORCE)' for name in names.values()]
        administer(cluster.url("postgres"), *dropped)


@contextmanager
def new_nats(settings: Settings) -> Iterator[NatsServer]:
    """A NATS server that is not started yet, on the port of the broker that is not started."""
    port = urlsplit(settings.broker_publish_url).port
    server = NatsServer(settings.data_dir.parent / "nats", int(port or 0))
    try:
        yield server
    finally:
        server.kill()


@contextmanager
def ground(pair: str, settings: Settings, request: pytest.FixtureRequest) -> Iterator[Ground]:
    """What one of the pairs takes; the database server runs, and the broker does not."""
    if pair == EMBEDDED:
        yield Ground(settings, {})
        return
    cluster = request.getfixturevalue("cluster")
    with new_databases(cluster) as urls, new_nats(settings) as nats:
        update = {**urls, "broker_url": nats.url}
        yield Ground(settings.model_copy(update=update), {"database": cluster, "broker": nats})


@contextmanager
def new_world(pair: str, settings: Settings, request: pytest.FixtureRequest) -> Iterator[World]:
    """Real processes on one of the pairs, none started yet; whatever is started is ended."""
    with ground(pair, settings, request) as given:
        processes = World(*given)
        try:
            yield processes
        finally:
            processes.end()
