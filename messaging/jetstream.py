"""The way to NATS JetStream: for each stream of events a JetStream stream, which is its journal."""

import asyncio
import contextlib
import json
import re
import ssl
import time
from collections import deque
from collections.abc import Coroutine, Iterable
from datetime import datetime
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

import structlog
from nats.aio.client import Client
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

from messaging.wire import EPOCH_BYTES, MAX_SEQUENCE, START, Ack, Event, Message, Place, Replay
from runtime.errors import StartError
from runtime.settings import Settings

log = structlog.get_logger(__name__)

REPLAY_EVENTS = 256  # in one answer
RECONNECT_AFTER_S = 1
PING_INTERVAL_S = 5
ANSWER_TIMEOUT_S = 5.0
COMPLAINT_INTERVAL_S = 60.0
ID = "Nats-Msg-Id"  # these are of ADR-22 of NATS
EXPECTED_LAST, EXPECTED_LAST_ID = "Nats-Expected-Last-Sequence", "Nats-Expected-Last-Msg-Id"
WRONG_LAST = 10070, 10071  # JetStream's codes if the last message has not this id, or number
ID_FORM = re.compile(rf"([0-9a-f]{{{2 * EPOCH_BYTES}}}):([1-9][0-9]{{0,18}})")
UNLIMITED: dict[str, Any] = {  # the settings of a stream that forgets nothing
    "storage": StorageType.FILE,
    "retention": RetentionPolicy.LIMITS,  # of which there are none:
    "max_age": 0,
    "max_msgs": -1,
    "max_bytes": -1,
    "max_msgs_per_subject": -1,
}


class _Found(NamedTuple):
    """A message of a JetStream stream, by its number; without a place it is no event."""

    number: int
    place: Place | None
    body: bytes


class _Client(Client):
    """nats-py's client, where it trusts others too much."""

    needs_tls = False

    def _connect_command(self) -> bytes:
        """What is said first, with the password: not in the clear, if TLS was asked for."""
        if self.needs_tls and not self._server_info.get("tls_required"):
            raise NatsError("the server offers no TLS, and tls:// or BROKER_TLS_… asks for it")
        return super()._connect_command()

    async def _connect_to_server(self, s: Any) -> None:
        """The connection that a server has refused is closed before the next one."""
        if self._transport:
            self._transport.close()  # type: ignore[no-untyped-call]
        await super()._connect_to_server(s)

    async def _process_headers(self, headers: Any) -> dict[str, str] | None:
        """Headers that cannot be read are none, and no reason to hear nothing any more."""
        with contextlib.suppress(Exception):
            return await super()._process_headers(headers)
        return None


