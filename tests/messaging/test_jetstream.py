"""NATS JetStream as the broker, on real servers: it keeps each event once and in order.

What both transports promise is in ``test_transport.py``.
"""

import asyncio
import base64
import gc
import itertools
import json
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from secrets import token_bytes, token_hex
from typing import Any
from urllib.parse import quote

import pytest
from structlog.testing import capture_logs

from messaging.event import Event as Told
from messaging.exchange import transport
from messaging.publisher import WINDOW_EVENTS
from messaging.transports.wire import BEGUN, JOURNAL, RUN_EVENTS, START, Run
from runtime.process.clock import Complaints
from runtime.process.errors import StartError
from runtime.process.settings import Settings
from scenarios.servers import NatsServer
from tests.conftest import eventually, free_port
from tests.messaging.conftest import EPOCH, Numbers, live
from tests.messaging.streams import (
    acked_as,
    all_fetched,
    fetched,
    hear,
    in_a_row,
    in_jetstream,
    insist,
    joined,
    name_of,
    places,
    publish,
    split,
    stored,
    until_up,
)
from tests.servers import nats

Connect = Callable[..., Any]
Make = Callable[..., Numbers]
PASSWORD = "p@ss/w:rd"
INFO = {"headers": True, "auth_required": True, "max_payload": 1000, "nonce": "a-nonce"}


@pytest.fixture
def kind() -> str:
    return "jetstream"


