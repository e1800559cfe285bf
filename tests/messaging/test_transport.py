"""What either transport promises; and then, what the one over the forwarder does besides."""

import errno
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import zmq
from structlog.testing import capture_logs

from broker.forwarder import Forwarder
from messaging.exchange import transport
from messaging.transports.forwarder import MAX_MESSAGES, ForwarderTransport, configure
from messaging.transports.wire import RUN_EVENTS, START, Place, Run, pack, topic
from runtime.process.clock import Complaints
from runtime.process.settings import Settings
from tests.conftest import Broker, eventually, unlock
from tests.messaging.conftest import EPOCH, NEWER, OLDER, Clock, Numbers, live
from tests.messaging.streams import (
    acked_as,
    all_fetched,
    fetched,
    hear,
    in_a_row,
    insist,
    places,
    publish,
    split,
    stored,
    until_up,
)

Connect = Callable[..., Any]
Make = Callable[..., Numbers]
Open = Callable[..., ForwarderTransport]


def test_an_event_whose_predecessor_is_missing_is_not_taken(
    connect: Connect, served: Settings, stream: str
) -> None:
    """Its writer is told where the stream stands, and goes back to there."""
    writer = connect(served, stream)
    events = in_a_row(stream, 5)
    publish(writer, *events[:2])
    insist(writer, events[3], acked_as(events[1]))
    assert stored(served, stream) == places(*events[:2])
    publish(writer, *events[2:])
    assert stored(served, stream) == places(*events)


def test_an_ack_is_one_of_all_events_up_to_it(
    connect: Connect, served: Settings, stream: str
) -> None:
    """Also where events are sent again: the acks never go back."""
    writer = connect(served, stream)
    events = in_a_row(stream, 20)
    publish(writer, events[0])
    heard: list[Any] = []

    def send_all() -> bool:
        for event in events:
            writer.publish(event)
        heard.extend(writer.poll(0.05))
        return heard.count(acked_as(events[-1])) > 3

    eventually(send_all)
    assert heard == sorted(heard)
    assert stored(served, stream) == places(*events)


def test_writers_that_do_not_know_of_each_other_store_each_event_once_and_in_order(
    connect: Connect, served: Settings, stream: str
) -> None:
    """Two copies may both lead for a moment; they tell the same events."""
    events = in_a_row(stream, 100)
    writers = [connect(served, stream), connect(served, stream)]
    for last in range(20, 120, 20):
        for each in writers:
            publish(each, *events[:last])
    assert stored(served, stream) == places(*events)


def test_a_newer_epoch_closes_the_older_one(
    connect: Connect, served: Settings, stream: str
) -> None:
    """Whoever still writes under the older one is told of the newer, and stores nothing."""
    old, new = connect(served, stream), connect(served, stream)
    before, after = in_a_row(stream, 3, OLDER), in_a_row(stream, 2, EPOCH)
    publish(old, *before[:2])
    fetched(new, stream)  # as a publisher does before it sends
    insist(new, after[1], acked_as(before[1]))  # it begins with its first event
    publish(new, *after)
    for late in before[2:] * 2:
        insist(old, late, acked_as(after[-1]))
    assert stored(served, stream) == places(*before[:2], *after)


def test_live_events_are_heard(connect: Connect, served: Settings, stream: str) -> None:
    """Those of the streams that are read."""
    writer, reader = connect(served, stream), connect(served, None, stream)
    other = connect(served, f"{stream}-2")
    fetched(reader, stream)  # a copy that stands by asks for nothing, and hears nothing
    publish(other, *in_a_row(f"{stream}-2", 1))
    events = in_a_row(stream, 3)
    publish(writer, *events)
    heard = hear(reader, lambda heard: split(events)[-1] in split(heard))
    assert list(dict.fromkeys(split(heard))) == split(events)
    runs = [each for each in heard if isinstance(each, Run)]
    assert all(run.follows.sequence == run.first.sequence - 1 for run in runs)


def test_a_stream_is_fetched_from_any_place_across_epochs(
    connect: Connect, served: Settings, stream: str
) -> None:
    """Each event tells which one it follows; an answer has 256 of them, and tells the head."""
    history = in_a_row(stream, 300, OLDER) + in_a_row(stream, 300, EPOCH)
    writer, reader = connect(served, stream), connect(served)
    publish(writer, *history[:300])
    fetched(writer, stream)
    publish(writer, *history[300:])
    *found, end = fetched(reader, stream)
    assert (len(split(found)), end.first) == (RUN_EVENTS, history[-1].first)
    assert split(all_fetched(reader, stream)) == split(history)
    for at in (0, 255, 298, 299, 300, 597, 598):
        *found, end = fetched(reader, stream, history[at].first)
        assert split(found) == split(history[at + 1 :][:RUN_EVENTS])
        assert found[0].follows == history[at].first
        assert all(second.follows == first.last for first, second in pairwise([*found, end]))
    for between, first in (
        (Place(bytes(16), 5), 0),  # before everything
        (Place(OLDER, 900), 300),  # the older epoch has ended earlier
        (Place(EPOCH, 0), 300),
    ):
        answer = fetched(reader, stream, between)
        assert (answer[0].follows, answer[0].first) == (between, history[first].first)
    for after in (Place(EPOCH, 300), Place(EPOCH, 301), Place(NEWER, 3)):
        assert fetched(reader, stream, after) == [Run(stream, after, history[-1].first, [])]


