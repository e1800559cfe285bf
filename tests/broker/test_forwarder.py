import re
import socket
from collections.abc import Iterator

import pytest
import zmq
from zmq.utils.monitor import recv_monitor_message

from broker.forwarder import INSIDE, MAX_MESSAGE_BYTES, Forwarder
from messaging.transports.forwarder import ForwarderTransport, Peer
from messaging.transports.wire import Ack, Place, topic
from runtime.process.errors import StartError
from runtime.process.settings import Settings
from tests.conftest import eventually, unlock

Ends = tuple[zmq.Socket[bytes], zmq.Socket[bytes]]


@pytest.fixture
def ends(settings: Settings) -> Iterator[Ends]:
    """A publisher and a subscriber of everything, connected to a forwarder that runs."""
    forwarder, context = Forwarder(settings, zmq.Context()), zmq.Context()
    forwarder.start()
    publisher, subscriber = context.socket(zmq.PUB), context.socket(zmq.SUB)
    for end in publisher, subscriber:
        unlock(end, settings)
    publisher.connect(settings.broker_publish_url)
    subscriber.connect(settings.broker_subscribe_url)
    subscriber.subscribe(b"")
    eventually(lambda: relayed(publisher, subscriber, b"event/items/", b"1"))
    yield publisher, subscriber
    forwarder.stop()
    assert not forwarder.is_alive()
    context.destroy(linger=0)


def relayed(publisher: zmq.Socket[bytes], subscriber: zmq.Socket[bytes], *frames: bytes) -> bool:
    publisher.send_multipart(frames)
    return bool(subscriber.poll(20)) and subscriber.recv_multipart() == list(frames)


@pytest.mark.parametrize(
    ("taken", "setting"), [(0, "BROKER_PUBLISH_URL"), (1, "BROKER_SUBSCRIBE_URL")]
)
def test_a_taken_port_is_a_start_error_that_names_its_setting(
    settings: Settings, taken: int, setting: str
) -> None:
    """One line; and nothing of the forwarder is left, so that the other port is free again."""
    urls = settings.broker_publish_url, settings.broker_subscribe_url
    ports = [int(url.rpartition(":")[2]) for url in urls]
    with socket.create_server(("127.0.0.1", ports[taken])):
        with pytest.raises(StartError, match=f"{re.escape(urls[taken])}.*{setting}") as error:
            Forwarder(settings, zmq.Context())
        assert "\n" not in str(error.value)
        socket.create_server(("127.0.0.1", ports[1 - taken])).close()


def test_a_peer_inside_the_process_needs_no_key(settings: Settings) -> None:
    """As the journal: it hears what others say over the network, and is heard there."""
    context, message = zmq.Context(), Ack("items", Place(bytes(16), 1))
    forwarder = Forwarder(settings, context)
    forwarder.start()
    inside = Peer(context, INSIDE, [topic(Ack)])
    outside = ForwarderTransport(settings, "reader", [topic(Ack)])
    for peer in inside, outside:
        peer.open()
    for one, other in (inside, outside), (outside, inside):
        eventually(lambda one=one, other=other: one.send(message) or message in other.poll(0.05))
    for peer in inside, outside:
        peer.close()
    forwarder.stop()


def test_a_message_that_is_too_large_does_not_stop_the_forwarder(ends: Ends) -> None:
    assert not relayed(*ends, b"event/items/", bytes(MAX_MESSAGE_BYTES + 1))
    eventually(lambda: relayed(*ends, b"event/items/", b"2"))


def test_a_subscription_that_is_too_long_does_not_stop_the_forwarder(ends: Ends) -> None:
    """A deep one overflows the stack of libzmq, and would end the process."""
    _, subscriber = ends
    monitor = subscriber.get_monitor_socket(zmq.EVENT_DISCONNECTED)
    subscriber.setsockopt(zmq.SUBSCRIBE, bytes(10_000))
    assert recv_monitor_message(monitor)["event"] == zmq.EVENT_DISCONNECTED
    subscriber.disable_monitor()
    monitor.close()
    subscriber.setsockopt(zmq.UNSUBSCRIBE, bytes(10_000))
    eventually(lambda: relayed(*ends, b"event/items/", b"2"))