@pytest.fixture(autouse=True)
def soon(nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections that were lost are made again soon."""
    monkeypatch.setattr("messaging.transports.jetstream.RECONNECT_AFTER_S", 0.1)


def at(url: str, **settings: Any) -> Settings:
    """The settings of another server."""
    return Settings(BROKER_URL=url, **{name.upper(): value for name, value in settings.items()})


def make_stream(served: Settings, stream: str, **settings: Any) -> None:
    """Make a stream before its writer does."""
    made = {"name": name_of(stream), "subjects": [f"parrot.{stream}"], **settings}
    in_jetstream(first_of(served), lambda context: context.add_stream(**made))


def config_of(served: Settings, stream: str) -> dict[str, Any]:
    info = in_jetstream(first_of(served), lambda context: context.stream_info(name_of(stream)))
    return dict(info.config.as_dict())


def first_of(served: Settings) -> str:
    """The first of the addresses."""
    return (served.broker_url or "").partition(",")[0]


def configure(server: NatsServer, **settings: Any) -> None:
    """Give a server more settings, for its next start."""
    config = json.loads(server._config.read_text())
    server._config.write_text(json.dumps(config | settings))


def raw_publish(served: Settings, stream: str, *messages: tuple[bytes, bytes]) -> None:
    """Publish with header blocks that no client would send."""
    subject = f"parrot.{stream}".encode()
    said = b'CONNECT {"verbose":false,"headers":true}\r\n'
    for headers, body in messages:
        sizes = b"%d %d" % (len(headers), len(headers) + len(body))
        said += b"HPUB %s %s\r\n%s%s\r\n" % (subject, sizes, headers, body)
    port = int(first_of(served).rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port)) as end:
        end.sendall(said + b"PING\r\n")
        received = b""
        while b"PONG" not in received:
            received += end.recv(4096)


# Publishing


def test_a_stream_is_made_by_its_writer(connect: Connect, served: Settings, stream: str) -> None:
    """In files, without limits, and nobody can delete from it."""
    publish(connect(served, stream), *in_a_row(stream, 1))
    config = config_of(served, stream)
    kept = {"storage": "file", "retention": "limits", "deny_delete": True, "deny_purge": True}
    limits = {"max_age": 0, "max_msgs": -1, "max_bytes": -1, "max_msgs_per_subject": -1}
    assert (kept | limits).items() <= config.items()


def test_what_is_sent_again_takes_the_place_of_what_waits(
    connect: Connect, served: Settings, stream: str
) -> None:
    """However long JetStream does not answer, no more than one window waits here."""
    writer = connect(served, stream)
    events = in_a_row(stream, 5)
    for event in (*events, *events[2:]):
        writer.publish(event)
    assert list(writer._outgoing) == events[2:]


def test_what_acks_have_told_is_newer_than_a_look_that_began_before(
    connect: Connect, served: Settings, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer that comes late does not send the writer back."""
    writer = connect(served, stream)
    events = in_a_row(stream, 2)
    publish(writer, events[0])
    look = nats.js.JetStreamContext.get_last_msg

    async def answer_late(*arguments: Any) -> Any:
        answer = await look(*arguments)
        await writer._store(f"parrot.{stream}", split(events[1:]))
        return answer

    monkeypatch.setattr(nats.js.JetStreamContext, "get_last_msg", answer_late)
    writer.publish(events[0])
    assert hear(writer, len) == [acked_as(events[1])]


def test_a_stream_that_contradicts_itself_is_asked_again(
    connect: Connect, served: Settings, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has messages, and yet no last one: its writer does not take it for empty."""
    events = in_a_row(stream, 3)
    publish(connect(served, stream), *events)
    writer = connect(served, stream)

    async def find_nothing(*_: Any) -> None:
        raise nats.js.errors.NotFoundError

    with monkeypatch.context() as patch:
        patch.setattr(nats.js.JetStreamContext, "get_last_msg", find_nothing)
        fetch_until_said(writer, stream, "NotFoundError")
    assert split(fetched(writer, stream)) == split(events)


def fetch_until_said(way: Any, stream: str, complaint: str) -> None:
    """Ask for a stream, and get a complaint instead of an answer."""
    until_up(way)
    with capture_logs() as lines:
        way.fetch(stream, START)
        assert hear(way, lambda _: complaint in str(lines)) == []


def test_a_run_is_stored_as_one_batch(connect: Connect, served: Settings, stream: str) -> None:
    """Each event with its place; a few are stored one by one, which takes less time."""
    writer, events = connect(served, stream), in_a_row(stream, 30)
    publish(writer, *events[:3])
    publish(writer, *events)

    async def read(context: Any) -> list[str | None]:
        found = [await context.get_msg(name_of(stream), number) for number in range(1, 31)]
        return [each.headers.get("Nats-Batch-Id") for each in found]

    batches = in_jetstream(first_of(served), read)
    assert batches[:3] == [None] * 3
    assert batches[3:] == [batches[3]] * 27
    assert batches[3]
    assert stored(served, stream) == places(*events)


def test_of_a_batch_that_has_lost_a_message_nothing_is_stored_until_it_is_sent_again(
    connect: Connect, served: Settings, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer, events = connect(served, stream), in_a_row(stream, 30)
    publish(writer, events[0])
    send = nats.aio.client.Client.publish

    async def lose_one(
        self: Any, subject: str, payload: bytes = b"", *rest: Any, **more: Any
    ) -> None:
        if payload != events[9].bodies[0]:
            await send(self, subject, payload, *rest, **more)

    (run,) = joined(events[1:])
    with monkeypatch.context() as patch, capture_logs() as lines:
        patch.setattr(nats.aio.client.Client, "publish", lose_one)
        writer.publish(run)
        assert hear(writer, len) == [acked_as(events[0])]
    assert "batch is incomplete" in str(lines)
    assert stored(served, stream) == places(events[0])
    publish(writer, *events)
    assert stored(served, stream) == places(*events)


@pytest.mark.parametrize("count", [1, 4, 30])
def test_a_run_whose_ack_is_lost_is_stored_once(
    count: int, connect: Connect, served: Settings, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its writer is told by a look at the stream; what it sends again meanwhile is refused."""
    writer, events = connect(served, stream), in_a_row(stream, 1 + count)
    publish(writer, events[0])
    context = nats.js.JetStreamContext
    send = context.publish

    async def lose_ack(*arguments: Any, **more: Any) -> None:
        await send(*arguments, **more)
        raise nats.errors.TimeoutError

    (run,) = joined(events[1:])
    with monkeypatch.context() as patch:
        patch.setattr(context, "publish", lose_ack)
        writer.publish(run)
        (ack,) = hear(writer, len)
    assert ack in [acked_as(event) for event in events[1:]]  # of a few, each is sent by itself
    unaware = connect(served, stream)
    until_up(unaware)
    for each in (writer, unaware):
        insist(each, run, acked_as(events[-1]))
    assert stored(served, stream) == places(*events)


def test_what_is_not_taken_is_said(connect: Connect, own_nats: NatsServer, stream: str) -> None:
    """For another reason than its place: JetStream refuses it, or the server does not read it."""
    configure(own_nats, max_payload=1000)
    own_nats.start()
    served = at(own_nats.url)
    make_stream(served, stream, max_msg_size=100)
    writer = connect(served, stream)
    until_up(writer)
    for size, complaint in ((500, "message size exceeds"), (2000, "maximum payload exceeded")):
        run = live(1, body=bytes(size))._replace(stream=stream)
        with capture_logs() as lines:
            while complaint not in str(lines):
                writer.publish(run)
                writer.poll(0.25)


# Reading


def test_live_events_that_are_there_together_are_one_run(
    connect: Connect, served: Settings, stream: str
) -> None:
    """As far as each follows the one before it."""
    reader = connect(served, None, stream)
    fetched(reader, stream)
    first, second, _, fourth, fifth = in_a_row(stream, 5)

    async def hear_together() -> None:
        for each in (first, second, fourth, fifth, first):
            message = nats.aio.msg.Msg(
                None, f"parrot.{stream}", "", each.bodies[0], {"Parrot-Place": str(each.first)}
            )
            await reader._hear(message)

    reader._loop.run_until_complete(hear_together())
    assert reader.poll(0) == [*joined([first, second]), *joined([fourth, fifth]), first]


def test_an_answer_that_has_lost_a_message_is_not_used(
    connect: Connect, served: Settings, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a reader would take what follows for the next event."""
    events = in_a_row(stream, 20)
    publish(connect(served, stream), *events)
    reader, client = connect(served), nats.aio.client.Client
    until_up(reader)
    subscribe, lost = client.subscribe, []

    async def lose_one(self: Any, subject: str, *rest: Any, cb: Any) -> Any:
        async def take(message: Any) -> None:
            if (message.headers or {}).get("Nats-Sequence") == "10":
                lost.append(message)
            else:
                await cb(message)

        return await subscribe(self, subject, *rest, cb=take)

    with monkeypatch.context() as patch:
        patch.setattr(client, "subscribe", lose_one)
        fetch_until_said(reader, stream, "is missing")
    assert lost
    assert split(all_fetched(reader, stream)) == split(events)


def test_a_stream_of_an_earlier_version_is_read_and_written_once_its_writer_has_started(
    connect: Connect, served: Settings, stream: str
) -> None:
    """Its messages have their places as ids, and it takes and gives no batches."""
    make_stream(served, stream)
    events = in_a_row(stream, 30)
    header = "NATS/1.0\r\nNats-Msg-Id: {}\r\n\r\n"
    older = [(header.format(event.first).encode(), event.bodies[0]) for event in events[:3]]
    raw_publish(served, stream, *older)
    reader, writer = connect(served, None, stream), connect(served, stream)
    fetch_until_said(reader, stream, "before its writer has started")
    assert fetched(writer, stream)[-1].first == events[2].first
    publish(writer, *events)
    assert split(all_fetched(reader, stream)) == split(events)
    assert stored(served, stream) == places(*events)


def test_the_streams_that_are_read_say_since_when_they_are_there(
    connect: Connect, served: Settings, stream: str
) -> None:
    """To the millisecond; what is filled again is younger; nothing, until there is a stream."""
    reader, writer = connect(served, None, stream), connect(served, stream)
    assert fetched(reader, JOURNAL) == [Run(JOURNAL, START, START, [])]

    def begun() -> datetime:
        told, _ = eventually(lambda: fetched(reader, JOURNAL)[-2:])
        assert told == Run(JOURNAL, START, BEGUN, told.bodies)
        return Told.parse(JOURNAL, BEGUN, *told.bodies).time

    before = datetime.now(UTC).replace(microsecond=0)
    publish(writer, *in_a_row(stream, 1))
    first = begun()
    assert before <= first <= datetime.now(UTC)
    publish(writer, *in_a_row(stream, 2))
    assert begun() == first
    in_jetstream(first_of(served), lambda context: context.delete_stream(name_of(stream)))
    publish(writer, *in_a_row(stream, 2))
    assert begun() > first


# Strangers


JUNK: list[tuple[bytes, bytes]] = [
    (b"NATS/1.0\r\n\r\n", b"no id"),
    (b"NATS/1.0\r\n\r\n", b""),
    (b"NATS/1.0\r\nParrot-Place: rubbish\r\n\r\n", b"another place"),
    (b"NATS/1.0\r\nNats-Msg-Id: rubbish\r\n\r\n", b"another id"),
    (b"NATS/1.0\r\nParrot-Place: %s:0\r\n\r\n" % EPOCH.hex().encode(), b"no such number"),
    (b"NATS/1.0\r\nParrot-Place: %s:%d\r\n\r\n" % (EPOCH.hex().encode(), 2**63), b"too high"),
    (b"NATS/1.0\r\nParrot-Place: %s:77\r\n\r\n" % EPOCH.hex().encode(), b""),
    (b"NATS/1.0\r\nStatus: 404\r\n\r\n", b""),
    (b"NATS/1.0 404\r\n\r\n", b""),
    (b"NATS/1.0 204 EOB\r\nNats-Sequence: 4\r\nNats-Last-Sequence: 9\r\n\r\n", b""),
    (b"NATS/1.0 \xff\xfe\xfd\r\n\r\n", b"no text"),
    (b"NATS/1.0\r\n\xff\xfe: \xff\r\n\r\n", b"no header"),
    (b"N", b"shorter than it may be"),
]


@pytest.mark.parametrize("at_once", [1, 30])
def test_what_strangers_publish_blocks_neither_writer_nor_reader(
    at_once: int, connect: Connect, served: Settings, stream: str
) -> None:
    """Before the first event, between events and behind the last one; it is counted."""
    make_stream(served, stream)
    writer, listener = connect(served, stream), connect(served, None, stream)
    fetched(listener, stream)
    events = in_a_row(stream, 3 * at_once)
    for first in range(0, len(events), at_once):
        raw_publish(served, stream, *JUNK)
        publish(writer, *events[first : first + at_once])
    raw_publish(served, stream, *JUNK)
    heard = hear(listener, lambda _: listener.malformed == len(JUNK) * 4)
    assert list(dict.fromkeys(split(heard))) == split(events)
    reader = connect(served, None, stream)
    *found, end = fetched(reader, stream)
    assert split(found) == split(events)
    assert end.first == events[-1].first
    assert reader.malformed >= 2 * len(JUNK)  # those between events
    late, more = connect(served, stream), in_a_row(stream, 1, first=len(events) + 1)
    fetched(late, stream)
    publish(late, *more)
    assert split(all_fetched(reader, stream)) == split(events + more)


def test_a_stranger_between_two_events_of_a_run_lets_none_be_left_out_or_stored_twice(
    connect: Connect, served: Settings, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer, events = connect(served, stream), in_a_row(stream, 5)
    publish(writer, events[0])
    send, strangers = nats.js.JetStreamContext.publish, iter([b"junk"])

    async def send_then_litter(self: Any, subject: str, *rest: Any, **more: Any) -> Any:
        ack = await send(self, subject, *rest, **more)
        for junk in strangers:
            await send(self, subject, junk)
        return ack

    monkeypatch.setattr(nats.js.JetStreamContext, "publish", send_then_litter)
    publish(writer, *events)
    first, second, junk, *others = stored(served, stream)
    assert ([first, second, *others], junk) == (places(*events), None)


def test_more_junk_than_an_answer_holds_is_passed_over(
    connect: Connect, served: Settings, stream: str
) -> None:
    make_stream(served, stream)
    events = in_a_row(stream, 2)
    junk = [(b"NATS/1.0\r\n\r\n", b"junk")] * (RUN_EVENTS + 50)
    writer = connect(served, stream)
    for event in events:
        raw_publish(served, stream, *junk)
        publish(writer, event)
    reader = connect(served)
    assert split(all_fetched(reader, stream)) == split(events)
    assert split(all_fetched(reader, stream, events[0].first)) == split(events[1:])


def test_an_old_event_that_is_stored_once_more_is_passed_over(
    connect: Connect, served: Settings, stream: str
) -> None:
    """Whoever did that; the writer goes on behind it, and a reader gets each event once."""
    events = in_a_row(stream, 6)
    writer = connect(served, stream)
    publish(writer, *events[:4])
    headers = b"NATS/1.0\r\nParrot-Place: %s\r\n\r\n" % str(events[1].first).encode()
    raw_publish(served, stream, (headers, *events[1].bodies))
    publish(writer, *events)
    assert split(all_fetched(connect(served), stream)) == split(events)


# Streams that somebody else has made


def without_batches(config: dict[str, Any]) -> dict[str, Any]:
    """Settings of a stream but those for batches, and the server's notes about them."""
    ours = "allow_atomic", "allow_direct", "metadata"
    return {name: value for name, value in config.items() if name not in ours}


def test_a_stream_that_may_forget_is_used_and_that_is_said_once(
    connect: Connect, served: Settings, stream: str
) -> None:
    """What it has forgotten holds nobody up: a reader goes on with what is left."""
    limits = {"storage": "memory", "max_age": 3600, "max_msgs": 300, "description": "mine"}
    make_stream(served, stream, **limits)
    before = config_of(served, stream)
    events = in_a_row(stream, 1000)
    with capture_logs() as lines:
        publish(connect(served, stream), *events)
    said = [line for line in lines if "may forget" in line["event"]]
    assert [line["max_age"] for line in said] == [3600]
    assert {"storage", "max_msgs"} <= said[0].keys()
    assert without_batches(config_of(served, stream)) == without_batches(before)
    assert split(all_fetched(connect(served), stream)) == split(events[700:])
    found = all_fetched(connect(served), stream, events[10].first)
    assert (found[0].follows, found[0].first) == (events[10].first, events[700].first)


def test_messages_that_were_deleted_are_passed_over(
    connect: Connect, served: Settings, stream: str
) -> None:
    """By its writer, too, if it was the last one, whose number JetStream gives to no other."""
    make_stream(served, stream)
    events = in_a_row(stream, 7)
    publish(connect(served, stream), *events[:6])

    async def delete(context: Any) -> None:
        for number in (1, 3, 4, 6):
            await context.delete_msg(name_of(stream), number)

    in_jetstream(first_of(served), delete)
    publish(connect(served, stream), *events)
    reader = connect(served)
    assert split(all_fetched(reader, stream)) == split(events[n] for n in (1, 4, 5, 6))
    assert reader.malformed == 0


def test_a_server_that_cannot_keep_so_many_replicas_says_so(
    connect: Connect, served: Settings, stream: str
) -> None:
    """A stream that is there keeps its own, and one that is not is not made."""
    refusal = "replicas > 1 not supported"
    three = at(first_of(served), broker_replicas=3)
    fetch_until_said(connect(three, f"{stream}-2"), f"{stream}-2", refusal)
    make_stream(served, stream)
    with capture_logs() as lines:
        publish(connect(three, stream), *in_a_row(stream, 2))
    (said,) = [line for line in lines if "cannot be changed" in line["event"]]
    assert (said["setting"], said["to"]) == ("num_replicas", 3)
    assert refusal in said["error"]
    assert config_of(served, stream)["num_replicas"] == 1


# Losses and outages


def test_a_deleted_stream_is_filled_again_although_strangers_were_there_first(
    service: Make, served: Settings, stream: str
) -> None:
    """With more messages than it had; who has applied its events applies none of them again."""
    writer, reader = service(served, stream), service(served, "others", stream)
    writer.tell(*range(10))
    eventually(lambda: reader.heard == [*range(10)] and writer.is_told)

    async def replace(context: Any) -> None:
        await context.delete_stream(name_of(stream))
        await context.add_stream(name=name_of(stream), subjects=[f"parrot.{stream}"])
        for _ in range(50):
            await context.publish(f"parrot.{stream}", b"junk")

    in_jetstream(first_of(served), replace)
    writer.tell(10)
    epoch = writer.outbox.head().place.epoch
    all_places = places(*in_a_row(stream, 11, epoch))
    eventually(lambda: [each for each in stored(served, stream) if each] == all_places)
    eventually(lambda: reader.heard == [*range(11)])


def test_of_several_addresses_one_that_answers_is_enough(
    connect: Connect, served: Settings, stream: str
) -> None:
    url = f"nats://127.0.0.1:{free_port()},{served.broker_url}"
    publish(connect(at(url), stream), *in_a_row(stream, 1))


# Who may come in, and how


def login(server: NatsServer, password: str = PASSWORD) -> str:
    return f"nats://shop:{quote(password, safe='')}@127.0.0.1:{server.port}"


def set_password(server: NatsServer, password: str) -> None:
    """Let a server want this one: from its start on, or from now on, also from who is there."""
    configure(server, authorization={"user": "shop", "password": password})
    server.send(signal.SIGHUP)


def test_a_token_stands_in_the_url(connect: Connect, own_nats: NatsServer, stream: str) -> None:
    configure(own_nats, authorization={"token": PASSWORD})
    own_nats.start()
    url = f"nats://{quote(PASSWORD, safe='')}@127.0.0.1:{own_nats.port}"
    publish(connect(at(url), stream), *in_a_row(stream, 2))


def test_a_wrong_password_is_said_and_tried_again_until_the_server_takes_it(
    connect: Connect, own_nats: NatsServer, stream: str
) -> None:
    """Also if the server takes it no more: nobody has to start anything again."""
    set_password(own_nats, "another")
    own_nats.start()
    writer = connect(at(login(own_nats)), stream)

    def is_refused(lines: list[Any]) -> bool:
        writer.poll(0.05)
        return "Authorization Violation" in str(lines) and not writer.up

    for count in (1, 2):
        with capture_logs() as lines:
            eventually(partial(is_refused, lines))
        set_password(own_nats, PASSWORD)
        publish(writer, *in_a_row(stream, count))
        writer._complaints = Complaints()
        set_password(own_nats, "another")


class Impostor:
    """Says that it is a NATS server, answers pings, and keeps what it hears."""

    def __init__(self) -> None:
        self.heard = b""
        self.ends: list[socket.socket] = []
        self.versions = itertools.repeat("2.12.0-RC.1")
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setblocking(False)
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"

    def answer(self) -> None:
        """Answer whoever has come or said something meanwhile."""
        with suppress(BlockingIOError):
            self.ends.append(self._listener.accept()[0])
            self.ends[-1].setblocking(False)
            self.ends[-1].sendall(
                b"INFO %s\r\n" % json.dumps(INFO | {"version": next(self.versions)}).encode()
            )
        for end in self.ends:
            with suppress(BlockingIOError, ConnectionError):
                said = end.recv(4096)
                self.heard += said
                end.sendall(b"PONG\r\n" * said.count(b"PING"))

    def close(self) -> None:
        for each in (self._listener, *self.ends):
            each.close()


@pytest.fixture
def impostor() -> Iterator[Impostor]:
    opened = Impostor()
    yield opened
    opened.close()


def test_a_client_that_gives_up_is_replaced(
    impostor: Impostor, connect: Connect, stream: str
) -> None:
    """nats-py does so for good when a server says that something is wrong."""
    writer = connect(at(f"nats://{impostor.address}"), stream)
    eventually(lambda: impostor.answer() or writer.poll(0.02) or writer.up)
    impostor.ends[0].sendall(b"-ERR 'Something Is Wrong'\r\n")
    eventually(
        lambda: impostor.answer() or writer.poll(0.02) or (len(impostor.ends) > 1 and writer.up)
    )


def test_a_server_that_is_too_old_is_refused_in_one_line(
    impostor: Impostor, connect: Connect, stream: str
) -> None:
    """And does not get to see the password. It is tried again, in case it was replaced."""
    versions = ["2.11.99", "2.9.10", "1.4.1", ""]
    impostor.versions = itertools.cycle(versions)
    writer = connect(at(f"nats://shop:secret@{impostor.address}"), stream)
    writer._complaints = Complaints(itertools.count(0, 99).__next__)  # each is told
    with capture_logs() as lines:
        eventually(
            lambda: impostor.answer() or writer.poll(0.02) or len(impostor.ends) > len(versions)
        )
    said = [line["error"] for line in lines if "too old" in str(line)]
    assert said[: len(versions)] == [
        f"nats-server {version} is too old: 2.12 or later is needed" for version in versions
    ]
    assert not writer.up
    assert impostor.heard == b""


@pytest.mark.parametrize("scheme", ["tls", "nats"])
def test_where_tls_is_asked_for_nothing_is_said_in_the_clear(
    scheme: str, impostor: Impostor, connect: Connect, certificates: Path, stream: str
) -> None:
    """A server that offers none does not get to see the password."""
    url = f"{scheme}://shop:secret@{impostor.address}"
    writer = connect(at(url, broker_tls_ca=certificates / "ca.pem"), stream)
    with capture_logs() as lines:
        eventually(lambda: impostor.answer() or writer.poll(0.02) or "offers no TLS" in str(lines))
    assert impostor.heard == b""


def test_a_creds_file_is_shown_and_its_key_signs(
    impostor: Impostor, connect: Connect, stream: str, tmp_path: Path
) -> None:
    """As servers want it that know the account."""
    nkeys = pytest.importorskip("nkeys")
    seed = nkeys.encode_seed(token_bytes(32), nkeys.PREFIX_BYTE_USER)
    file = tmp_path / "shop.creds"
    file.write_text(
        "-----BEGIN NATS USER JWT-----\nits.own.jwt\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{seed.decode()}\n------END USER NKEY SEED------\n"
    )
    writer = connect(at(f"nats://{impostor.address}", broker_credentials=file), stream)
    eventually(lambda: impostor.answer() or writer.poll(0.02) or writer.up)
    shown = json.loads(impostor.heard.partition(b"CONNECT ")[2].partition(b"\r\n")[0])
    signature = base64.urlsafe_b64decode(shown["sig"] + "==")
    assert shown["jwt"] == "its.own.jwt"
    assert nkeys.from_seed(seed).verify(str(INFO["nonce"]).encode(), signature)


@pytest.mark.parametrize("setting", ["broker_credentials", "broker_tls_ca", "broker_tls_cert"])
@pytest.mark.parametrize("content", [b"", b"a letter to my parrot", b"\xff\xfe"])
def test_a_file_that_cannot_be_used_is_one_line_at_the_start(
    setting: str, content: bytes, connect: Connect, served: Settings, tmp_path: Path
) -> None:
    """It holds no credentials, or is no certificate."""
    file = tmp_path / "file"
    file.write_bytes(content)
    named = "BROKER_CREDENTIALS" if setting == "broker_credentials" else "BROKER_TLS_CA"
    with pytest.raises(StartError, match=rf"^[^\n]*{named}[^\n]*$"):
        connect(at(first_of(served), **{setting: file}))


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an authority ``ca``, and certificates that it has signed for each end."""
    if not shutil.which("openssl"):
        pytest.skip("needs the openssl program")
    folder = tmp_path_factory.mktemp("certificates")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    new = ("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    for authority in ("ca", "other"):
        own = ("-x509", "-days", "2", "-keyout", f"{authority}.key", "-out", f"{authority}.pem")
        openssl(*new, *own, "-subj", f"/CN={authority}", "-addext", "keyUsage=keyCertSign")
    (folder / "alternative").write_text("subjectAltName=IP:127.0.0.1")
    for name in ("server", "client"):
        openssl(*new, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        signed = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2")
        files = ("-in", f"{name}.csr", "-out", f"{name}.pem", "-extfile", "alternative")
        openssl("x509", "-req", *files, *signed)
    return folder


def test_certificates_of_both_ends_are_checked(
    connect: Connect, own_nats: NatsServer, certificates: Path, stream: str
) -> None:
    files = {"cert_file": "server.pem", "key_file": "server.key", "ca_file": "ca.pem"}
    tls = {name: str(certificates / file) for name, file in files.items()}
    configure(own_nats, tls=tls | {"verify": True})
    own_nats.start()
    url, ca = f"tls://127.0.0.1:{own_nats.port}", {"broker_tls_ca": certificates / "ca.pem"}
    ours = {
        "broker_tls_cert": certificates / "client.pem",
        "broker_tls_key": certificates / "client.key",
    }
    publish(connect(at(url, **ca, **ours), stream), *in_a_row(stream, 2))
    for settings, complaint in (
        ({"broker_tls_ca": certificates / "other.pem", **ours}, "certificate verify failed"),
        (ours, "certificate verify failed"),  # the system does not know the authority
        (ca, ""),  # without one of our own
    ):
        stranger = connect(at(url, **settings), stream)
        with capture_logs() as lines:
            eventually(lambda way=stranger, seen=lines: way.poll(0.05) or seen)
        assert complaint in str(lines)
        assert not stranger.up


# Its end


@pytest.mark.parametrize("state", ["unpolled", "unreachable", "busy", "lost"])
def test_a_transport_that_is_closed_leaves_nothing_behind(
    state: str, own_nats: NatsServer, stream: str
) -> None:
    """No task, no connection and no warning, whatever it was doing."""
    if state in ("busy", "lost"):
        own_nats.start()
    way = transport(at(own_nats.url), "me", stream, [stream])
    way.open()
    if state == "unreachable":
        way.poll(0.5)
    elif state != "unpolled":
        publish(way, *in_a_row(stream, 50))
    if state == "busy":
        way.fetch(stream, START)
        way.poll(0)
    if state == "lost":
        own_nats.kill()
        eventually(lambda: way.poll(0.05) or not way.up)
    tasks = asyncio.all_tasks(way._loop)
    way.close()
    gc.collect()  # a warning of what was left behind belongs to this test
    assert all(task.done() for task in tasks)
    assert not asyncio.all_tasks(way._loop)
    assert not way.up


# Clusters


@pytest.fixture(scope="module")
def members(
    tmp_path_factory: pytest.TempPathFactory, nats_server: NatsServer
) -> Iterator[Mapping[str, NatsServer]]:
    """Three servers that keep streams together."""
    folder, ports = tmp_path_factory.mktemp("cluster"), {f"n{n}": free_port() for n in (1, 2, 3)}
    servers = {name: NatsServer(folder, free_port(), name, ports) for name in ports}
    for server in servers.values():
        set_password(server, PASSWORD)
        server.launch()
    for server in servers.values():
        eventually(server.answers, timeout_s=30)
    yield servers
    for server in servers.values():
        server.kill()


@pytest.fixture
def trio(members: Mapping[str, NatsServer], connect: Connect) -> Settings:
    """A cluster that can make streams, and is to keep each of them three times."""
    settings = at(",".join(map(login, members.values())), broker_replicas=3)
    ready = f"ready-{token_hex(4)}"
    publish(connect(settings, ready), *in_a_row(ready, 1))
    return settings


@pytest.mark.chaos
def test_a_stream_gets_the_replicas_that_are_asked_for_and_keeps_all_else(
    connect: Connect, trio: Settings, stream: str
) -> None:
    mine = {"max_bytes": 10_000_000, "duplicate_window": 33, "description": "mine"}
    make_stream(trio, stream, num_replicas=1, **mine)
    before = config_of(trio, stream)
    publish(connect(trio, stream), *in_a_row(stream, 300))
    after = config_of(trio, stream)
    assert without_batches(after) == without_batches(before) | {"num_replicas": 3}
    only = at(first_of(trio))
    assert stored(only, stream) == places(*in_a_row(stream, 300))
    with capture_logs() as lines:  # a copy without the setting must not undo what others ask for
        publish(connect(only, stream), *in_a_row(stream, 301))
    (said,) = [line for line in lines if "replicas" in line["event"]]
    assert (said["has"], said["asked"]) == (3, 1)
    assert config_of(trio, stream)["num_replicas"] == 3


@pytest.mark.chaos
def test_one_address_of_a_cluster_leads_to_all_servers(
    connect: Connect, members: Mapping[str, NatsServer], trio: Settings, stream: str
) -> None:
    """With the password of that address, when its server has gone."""
    writer = connect(at(first_of(trio), broker_replicas=3), stream)
    publish(writer, *in_a_row(stream, 2))
    members["n1"].kill()
    try:
        publish(writer, *in_a_row(stream, 4))
    finally:
        members["n1"].start()


@pytest.mark.chaos
@pytest.mark.timeout(600)
def test_a_cluster_whose_servers_are_killed_in_turn_keeps_and_delivers_each_event_once(
    service: Make, members: Mapping[str, NatsServer], trio: Settings, stream: str
) -> None:
    """One server at a time; events flow meanwhile."""
    writer, reader = service(trio, stream), service(trio, "others", stream)
    told = itertools.count()

    def tell(count: int) -> int:
        numbers = [*itertools.islice(told, count)]
        writer.tell(*numbers)
        return numbers[-1] + 1

    def is_heard(count: int) -> bool:
        return reader.heard == [*range(count)] and writer.is_told

    for server in [*members.values()] * 3:
        tell(100)  # on their way
        server.kill()
        for _ in range(20):
            count = tell(10)
            eventually(lambda: writer.exchange._publisher.waiting < WINDOW_EVENTS, 60)
        eventually(lambda count=count: is_heard(count), timeout_s=60)
        server.start()
        count = tell(100)
    eventually(lambda: is_heard(count), timeout_s=60)
    epoch = writer.outbox.head().place.epoch
    assert stored(at(first_of(trio)), stream) == places(*in_a_row(stream, count, epoch))
