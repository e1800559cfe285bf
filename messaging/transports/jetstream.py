"""The transport over NATS JetStream, where a JetStream stream is the journal of each stream."""

import asyncio
import contextlib
import json
from collections import deque
from collections.abc import Coroutine, Iterable
from datetime import datetime
from secrets import token_hex
from typing import Any, NamedTuple

import structlog
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.api import (
    DiscardPolicy,
    RawStreamMsg,
    RetentionPolicy,
    StorageType,
    StreamConfig,
    StreamInfo,
)
from nats.js.errors import APIError, NotFoundError

from messaging.event import journal_begun
from messaging.transports.nats_client import Client, login, servers, tls
from messaging.transports.wire import (
    BEGUN,
    JOURNAL,
    NO_DIGEST,
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
from runtime.process.clock import Complaints, timestamp
from runtime.process.settings import Settings, without_password

log = structlog.get_logger(__name__)

STORE_TRIES = 3  # in a row, before the next time-out tries again
BATCH_EVENTS = 8  # a batch costs a server about as much as this many single events
RECONNECT_AFTER_S = 1
PING_INTERVAL_S = 2  # a server that has not answered one by the next is given up
ANSWER_TIMEOUT_S = 5.0
# The headers of a message: its place, also as earlier versions wrote it; for the others see ADR-50
# and ADR-31 of NATS. Not every server takes an id in a batch.
PLACE, OLD_PLACE = "Parrot-Place", "Nats-Msg-Id"
EXPECTED_LAST = "Nats-Expected-Last-Sequence"
BATCH, BATCH_SEQUENCE, COMMIT = "Nats-Batch-Id", "Nats-Batch-Sequence", "Nats-Batch-Commit"
SEQUENCE, SEQUENCE_BEFORE = "Nats-Sequence", "Nats-Last-Sequence"
WRONG_LAST = 10071  # JetStream's code if the last message has another number
NEEDED: dict[str, Any] = {"allow_atomic": True, "allow_direct": True}
UNLIMITED: dict[str, Any] = {  # the settings of a stream that forgets nothing
    "storage": StorageType.FILE,
    "retention": RetentionPolicy.LIMITS,  # and there are no limits:
    "max_age": 0,
    "max_msgs": -1,
    "max_bytes": -1,
    "max_msgs_per_subject": -1,
}


class _Newest(NamedTuple):
    """The newest event of a stream: its place, its number in JetStream, the digest of its body.

    If messages that are no events follow it, the number is that of the last one.
    """

    place: Place = START
    number: int = 0
    digest: bytes = NO_DIGEST


class _Found(NamedTuple):
    """A message of a JetStream stream, with its number; without a place it is no event."""

    number: int
    place: Place | None
    body: bytes


class JetStreamTransport:
    """Publishes to one stream, and receives and fetches others; used by one thread at a time.

    A stream holds the events of each epoch in order, each with its place in a header. A run is one
    atomic batch, which the server takes only after the message that we know as the stream's last
    one; so a run sent twice is stored once. One run is in flight at a time. From the first fetch
    on, live events arrive as they are published, as from the forwarder; a copy that never led gets
    none. Missed events are fetched.
    """

    def __init__(
        self, settings: Settings, reader: str, writes: str | None, reads: Iterable[str]
    ) -> None:
        self.malformed = 0
        self.address = without_password(settings.broker_url or "")
        self._settings = settings
        self._reader = reader
        self._writes = writes
        self._reads = tuple(reads)
        self._heard: set[str] = set()  # those of them that were ever fetched
        self._client: Client | None = None
        self._newest = _Newest()  # of our stream
        self._made: datetime | None = None  # when our stream was made
        self._outgoing: deque[Run] = deque()
        self._wanted: dict[str, Place] = {}
        self._received: list[Message] = []
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._complaints = Complaints()
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def up(self) -> bool:
        """Whether a server is connected."""
        return self._client is not None and self._client.is_connected

    def open(self) -> None:
        """Begin to connect; `StartError` if the certificates or credentials cannot be used."""
        options = login(self._settings) | tls(self._settings)
        self._loop = asyncio.new_event_loop()
        self._stirred = asyncio.Event()
        self._tasks["connection"] = self._loop.create_task(self._stay_connected(options))

    def publish(self, run: Run) -> None:
        """Send a run with the next `poll`."""
        if self._outgoing and run.first <= self._outgoing[-1].last:
            self._outgoing.clear()  # the publisher sends again from here on
        self._outgoing.append(run)

    def fetch(self, stream: str, after: Place) -> None:
        """Ask for the events after a place, with the next `poll`."""
        self._wanted[stream] = after

    def poll(self, timeout_s: float) -> list[Message]:
        """Send queued runs and requests, wait for messages, and take those that have arrived."""
        assert self._loop, "open() comes first"
        return self._loop.run_until_complete(self._poll(timeout_s))

    def wake(self) -> None:
        """End the wait of `poll`; for any thread."""
        with contextlib.suppress(RuntimeError):  # it has been closed
            if self._loop:
                self._loop.call_soon_threadsafe(self._stirred.set)

    def close(self) -> None:
        """Close all connections."""
        if self._loop:
            self._loop.run_until_complete(self._end())
            self._loop.close()

    async def _poll(self, timeout_s: float) -> list[Message]:
        await asyncio.sleep(0)
        if self._client and self.up:
            if self._outgoing:
                self._begin("send", self._send_outgoing())
            for stream, after in self._wanted.items():
                if stream in self._reads and stream not in self._heard:
                    self._heard.add(stream)
                    await self._client.subscribe(_subject(stream), cb=self._hear)
                answer = self._begun() if stream == JOURNAL else self._answer(stream, after)
                self._begin(f"answer {stream}", answer)
        else:
            self._outgoing.clear()
        self._wanted.clear()
        if not self._received:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await self._stirred.wait()
        self._stirred.clear()
        received, self._received = self._received, []
        return received

    async def _end(self) -> None:
        left: set[asyncio.Task[Any]] = set(self._tasks.values())
        while left:  # first ours, which close the connection, then those that nats-py leaves
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)
            left = {task for task in asyncio.all_tasks() if task is not asyncio.current_task()}

    def _begin(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        """Run work beside `poll`, unless it is running already."""
        if name in self._tasks and not self._tasks[name].done():
            work.close()
        else:
            self._tasks[name] = asyncio.get_running_loop().create_task(self._attempt(work))

    async def _attempt(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception as error:  # the caller will ask again
            await self._complain(error)

    async def _forget_requests(self) -> None:
        """Stop waiting for answers that went with a connection: the callers will ask again."""
        for name, task in self._tasks.items():
            if name != "connection":
                task.cancel()

    async def _complain(self, error: Exception) -> None:
        if self._complaints.are_due(type(error).__name__):
            log.warning("trouble with NATS", error=str(error) or repr(error))

    async def _stay_connected(self, options: dict[str, Any]) -> None:
        """Connect, again and again; nats-py does so itself, unless a server has refused it."""
        while True:
            client, closed = Client(), asyncio.Event()

            async def note_end(closed: asyncio.Event = closed) -> None:
                closed.set()

            try:
                await client.connect(
                    servers(self._settings),
                    name=f"parrot {self._reader}",
                    error_cb=self._complain,
                    closed_cb=note_end,
                    disconnected_cb=self._forget_requests,
                    max_reconnect_attempts=-1,
                    reconnect_time_wait=RECONNECT_AFTER_S,
                    ping_interval=PING_INTERVAL_S,
                    max_outstanding_pings=1,
                    **options,
                )
                for stream in self._heard:
                    await client.subscribe(_subject(stream), cb=self._hear)
                self._client = client
                self._stirred.set()
                await closed.wait()
            except Exception as error:  # of any kind: the next try may succeed
                await self._complain(error)
            finally:
                await client.close()
            await asyncio.sleep(RECONNECT_AFTER_S)

    async def _send_outgoing(self) -> None:
        """Store run after run; where one is refused, or not new, look up the stream's state."""
        if not self._made:
            await self._look(self._outgoing[0].stream)
        while self._outgoing:
            run = self._outgoing.popleft()
            if not self._fresh(run):
                if self._outgoing:
                    continue  # the runs after it get acks of their own
                await self._look(run.stream)
            if not await self._store_run(run):
                self._outgoing.clear()  # the rest would not fit, either
            self._deliver(Ack(run.stream, self._newest.place, self._newest.digest))

    async def _store_run(self, run: Run) -> bool:
        """Store the fresh events of a run; try again if a stranger's message came between."""
        for _ in range(STORE_TRIES):
            events = self._fresh(run)
            parts = [events] if len(events) >= BATCH_EVENTS else [[each] for each in events]
            try:
                for part in parts:
                    await self._store(_subject(run.stream), part)
                return True
            except Exception as error:
                is_beaten = getattr(error, "err_code", 0) == WRONG_LAST
                if not is_beaten:
                    await self._complain(error)
                await self._look(run.stream)
                if not is_beaten:
                    break
        return False

    def _fresh(self, run: Run) -> list[tuple[Place, bytes]]:
        """The events of a run that follow the newest one of our stream."""
        newest, (epoch, first) = self._newest.place, run.first
        stored = newest.sequence if newest.epoch == epoch else 0
        fits = newest.epoch <= epoch and first <= stored + 1
        return [event for event in run.events() if event[0].sequence > stored] if fits else []

    async def _store(self, subject: str, events: list[tuple[Place, bytes]]) -> None:
        """Store one event, or several as a batch, which is stored as a whole or not at all."""
        headers = {EXPECTED_LAST: str(self._newest.number)}
        if len(events) > 1:
            headers[BATCH] = token_hex(16)
        for n, (place, body) in enumerate(events[:-1], 1):
            headers |= {PLACE: str(place), BATCH_SEQUENCE: str(n)}
            await self._connected().publish(subject, body, headers=headers)
            headers.pop(EXPECTED_LAST, None)
        if len(events) > 1:
            headers |= {BATCH_SEQUENCE: str(len(events)), COMMIT: "1"}
        place, body = events[-1]
        headers[PLACE] = str(place)
        ack = await self._context().publish(subject, body, headers=headers)
        self._newest = _Newest(place, ack.seq, digest(body))

    async def _hear(self, message: Msg) -> None:
        """Receive a live event, which joins the run that it continues."""
        stream, place = message.subject.rpartition(".")[2], _place(message)
        if not place:
            self.malformed += 1
            return
        before = Place(place.epoch, place.sequence - 1)
        match self._received[-1:]:
            case [Run(name, _, _, bodies) as run] if (name, run.last) == (stream, before):
                bodies.append(message.data)
            case _:
                self._deliver(Run(stream, before, place, [message.data]))

    def _deliver(self, message: Message) -> None:
        self._received.append(message)
        self._stirred.set()

    async def _look(self, stream: str) -> _Newest:
        """Look up the newest event of a stream."""
        known, newest, number, end = self._newest, _Newest(), 0, 0
        name, subject, context = _name(stream), _subject(stream), self._context()
        if is_ours := stream == self._writes:
            info = await self._make(stream)
            end = info.state.last_seq
            if info.created != self._made:
                await self._suit(info.config)
            elif known.number <= end:
                newest, number = known, known.number  # an earlier look went as far
        try:
            last = await context.get_last_msg(name, subject)
        except NotFoundError:
            if is_ours and info.state.messages:
                raise  # somebody has deleted the stream, or is about to
            newest = _Newest()
        else:
            behind = last.seq or 0
            end = max(end, behind)  # it is higher if the last message was deleted
            while not _place(last) and behind - 1 > number:  # strangers' messages follow it
                behind -= 1
                last = await context.get_msg(name, behind, subject, next=True)
            if place := _place(last):
                newest = _Newest(place, 0, digest(last.data or b""))
        newest = newest._replace(number=end)
        if is_ours and self._newest == known:  # no ack has come meanwhile
            self._newest, self._made = newest, info.created
        return newest

    async def _make(self, stream: str) -> StreamInfo:
        """Make our stream if it is missing."""
        try:
            return await self._context().stream_info(_name(stream))
        except NotFoundError:
            config = StreamConfig(
                name=_name(stream),
                subjects=[_subject(stream)],
                discard=DiscardPolicy.NEW,
                num_replicas=self._settings.broker_replicas,
                deny_delete=True,
                deny_purge=True,
                **NEEDED,
                **UNLIMITED,
            )
            return await self._context().add_stream(config)

    async def _suit(self, config: StreamConfig) -> None:
        """Let an existing stream take and return batches, and have as many replicas as the setting.

        It never gets fewer replicas, since one copy of the service may lack the setting. Limits by
        which it may forget events are logged.
        """
        kept, wanted = config.num_replicas or 1, self._settings.broker_replicas
        if kept > wanted:
            log.warning("the stream keeps its replicas", name=config.name, has=kept, asked=wanted)
        for setting, to in {**NEEDED, "num_replicas": max(kept, wanted)}.items():
            if getattr(config, setting) == to:
                continue
            change = {"name": config.name, "setting": setting, "to": to}
            try:
                changed = config.evolve(**{setting: to})
                config = (await self._context().update_stream(changed)).config
                log.info("the stream is changed", **change)
            except APIError as error:
                log.warning("the stream cannot be changed", **change, error=error.description)
        limits = {name: getattr(config, name) or 0 for name in UNLIMITED}
        if limits := {name: at for name, at in limits.items() if at != UNLIMITED[name]}:
            log.warning("the stream has limits, and may forget events", name=config.name, **limits)

    async def _answer(self, stream: str, after: Place) -> None:
        """Answer with the events after a place, as the broker's journal does."""
        newest, last, _ = await self._look(stream)
        follows = after
        number = (
            await self._first_after(stream, after, newest, last) if after < newest else last + 1
        )
        while number <= last and follows == after:
            messages = await self._read(stream, number)
            if not messages:
                break  # this server does not have them yet
            number, events, tip = messages[-1].number + 1, [], after
            for _, place, body in messages:
                if not place:
                    self.malformed += 1
                elif place > tip:
                    events.append((place, body))
                    tip = place
            for run in runs(stream, follows, events):
                self._deliver(Replay(self._reader, run))
                follows = run.last
        head = newest if follows == after else max(newest, follows)  # it may have moved meanwhile
        self._deliver(Replay(self._reader, Run(stream, follows, head, [])))

    async def _begun(self) -> None:
        """Answer with the age of the streams that are read, once there is one."""
        created = []
        for stream in self._reads:
            with contextlib.suppress(NotFoundError):
                created.append((await self._context().stream_info(_name(stream))).created)
        last = START
        if begun := max(filter(None, created), default=None):
            body = journal_begun("/nats", timestamp(begun))
            self._deliver(Replay(self._reader, Run(JOURNAL, START, last := BEGUN, [body])))
        self._deliver(Replay(self._reader, Run(JOURNAL, last, START, [])))

    async def _first_after(self, stream: str, after: Place, newest: Place, last: int) -> int:
        """A number in JetStream that is above a place, and not above the event after it."""
        guess = last - newest.sequence + after.sequence  # if nothing else came between
        found = await self._read(stream, guess, 1) if 0 < guess <= last else []
        if [each.place for each in found] == [after]:
            return guess + 1
        low, high = 1, last
        while low < high:
            middle = (low + high) // 2
            event = next((each for each in await self._read(stream, middle) if each.place), None)
            if event and event.place and event.place <= after:
                low = event.number + 1
            else:
                high = middle
        return low

    async def _read(self, stream: str, number: int, count: int = RUN_EVENTS) -> list[_Found]:
        """Read up to ``count`` messages from a number on, as far as the answering server has them.

        Any server with the stream may answer. `NatsError` if a part of the answer is missing.
        """
        client, name, ended = self._connected(), _name(stream), asyncio.Event()
        answer: list[Msg] = []

        async def take(message: Msg) -> None:
            answer.append(message)
            if SEQUENCE not in (message.headers or {}):
                ended.set()

        asked = {"seq": number, "batch": count, "next_by_subj": _subject(stream)}
        inbox = client.new_inbox()
        subscription = await client.subscribe(inbox, cb=take)
        try:
            await client.publish(f"$JS.API.DIRECT.GET.{name}", json.dumps(asked).encode(), inbox)
            await asyncio.wait_for(ended.wait(), ANSWER_TIMEOUT_S)
        finally:
            await subscription.unsubscribe()
        *messages, end = ((each, each.headers or {}) for each in answer)
        numbers = [int(headers[SEQUENCE]) for _, headers in messages]
        match end[1].get("Status"):
            case "404":  # there is none
                return []
            case "503":
                raise NatsError(f"{name} cannot be read before its writer has started")
        if [int(headers.get(SEQUENCE_BEFORE, -1)) for _, headers in (*messages, end)] != [
            0,
            *numbers,
        ]:
            raise NatsError(f"a part of an answer from {name} is missing")
        return [
            _Found(number, _place(message), message.data)
            for number, (message, _) in zip(numbers, messages, strict=True)
        ]

    def _connected(self) -> Client:
        if not self._client:
            raise ConnectionError("not connected")
        return self._client

    def _context(self) -> JetStreamContext:
        return self._connected().jetstream(timeout=ANSWER_TIMEOUT_S)


def _name(stream: str) -> str:
    return f"parrot-{stream}"


def _subject(stream: str) -> str:
    return f"parrot.{stream}"


def _place(message: Msg | RawStreamMsg) -> Place | None:
    """The place of an event; None if a message is not one."""
    headers = message.headers or {}
    with contextlib.suppress(ValueError):
        place = Place.parse(headers.get(PLACE) or headers.get(OLD_PLACE, ""))
        return place if place.sequence and message.data else None
    return None