def test_a_stream_that_does_not_exist_has_nothing(
    connect: Connect, served: Settings, stream: str
) -> None:
    """Only its writer makes it."""
    reader, writer = connect(served, None, stream), connect(served, stream)
    for each in (reader, reader, writer):
        assert fetched(each, stream) == [Run(stream, START, START, [])]
    publish(writer, *in_a_row(stream, 1))
    assert len(all_fetched(reader, stream)) == 1


def test_any_thread_can_end_the_wait_of_a_poll(served: Settings, stream: str) -> None:
    way = transport(served, "me", stream, ())
    way.wake()
    way.open()
    try:
        until_up(way)
        for _ in range(5000):  # more than fit are no reason to wait
            way.wake()
        begin = time.monotonic()
        waker = threading.Timer(0.05, way.wake)
        waker.start()
        while time.monotonic() < begin + 0.05:
            assert way.poll(1000) == []
        waker.join()
    finally:
        way.close()
    way.wake()
    assert not way.up


class Mortal(NamedTuple):
    """A broker that a test starts and ends; while it is down, it may ``lose`` what it keeps."""

    settings: Settings
    start: Callable[[], object]
    kill: Callable[[], object]
    lose: Callable[[], object]


@pytest.fixture
def mortal(kind: str, settings: Settings, request: pytest.FixtureRequest) -> Iterator[Mortal]:
    if kind == "jetstream":
        server = request.getfixturevalue("own_nats")
        to_nats = settings.model_copy(update={"broker_url": server.url})
        store = server.log.with_suffix("")
        yield Mortal(to_nats, server.start, server.kill, lambda: shutil.rmtree(store))
        return
    running: list[Broker] = []

    def kill() -> None:
        ended = running.pop()
        ended.stop()
        os.close(ended.journal._database._claim or 0)

    def lose() -> None:
        (settings.data_dir / "broker.db").unlink()

    yield Mortal(settings, lambda: running.append(Broker(settings)), kill, lose)
    for each in running:
        each.stop()


def test_a_broker_may_start_last_and_be_killed_and_everything_is_delivered_once(
    service: Make, mortal: Mortal, stream: str
) -> None:
    writer = service(mortal.settings, stream)
    reader = service(mortal.settings, "others", stream)
    writer.tell(*range(10))
    assert writer.exchange.status()["broker"] == "down"
    mortal.start()
    eventually(lambda: reader.heard == [*range(10)])
    writer.tell(*range(10, 20))  # on their way
    mortal.kill()
    writer.tell(*range(20, 30))
    eventually(lambda: writer.exchange.status()["broker"] == "down")
    mortal.start()
    writer.tell(*range(30, 40))
    eventually(lambda: reader.heard == [*range(40)])
    eventually(lambda: writer.is_told)
    assert len(stored(mortal.settings, stream)) == 40


