"""The way to the broker: a peer of the ZeroMQ forwarder, and what the exchange asks of one."""

import contextlib
import socket
import time
from typing import Any, Protocol

import structlog
import zmq
from zmq.utils.monitor import recv_monitor_message

from messaging.keys import key_pair, public_key
from messaging.wire import Event, Message, Place, Want, WireError, pack, unpack
from runtime.errors import StartError
from runtime.settings import Settings

log = structlog.get_logger(__name__)

MAX_MESSAGES = 2048  # in one go; twice what three writers and the journal send at once
COMPLAINT_INTERVAL_S = 60.0
# Finds connections that are half open. A receive queue that fills up stops the heartbeat, too, and
# libzmq up to 4.3.5 then aborts the process (zeromq/libzmq#3937): so there is no limit to it, and
# what has piled up there is thrown away when it is looked at.
HEARTBEAT_MS = 1000
RECONNECT_AFTER_S = 1.0
REFUSALS = (zmq.EVENT_HANDSHAKE_FAILED_AUTH, zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL)
REFUSAL_HINT = "DATA_DIR/keys and BROKER_CURVE must agree with the broker's"
MONITORED = zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED | sum(REFUSALS)


class Transport(Protocol):
    """What an exchange needs: publish an event, hear acks, receive live events, fetch a stream.

    All but `up` and `wake` are for one thread at a time. ``malformed`` counts what was no message.
    """

    malformed: int

    @property
    def up(self) -> bool:
        """Whether the broker can be reached."""

    def open(self) -> None:
        """Begin to connect; it goes on, and over again, by itself."""

    def publish(self, event: Event) -> None:
        """Send an event, perhaps in vain: only an ack says that it is kept."""

    def fetch(self, stream: str, after: Place) -> None:
        """Ask for what comes after a place; it comes as `Replay` messages."""

    def poll(self, timeout_s: float) -> list[Message]:
        """Wait for messages, acks and replays included, for at most so long."""

    def wake(self) -> None:
        """End the wait of `poll`; for any thread."""

    def close(self) -> None:
        """Let go of everything."""


