"""NATS JetStream as the broker, on real servers: it keeps each event once and in order."""

import asyncio
import base64
import gc
import json
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from itertools import pairwise
from pathlib import Path
from secrets import token_bytes, token_hex
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import pytest
from structlog.testing import capture_logs

from messaging.event import Event as Told
from messaging.exchange import transport
from messaging.transports.forwarder import Transport
from messaging.transports.wire import (
    BEGUN,
    JOURNAL,
    RUN_EVENTS,
    START,
    Ack,
    Message,
    Place,
    Replay,
    Run,
    digest,
    runs,
)
from runtime.process.clock import Complaints
from runtime.process.errors import StartError
from runtime.process.settings import Settings
from scenarios.servers import NatsServer
from tests.conftest import eventually, free_port
from tests.messaging.conftest import EPOCH, NEWER, OLDER, effects, live
from tests.messaging.test_exchange import Numbers
from tests.servers import nats

Connect = Callable[..., Any]
Make = Callable[..., Numbers]
WINDOW_EVENTS = 4 * RUN_EVENTS
PASSWORD = "p@ss/w:rd"
INFO = b'INFO {"version":"2.12.0-RC.1","headers":true,"auth_required":true,"max_payload":1000}\r\n'


def in_jetstream(url: str, work: Callable[[Any], Awaitable[Any]]) -> Any:
    """Do something in JetStream beside the transport."""

    async def run() -> Any:
        given = urlsplit(url)
        user, password = given.username, unquote(given.password or "") or None
        client = await nats.connect(
            url, user=user, password=password, connect_timeout=5, allow_reconnect=False
        )
        try:
            return await work(client.jetstream())
        finally:
            await client.close()

    return asyncio.run(run())


def name_of(stream: str) -> str:
    return f"parrot-{stream}"


def stored(url: str, stream: str) -> list[str | None]:
    """The places of all messages of a stream, in order, of those that have one."""

    async def read(context: Any) -> list[str | None]:
        state = (await context.stream_info(name_of(stream))).state
        numbers = range(state.first_seq or 1, state.last_seq + 1)
        found = [await context.get_msg(name_of(stream), number) for number in numbers]
        headers = [each.headers or {} for each in found]
        return [each.get("Parrot-Place") or each.get("Nats-Msg-Id") for each in headers]

    places: list[str | None] = in_jetstream(url, read)
    return places


def places(*events: Run) -> list[str]:
    return [str(event.first) for event in events]


def make_stream(url: str, stream: str, **settings: Any) -> None:
    """Make a stream before its writer does."""
    subjects = [f"parrot.{stream}"]
    in_jetstream(
        url, lambda context: context.add_stream(name=name_of(stream), subjects=subjects, **settings)
    )


def config_of(url: str, stream: str) -> dict[str, Any]:
    info = in_jetstream(url, lambda context: context.stream_info(name_of(stream)))
    return dict(info.config.as_dict())


def configure(server: NatsServer, **settings: Any) -> None:
    """Give a server more settings, for its next start."""
    config = json.loads(server._config.read_text())
    server._config.write_text(json.dumps(config | settings))


def raw_publish(server: NatsServer, stream: str, headers: bytes, body: bytes = b"") -> None:
    """Publish with a header block that no client would send."""
    with socket.create_connection(("127.0.0.1", server.port)) as end:
        sizes = f"{len(headers)} {len(headers) + len(body)}".encode()
        end.sendall(b'CONNECT {"verbose":false,"headers":true}\r\n')
        end.sendall(
            b"HPUB parrot.%s %s\r\n%s%s\r\nPING\r\n" % (stream.encode(), sizes, headers, body)
        )
        received = b""
        while b"PONG" not in received:
            received += end.recv(4096)


def hear(
    way: Transport, done: Callable[[list[Message]], Any], timeout_s: float = 15
) -> list[Message]:
    """What comes until that is enough."""
    heard: list[Message] = []

    def poll() -> bool:
        heard.extend(way.poll(0.05))
        return bool(done(heard))

    eventually(poll, timeout_s)
    return heard


def acked_as(event: Run) -> Ack:
    """What its writer is told once it is stored."""
    return Ack(event.stream, event.last, digest(event.bodies[-1]))


def joined(events: Iterable[Run]) -> list[Run]:
    """Events of one stream, in runs that are as long as they may be."""
    first, *_ = events = list(events)
    return list(runs(first.stream, first.follows, split(events)))


def split(found: Iterable[Run]) -> list[tuple[Place, bytes]]:
    """Place and body of all events of some runs."""
    return [event for run in found for event in run.events()]


def until_up(way: Transport) -> None:
    eventually(lambda: way.poll(0.05) or way.up)


def publish(way: Transport, *events: Run) -> None:
    """Publish as a publisher does: a window at a time, until its last event is acknowledged."""
    until_up(way)
    for first in range(0, len(events), WINDOW_EVENTS):
        window = events[first : first + WINDOW_EVENTS]
        acked, last = START, window[-1]
        while acked < last.first:
            for run in joined(event for event in window if event.first > acked):
                way.publish(run)
            with suppress(
                AssertionError
            ):  # one was lost, or not taken: the acks tell from where on
                for ack in hear(way, lambda heard, last=last: acked_as(last) in heard, 1):
                    acked = max(acked, ack[1]) if isinstance(ack, Ack) else acked


def insist(way: Transport, event: Run, until: Ack) -> None:
    """Publish an event over and over, as a publisher does that gets no ack, until there is one."""

    def again() -> bool:
        way.publish(event)
        return until in way.poll(0.25)

    eventually(again)


def fetched(way: Transport, stream: str, after: Place) -> list[Run]:
    """One answer: what comes after a place, and the end. It is asked for until it comes."""
    until_up(way)

    def ask() -> list[Message]:
        way.fetch(stream, after)
        with suppress(AssertionError):
            return hear(way, lambda heard: any(is_end(each) for each in heard), 6)
        return []

    return [each.run for each in eventually(ask, 30) if isinstance(each, Replay)]


def is_end(message: Message) -> bool:
    return isinstance(message, Replay) and not message.run.bodies


def all_fetched(way: Transport, stream: str, after: Place = START) -> list[Run]:
    """Everything that comes after a place, in as many answers as that takes."""
    found: list[Run] = []
    while True:
        *more, end = fetched(way, stream, found[-1].last if found else after)
        found += more
        if end.follows == end.first:
            return found


def in_a_row(stream: str, count: int, epoch: bytes = EPOCH, first: int = 1) -> list[Run]:
    return [live(n, epoch)._replace(stream=stream) for n in range(first, first + count)]


