"""The way to NATS JetStream: for each stream of events a JetStream stream, which is its journal."""

import asyncio
import contextlib
import json
import ssl
import time
from collections import deque
from collections.abc import Iterable
from typing import Any

import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.api import DiscardPolicy, RetentionPolicy, StorageType, StreamConfig
from nats.js.errors import BadRequestError, NotFoundError

from messaging.wire import EPOCH_BYTES, START, Ack, Event, Message, Place, Replay
from runtime.errors import StartError
from runtime.settings import Settings

log = structlog.get_logger(__name__)

REPLAY_EVENTS = 256  # in one answer
RECONNECT_AFTER_S = 1
PING_INTERVAL_S = 5
ANSWER_TIMEOUT_S = 5.0
COMPLAINT_INTERVAL_S = 60.0
ID, EXPECTED_LAST = "Nats-Msg-Id", "Nats-Expected-Last-Sequence"  # ADR-22 of NATS


class JetStreamTransport:
    """Publishes into a stream, and hears and fetches others; used by one thread at a time.

    A stream holds the events of each epoch in order: each is published with its place as message
    id, and with the number that the event before it has in JetStream, without which it is not
    taken. So JetStream's ack of an event is one of all events up to it. Live events are heard
    as they are published, as from the forwarder: what was missed is fetched.
    """

    def __init__(
        self, settings: Settings, reader: str, writes: str | None, reads: Iterable[str]
    ) -> None:
        self.malformed = 0
        self._settings = settings
        self._reader = reader
        self._writes = writes
        self._reads = tuple(reads)
        self._servers = (settings.broker_url or "").split(",")
        self._client: Client | None = None
        self._newest: tuple[Place, int] = (
            START,
            0,
        )  # of our stream: its place, and JetStream's number
        self._sent = START  # the newest place that was sent
        self._answered: dict[str, tuple[Place, int]] = {}  # likewise, where the last answer ended
        self._outgoing: deque[Event] = deque()
        self._wanted: dict[str, Place] = {}
        self._received: list[Message] = []
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._complained_at: dict[str, float] = {}
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def up(self) -> bool:
        """Whether a server is connected."""
        return self._client is not None and self._client.is_connected

    def open(self) -> None:
        """Begin to connect; `StartError` if the certificates cannot be used."""
        try:
            tls = self._tls()
        except OSError as error:
            raise StartError(
                f"cannot use the files of BROKER_TLS_CA, _CERT, _KEY: {error}"
            ) from error
        self._loop = asyncio.new_event_loop()
        self._stirred = asyncio.Event()
        self._tasks["connection"] = self._loop.create_task(self._stay_connected(tls))

    def _tls(self) -> ssl.SSLContext | None:
        settings = self._settings
        if not (settings.broker_tls_ca or settings.broker_tls_cert):
            return None  # nats-py's own, for tls:// and servers that ask for it
        context = ssl.create_default_context(cafile=settings.broker_tls_ca)
        if settings.broker_tls_cert:
            context.load_cert_chain(settings.broker_tls_cert, settings.broker_tls_key)
        return context

    def publish(self, event: Event) -> None:
        """Send an event with the next `poll`."""
        self._outgoing.append(event)

    def fetch(self, stream: str, after: Place) -> None:
        """Ask for what comes after a place, with the next `poll`."""
        self._wanted[stream] = after

    def poll(self, timeout_s: float) -> list[Message]:
        """Send what is to be sent, wait for messages, and take those that are there."""
        assert self._loop, "open() comes first"
        return self._loop.run_until_complete(self._poll(timeout_s))

    def wake(self) -> None:
        """End the wait of `poll`; for any thread."""
        with contextlib.suppress(RuntimeError):  # it has been closed
            if self._loop:
                self._loop.call_soon_threadsafe(self._stirred.set)

    def close(self) -> None:
        """Let go of everything."""
        if self._loop:
            self._loop.run_until_complete(self._end())
            self._loop.close()

    async def _poll(self, timeout_s: float) -> list[Message]:
        await asyncio.sleep(0)
        if self._client and self.up:
            while self._outgoing:
                await self._send(self._client, self._outgoing.popleft())
            for stream, after in self._wanted.items():
                self._begin(stream, self._answer(stream, after))
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
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        if self._client:
            await self._client.close()

    def _begin(self, name: str, work: Any) -> None:
        """Let something go on beside `poll`, unless it does already."""
        if name in self._tasks and not self._tasks[name].done():
            work.close()
        else:
            self._tasks[name] = asyncio.get_running_loop().create_task(self._attempt(work))

    async def _attempt(self, work: Any) -> None:
        try:
            await work
        except (NatsError, OSError, ValueError) as error:  # it will be asked for again
            await self._complain(error)

    async def _forget_requests(self) -> None:
        """Wait for no answers that went with a connection: they will be asked for again."""
        for name, task in self._tasks.items():
            if name != "connection":
                task.cancel()

    async def _complain(self, error: Exception) -> None:
        trouble, now = repr(error), time.monotonic()
        if now - self._complained_at.get(trouble, float("-inf")) >= COMPLAINT_INTERVAL_S:
            self._complained_at = {trouble: now}
            log.warning("trouble with NATS", error=trouble)

    async def _stay_connected(self, tls: ssl.SSLContext | None) -> None:
        """Connect, again and again; nats-py does so itself, unless a server has refused it."""
        options: dict[str, Any] = {"tls": tls} if tls else {}
        if self._settings.broker_credentials:
            options["user_credentials"] = str(self._settings.broker_credentials)
        while True:
            client, closed = Client(), asyncio.Event()

            async def note_end(closed: asyncio.Event = closed) -> None:
                closed.set()

            try:
                await client.connect(
                    self._servers,
                    name=f"parrot {self._reader}",
                    error_cb=self._complain,
                    closed_cb=note_end,
                    disconnected_cb=self._forget_requests,
                    max_reconnect_attempts=-1,
                    reconnect_time_wait=RECONNECT_AFTER_S,
                    ping_interval=PING_INTERVAL_S,
                    **options,
                )
                self._inbox = client.new_inbox()
                await client.subscribe(f"{self._inbox}.*.*", cb=self._hear_ack)
                for stream in self._reads:
                    await client.subscribe(_subject(stream), cb=self._hear)
                self._client = client
                self._stirred.set()
                await closed.wait()
            except (NatsError, OSError, ValueError) as error:
                await self._complain(error)
            await client.close()
            await asyncio.sleep(RECONNECT_AFTER_S)

    async def _send(self, client: Client, event: Event) -> None:
        newest, number = self._newest
        if event.place <= self._sent:
            # It is sent again, for want of an ack or to ask for one. None comes where the stream
            # was lost while somebody listens to its subject: look where it stands.
            self._begin("look", self._tell_newest())
        if event.place <= newest:
            return
        self._sent = event.place
        epoch, sequence = event.place
        before = number - (newest.sequence if newest.epoch == epoch else 0) + sequence - 1
        headers = {ID: str(event.place), EXPECTED_LAST: str(before)}
        reply = f"{self._inbox}.{epoch.hex()}.{sequence}"
        with contextlib.suppress(NatsError):  # it will be sent again
            await client.publish(_subject(event.stream), event.body, reply, headers)

    async def _hear_ack(self, message: Msg) -> None:
        place = _place(".".join(message.subject.split(".")[-2:]).replace(".", ":"))
        with contextlib.suppress(ValueError):
            told = json.loads(message.data)
            if place and "error" not in told:
                if place > self._newest[0]:
                    self._newest = place, int(told["seq"])
                self._tell(Ack(self._writes or "", place))
                return
        # It is not taken where it stands, or there is no stream: tell where the journal stands.
        self._begin("look", self._tell_newest())

    async def _tell_newest(self) -> None:
        if self._writes:
            newest, _ = await self._look(self._writes)
            self._tell(Ack(self._writes, newest))

    async def _hear(self, message: Msg) -> None:
        place = _place((message.headers or {}).get(ID))
        if place and message.data:
            self._tell(Event(message.subject.rpartition(".")[2], place, message.data))
        else:
            self.malformed += 1

    def _tell(self, message: Message) -> None:
        self._received.append(message)
        self._stirred.set()

    async def _look(self, stream: str) -> tuple[Place, int]:
        """Where a stream stands: the place of its newest event, and JetStream's last number."""
        context = self._context()
        try:
            last = await context.get_last_msg(_name(stream), _subject(stream))
            newest, number = _place((last.headers or {}).get(ID)), last.seq or 0
            behind = number
            while not newest and behind > 1:  # somebody has published what is no event
                behind -= 1
                newest, _ = await self._get(stream, behind)
        except NotFoundError:
            newest, number = None, await self._make(stream)
        if stream == self._writes:
            self._newest = newest or START, number
        return newest or START, number

    async def _make(self, stream: str) -> int:
        """Make a stream, if we write it and it is missing; gives its last number."""
        context, wanted = self._context(), self._settings.broker_replicas
        if stream != self._writes:
            return 0
        with contextlib.suppress(BadRequestError):  # there is one, of other settings
            await context.add_stream(
                StreamConfig(
                    name=_name(stream),
                    subjects=[_subject(stream)],
                    storage=StorageType.FILE,
                    retention=RetentionPolicy.LIMITS,  # of which there are none
                    discard=DiscardPolicy.NEW,
                    num_replicas=wanted,
                    deny_delete=True,
                    deny_purge=True,
                    allow_direct=True,
                )
            )
        info = await context.stream_info(_name(stream))
        return info.state.last_seq

    async def _answer(self, stream: str, after: Place) -> None:
        """Tell what comes after a place, as the broker's journal does."""
        newest, last = await self._look(stream)
        follows = after
        if after < newest:
            first = await self._first_after(stream, after, newest, last)
            numbers = range(first, min(first + REPLAY_EVENTS, last + 1))
            for number, (place, body) in zip(
                numbers,
                await asyncio.gather(*(self._get(stream, number) for number in numbers)),
                strict=True,
            ):
                if not place or place <= follows:
                    self.malformed += 1
                    continue
                self._tell(Replay(self._reader, stream, follows, place, body))
                follows = place
                self._answered[stream] = place, number
        self._tell(Replay(self._reader, stream, follows, newest, b""))

    async def _first_after(self, stream: str, after: Place, newest: Place, last: int) -> int:
        """JetStream's number of the first event above a place."""
        ended, number = self._answered.get(stream, (START, 0))
        if ended == after:
            return number + 1
        number = last - newest.sequence + after.sequence  # if nothing else came between
        if after.epoch == newest.epoch and number > 0:
            place, _ = await self._get(stream, number)
            if place == after:
                return number + 1
        low, high = 1, last
        while low < high:
            middle = (low + high) // 2
            if await self._place_from(stream, middle, last) > after:
                high = middle
            else:
                low = middle + 1
        return low

    async def _place_from(self, stream: str, number: int, last: int) -> Place:
        """The place of the first event from a number of JetStream's on."""
        place: Place | None = None
        while not place and number <= last:
            place, _ = await self._get(stream, number)
            number += 1
        return place or START

    async def _get(self, stream: str, number: int) -> tuple[Place | None, bytes]:
        """Place and body of a message; no place if there is none, or it is no event."""
        context = self._context()
        try:
            found = await context.get_msg(_name(stream), number, direct=True)
        except NotFoundError:  # a replica may not have it yet
            try:
                found = await context.get_msg(_name(stream), number)
            except NotFoundError:
                return None, b""
        return _place((found.headers or {}).get(ID)), found.data or b""

    def _context(self) -> JetStreamContext:
        if not self._client:
            raise ConnectionError("not connected")
        return self._client.jetstream(timeout=ANSWER_TIMEOUT_S)


def _name(stream: str) -> str:
    return f"parrot-{stream}"


def _subject(stream: str) -> str:
    return f"parrot.{stream}"


def _place(text: str | None) -> Place | None:
    """Parse a place as it is written in a message id; None if it is none."""
    with contextlib.suppress(ValueError):
        epoch, sequence = (text or "").split(":")
        if len(epoch) == 2 * EPOCH_BYTES and int(sequence) > 0:
            return Place(bytes.fromhex(epoch), int(sequence))
    return None
