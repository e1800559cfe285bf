"""What every test can ask for: settings of its own, the parts of the system, and time to wait."""

import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from broker.forwarder import Forwarder
from broker.journal import Journal
from inventory.app import Inventory
from messaging.transport import Peer
from messaging.wire import Event, Want, topic
from payment.app import Payment
from runtime.settings import Settings
from shop.app import Shop
from tests.processes import World


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def eventually(condition: Callable[[], Any], timeout_s: float = 15) -> Any:
    """Wait until a condition is true, and give its value; fail at the deadline."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {timeout_s} s; last: {value!r}"
        time.sleep(0.01)
    return value


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A folder and ports that no other test has."""
    return Settings(
        DATA_DIR=tmp_path / "data",
        INVENTORY_PORT=free_port(),
        SHOP_PORT=free_port(),
        PAYMENT_PORT=free_port(),
        BROKER_PUBLISH_URL=f"tcp://127.0.0.1:{free_port()}",
        BROKER_SUBSCRIBE_URL=f"tcp://127.0.0.1:{free_port()}",
    )


class Broker:
    """The broker's two threads in this process."""

    def __init__(self, settings: Settings) -> None:
        urls = settings.broker_publish_url, settings.broker_subscribe_url
        self.journal = Journal(
            settings.data_dir / "broker.db", Peer(*urls, [topic(Event), topic(Want)])
        )
        self.journal.open()
        self.forwarder = Forwarder(*urls)
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


@pytest.fixture
def world(settings: Settings) -> Iterator[World]:
    """Real processes, none started yet; whatever a test starts is ended after it."""
    processes = World(settings)
    yield processes
    processes.end()