@pytest.fixture
def stream() -> str:
    """A stream that no other test has."""
    return f"numbers-{token_hex(4)}"


@pytest.fixture
def connect(nats_server: NatsServer) -> Iterator[Connect]:
    """Open transports, by default to the server that tests share; they are closed afterwards."""
    opened: list[Transport] = []

    def connect(
        writes: str | None = None, *reads: str, url: str = nats_server.url, **settings: Any
    ) -> Transport:
        given = {name.upper(): value for name, value in settings.items()}
        way = transport(Settings(BROKER_URL=url, **given), "me", writes, reads)
        opened.append(way)
        way.open()
        return way

    yield connect
    for way in opened:
        if not way._loop or not way._loop.is_closed():
            way.close()
    gc.collect()  # a warning of what was left behind belongs to this test


@pytest.fixture
def service(tmp_path: Path, nats_server: NatsServer) -> Iterator[Make]:
    """Make services with a database and an exchange of their own, and start them."""
    made: list[Numbers] = []

    def make(
        writes: str, *reads: str, url: str = nats_server.url, file: str = "", **settings: Any
    ) -> Numbers:
        given = {name.upper(): value for name, value in settings.items()}
        way = transport(Settings(BROKER_URL=url, **given), writes, writes, reads)
        made.append(Numbers(tmp_path / f"{file or writes}.db", writes, reads, way))
        made[-1].exchange.start()
        return made[-1]

    yield make
    for service in made:
        service.close()
    gc.collect()


def is_told(service: Numbers) -> bool:
    publisher = service.exchange._publisher
    return publisher.ready and not publisher.waiting


# Publishing


def test_an_event_is_acknowledged_with_its_place_once_it_is_stored(
    connect: Connect, nats_server: NatsServer, stream: str
) -> None:
    """The stream is made by its writer: in files, without limits, and nobody can delete from it."""
    writer = connect(stream)
    events = in_a_row(stream, 3)
    publish(writer, *events)
    assert stored(nats_server.url, stream) == places(*events)
    config = config_of(nats_server.url, stream)
    kept = {"storage": "file", "retention": "limits", "deny_delete": True, "deny_purge": True}
    limits = {"max_age": 0, "max_msgs": -1, "max_bytes": -1, "max_msgs_per_subject": -1}
    assert (kept | limits).items() <= config.items()


def test_an_event_whose_predecessor_is_missing_is_not_taken(
    connect: Connect, nats_server: NatsServer, stream: str
) -> None:
    """Its writer is told where the stream stands, and goes back to there."""
    writer = connect(stream)
    events = in_a_row(stream, 5)
    publish(writer, *events[:2])
    insist(writer, events[3], acked_as(events[1]))
    assert stored(nats_server.url, stream) == places(*events[:2])
    publish(writer, *events[2:])
    assert stored(nats_server.url, stream) == places(*events)


def test_an_ack_is_one_of_all_events_up_to_it(
    connect: Connect, nats_server: NatsServer, stream: str
) -> None:
    """Also where events are sent again: the acks never go back."""
    writer = connect(stream)
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
    assert stored(nats_server.url, stream) == places(*events)


def test_what_is_sent_again_takes_the_place_of_what_waits(connect: Connect, stream: str) -> None:
    """However long JetStream does not answer, no more than one window waits here."""
    writer = connect(stream)
    events = in_a_row(stream, 5)
    for event in (*events, *events[2:]):
        writer.publish(event)
    assert list(writer._outgoing) == events[2:]