def test_a_broker_that_has_lost_everything_is_filled_again(
    service: Make, mortal: Mortal, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By an idle writer, too, although nobody has an older epoch any more; and read on."""
    monkeypatch.setattr("messaging.publisher.PROBE_INTERVAL_S", 0.2)
    mortal.start()
    first = service(mortal.settings, stream, file="first")
    first.tell(1, 2, 3)
    eventually(lambda: first.is_told)
    first.close()
    writer = service(mortal.settings, stream, file="second")
    reader = service(mortal.settings, "others", stream)
    writer.tell(*range(10, 20))
    eventually(lambda: reader.heard == [1, 2, 3, *range(10, 20)])
    mortal.kill()
    mortal.lose()
    mortal.start()
    held = places(*in_a_row(stream, 10, writer.outbox.head().place.epoch))
    eventually(lambda: writer.exchange.status()["broker"] == "up")
    eventually(lambda: found_in(mortal.settings, stream) == held)
    writer.tell(*range(20, 30))
    eventually(lambda: reader.heard == [1, 2, 3, *range(10, 30)])


def found_in(settings: Settings, stream: str) -> list[str | None]:
    """What is stored, if anything is yet."""
    with suppress(Exception):
        return stored(settings, stream)
    return []


# Over the forwarder


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections that were refused are made again soon."""
    monkeypatch.setattr("messaging.transports.forwarder.RECONNECT_AFTER_S", 0.1)


@pytest.fixture
def forwarder(settings: Settings) -> Iterator[Forwarder]:
    running = Forwarder(settings, zmq.Context())
    running.start()
    yield running
    if running.is_alive():
        running.stop()


@pytest.fixture
def open_peer(settings: Settings) -> Iterator[Open]:
    """Open peers that hear the given topics; they are closed after the test."""
    opened: list[ForwarderTransport] = []

    def open_peer(*topics: bytes, settings: Settings = settings) -> ForwarderTransport:
        opened.append(ForwarderTransport(settings, "peer", list(topics)))
        opened[-1].open()
        return opened[-1]

    yield open_peer
    for peer in opened:
        peer.close()


def test_malformed_frames_are_counted_and_dropped_with_one_line_a_minute(
    forwarder: Forwarder, open_peer: Open, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They come from a peer that has a key."""
    clock, peer = Clock(), open_peer(topic(Run))
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
    good = eventually(lambda: peculiar.send_multipart(pack(live(1))) or peer.poll(0.05))
    assert good[0] == live(1)
    raw.destroy(linger=0)


def test_what_piles_up_is_dropped(open_peer: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long a peer does not look, what waits for it is gone with one look."""
    peer = open_peer()
    waiting = [pack(live(n + 1)) for n in range(3 * MAX_MESSAGES)]

    def receive(flags: int) -> list[bytes]:
        if not waiting:
            raise zmq.Again
        return waiting.pop(0)

    monkeypatch.setattr(peer._subscriber, "recv_multipart", receive)
    assert peer._receive() == [live(n + 1) for n in range(MAX_MESSAGES)]
    assert waiting == []


def test_a_refused_peer_comes_back_once_its_keys_are_mended(
    open_peer: Open, settings: Settings
) -> None:
    """Also where they could not even be read when it knocked again."""
    peer = open_peer()
    assert settings.keys
    own = settings.keys / "client.key"
    good = own.read_text()
    own.write_text("junk")  # it admits nobody, and is no key
    forwarder = Forwarder(settings, zmq.Context())
    forwarder.start()
    try:
        with capture_logs() as lines:
            eventually(lambda: peer.poll(0.05) or any("not a key" in str(line) for line in lines))
        assert not peer.up
        assert peer._context is None  # ended once: a second time could be while it still ends
        own.write_text(good)
        eventually(lambda: peer.poll(0.05) or peer.up)
    finally:
        forwarder.stop()


def test_a_peer_elsewhere_is_refused_until_its_key_is_added(
    forwarder: Forwarder, open_peer: Open, settings: Settings, tmp_path: Path
) -> None:
    """With the broker's public key and a pair of its own; it knocks again by itself."""
    elsewhere = settings.model_copy(update={"data_dir": tmp_path / "elsewhere"})
    assert settings.keys
    assert elsewhere.keys
    elsewhere.keys.mkdir(parents=True)
    shutil.copy(settings.keys / "broker.key", elsewhere.keys)
    peer = open_peer(settings=elsewhere)
    with capture_logs() as lines:
        eventually(lambda: peer.poll(0.05) or "does not know our key" in str(lines))
        assert not peer.up
        shutil.copy(elsewhere.keys / "client.key", settings.keys / "shop.key")
        eventually(lambda: peer.poll(0.05) or peer.up)
    assert str(lines).count("refuses") == 1


def test_new_keys_of_the_broker_are_taken(
    forwarder: Forwarder, open_peer: Open, settings: Settings
) -> None:
    """The folder of keys removed: the broker makes new ones, and its peers read them."""
    peer = open_peer()
    eventually(lambda: peer.poll(0.05) or peer.up)
    forwarder.stop()
    assert settings.keys
    shutil.rmtree(settings.keys)
    another = Forwarder(settings, zmq.Context())
    another.start()
    eventually(lambda: not (peer.poll(0.05) or peer.up))
    eventually(lambda: peer.poll(0.05) or peer.up)
    another.stop()


def test_a_peer_that_cannot_open_its_sockets_again_goes_on_trying(
    forwarder: Forwarder, open_peer: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a process has no descriptors left for a while, its thread neither ends nor hangs."""
    peer = open_peer()
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


@pytest.mark.parametrize("url", ["tcp://127.0.0.1:5559", "tcp://[::1]:5559"])
def test_every_socket_finds_a_silent_connection_and_has_no_limit_to_its_queue(
    open_peer: Open, url: str
) -> None:
    assert [each.connect_timeout for each in open_peer()._sockets] == [2000, 2000]
    context = zmq.Context()
    connection = context.socket(zmq.SUB)
    configure(connection, url)
    assert connection.rcvhwm == 0
    assert (connection.heartbeat_ivl, connection.heartbeat_timeout) == (1000, 4000)
    assert connection.handshake_ivl == 5000
    assert connection.ipv6 == ("[" in url)
    context.destroy(linger=0)
