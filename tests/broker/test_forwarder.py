import re
import socket
from collections.abc import Iterator

import pytest
import zmq

from broker.forwarder import MAX_MESSAGE_BYTES, Forwarder
from runtime.errors import StartError
from runtime.settings import Settings
from tests.conftest import eventually


@pytest.fixture
def urls(settings: Settings) -> tuple[str, str]:
    return settings.broker_publish_url, settings.broker_subscribe_url


@pytest.fixture
def context() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    context = zmq.Context()
    yield context
    context.destroy(linger=0)


@pytest.fixture
def sockets(
    context: zmq.Context[zmq.Socket[bytes]], urls: tuple[str, str]
) -> tuple[zmq.Socket[bytes], zmq.Socket[bytes]]:
    """A publisher and a subscriber of everything, connected to the forwarder."""
    publisher, subscriber = context.socket(zmq.PUB), context.socket(zmq.SUB)
    publisher.connect(urls[0])
    subscriber.connect(urls[1])
    subscriber.subscribe(b"")
    return publisher, subscriber


def relayed(publisher: zmq.Socket[bytes], subscriber: zmq.Socket[bytes], *frames: bytes) -> bool:
    publisher.send_multipart(frames)
    return bool(subscriber.poll(20)) and subscriber.recv_multipart() == list(frames)


def test_what_is_published_is_relayed_also_by_a_forwarder_that_is_started_again(
    urls: tuple[str, str], sockets: tuple[zmq.Socket[bytes], zmq.Socket[bytes]]
) -> None:
    for body in (b"1", b"2"):
        forwarder = Forwarder(*urls)
        forwarder.start()
        eventually(lambda body=body: relayed(*sockets, b"event/items/", body))
        forwarder.stop()
        assert not forwarder.is_alive()


@pytest.mark.parametrize(
    ("taken", "setting"), [(0, "BROKER_PUBLISH_URL"), (1, "BROKER_SUBSCRIBE_URL")]
)
def test_a_taken_port_is_a_start_error_that_names_its_setting(
    urls: tuple[str, str], taken: int, setting: str
) -> None:
    """One line; and nothing of the forwarder is left, so that the other port is free again."""
    ports = [int(url.rpartition(":")[2]) for url in urls]
    with socket.create_server(("127.0.0.1", ports[taken])):
        with pytest.raises(StartError, match=f"{re.escape(urls[taken])}.*{setting}") as error:
            Forwarder(*urls)
        assert "\n" not in str(error.value)
        socket.create_server(("127.0.0.1", ports[1 - taken])).close()


def test_a_message_that_is_too_large_does_not_stop_the_forwarder(
    urls: tuple[str, str], sockets: tuple[zmq.Socket[bytes], zmq.Socket[bytes]]
) -> None:
    forwarder = Forwarder(*urls)
    forwarder.start()
    eventually(lambda: relayed(*sockets, b"event/items/", b"1"))
    assert not relayed(*sockets, b"event/items/", bytes(MAX_MESSAGE_BYTES + 1))
    eventually(lambda: relayed(*sockets, b"event/items/", b"2"))
    forwarder.stop()
