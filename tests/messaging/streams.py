"""Streams as tests of both transports use them: events to publish, and what becomes of them."""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Iterable
from contextlib import closing, suppress
from typing import Any
from urllib.parse import unquote, urlsplit

from messaging.publisher import WINDOW_EVENTS
from messaging.transports.forwarder import Transport
from messaging.transports.wire import (
    START,
    Ack,
    Message,
    Place,
    Replay,
    Run,
    digest,
    runs,
)
from runtime.process.settings import Settings
from tests.conftest import eventually
from tests.messaging.conftest import EPOCH, live
from tests.servers import nats


def in_a_row(stream: str, count: int, epoch: bytes = EPOCH, first: int = 1) -> list[Run]:
    return [live(n, epoch)._replace(stream=stream) for n in range(first, first + count)]


def split(found: Iterable[Message]) -> list[tuple[Place, bytes]]:
    """Place and body of all events of some runs; answers that were asked for twice are no runs."""
    return [event for run in found if isinstance(run, Run) for event in run.events()]


def joined(events: Iterable[Run]) -> list[Run]:
    """Events of one stream, in runs that are as long as they may be."""
    first, *_ = events = list(events)
    return list(runs(first.stream, first.follows, split(events)))


def acked_as(event: Run) -> Ack:
    """What its writer is told once it is stored."""
    return Ack(event.stream, event.last, digest(event.bodies[-1]))


def until_up(way: Transport) -> None:
    eventually(lambda: way.poll(0.05) or way.up)


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


def publish(way: Transport, *events: Run) -> None:
    """Publish as a publisher does: a window at a time, until its last event is acknowledged."""
    until_up(way)
    for first in range(0, len(events), WINDOW_EVENTS):
        window = events[first : first + WINDOW_EVENTS]
        acked, last = START, window[-1]
        while acked < last.first:
            for run in joined(event for event in window if event.first > acked):
                way.publish(run)
            with suppress(AssertionError):  # what was lost is sent again from the newest ack on
                for ack in hear(way, lambda heard, last=last: acked_as(last) in heard, 1):
                    acked = max(acked, ack[1]) if isinstance(ack, Ack) else acked


def insist(way: Transport, event: Run, until: Ack) -> None:
    """Publish an event over and over, as a publisher does that gets no ack, until there is one."""

    def again() -> bool:
        way.publish(event)
        return until in way.poll(0.25)

    eventually(again)


def fetched(way: Transport, stream: str, after: Place = START) -> list[Run]:
    """One answer: what comes after a place, and the end. It is asked for until it comes."""
    heard: list[Message] = []

    def answer() -> list[Run]:
        heard.extend(way.poll(0.05))
        found, tip = [], after
        for each in heard:
            if isinstance(each, Replay) and (each.run.stream, each.run.follows) == (stream, tip):
                found.append(each.run)
                if not each.run.bodies:
                    return found
                tip = each.run.last
        return []

    def ask() -> list[Run]:
        way.fetch(stream, after)
        with suppress(AssertionError):
            return list(eventually(answer, 1))
        return []

    until_up(way)
    return list(eventually(ask, 30))


def all_fetched(way: Transport, stream: str, after: Place = START) -> list[Run]:
    """Everything that comes after a place, in as many answers as that takes."""
    found: list[Run] = []
    while True:
        *more, end = fetched(way, stream, found[-1].last if found else after)
        found += more
        if end.follows == end.first:
            return found


def places(*events: Run) -> list[str]:
    return [str(event.first) for event in events]


def stored(settings: Settings, stream: str) -> list[str | None]:
    """The places of all that the broker has stored of a stream, in order.

    JetStream also stores what is no event, and has no place.
    """
    if settings.broker_url:
        return _stored_in_jetstream(settings.broker_url, stream)
    query = "SELECT lower(hex(epoch)), sequence FROM entry WHERE stream = ? ORDER BY 1, 2"
    with closing(sqlite3.connect(settings.data_dir / "broker.db")) as database:
        return [f"{epoch}:{number}" for epoch, number in database.execute(query, [stream])]


def _stored_in_jetstream(url: str, stream: str) -> list[str | None]:
    async def read(context: Any) -> list[str | None]:
        state = (await context.stream_info(name_of(stream))).state
        numbers = range(state.first_seq or 1, state.last_seq + 1)
        found = [await context.get_msg(name_of(stream), number) for number in numbers]
        headers = [each.headers or {} for each in found]
        return [each.get("Parrot-Place") or each.get("Nats-Msg-Id") for each in headers]

    found: list[str | None] = in_jetstream(url, read)
    return found


def name_of(stream: str) -> str:
    """What JetStream knows a stream as."""
    return f"parrot-{stream}"


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