class JetStreamTransport:
    """Publishes into a stream, and hears and fetches others; used by one thread at a time.

    A stream holds the events of each epoch in order: each is published with its place as message
    id, and with the number that the event before it has in JetStream, without which it is not
    taken; where that one has no ack yet, also with its id. So JetStream's ack of an event is one
    of all events up to it. Live events are heard as they are published, as from the forwarder,
    from the first fetch on: a copy that stands by hears none. What was missed is fetched.
    """

    def __init__(
        self, settings: Settings, reader: str, writes: str | None, reads: Iterable[str]
    ) -> None:
        self.malformed = 0
        self._settings = settings
        self._reader = reader
        self._writes = writes
        self._reads = tuple(reads)
        self._heard: set[str] = set()  # of these, those that were ever asked for
        self._servers = (settings.broker_url or "").split(",")
        self._client: Client | None = None
        self._newest = START, 0  # of our stream: its place, and the number that it has
        self._sent = START
        self._made: datetime | None = None  # when our stream was
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
        """Begin to connect; `StartError` if the certificates or credentials cannot be used."""
        options = self._login() | self._tls()
        self._loop = asyncio.new_event_loop()
        self._stirred = asyncio.Event()
        self._tasks["connection"] = self._loop.create_task(self._stay_connected(options))

    def _login(self) -> dict[str, Any]:
        """Who we are. What stands in one URL goes for the servers that tell of themselves, too."""
        if file := self._settings.broker_credentials:
            try:
                text = file.read_text()
            except (OSError, ValueError) as error:
                raise StartError(f"cannot read BROKER_CREDENTIALS: {error}") from error
            if "BEGIN NATS USER JWT" not in text or "BEGIN USER NKEY SEED" not in text:
                raise StartError(f"BROKER_CREDENTIALS: {file} is no .creds file")
            return {"user_credentials": str(file)}
        for url in map(urlsplit, self._servers):
            if url.username and url.password is None:
                return {"token": unquote(url.username)}
            if url.username:
                return {"user": unquote(url.username), "password": unquote(url.password or "")}
        return {}

    def _tls(self) -> dict[str, Any]:
        settings = self._settings
        asked = any(url.startswith("tls:") for url in self._servers)
        if not (asked or settings.broker_tls_ca or settings.broker_tls_cert):
            return {}  # nats-py has its own for a server that wants it
        try:
            context = ssl.create_default_context(cafile=settings.broker_tls_ca)
            if settings.broker_tls_cert:
                context.load_cert_chain(settings.broker_tls_cert, settings.broker_tls_key)
        except OSError as error:
            files = "BROKER_TLS_CA, BROKER_TLS_CERT, BROKER_TLS_KEY"
            raise StartError(f"cannot use the files of {files}: {error}") from error
        return {"tls": context}

    def publish(self, event: Event) -> None:
        """Send an event with the next `poll`."""
        if self._outgoing and event.place <= self._outgoing[-1].place:
            self._outgoing.clear()  # from here on it is sent again
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
            if self._outgoing:
                self._begin("send", self._send_outgoing(self._client))
            for stream, after in self._wanted.items():
                if stream in self._reads and stream not in self._heard:
                    self._heard.add(stream)
                    await self._client.subscribe(_subject(stream), cb=self._hear)
                self._begin(f"answer {stream}", self._answer(stream, after))
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
        while left:  # at first ours, which close the connection, and then what nats-py leaves
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)
            left = {task for task in asyncio.all_tasks() if task is not asyncio.current_task()}

    def _begin(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        """Let something go on beside `poll`, unless it does already."""
        if name in self._tasks and not self._tasks[name].done():
            work.close()
        else:
            self._tasks[name] = asyncio.get_running_loop().create_task(self._attempt(work))

    async def _attempt(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception as error:  # it will be asked for again
            await self._complain(error)

    async def _forget_requests(self) -> None:
        """Wait for no answers that went with a connection: they will be asked for again."""
        for name, task in self._tasks.items():
            if name != "connection":
                task.cancel()

    async def _complain(self, error: Exception) -> None:
        kind, now = type(error).__name__, time.monotonic()
        if now - self._complained_at.get(kind, float("-inf")) >= COMPLAINT_INTERVAL_S:
            self._complained_at[kind] = now
            log.warning("trouble with NATS", error=str(error) or repr(error))

    async def _stay_connected(self, options: dict[str, Any]) -> None:
        """Connect, again and again; nats-py does so itself, unless a server has refused it."""
        while True:
            client, closed = _Client(), asyncio.Event()
            client.needs_tls = "tls" in options or any(
                url.startswith("tls:") for url in self._servers
            )

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
                for stream in self._heard:
                    await client.subscribe(_subject(stream), cb=self._hear)
                self._client = client
                self._stirred.set()
                await closed.wait()
            except Exception as error:  # whatever it was, it may be better the next time
                await self._complain(error)
            finally:
                await client.close()
            await asyncio.sleep(RECONNECT_AFTER_S)

    async def _send_outgoing(self, client: Client) -> None:
        """Send what no ack has come for; before it is sent again, see where the stream stands."""
        if self._writes and self._outgoing[0].place <= max(self._newest[0], self._sent):
            await self._look(self._writes)
            self._sent, _ = self._newest
            self._tell_ack()
        while self._outgoing:
            event = self._outgoing.popleft()
            if event.place > self._sent:
                await self._send(client, event)
                self._sent = event.place

    async def _send(self, client: Client, event: Event) -> None:
        newest, number = self._newest
        epoch, sequence = event.place
        before = number - (newest.sequence if newest.epoch == epoch else 0) + sequence - 1
        headers = {ID: str(event.place), EXPECTED_LAST: str(before)}
        if before > number:  # the one before is on its way: that number might be a stranger's
            headers[EXPECTED_LAST_ID] = str(Place(epoch, sequence - 1))
        reply = f"{self._inbox}.{epoch.hex()}.{sequence}"
        await client.publish(_subject(event.stream), event.body, reply, headers)

    async def _hear_ack(self, message: Msg) -> None:
        """What JetStream says of an event: it is kept, or not taken, and will be sent again."""
        place = _parse(":".join(message.subject.split(".")[-2:]))
        told = json.loads(message.data or b"{}")  # empty: there is no stream
        if "error" in told:
            if told["error"]["err_code"] not in WRONG_LAST:
                await self._complain(APIError(**told["error"]))
        elif place and told:
            self._newest = max(self._newest, (place, int(told["seq"])))
            self._tell_ack()

    def _tell_ack(self) -> None:
        self._tell(Ack(self._writes or "", self._newest[0]))

    async def _hear(self, message: Msg) -> None:
        if place := _place(message):
            self._tell(Event(message.subject.rpartition(".")[2], place, message.data))
        else:
            self.malformed += 1

    def _tell(self, message: Message) -> None:
        self._received.append(message)
        self._stirred.set()

    async def _look(self, stream: str) -> tuple[Place, int]:
        """Where a stream stands: the place of its newest event, and JetStream's last number."""
        known, newest, number = self._newest, START, 0
        if is_ours := stream == self._writes:
            info = await self._make(stream)
            if info.created != self._made:
                await self._suit(info.config)
            elif known[1] <= info.state.last_seq:
                newest, number = known  # up to there it was looked through before
        try:
            last = await self._context().get_last_msg(_name(stream), _subject(stream))
        except NotFoundError:
            if is_ours and info.state.messages:
                raise  # somebody has deleted it, or is about to
            newest, number = START, info.state.last_seq if is_ours else 0
        else:
            place, behind = _place(last), last.seq or 0
            while not place and behind - 1 > number:  # somebody has published what is no event
                behind -= 1
                place = (await self._get(stream, behind)).place
            newest, number = place or newest, last.seq or 0
        if is_ours and self._newest == known:  # no ack has come meanwhile
            self._newest, self._made = (newest, number), info.created
        return newest, number

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
                **UNLIMITED,
            )
            return await self._context().add_stream(config)

    async def _suit(self, config: StreamConfig) -> None:
        """Have a stream that is there kept by as many servers as we want, and tell of its limits.

        It is never kept by fewer: that would be the work of one copy that lacks a setting.
        """
        kept, wanted = config.num_replicas or 1, self._settings.broker_replicas
        if kept > wanted:
            log.warning("the stream keeps its replicas", name=config.name, has=kept, asked=wanted)
        elif kept < wanted:
            try:
                await self._context().update_stream(config.evolve(num_replicas=wanted))
                log.info("the stream gets more replicas", name=config.name, has=wanted)
            except APIError as error:
                why = error.description
                log.warning("the stream cannot get more replicas", name=config.name, error=why)
        limits = {name: getattr(config, name) or 0 for name in UNLIMITED}
        if limits := {name: at for name, at in limits.items() if at != UNLIMITED[name]}:
            log.warning("the stream has limits, and may forget events", name=config.name, **limits)

    async def _answer(self, stream: str, after: Place) -> None:
        """Tell what comes after a place, as the broker's journal does."""
        newest, last = await self._look(stream)
        follows = after
        number = (
            await self._first_after(stream, after, newest, last) if after < newest else last + 1
        )
        while number <= last and follows == after:
            asked = range(number, min(number + REPLAY_EVENTS, last + 1))
            for found in await asyncio.gather(*(self._get(stream, each) for each in asked)):
                if found.number < number:
                    continue  # of numbers that are gone, each gives the one behind them
                number = found.number + 1
                if found.place and found.place > follows:
                    self._tell(Replay(self._reader, stream, follows, found.place, found.body))
                    follows = found.place
                else:
                    self.malformed += 1
        self._tell(Replay(self._reader, stream, follows, newest, b""))

    async def _first_after(self, stream: str, after: Place, newest: Place, last: int) -> int:
        """A number of JetStream's, behind a place and not behind the event after it."""
        guess = last - newest.sequence + after.sequence  # if nothing else came between
        if 0 < guess <= last and (await self._get(stream, guess)).place == after:
            return guess + 1
        low, high = 1, last
        while low < high:
            middle = (low + high) // 2
            found = await self._event_from(stream, middle, last)
            if found.place and found.place <= after:
                low = found.number + 1
            else:
                high = middle
        return low

    async def _event_from(self, stream: str, number: int, last: int) -> _Found:
        """The first event from a number on; without a place if there is none."""
        found = await self._get(stream, number)
        while not found.place and found.number < last:
            found = await self._get(stream, found.number + 1)
        return found

    async def _get(self, stream: str, number: int) -> _Found:
        """The first message from a number on; `NotFoundError` if there is none.

        A server that has just come to lead a stream may not have all of it yet, but it has nothing
        without what came before.
        """
        found = await self._context().get_msg(_name(stream), number, _subject(stream), next=True)
        return _Found(found.seq or number, _place(found), found.data or b"")

    def _context(self) -> JetStreamContext:
        if not self._client:
            raise ConnectionError("not connected")
        return self._client.jetstream(timeout=ANSWER_TIMEOUT_S)


def _name(stream: str) -> str:
    return f"parrot-{stream}"


def _subject(stream: str) -> str:
    return f"parrot.{stream}"


def _place(message: Msg | RawStreamMsg) -> Place | None:
    """The place of an event; None if a message is none."""
    return _parse((message.headers or {}).get(ID, "")) if message.data else None


def _parse(text: str) -> Place | None:
    """The place that a message id writes down; None if it is none."""
    if (form := ID_FORM.fullmatch(text)) and int(form[2]) <= MAX_SEQUENCE:
        return Place(bytes.fromhex(form[1]), int(form[2]))
    return None
