"""What every test can ask for: settings of its own, the parts of the system, and time to wait."""

import itertools
import os
import random
import signal
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import zmq

from broker.forwarder import INSIDE, Forwarder
from broker.journal import Journal
from inventory.app import Inventory
from messaging.transports.forwarder import Peer
from messaging.transports.keys import key_pair, public_key
from messaging.transports.wire import Run, Want, topic
from payment.app import Payment
from runtime.process.settings import Settings
from scenarios.servers import PostgresServer
from shop.app import Shop
from tests import pairs
from tests.processes import World, eventually  # noqa: F401  # tests have it from here

pytest_plugins = ["tests.servers", "tests.drills"]

# Below the ports that systems give to outgoing connections, which could take one that waits for
# its process. Tests that run side by side have different ones.
WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
RANGE = range(16_000 + WORKER % 8 * 2_000, 18_000 + WORKER % 8 * 2_000)
# Under nohup it would be ignored here, and in every process that is started.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
ports = itertools.islice(itertools.cycle(RANGE), random.randrange(len(RANGE)), None)


def free_port() -> int:
    """A port that nobody listens on now."""
    for port in ports:
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise AssertionError("ports do not end")


def unlock(end: zmq.Socket[bytes], settings: Settings) -> None:
    """Give a raw socket the keys that a service has."""
    if settings.keys:
        end.curve_publickey, end.curve_secretkey = key_pair(settings.keys, "client")
        end.curve_serverkey = public_key(settings.keys, "broker")


def own_settings(folder: Path) -> Settings:
    """Settings with this folder, and with ports that nobody else has."""
    return Settings(
        DATA_DIR=folder / "data",
        INVENTORY_PORT=free_port(),
        SHOP_PORT=free_port(),
        PAYMENT_PORT=free_port(),
        INVENTORY_EXCHANGE_PORT=free_port(),
        SHOP_EXCHANGE_PORT=free_port(),
        PAYMENT_EXCHANGE_PORT=free_port(),
        BROKER_HTTP_PORT=free_port(),
        BROKER_PUBLISH_URL=f"tcp://127.0.0.1:{free_port()}",
        BROKER_SUBSCRIBE_URL=f"tcp://127.0.0.1:{free_port()}",
    )


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A folder and ports that no other test has."""
    return own_settings(tmp_path)


class Broker:
    """The broker's two threads in this process."""

    def __init__(self, settings: Settings) -> None:
        context = zmq.Context()
        peer = Peer(context, INSIDE, [topic(Run), topic(Want)])
        self.journal = Journal(settings.data_dir / "broker.db", peer)
        self.journal.open()
        self.forwarder = Forwarder(settings, context)
        self.forwarder.start()
        self.journal.start()

    def stop(self) -> None:
        self.journal.stop()
        self.forwarder.stop()


@pytest.fixture
def broker(settings: Settings) -> Iterator[Broker]:
    """A running broker."""
    running = Broker(settings)
    yield running
    running.stop()


def _opened(service: Any) -> Iterator[Any]:
    service.database.open()
    yield service
    if service.exchange.is_alive():
        service.exchange.stop()
    service.database.close()


@pytest.fixture
def inventory(settings: Settings) -> Iterator[Inventory]:
    """An inventory whose exchange is not started."""
    yield from _opened(Inventory(settings))


@pytest.fixture
def shop(settings: Settings) -> Iterator[Shop]:
    """A shop whose exchange is not started."""
    yield from _opened(Shop(settings))


@pytest.fixture
def payment(settings: Settings) -> Iterator[Payment]:
    """A payment service whose exchange and console are not started."""
    yield from _opened(Payment(settings))


@pytest.fixture(scope="session")
def cluster() -> Iterator[PostgresServer]:
    """A PostgreSQL server, on which each world has databases of its own."""
    pairs.require_servers()
    server = PostgresServer(free_port())
    server.start()
    yield server
    server.remove()


@pytest.fixture
def world(request: pytest.FixtureRequest, settings: Settings) -> Iterator[World]:
    """Real processes, none started yet; whatever a test starts is ended after it.

    They run on the embedded pair, unless the test names another one (`tests.pairs`).
    """
    with pairs.new_world(getattr(request, "param", pairs.EMBEDDED), settings, request) as processes:
        yield processes
