import errno
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
import zmq
from structlog.testing import capture_logs

import messaging.transports.forwarder
from broker.forwarder import Forwarder
from messaging.transports.forwarder import MAX_MESSAGES, ForwarderTransport, Peer, configure
from messaging.transports.wire import START, Ack, Message, Place, Run, Want, pack, topic
from runtime.process.clock import Complaints
from runtime.process.settings import Settings
from tests.conftest import eventually, unlock
from tests.messaging.conftest import EPOCH, Clock, live

Connect = Callable[..., Peer]


@pytest.fixture
def forwarder(settings: Settings) -> Iterator[Forwarder]:
    running = Forwarder(settings)
    running.start()
    yield running
    if running.is_alive():
        running.stop()


@pytest.fixture
def connect(settings: Settings) -> Iterator[Connect]:
    """Open peers that hear the given topics; they are closed after the test."""
    opened: list[Peer] = []

    def connect(*topics: bytes) -> Peer:
        opened.append(Peer(settings, list(topics)))
        opened[-1].open()
        return opened[-1]

    yield connect
    for peer in opened:
        with suppress(zmq.ZMQError):  # a test has closed it
            peer.close()


def heard(peer: Peer, send: Callable[[], object]) -> list[Message]:
    """What a peer hears at last: subscriptions take a moment, so it is sent over and over."""

    def poll() -> list[Message]:
        send()
        return peer.poll(0.05)

    return eventually(poll)


def test_messages_reach_who_subscribed(forwarder: Forwarder, connect: Connect) -> None:
    writer, reader = connect(), connect(topic(Run, "numbers"), topic(Ack, "others"))

    def send() -> None:
        writer.send(Ack("numbers", START))
        writer.send(live(1)._replace(stream="numbers-2"))
        writer.send(live(1))

    assert all(message == live(1) for message in heard(reader, send))


def test_a_wanted_place_goes_out_with_the_readers_name(
    forwarder: Forwarder, connect: Connect, settings: Settings
) -> None:
    asked, way = connect(topic(Want)), ForwarderTransport(settings, "me", [])
    way.open()
    place = Place(EPOCH, 7)
    assert heard(asked, lambda: way.fetch("numbers", place))[0] == Want("numbers", "me", place)
    way.close()


def test_a_peer_knows_whether_the_broker_is_up_and_comes_back_by_itself(
    connect: Connect, settings: Settings
) -> None:
    peer = connect(topic(Run))
    peer.poll(0)
    assert not peer.up
    peer.send(live(1))  # to nobody, without waiting
    for _ in range(2):
        forwarder = Forwarder(settings)
        forwarder.start()
        eventually(lambda: peer.poll(0.05) or peer.up)
        assert heard(peer, lambda: peer.send(live(2)))[-1] == live(2)
        forwarder.stop()
        eventually(lambda: not (peer.poll(0.05) or peer.up))


def test_any_thread_can_end_the_wait_of_a_poll(connect: Connect, settings: Settings) -> None:
    peer = connect()
    for _ in range(5000):  # more than fit are no reason to wait
        peer.wake()
    begin = time.monotonic()
    waker = threading.Timer(0.05, peer.wake)
    waker.start()
    while time.monotonic() < begin + 0.05:
        assert peer.poll(30) == []
    waker.join()
    assert time.monotonic() - begin < 10
    peer.close()
    peer.wake()
    assert not peer.up
    Peer(settings, []).wake()


def test_malformed_frames_are_counted_and_dropped_with_one_line_a_minute(
    forwarder: Forwarder, connect: Connect, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They come from a peer that has a key."""
    clock, peer = Clock(), connect(topic(Run))
    monkeypatch.setattr(peer, "_complaints", Complaints(clock))
    raw = zmq.Context()
    peculiar = raw.socket(zmq.PUB)
    unlock(peculiar, settings)
    peculiar.connect(settings.broker_publish_url)

    def poll_until(count: int) -> None:
        for _ in range(500):
            if peer.malformed >= count:
                return
            for frames in ([b"event/"], [b"event/numbers/", b"short"], pack(live(1))[:3]):
                peculiar.send_multipart(frames)
            assert peer.poll(0.01) == []
        pytest.fail("malformed frames were not counted")

    with capture_logs() as lines:
        poll_until(9)
        clock.now += 59
        poll_until(peer.malformed + 3)
        assert [line["log_level"] for line in lines] == ["warning"]
        clock.now += 1
        poll_until(peer.malformed + 3)
        assert len(lines) == 2
    good = heard(peer, lambda: peculiar.send_multipart(pack(live(1))))
    assert good[0] == live(1)
    raw.destroy(linger=0)


def test_what_piles_up_is_dropped(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long a peer does not look, what waits for it is gone with one look."""
    peer = connect()
    waiting = [pack(live(n + 1)) for n in range(3 * MAX_MESSAGES)]

    def receive(flags: int) -> list[bytes]:
        if not waiting:
            raise zmq.Again
        return waiting.pop(0)

    monkeypatch.setattr(peer._subscriber, "recv_multipart", receive)
    assert peer._receive() == [live(n + 1) for n in range(MAX_MESSAGES)]
    assert waiting == []


def test_a_refused_peer_comes_back_once_its_keys_are_mended(
    connect: Connect, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where they could not even be read when it knocked again."""
    monkeypatch.setattr(messaging.transports.forwarder, "RECONNECT_AFTER_S", 0.1)
    peer = connect()
    assert settings.keys
    own = settings.keys / "client.key"
    good = own.read_text()
    own.write_text("junk")  # it admits nobody, and is no key
    forwarder = Forwarder(settings)
    forwarder.start()
    try:
        with capture_logs() as lines:
            eventually(lambda: peer.poll(0.05) or any("not a key" in str(line) for line in lines))
        assert not peer.up
        own.write_text(good)
        eventually(lambda: peer.poll(0.05) or peer.up)
    finally:
        forwarder.stop()


def test_a_peer_that_cannot_open_its_sockets_again_goes_on_trying(
    forwarder: Forwarder, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a process has no descriptors left for a while, its thread neither ends nor hangs."""
    monkeypatch.setattr(messaging.transports.forwarder, "RECONNECT_AFTER_S", 0.1)
    peer = connect()
    eventually(lambda: peer.poll(0.05) or peer.up)
    make, failures = zmq.Context.socket, iter([True, False, True])  # at the first one, and midway

    def socket(context: zmq.Context, *kind: int) -> zmq.Socket:
        if next(failures, False):
            raise zmq.ZMQError(errno.EMFILE)
        return make(context, *kind)

    monkeypatch.setattr(zmq.Context, "socket", socket)
    peer._connected = dict.fromkeys(peer._connected, False)
    peer._refused_at = time.monotonic()  # as if it had just been refused
    eventually(lambda: peer.poll(0.05) or peer.up)
    assert next(failures, None) is None


def test_a_connect_that_stays_silent_ends(connect: Connect) -> None:
    assert [each.connect_timeout for each in connect()._sockets] == [2000, 2000]


@pytest.mark.parametrize("url", ["tcp://127.0.0.1:5559", "tcp://[::1]:5559"])
def test_every_socket_finds_a_silent_connection_and_has_no_limit_to_its_queue(url: str) -> None:
    context = zmq.Context()
    connection = context.socket(zmq.SUB)
    configure(connection, url)
    assert connection.rcvhwm == 0
    assert (connection.heartbeat_ivl, connection.heartbeat_timeout) == (1000, 4000)
    assert connection.handshake_ivl == 5000
    assert connection.ipv6 == ("[" in url)
    context.destroy(linger=0)
