"""Who has no key neither reads nor writes: real processes, and raw sockets of strangers."""

import contextlib
import shutil
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from broker.forwarder import Forwarder
from messaging.event import Fact, document
from messaging.transports.forwarder import Peer
from messaging.transports.keys import public_key
from messaging.transports.wire import Ack, Place, Run, pack
from runtime.process.clock import timestamp
from runtime.process.settings import Settings
from tests.conftest import eventually
from tests.messaging.conftest import single
from tests.processes import ALL, World

Ends = tuple[zmq.Socket[bytes], zmq.Socket[bytes]]


@pytest.fixture
def ends() -> Iterator[Ends]:
    """A publisher, and a subscriber of everything; neither has a key."""
    context = zmq.Context()
    publisher, subscriber = context.socket(zmq.PUB), context.socket(zmq.SUB)
    subscriber.subscribe(b"")
    yield publisher, subscriber
    context.destroy(linger=0)


def forged(world: World, order_id: str) -> Run:
    """The shop's next order, as somebody else would like it to be."""
    ((epoch, sequence),) = world.rows("shop", "SELECT epoch, sequence FROM head")
    place = Place(epoch, sequence + 1)
    data = {"order_id": order_id, "user_id": 1, "price": 666, "items": []}
    return single(
        "orders", place, document("/shop", place, "order.placed", Fact(order_id, timestamp(), data))
    )


@pytest.mark.parametrize("stranger", ["without keys", "with keys of its own"])
def test_a_stranger_neither_reads_nor_publishes(world: World, ends: Ends, stranger: str) -> None:
    """Its order is not paid, and does not push out the true one that gets the same number."""
    world.start(*ALL)
    basket = world.stock()
    publisher, subscriber = ends
    for end in ends:
        if stranger == "with keys of its own":
            end.curve_publickey, end.curve_secretkey = zmq.curve_keypair()
            end.curve_serverkey = public_key(world.settings.data_dir / "keys", "broker")
    publisher.connect(world.settings.broker_publish_url)
    subscriber.connect(world.settings.broker_subscribe_url)

    order_id = "00000000-0000-4000-8000-000000000666"
    lie = pack(forged(world, order_id))
    for _ in range(50):
        publisher.send_multipart(lie)
        assert not subscriber.poll(10)
    order = world.checkout(basket)
    eventually(lambda: world.is_paid(order))
    assert not subscriber.poll(100)
    (payment,) = world.get("payment", "/api/payments")
    assert (payment["order_id"], payment["price"]) == (order, 4000)


def test_without_keys_a_forged_order_would_be_paid(world: World, ends: Ends) -> None:
    """What BROKER_CURVE=off means, and that the forgery of the test above is a good one."""
    world.settings = world.settings.model_copy(update={"broker_curve": "off"})
    world.start(*ALL)
    world.stock()
    publisher, _ = ends
    publisher.connect(world.settings.broker_publish_url)
    order_id = "00000000-0000-4000-8000-000000000666"
    lie = pack(forged(world, order_id))

    def is_paid() -> bool:
        publisher.send_multipart(lie)
        return bool(world.get("payment", f"/api/payments?order_id={order_id}"))

    eventually(is_paid)
    assert "anybody" in world.output("broker", "stderr")
    assert not (world.settings.data_dir / "keys").exists()


def test_a_peer_elsewhere(world: World, tmp_path: Path) -> None:
    """A service with the broker's public key and a pair of its own: refused, until it is added.

    It knocks again by itself, and nobody is started again.
    """
    world.start("broker", "inventory", "payment")
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "keys").mkdir(parents=True)
    keys = world.settings.data_dir / "keys"
    shutil.copy(keys / "broker.key", elsewhere / "keys")
    world.start("shop", DATA_DIR=str(elsewhere))
    eventually(lambda: "refuses" in world.output("shop", "stderr"))
    assert world.get("shop", "/readyz")["broker"] == "down"

    shutil.copy(elsewhere / "keys" / "client.key", keys / "shop.key")
    order = world.checkout(world.stock())
    eventually(lambda: world.is_paid(order))
    eventually(lambda: world.output("shop", "stderr").count("refuses") == 1)


def test_new_keys_are_taken_without_a_restart_of_the_services(world: World) -> None:
    """The folder of keys removed: the broker makes new ones, and the services read them."""
    world.start(*ALL)
    basket = world.stock()
    world.kill("broker")
    shutil.rmtree(world.settings.data_dir / "keys")
    world.start("broker")
    order = world.checkout(basket)
    eventually(lambda: world.is_paid(order))


@pytest.mark.parametrize("name", ["broker", "shop"])
def test_a_damaged_key_is_told_in_one_line(world: World, name: str) -> None:
    keys = world.settings.data_dir / "keys"
    keys.mkdir(mode=0o700)
    (keys / "broker.key").write_text("not a key")
    ended = world.finish("-m", name)
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1].startswith(f"{name}: {keys / 'broker.key'} is not a key")


@contextlib.contextmanager
def wiretap(target: int) -> Iterator[tuple[int, bytearray]]:
    """A port that relays one connection to another port, and what went through it."""
    heard = bytearray()

    def relay(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                heard.extend(data)
                sink.sendall(data)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        ends: list[socket.socket] = []

        def accept() -> None:
            with contextlib.suppress(OSError):
                ends.append(listener.accept()[0])
                ends.append(socket.create_connection(("127.0.0.1", target)))
                back = threading.Thread(target=relay, args=ends[::-1])
                back.start()
                relay(*ends)
                back.join()

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield listener.getsockname()[1], heard
        finally:
            for end in ends:
                with contextlib.suppress(OSError):  # the other side has ended it
                    end.shutdown(socket.SHUT_RDWR)
            thread.join()
            for end in ends:
                end.close()


@pytest.mark.parametrize("curve", ["on", "off"])
def test_nobody_reads_along(settings: Settings, curve: str) -> None:
    """What goes over the wire is not to be read, neither events nor topics; it would be without."""
    settings = settings.model_copy(update={"broker_curve": curve})
    forwarder = Forwarder(settings)
    forwarder.start()
    port = int(settings.broker_publish_url.rpartition(":")[2])
    with wiretap(port) as (tapped, heard):
        url = f"tcp://127.0.0.1:{tapped}"
        writer = Peer(settings.model_copy(update={"broker_publish_url": url}), [])
        reader = Peer(settings, [b"ack/"])
        writer.open()
        reader.open()
        message = Ack("orders", Place(b"sixteen-byte-epo", 7))

        def arrives() -> bool:
            writer.poll(0)
            writer.send(message)
            return message in reader.poll(0.02)

        eventually(arrives)
        readable = b"ack/orders/" in heard and b"sixteen-byte-epo" in heard
        assert readable == (curve == "off")
        writer.close()
        reader.close()
    forwarder.stop()