def test_what_acks_have_told_is_newer_than_a_look_that_began_before(
    connect: Connect, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer that comes late does not send the writer back."""
    writer = connect(stream)
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


def test_an_event_that_another_process_has_sent_is_stored_once(
    connect: Connect, nats_server: NatsServer, stream: str
) -> None:
    """A copy that does not know yet sends it again, behind what is no more the last one."""
    events = in_a_row(stream, 3)
    publish(connect(stream), *events[:2])
    publish(connect(stream), *events)
    assert stored(nats_server.url, stream) == places(*events)


def test_a_stream_that_contradicts_itself_is_asked_again(
    connect: Connect, nats_server: NatsServer, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has messages, and yet no last one: its writer does not take it for empty."""
    events = in_a_row(stream, 3)
    publish(connect(stream), *events)
    writer, context = connect(stream), nats.js.JetStreamContext

    async def find_nothing(*_: Any) -> None:
        raise nats.js.errors.NotFoundError

    with monkeypatch.context() as patch, capture_logs() as lines:
        patch.setattr(context, "get_last_msg", find_nothing)
        until_up(writer)
        writer.fetch(stream, START)
        eventually(lambda: writer.poll(0.05) or "NotFoundError" in str(lines))
    assert split(fetched(writer, stream, START)) == split(events)


def test_writers_that_do_not_know_of_each_other_store_each_event_once_and_in_order(
    connect: Connect, nats_server: NatsServer, stream: str
) -> None:
    """Two copies may both lead for a moment; they tell the same events."""
    events = in_a_row(stream, 200)
    writers = [connect(stream), connect(stream)]
    for first in range(0, 200, 20):
        for each in writers:
            publish(each, *events[: first + 20])
    assert stored(nats_server.url, stream) == places(*events)


def test_a_newer_epoch_closes_the_older_one(
    connect: Connect, nats_server: NatsServer, stream: str
) -> None:
    """Whoever still writes under the older one is told of the newer, and stores nothing."""
    old, new = connect(stream), connect(stream)
    before, after = in_a_row(stream, 3, OLDER), in_a_row(stream, 2, EPOCH)
    publish(old, *before[:2])
    fetched(new, stream, START)  # as a publisher does before it sends
    publish(new, *after)
    for late in before[2:] * 2:
        insist(old, late, acked_as(after[-1]))
    assert stored(nats_server.url, stream) == places(*before[:2], *after)


def test_a_run_is_stored_as_one_batch(
    connect: Connect, nats_server: NatsServer, stream: str
) -> None:
    """Each event with its place; a few are stored one by one, which takes less time."""
    writer, events = connect(stream), in_a_row(stream, 30)
    publish(writer, *events[:3])
    publish(writer, *events)

    async def read(context: Any) -> list[str | None]:
        found = [await context.get_msg(name_of(stream), number) for number in range(1, 31)]
        return [each.headers.get("Nats-Batch-Id") for each in found]

    batches = in_jetstream(nats_server.url, read)
    assert batches[:3] == [None] * 3
    assert batches[3:] == [batches[3]] * 27
    assert batches[3]
    assert stored(nats_server.url, stream) == places(*events)


def test_of_a_batch_that_has_lost_a_message_nothing_is_stored_until_it_is_sent_again(
    connect: Connect, nats_server: NatsServer, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer, events = connect(stream), in_a_row(stream, 30)
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
    assert stored(nats_server.url, stream) == places(events[0])
    publish(writer, *events)
    assert stored(nats_server.url, stream) == places(*events)


@pytest.mark.parametrize("count", [1, 4, 30])
def test_a_run_whose_ack_is_lost_is_stored_once(
    count: int,
    connect: Connect,
    nats_server: NatsServer,
    stream: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its writer is told by a look at the stream; what it sends again meanwhile is refused."""
    writer, events = connect(stream), in_a_row(stream, 1 + count)
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
    unaware = connect(stream)
    until_up(unaware)
    for each in (writer, unaware):
        insist(each, run, acked_as(events[-1]))
    assert stored(nats_server.url, stream) == places(*events)


def test_what_jetstream_refuses_for_another_reason_is_said(
    connect: Connect, nats_server: NatsServer, stream: str
) -> None:
    make_stream(nats_server.url, stream, max_msg_size=100)
    writer = connect(stream)
    until_up(writer)
    with capture_logs() as lines:
        writer.publish(live(1)._replace(stream=stream))
        eventually(lambda: writer.poll(0.05) or "message size exceeds maximum" in str(lines))


def test_an_event_that_a_server_does_not_even_read_is_said(
    connect: Connect, own_nats: NatsServer, stream: str
) -> None:
    configure(own_nats, max_payload=100)
    own_nats.start()
    writer = connect(stream, url=own_nats.url)
    until_up(writer)
    with capture_logs() as lines:
        writer.publish(live(1)._replace(stream=stream))
        eventually(lambda: writer.poll(0.05) or "maximum payload exceeded" in str(lines))


# Reading


def test_live_events_are_heard(connect: Connect, stream: str) -> None:
    """Those of the streams that are read."""
    writer, reader = connect(stream), connect(None, stream)
    other = connect(f"{stream}-2")
    fetched(reader, stream, START)  # a copy that stands by asks for nothing, and hears nothing
    publish(other, *in_a_row(f"{stream}-2", 1))
    events = in_a_row(stream, 3)
    publish(writer, *events)
    heard = hear(reader, lambda heard: split(events)[-1] in split(heard))
    assert list(dict.fromkeys(split(heard))) == split(events)
    assert all(each.follows.sequence == each.first.sequence - 1 for each in heard)


def test_live_events_that_are_there_together_are_one_run(connect: Connect, stream: str) -> None:
    """As far as each follows the one before it."""
    reader = connect(None, stream)
    fetched(reader, stream, START)
    first, second, _, fourth, fifth = in_a_row(stream, 5)

    async def hear_together() -> None:
        for each in (first, second, fourth, fifth, first):
            message = nats.aio.msg.Msg(
                None, f"parrot.{stream}", "", each.bodies[0], {"Parrot-Place": str(each.first)}
            )
            await reader._hear(message)

    reader._loop.run_until_complete(hear_together())
    assert reader.poll(0) == [*joined([first, second]), *joined([fourth, fifth]), first]


@pytest.fixture
def history(connect: Connect, stream: str) -> list[Run]:
    """A stream of two epochs, each of more events than fit into one answer."""
    events = in_a_row(stream, 300, OLDER)
    publish(connect(stream), *events)
    newer = connect(stream)
    fetched(newer, stream, START)
    events += in_a_row(stream, 600, EPOCH)
    publish(newer, *events[300:])
    return events


def test_a_stream_is_fetched_from_its_start_across_epochs(
    connect: Connect, stream: str, history: list[Run]
) -> None:
    """Each event tells which one it follows; an answer has 256 of them, and tells the head."""
    reader = connect()
    *found, end = fetched(reader, stream, START)
    assert (len(split(found)), end.first) == (RUN_EVENTS, history[-1].first)
    found = all_fetched(reader, stream)
    assert split(found) == split(history)
    assert all(second.follows == first.last for first, second in pairwise(found))
    assert found[0].follows == START


@pytest.mark.parametrize("at", [0, 1, 254, 255, 256, 298, 299, 300, 301, 700, 897, 898])
def test_a_stream_is_fetched_from_any_place(
    at: int, connect: Connect, stream: str, history: list[Run]
) -> None:
    reader = connect()
    found = all_fetched(reader, stream, history[at].first)
    assert split(found) == split(history[at + 1 :])
    assert found[0].follows == history[at].first


@pytest.mark.parametrize(
    ("after", "first"),
    [
        (Place(bytes(16), 5), 0),  # before everything
        (Place(OLDER, 900), 300),  # the older epoch has ended earlier
        (Place(EPOCH, 0), 300),
    ],
)
def test_a_place_that_is_not_in_the_stream_is_one_between_events(
    after: Place, first: int, connect: Connect, stream: str, history: list[Run]
) -> None:
    answer = fetched(connect(), stream, after)
    assert (answer[0].follows, answer[0].first) == (after, history[first].first)


@pytest.mark.parametrize("after", [Place(EPOCH, 600), Place(EPOCH, 601), Place(NEWER, 3)])
def test_after_the_head_comes_nothing_but_the_head(
    after: Place, connect: Connect, stream: str, history: list[Run]
) -> None:
    assert fetched(connect(), stream, after) == [Run(stream, after, history[-1].first, [])]


def test_an_answer_that_has_lost_a_message_is_not_used(
    connect: Connect, stream: str, history: list[Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a reader would take what follows for the next event."""
    reader, client = connect(), nats.aio.client.Client
    until_up(reader)
    subscribe, lost = client.subscribe, []

    async def lose_one(self: Any, subject: str, *rest: Any, cb: Any) -> Any:
        async def take(message: Any) -> None:
            if (message.headers or {}).get("Nats-Sequence") == "100":
                lost.append(message)
            else:
                await cb(message)

        return await subscribe(self, subject, *rest, cb=take)

    with monkeypatch.context() as patch, capture_logs() as lines:
        patch.setattr(client, "subscribe", lose_one)
        reader.fetch(stream, START)
        eventually(lambda: reader.poll(0.05) or "is missing" in str(lines))
    assert lost
    assert split(all_fetched(reader, stream)) == split(history)


def test_a_stream_of_an_earlier_version_is_read_and_written_once_its_writer_has_started(
    connect: Connect, nats_server: NatsServer, stream: str
) -> None:
    """Its messages have their places as ids, and it takes and gives no batches."""
    make_stream(nats_server.url, stream)
    events = in_a_row(stream, 30)
    for event in events[:3]:
        headers = b"NATS/1.0\r\nNats-Msg-Id: %s\r\n\r\n" % str(event.first).encode()
        raw_publish(nats_server, stream, headers, *event.bodies)
    reader = connect(None, stream)
    until_up(reader)
    with capture_logs() as lines:
        reader.fetch(stream, START)
        eventually(lambda: reader.poll(0.05) or "before its writer has started" in str(lines))
    writer = connect(stream)
    assert fetched(writer, stream, START)[-1].first == events[2].first
    publish(writer, *events)
    assert split(all_fetched(reader, stream)) == split(events)
    assert stored(nats_server.url, stream) == places(*events)


def test_a_stream_that_does_not_exist_has_nothing(connect: Connect, stream: str) -> None:
    """Only its writer makes it."""
    reader = connect(None, stream)
    for _ in range(2):
        assert fetched(reader, stream, START) == [Run(stream, START, START, [])]
    writer = connect(stream)
    assert fetched(writer, stream, START) == [Run(stream, START, START, [])]
    publish(writer, *in_a_row(stream, 1))
    assert len(all_fetched(reader, stream)) == 1


def test_the_streams_that_are_read_say_since_when_they_are_there(
    nats_server: NatsServer, connect: Connect, stream: str
) -> None:
    """To the millisecond; what is filled again is younger; nothing, until there is a stream."""
    reader, writer = connect(None, stream), connect(stream)
    until_up(reader)
    reader.fetch(JOURNAL, START)
    end = Replay("me", Run(JOURNAL, START, START, []))
    eventually(lambda: end in reader.poll(0.2))  # so that it is asked again as soon as ever

    def begun() -> datetime:
        def ask() -> list[Message]:
            reader.fetch(JOURNAL, START)
            told = [each for each in reader.poll(0.2) if isinstance(each, Replay)]
            return [each for each in told if each.run.bodies]

        (told, *_) = eventually(ask)
        (body,) = told.run.bodies
        assert told == Replay("me", Run(JOURNAL, START, BEGUN, [body]))
        return Told.parse(JOURNAL, BEGUN, body).time

    before = datetime.now(UTC).replace(microsecond=0)
    publish(writer, *in_a_row(stream, 1))
    first = begun()
    assert before <= first <= datetime.now(UTC)
    publish(writer, *in_a_row(stream, 2))
    assert begun() == first
    in_jetstream(nats_server.url, lambda context: context.delete_stream(name_of(stream)))
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


def test_what_strangers_publish_blocks_neither_writer_nor_reader(
    connect: Connect, nats_server: NatsServer, stream: str
) -> None:
    """Before the first event, between events and behind the last one; it is counted."""
    make_stream(nats_server.url, stream)
    writer, listener = connect(stream), connect(None, stream)
    fetched(listener, stream, START)
    events = in_a_row(stream, 3)
    heard: list[Message] = []
    for event in events:
        for headers, body in JUNK:
            raw_publish(nats_server, stream, headers, body)
        publish(writer, event)
    for headers, body in JUNK:
        raw_publish(nats_server, stream, headers, body)
    heard = hear(listener, lambda _: listener.malformed == len(JUNK) * 4)
    assert list(dict.fromkeys(split(heard))) == split(events)
    reader = connect(None, stream)
    *found, end = fetched(reader, stream, START)
    assert split(found) == split(events)
    assert end.first == events[-1].first
    assert reader.malformed >= 2 * len(JUNK)  # those between events
    late = connect(stream)
    fetched(late, stream, START)
    publish(late, *in_a_row(stream, 1, first=4))
    assert len(split(all_fetched(reader, stream))) == 4


def test_what_strangers_publish_between_events_on_their_way_lets_none_be_left_out(
    service: Make, nats_server: NatsServer, stream: str
) -> None:
    """An event is not taken for the one behind a stranger's message."""
    writer, reader = service(stream), service("others", stream)
    headers, ended = {"Nats-Msg-Id": "rubbish"}, threading.Event()

    async def litter(context: Any) -> None:
        while not ended.is_set():
            await context.publish(f"parrot.{stream}", b"junk")
            await context.publish(f"parrot.{stream}", b"junk", headers=headers)
            await asyncio.sleep(0.5)  # who publishes without a pause lets nobody else in

    writer.tell(*range(10))
    eventually(lambda: is_told(writer))
    stranger = threading.Thread(target=in_jetstream, args=(nats_server.url, litter))
    stranger.start()
    try:
        for first in range(10, 500, 49):
            writer.exchange._publish_at = float("inf")  # until there are many to send at once
            writer.tell(*range(first, first + 49))
            writer.exchange._publish_at = 0
        eventually(lambda: is_told(writer), timeout_s=30)
    finally:
        ended.set()
        stranger.join()
    eventually(lambda: effects(reader.database) == [*range(500)])
    places = [place for place in stored(nats_server.url, stream) if place and ":" in place]
    assert [int(place.partition(":")[2]) for place in places] == [*range(1, 501)]


def test_more_junk_than_an_answer_holds_is_passed_over(
    connect: Connect, nats_server: NatsServer, stream: str
) -> None:
    make_stream(nats_server.url, stream)
    events = in_a_row(stream, 2)

    async def litter(context: Any) -> None:
        junk = [context.publish(f"parrot.{stream}", b"junk") for _ in range(RUN_EVENTS + 50)]
        await asyncio.gather(*junk)

    writer = connect(stream)
    for event in events:
        in_jetstream(nats_server.url, litter)
        publish(writer, event)
    in_jetstream(nats_server.url, litter)
    reader = connect()
    assert split(all_fetched(reader, stream)) == split(events)
    assert split(all_fetched(reader, stream, events[0].first)) == split(events[1:])


def test_an_old_event_that_is_stored_once_more_is_passed_over(
    connect: Connect, nats_server: NatsServer, stream: str
) -> None:
    """Whoever did that; the writer goes on behind it, and a reader gets each event once."""
    events = in_a_row(stream, 6)
    writer = connect(stream)
    publish(writer, *events[:4])
    headers = b"NATS/1.0\r\nParrot-Place: %s\r\n\r\n" % str(events[1].first).encode()
    raw_publish(nats_server, stream, headers, *events[1].bodies)
    publish(writer, *events)
    assert split(all_fetched(connect(), stream)) == split(events)


# Streams that somebody else has made


def test_a_stream_that_may_forget_is_used_and_that_is_said_once(
    service: Make, nats_server: NatsServer, stream: str
) -> None:
    limits = {"storage": "memory", "max_age": 3600, "max_msgs": 1000, "description": "mine"}
    make_stream(nats_server.url, stream, **limits)
    before = config_of(nats_server.url, stream)
    with capture_logs() as lines:
        writer, reader = service(stream), service("others", stream)
        writer.tell(1, 2, 3)
        eventually(lambda: effects(reader.database) == [1, 2, 3])
    said = [line for line in lines if "may forget" in line["event"]]
    assert [line["max_age"] for line in said] == [3600]
    assert {"storage", "max_msgs"} <= said[0].keys()
    assert without_batches(config_of(nats_server.url, stream)) == without_batches(before)


def without_batches(config: dict[str, Any]) -> dict[str, Any]:
    """Settings of a stream but those for batches, and the server's notes about them."""
    ours = "allow_atomic", "allow_direct", "metadata"
    return {name: value for name, value in config.items() if name not in ours}


def test_events_that_a_stream_has_forgotten_hold_nobody_up(
    connect: Connect, nats_server: NatsServer, stream: str
) -> None:
    """A reader goes on with what is left."""
    make_stream(nats_server.url, stream, max_msgs=300)
    events = in_a_row(stream, 1000)
    publish(connect(stream), *events)
    found = all_fetched(connect(), stream)
    assert split(found) == split(events[700:])
    found = all_fetched(connect(), stream, events[10].first)
    assert (found[0].follows, found[0].first) == (events[10].first, events[700].first)


def test_a_message_that_was_deleted_is_passed_over(
    connect: Connect, nats_server: NatsServer, stream: str
) -> None:
    make_stream(nats_server.url, stream)
    events = in_a_row(stream, 6)
    publish(connect(stream), *events)
    for number in (1, 3, 4):
        in_jetstream(
            nats_server.url,
            lambda context, number=number: context.delete_msg(name_of(stream), number),
        )
    reader = connect()
    found = all_fetched(reader, stream)
    assert split(found) == split(events[n] for n in (1, 4, 5))
    assert reader.malformed == 0


def test_a_writer_goes_on_although_the_last_message_was_deleted(
    connect: Connect, nats_server: NatsServer, stream: str
) -> None:
    """JetStream gives its number to no other."""
    make_stream(nats_server.url, stream)
    events = in_a_row(stream, 3)
    publish(connect(stream), *events[:2])
    in_jetstream(nats_server.url, lambda context: context.delete_msg(name_of(stream), 2))
    publish(connect(stream), *events)
    assert split(all_fetched(connect(), stream)) == split(events)


def test_a_server_that_cannot_keep_so_many_replicas_says_so_and_keeps_its_own(
    connect: Connect, nats_server: NatsServer, stream: str
) -> None:
    make_stream(nats_server.url, stream)
    with capture_logs() as lines:
        writer = connect(stream, broker_replicas=3)
        fetched(writer, stream, START)
        publish(writer, *in_a_row(stream, 2))
    (said,) = [line for line in lines if "cannot be changed" in line["event"]]
    assert (said["setting"], said["to"]) == ("num_replicas", 3)
    assert "replicas > 1 not supported" in said["error"]
    assert config_of(nats_server.url, stream)["num_replicas"] == 1


def test_a_stream_that_cannot_be_made_is_complained_about(connect: Connect, stream: str) -> None:
    writer = connect(stream, broker_replicas=3)
    with capture_logs() as lines:
        until_up(writer)
        writer.fetch(stream, START)
        eventually(lambda: writer.poll(0.05) or "replicas > 1 not supported" in str(lines))


# Losses and outages


def test_a_stream_that_was_deleted_is_filled_again_from_the_outbox(
    service: Make, nats_server: NatsServer, stream: str
) -> None:
    """Who has applied its events applies none of them again."""
    writer, reader = service(stream), service("others", stream)
    writer.tell(*range(300))
    eventually(lambda: effects(reader.database) == [*range(300)])
    before = stored(nats_server.url, stream)
    in_jetstream(nats_server.url, lambda context: context.delete_stream(name_of(stream)))
    assert (
        eventually(lambda: is_told(writer) and stored_or_none(nats_server, stream, 300)) == before
    )
    writer.tell(300)
    eventually(lambda: effects(reader.database) == [*range(301)])


def test_a_deleted_stream_is_filled_again_although_strangers_were_there_first(
    service: Make, nats_server: NatsServer, stream: str
) -> None:
    """With more messages than it had before."""
    writer = service(stream)
    writer.tell(*range(10))
    eventually(lambda: is_told(writer))

    async def replace(context: Any) -> None:
        await context.delete_stream(name_of(stream))
        await context.add_stream(name=name_of(stream), subjects=[f"parrot.{stream}"])
        for _ in range(50):
            await context.publish(f"parrot.{stream}", b"junk")

    in_jetstream(nats_server.url, replace)
    writer.tell(10)
    eventually(lambda: [each for each in stored(nats_server.url, stream) if each][10:])
    places = [each for each in stored(nats_server.url, stream) if each]
    assert [int(each.partition(":")[2]) for each in places] == [*range(1, 12)]


def stored_or_none(server: NatsServer, stream: str, count: int) -> list[str | None] | None:
    try:
        found = stored(server.url, stream)
    except nats.js.errors.NotFoundError:
        return None
    return found if len(found) >= count else None


def test_a_server_that_lost_its_store_is_filled_again(
    service: Make, own_nats: NatsServer, stream: str
) -> None:
    """Also with what happened meanwhile, and although there is less in it: an epoch, and junk."""
    own_nats.start()
    first = service(stream, url=own_nats.url, file="first")
    first.tell(1, 2, 3)
    eventually(lambda: is_told(first))
    first.close()
    raw_publish(own_nats, stream, b"NATS/1.0\r\n\r\n", b"junk")
    writer = service(stream, url=own_nats.url, file="second")
    reader = service("others", stream, url=own_nats.url)
    writer.tell(*range(10, 20))
    eventually(lambda: effects(reader.database) == [1, 2, 3, *range(10, 20)])
    own_nats.kill()
    shutil.rmtree(own_nats.log.parent / "alone")
    writer.tell(*range(20, 30))
    own_nats.start()
    eventually(lambda: effects(reader.database) == [1, 2, 3, *range(10, 30)])
    eventually(lambda: is_told(writer))
    assert len(stored(own_nats.url, stream)) == 20


def test_a_killed_server_comes_back_and_everything_is_delivered_once(
    service: Make, own_nats: NatsServer, stream: str
) -> None:
    own_nats.start()
    writer = service(stream, url=own_nats.url)
    reader = service("others", stream, url=own_nats.url)
    for first in range(0, 90, 30):
        writer.tell(*range(first, first + 10))
        own_nats.kill()  # with events on their way
        writer.tell(*range(first + 10, first + 20))
        eventually(lambda: writer.exchange.status()["broker"] != "up")
        own_nats.start()
        writer.tell(*range(first + 20, first + 30))
        eventually(lambda end=first + 30: effects(reader.database) == [*range(end)])
    eventually(lambda: is_told(writer))
    assert len(stored(own_nats.url, stream)) == 90


def test_a_server_that_stands_still_for_a_while_delays_and_loses_nothing(
    service: Make, own_nats: NatsServer, stream: str
) -> None:
    own_nats.start()
    writer = service(stream, url=own_nats.url)
    reader = service("others", stream, url=own_nats.url)
    writer.tell(*range(10))
    eventually(lambda: effects(reader.database) == [*range(10)])
    own_nats.send(signal.SIGSTOP)
    try:
        writer.tell(*range(10, 20))
        eventually(lambda: writer.exchange._publisher.resent > 10)  # more than once
    finally:
        own_nats.send(signal.SIGCONT)
    eventually(lambda: effects(reader.database) == [*range(20)])
    eventually(lambda: is_told(writer))
    assert len(stored(own_nats.url, stream)) == 20


def test_a_server_may_start_last(service: Make, own_nats: NatsServer, stream: str) -> None:
    writer = service(stream, url=own_nats.url)
    reader = service("others", stream, url=own_nats.url)
    writer.tell(1, 2)
    assert writer.exchange.status()["broker"] == "down"
    own_nats.start()
    eventually(lambda: effects(reader.database) == [1, 2])


def test_of_several_addresses_one_that_answers_is_enough(
    service: Make, nats_server: NatsServer, stream: str
) -> None:
    url = f"nats://127.0.0.1:{free_port()},{nats_server.url}"
    writer, reader = service(stream, url=url), service("others", stream, url=url)
    writer.tell(1, 2)
    eventually(lambda: effects(reader.database) == [1, 2])


# Databases that are replaced


def test_a_writer_with_a_new_database_goes_on_in_the_same_stream(
    service: Make, nats_server: NatsServer, stream: str
) -> None:
    reader = service("others", stream)
    for epoch in range(3):
        writer = service(stream, file=f"writer-{epoch}")
        writer.tell(epoch * 10, epoch * 10 + 1)
        eventually(lambda: effects(reader.database)[-1:] == [epoch * 10 + 1])  # noqa: B023
        writer.close()
    assert effects(reader.database) == [0, 1, 10, 11, 20, 21]
    assert len(stored(nats_server.url, stream)) == 6


@pytest.mark.parametrize("goes_on", [False, True])
def test_a_restored_older_database_stops_publishing(
    goes_on: bool, service: Make, nats_server: NatsServer, stream: str, tmp_path: Path
) -> None:
    """Whether it has fewer events than the stream, or went on with other ones."""
    writer = service(stream, file="now")
    writer.tell(1, 2)
    eventually(lambda: is_told(writer))
    writer.database.execute_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    shutil.copy(tmp_path / "now.db", tmp_path / "then.db")
    writer.tell(3, 4)
    eventually(lambda: is_told(writer))
    writer.close()
    told = stored(nats_server.url, stream)
    if goes_on:
        unopened = transport(Settings(BROKER_URL=nats_server.url), stream, stream, ())
        begun = Numbers(tmp_path / "then.db", stream, (), unopened)
        begun.tell(5, 6, 7)
        begun.database.close()
    again = service(stream, file="then")
    problem = eventually(lambda: again.exchange.status().get("problem"))
    assert "older than the events" in problem
    assert stored(nats_server.url, stream) == told


# Who may come in, and how


@pytest.fixture
def guarded(own_nats: NatsServer) -> NatsServer:
    """A server that wants a password, of letters that a URL cannot have as they are."""
    configure(own_nats, authorization={"user": "shop", "password": PASSWORD})
    own_nats.start()
    return own_nats


def login(server: NatsServer, password: str) -> str:
    return f"nats://shop:{quote(password, safe='')}@127.0.0.1:{server.port}"


def test_user_and_password_stand_in_the_url(
    connect: Connect, guarded: NatsServer, stream: str
) -> None:
    publish(connect(stream, url=login(guarded, PASSWORD)), *in_a_row(stream, 2))


def test_a_token_stands_in_the_url(connect: Connect, own_nats: NatsServer, stream: str) -> None:
    configure(own_nats, authorization={"token": PASSWORD})
    own_nats.start()
    url = f"nats://{quote(PASSWORD, safe='')}@127.0.0.1:{own_nats.port}"
    publish(connect(stream, url=url), *in_a_row(stream, 2))


def test_a_wrong_password_is_said_and_tried_again_until_the_server_takes_it(
    connect: Connect, guarded: NatsServer, stream: str
) -> None:
    """Also if the server takes it no more: nobody has to start anything again."""
    writer = connect(stream, url=login(guarded, "another"))

    def is_refused(lines: list[Any]) -> bool:
        writer.poll(0.05)
        return "Authorization Violation" in str(lines) and not writer.up

    for count in (1, 2):
        with capture_logs() as lines:
            eventually(partial(is_refused, lines))
        change_password(guarded, "another")
        publish(writer, *in_a_row(stream, count))
        writer._complaints = Complaints()
        change_password(guarded, PASSWORD)


def change_password(server: NatsServer, password: str) -> None:
    """Let a running server take another password, from now on and from those who are there."""
    configure(server, authorization={"user": "shop", "password": password})
    server.send(signal.SIGHUP)


def test_a_client_that_gives_up_is_replaced(connect: Connect, stream: str) -> None:
    """nats-py does so for good when a server says that something is wrong."""
    ends: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        writer = connect(stream, url=f"nats://127.0.0.1:{listener.getsockname()[1]}")

        def talk() -> None:
            writer.poll(0.02)
            with suppress(BlockingIOError):
                ends.append(listener.accept()[0])
                ends[-1].setblocking(False)
                ends[-1].sendall(INFO)
            for end in ends:
                with suppress(BlockingIOError):
                    if b"PING" in end.recv(4096):
                        end.sendall(b"PONG\r\n")

        eventually(lambda: talk() or writer.up)
        ends[0].sendall(b"-ERR 'Something Is Wrong'\r\n")
        eventually(lambda: talk() or (len(ends) > 1 and writer.up))
        writer.close()
    for end in ends:
        end.close()


@pytest.mark.parametrize("version", [b"2.11.99", b"2.9.10", b"1.4.1", b""])
def test_a_server_that_is_too_old_is_refused_in_one_line(
    version: bytes, connect: Connect, stream: str
) -> None:
    """And does not get to see the password."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        url = f"nats://shop:secret@127.0.0.1:{listener.getsockname()[1]}"
        writer, ends = connect(stream, url=url), []
        with capture_logs() as lines:
            while len(ends) < 2:  # it is tried again, in case it was replaced
                writer.poll(0.05)
                with suppress(BlockingIOError):
                    ends.append(listener.accept()[0])
                    ends[-1].sendall(INFO.replace(b"2.12.0-RC.1", version))
        (said,) = [line["error"] for line in lines if "too old" in str(line)]
        assert said == f"nats-server {version.decode()} is too old: 2.12 or later is needed"
        assert not writer.up
        writer.close()
    for end in ends:
        heard = b""
        with end, suppress(ConnectionResetError):  # it may have gone before it has read
            end.setblocking(True)
            heard = end.recv(4096)
        assert heard == b""


def credentials(server: NatsServer, path: Path) -> None:
    """Let a server admit whoever has a JWT of its operator, and write one with its key."""
    nkeys = pytest.importorskip("nkeys")

    def key(prefix: int) -> Any:
        return nkeys.from_seed(nkeys.encode_seed(token_bytes(32), prefix))

    def jwt(kind: str, subject: Any, issuer: Any, **claims: Any) -> str:
        def encode(part: Any) -> str:
            text = part if isinstance(part, bytes) else json.dumps(part).encode()
            return base64.urlsafe_b64encode(text).rstrip(b"=").decode()

        body = {
            "jti": token_hex(16).upper(),
            "iat": int(time.time()),
            "iss": issuer.public_key.decode(),
            "name": kind,
            "sub": subject.public_key.decode(),
            "nats": {"type": kind, "version": 2, **claims},
        }
        signed = f"{encode({'typ': 'JWT', 'alg': 'ed25519-nkey'})}.{encode(body)}"
        return f"{signed}.{encode(issuer.sign(signed.encode()))}"

    operator, user = key(nkeys.PREFIX_BYTE_OPERATOR), key(nkeys.PREFIX_BYTE_USER)
    system, account = key(nkeys.PREFIX_BYTE_ACCOUNT), key(nkeys.PREFIX_BYTE_ACCOUNT)
    free = dict.fromkeys(("subs", "data", "payload", "imports", "exports", "conn", "leaf"), -1)
    storage = dict.fromkeys(("mem_storage", "disk_storage", "streams", "consumer"), -1)
    configure(
        server,
        operator=jwt("operator", operator, operator),
        system_account=system.public_key.decode(),
        resolver="MEMORY",
        resolver_preload={
            system.public_key.decode(): jwt("account", system, operator, limits=free),
            account.public_key.decode(): jwt("account", account, operator, limits=free | storage),
        },
    )
    own = jwt("user", user, account, subs=-1, data=-1, payload=-1)
    path.write_text(
        f"-----BEGIN NATS USER JWT-----\n{own}\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{user.seed.decode()}\n------END USER NKEY SEED------\n"
    )


def test_a_creds_file_opens_a_server_that_knows_its_account(
    connect: Connect, own_nats: NatsServer, stream: str, tmp_path: Path
) -> None:
    file = tmp_path / "shop.creds"
    credentials(own_nats, file)
    own_nats.start()
    stranger = connect(stream, url=own_nats.url)
    with capture_logs() as lines:
        eventually(lambda: stranger.poll(0.05) or "Authorization Violation" in str(lines))
    publish(connect(stream, url=own_nats.url, broker_credentials=file), *in_a_row(stream, 2))


@pytest.mark.parametrize("text", ["", "a letter to my parrot", b"\xff\xfe"])
def test_a_file_that_holds_no_credentials_is_one_line_at_the_start(
    text: str | bytes, connect: Connect, tmp_path: Path
) -> None:
    file = tmp_path / "shop.creds"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(StartError, match=r"^[^\n]*BROKER_CREDENTIALS[^\n]*$"):
        connect(broker_credentials=file)


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
    for name in ("server", "client"):
        (folder / "alternative").write_text("subjectAltName=IP:127.0.0.1")
        openssl(*new, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        signed = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2")
        files = ("-in", f"{name}.csr", "-out", f"{name}.pem", "-extfile", "alternative")
        openssl("x509", "-req", *files, *signed)
    return folder


@pytest.fixture
def encrypted(own_nats: NatsServer, certificates: Path) -> NatsServer:
    """A server that talks TLS only, and admits who has a certificate of its authority."""
    files = {"cert_file": "server.pem", "key_file": "server.key", "ca_file": "ca.pem"}
    tls = {name: str(certificates / file) for name, file in files.items()}
    configure(own_nats, tls=tls | {"verify": True})
    own_nats.start()
    return own_nats


def test_certificates_of_both_ends_are_checked(
    connect: Connect, encrypted: NatsServer, certificates: Path, stream: str
) -> None:
    ours = {
        "broker_tls_cert": certificates / "client.pem",
        "broker_tls_key": certificates / "client.key",
    }
    url = f"tls://127.0.0.1:{encrypted.port}"
    publish(
        connect(stream, url=url, broker_tls_ca=certificates / "ca.pem", **ours),
        *in_a_row(stream, 2),
    )
    for settings, complaint in (
        ({"broker_tls_ca": certificates / "other.pem", **ours}, "certificate verify failed"),
        (ours, "certificate verify failed"),  # the system does not know the authority
        ({"broker_tls_ca": certificates / "ca.pem"}, ""),  # without one of our own
    ):
        stranger = connect(stream, url=url, **settings)
        with capture_logs() as lines:
            eventually(lambda way=stranger, seen=lines: way.poll(0.05) or seen)
        assert complaint in str(lines)
        assert not stranger.up


@pytest.mark.parametrize("scheme", ["tls", "nats"])
def test_where_tls_is_asked_for_nothing_is_said_in_the_clear(
    scheme: str, connect: Connect, certificates: Path, stream: str
) -> None:
    """A server that offers none does not get to see the password."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"{scheme}://shop:secret@127.0.0.1:{listener.getsockname()[1]}"
        writer = connect(stream, url=url, broker_tls_ca=certificates / "ca.pem")
        listener.setblocking(False)
        heard, ends = b"", []
        with capture_logs() as lines:
            while "offers no TLS" not in str(lines):
                writer.poll(0.05)
                with suppress(BlockingIOError):
                    ends.append(listener.accept()[0])
                    ends[-1].setblocking(False)
                    ends[-1].sendall(INFO)
                for end in ends:
                    with suppress(BlockingIOError):
                        heard += end.recv(4096)
        for end in ends:
            end.close()
    assert heard == b""


def test_files_that_are_no_certificates_are_one_line_at_the_start(
    connect: Connect, tmp_path: Path
) -> None:
    junk = tmp_path / "junk.pem"
    junk.write_text("a letter to my parrot")
    for name in ("broker_tls_ca", "broker_tls_cert"):
        with pytest.raises(StartError, match=r"^[^\n]*BROKER_TLS_CA[^\n]*$"):
            connect(**{name: junk})


# Its life


def test_any_thread_can_end_the_wait_of_a_poll(connect: Connect, stream: str) -> None:
    way = connect(stream)
    until_up(way)
    begin = time.monotonic()
    waker = threading.Timer(0.05, way.wake)
    waker.start()
    assert way.poll(30) == []
    waker.join()
    assert time.monotonic() - begin < 10
    way.close()
    way.wake()
    assert not way.up


@pytest.mark.parametrize("state", ["unpolled", "unreachable", "connected", "busy", "lost"])
def test_a_transport_that_is_closed_leaves_nothing_behind(
    state: str, connect: Connect, own_nats: NatsServer, stream: str
) -> None:
    """No task, no connection and no warning, whatever it was doing."""
    own_nats.start()
    port = free_port() if state == "unreachable" else own_nats.port
    way = connect(stream, stream, url=f"nats://127.0.0.1:{port}")
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
    assert all(task.done() for task in tasks)
    assert not asyncio.all_tasks(way._loop)
    assert not way.up


# Clusters


@pytest.fixture(scope="module")
def nats_cluster(
    tmp_path_factory: pytest.TempPathFactory, nats_server: NatsServer
) -> Iterator[Mapping[str, NatsServer]]:
    """Three servers that keep streams together."""
    folder, ports = tmp_path_factory.mktemp("cluster"), {f"n{n}": free_port() for n in (1, 2, 3)}
    servers = {name: NatsServer(folder, free_port(), name, ports) for name in ports}
    for server in servers.values():
        configure(server, authorization={"user": "shop", "password": PASSWORD})
        server.launch()
    for server in servers.values():
        eventually(server.answers, timeout_s=30)
    yield servers
    for server in servers.values():
        server.kill()


@pytest.fixture
def cluster_url(nats_cluster: Mapping[str, NatsServer], connect: Connect) -> str:
    """The addresses of a cluster that can make streams."""
    url = ",".join(login(server, PASSWORD) for server in nats_cluster.values())
    ready = connect(f"ready-{token_hex(4)}", url=url, broker_replicas=3)
    publish(ready, *in_a_row(ready._writes, 1))
    return url


def first_of(url: str) -> str:
    return url.partition(",")[0]


@pytest.mark.chaos
def test_a_stream_gets_the_replicas_that_are_asked_for_and_keeps_all_else(
    connect: Connect, cluster_url: str, stream: str
) -> None:
    mine = {
        "max_bytes": 10_000_000,
        "duplicate_window": 33,
        "description": "mine",
        "num_replicas": 1,
    }
    make_stream(first_of(cluster_url), stream, **mine)
    before = config_of(first_of(cluster_url), stream)
    writer = connect(stream, url=cluster_url, broker_replicas=3)
    fetched(writer, stream, START)
    publish(writer, *in_a_row(stream, 300))
    after = config_of(first_of(cluster_url), stream)
    assert without_batches(after) == without_batches(before) | {"num_replicas": 3}
    assert stored(first_of(cluster_url), stream) == places(*in_a_row(stream, 300))


@pytest.mark.chaos
def test_a_stream_never_loses_replicas_by_a_setting(
    connect: Connect, cluster_url: str, stream: str
) -> None:
    """A copy that is started without it must not undo what the others have asked for."""
    make_stream(first_of(cluster_url), stream, num_replicas=3)
    with capture_logs() as lines:
        writer = connect(stream, url=cluster_url)
        fetched(writer, stream, START)
        publish(writer, *in_a_row(stream, 2))
    (said,) = [line for line in lines if "replicas" in line["event"]]
    assert (said["has"], said["asked"]) == (3, 1)
    assert config_of(first_of(cluster_url), stream)["num_replicas"] == 3


@pytest.mark.chaos
def test_one_address_of_a_cluster_leads_to_all_servers(
    connect: Connect, nats_cluster: Mapping[str, NatsServer], cluster_url: str, stream: str
) -> None:
    """With the password of that address, when its server has gone."""
    writer = connect(stream, url=first_of(cluster_url), broker_replicas=3)
    publish(writer, *in_a_row(stream, 2))
    nats_cluster["n1"].kill()
    try:
        publish(writer, *in_a_row(stream, 4))
    finally:
        nats_cluster["n1"].start()


@pytest.mark.chaos
@pytest.mark.timeout(600)
def test_a_cluster_whose_servers_are_killed_in_turn_keeps_and_delivers_each_event_once(
    service: Make, nats_cluster: Mapping[str, NatsServer], cluster_url: str, stream: str
) -> None:
    """One server at a time; events flow meanwhile."""
    writer = service(stream, url=cluster_url, broker_replicas=3)
    reader = service("others", stream, url=cluster_url, broker_replicas=3)
    told = 0

    def tell(count: int) -> None:
        nonlocal told
        writer.tell(*range(told, told + count))
        told += count

    def is_heard() -> bool:
        return effects(reader.database) == [*range(told)] and is_told(writer)

    for _ in range(3):
        for server in nats_cluster.values():
            tell(100)  # on their way
            server.kill()
            for _ in range(20):
                tell(10)
                eventually(lambda: writer.exchange._publisher.waiting < WINDOW_EVENTS, 60)
            eventually(is_heard, timeout_s=60)
            server.start()
            tell(100)
    eventually(is_heard, timeout_s=60)
    places = stored(first_of(cluster_url), stream)
    assert [int(str(place).partition(":")[2]) for place in places] == [*range(1, told + 1)]
