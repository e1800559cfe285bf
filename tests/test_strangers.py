"""Who has no key neither reads nor writes: real processes, and raw sockets of strangers."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import zmq

from broker.forwarder import Forwarder
from messaging.event import Fact, document
from messaging.transports.forwarder import ForwarderTransport
from messaging.transports.keys import public_key
from messaging.transports.wire import Ack, Place, pack
from runtime.process.clock import timestamp
from runtime.process.errors import StartError
from runtime.process.settings import Settings
from tests.conftest import eventually
from tests.messaging.conftest import EPOCH, single
from tests.processes import ALL, World
from tests.relay import line

ORDER_ID = "00000000-0000-4000-8000-000000000666"


class Stranger:
    """A publisher, and a subscriber of everything."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        self.publisher, self.subscriber = context.socket(zmq.PUB), context.socket(zmq.SUB)
        self.subscriber.subscribe(b"")

    def connect(self, settings: Settings, with_keys: bool) -> None:
        if with_keys:
            for end in (self.publisher, self.subscriber):
                end.curve_publickey, end.curve_secretkey = zmq.curve_keypair()
                end.curve_serverkey = public_key(settings.data_dir / "keys", "broker")
        self.publisher.connect(settings.broker_publish_url)
        self.subscriber.connect(settings.broker_subscribe_url)


@pytest.fixture
def strangers() -> Iterator[list[Stranger]]:
    """Two, who are not connected."""
    context = zmq.Context()
    yield [Stranger(context), Stranger(context)]
    context.destroy(linger=0)


def forged(place: Place) -> list[bytes]:
    """The shop's order at this place, as somebody else would like it to be."""
    data = {"order_id": ORDER_ID, "user_id": 1, "price": 666, "items": []}
    fact = Fact(ORDER_ID, timestamp(), data)
    return pack(single("orders", place, document("/shop", place, "order.placed", fact)))


def test_a_stranger_neither_reads_nor_publishes(world: World, strangers: list[Stranger]) -> None:
    """Without keys, or with its own: its order does not push out the one with the same number."""
    world.start(*ALL)
    basket = world.stock()
    for stranger, with_keys in zip(strangers, (False, True), strict=True):
        stranger.connect(world.settings, with_keys)
    ((epoch, sequence),) = world.rows("shop", "SELECT epoch, sequence FROM head")
    lie = forged(Place(epoch, sequence + 1))
    for _ in range(50):
        for stranger in strangers:
            stranger.publisher.send_multipart(lie)
            assert not stranger.subscriber.poll(5)
    order = world.checkout(basket)
    eventually(lambda: world.is_paid(order))
    assert not any(stranger.subscriber.poll(50) for stranger in strangers)
    (payment,) = world.get("payment", "/api/payments")
    assert (payment["order_id"], payment["price"]) == (order, 4000)


def test_without_keys_a_forged_order_would_be_paid(world: World, strangers: list[Stranger]) -> None:
    """What BROKER_CURVE=off means, and that the forgery of the test above is a good one."""
    world.settings = world.settings.model_copy(update={"broker_curve": "off"})
    world.start("broker", "payment")
    strangers[0].connect(world.settings, with_keys=False)

    def is_paid() -> bool:
        strangers[0].publisher.send_multipart(forged(Place(EPOCH, 1)))
        return bool(world.get("payment", f"/api/payments?order_id={ORDER_ID}"))

    eventually(is_paid)
    assert "anybody" in world.output("broker", "stderr")
    assert not (world.settings.data_dir / "keys").exists()


def test_a_damaged_key_is_told_in_one_line(settings: Settings) -> None:
    """By the broker as by a service."""
    assert settings.keys
    settings.keys.mkdir(parents=True)
    (settings.keys / "broker.key").write_text("not a key")
    peer = ForwarderTransport(settings, "peer", [])
    context = zmq.Context()
    for start in (lambda: Forwarder(settings, context), peer.open):
        with pytest.raises(StartError, match=r"^[^\n]*broker\.key is not a key[^\n]*$"):
            start()
    peer.close()
    context.term()


@contextmanager
def opened(settings: Settings, *topics: bytes) -> Iterator[ForwarderTransport]:
    peer = ForwarderTransport(settings, "peer", list(topics))
    peer.open()
    yield peer
    peer.close()


@pytest.mark.parametrize("curve", ["on", "off"])
def test_nobody_reads_along(settings: Settings, curve: str) -> None:
    """What goes over the wire is not to be read, neither events nor topics; it would be without."""
    settings = settings.model_copy(update={"broker_curve": curve})
    forwarder = Forwarder(settings, zmq.Context())
    forwarder.start()
    message = Ack("orders", Place(b"sixteen-byte-epo", 7))
    with line(settings.broker_publish_url) as tapped:
        over = settings.model_copy(update={"broker_publish_url": tapped.url})
        with opened(over) as writer, opened(settings, b"ack/") as reader:

            def arrives() -> bool:
                writer.poll(0)
                writer.send(message)
                return message in reader.poll(0.02)

            eventually(arrives)
    readable = b"ack/orders/" in tapped.heard and b"sixteen-byte-epo" in tapped.heard
    assert readable == (curve == "off")
    forwarder.stop()