class Peer:
    """A pair of sockets connected to the forwarder; used by one thread at a time."""

    def __init__(self, settings: Settings, topics: list[bytes]) -> None:
        self.malformed = 0
        self._urls = settings.broker_publish_url, settings.broker_subscribe_url
        self._keys = settings.keys
        self._topics = topics
        self._complained_at: dict[str, float] = {}
        self._refused_at: float | None = None
        self._context: zmq.Context[zmq.Socket[bytes]] | None = None
        self._sockets: list[zmq.Socket[bytes]] = []
        self._connected: dict[Any, bool] = {}  # by the socket that monitors a connection
        self._wake_out: socket.socket | None = None

    @property
    def up(self) -> bool:
        """Whether both sockets are connected."""
        return bool(self._connected) and all(self._connected.values())

    def open(self) -> None:
        """Begin to connect; `StartError` if there are no proper keys."""
        self._wake_in, self._wake_out = socket.socketpair()
        self._wake_out.setblocking(False)
        try:
            self._connect()
        except (zmq.ZMQError, OSError) as error:
            raise StartError(f"cannot connect to {' and '.join(self._urls)}: {error}") from error

    def _connect(self) -> None:
        own = key_pair(self._keys, "client") if self._keys else None
        server = public_key(self._keys, "broker") if self._keys else None
        self._disconnect()
        self._context = context = zmq.Context()
        for kind in (zmq.PUB, zmq.SUB):
            self._sockets.append(context.socket(kind))
        self._publisher, self._subscriber = self._sockets
        for connection in self._sockets:
            connection.linger = 0
            connection.ipv6 = any("[" in url for url in self._urls)
            connection.heartbeat_ivl = HEARTBEAT_MS
            connection.rcvhwm = 0  # see HEARTBEAT_MS
            if own and server:
                connection.curve_publickey, connection.curve_secretkey = own
                connection.curve_serverkey = server
        for prefix in self._topics:
            self._subscriber.subscribe(prefix)
        self._connected = {each.get_monitor_socket(MONITORED): False for each in self._sockets}
        for source in (self._subscriber, *self._connected):
            self._poller.register(source, zmq.POLLIN)
        for connection, url in zip(self._sockets, self._urls, strict=True):
            connection.connect(url)

    def _reconnect(self) -> None:
        """Knock again, with the keys as they are now: after a refusal, ZeroMQ does not."""
        self._refused_at = None
        if self.up:  # it was the handshake with a broker that was ending
            return
        self._complain("the broker refuses the handshake", see=REFUSAL_HINT)
        try:
            self._connect()
        except (StartError, zmq.ZMQError, OSError) as error:
            self._disconnect()
            self._refused_at = time.monotonic()
            self._complain("it cannot be reached again yet", error=str(error))

    def _disconnect(self) -> None:
        for connection in self._sockets:
            connection.disable_monitor()
        for monitor in self._connected:
            monitor.close()
        if self._context:
            self._context.destroy(linger=0)
        self._context, self._sockets, self._connected = None, [], {}
        self._poller = zmq.Poller()
        self._poller.register(self._wake_in, zmq.POLLIN)

    def send(self, message: Message) -> None:
        """Send a message; where nobody is connected or a queue is full, it is dropped."""
        self._publisher.send_multipart(pack(message))

    def poll(self, timeout_s: float) -> list[Message]:
        """Wait for messages for at most so long, and take those that are there."""
        messages: list[Message] = []
        if self._refused_at and time.monotonic() - self._refused_at >= RECONNECT_AFTER_S:
            self._reconnect()
        for ready, _ in self._poller.poll(int(timeout_s * 1000)):
            if ready is self._subscriber:
                messages = self._receive()
            elif ready in self._connected:
                change = recv_monitor_message(ready)["event"]
                self._connected[ready] = change == zmq.EVENT_HANDSHAKE_SUCCEEDED
                if change in REFUSALS and not self._refused_at:
                    self._refused_at = time.monotonic()
            elif ready == self._wake_in.fileno():
                self._wake_in.recv(4096)
        return messages

    def _receive(self) -> list[Message]:
        """Take what is there; after a stall that is mostly repetitions, and the rest is dropped."""
        messages: list[Message] = []
        with contextlib.suppress(zmq.Again):
            while True:
                frames = self._subscriber.recv_multipart(zmq.NOBLOCK)
                if len(messages) == MAX_MESSAGES:
                    continue
                try:
                    messages.append(unpack(frames))
                except WireError as error:
                    self.malformed += 1
                    count, last = self.malformed, str(error)
                    self._complain("malformed messages are dropped", count=count, last=last)
        return messages

    def _complain(self, trouble: str, **details: object) -> None:
        now = time.monotonic()
        if now - self._complained_at.get(trouble, float("-inf")) >= COMPLAINT_INTERVAL_S:
            self._complained_at[trouble] = now
            log.warning(trouble, **details)

    def wake(self) -> None:
        """End the wait of `poll`; for any thread."""
        with contextlib.suppress(OSError):  # full: it will wake anyway; closed: it has ended
            if self._wake_out:
                self._wake_out.send(b"\0")

    def close(self) -> None:
        """Close every socket, dropping what was not sent."""
        self._disconnect()
        for end in (self._wake_in, self._wake_out):
            if end:
                end.close()


class ForwarderTransport(Peer):
    """The transport over the forwarder and its journal."""

    def __init__(self, settings: Settings, reader: str, topics: list[bytes]) -> None:
        super().__init__(settings, topics)
        self._reader = reader

    def publish(self, event: Event) -> None:
        """Send an event to whoever is there."""
        self.send(event)

    def fetch(self, stream: str, after: Place) -> None:
        """Ask the journal for what comes after a place."""
        self.send(Want(stream, self._reader, after))
