"""The way to the broker: a peer of the ZeroMQ forwarder, and what the exchange asks of one."""

import contextlib
import socket
import time
from typing import Any, Protocol

import structlog
import zmq
from zmq.utils.monitor import recv_monitor_message

from messaging.wire import Event, Message, Place, Want, WireError, pack, unpack

log = structlog.get_logger(__name__)

MAX_MESSAGES = 512  # taken in one go, so that sending gets its turn
COMPLAINT_INTERVAL_S = 60.0


class Transport(Protocol):
    """What an exchange needs: publish an event, hear acks, receive live events, fetch a stream.

    All but `up` and `wake` are for the one thread that opened it.
    """

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
    """A pair of sockets connected to the forwarder; used by the one thread that opened it."""

    def __init__(self, publish_url: str, subscribe_url: str, topics: list[bytes]) -> None:
        self.malformed = 0
        self._urls = publish_url, subscribe_url
        self._topics = topics
        self._complained_at = float("-inf")
        self._connected: dict[Any, bool] = {}
        self._wake_out: socket.socket | None = None

    @property
    def up(self) -> bool:
        """Whether both sockets are connected."""
        return bool(self._connected) and all(self._connected.values())

    def open(self) -> None:
        """Begin to connect."""
        self._wake_in, self._wake_out = socket.socketpair()
        self._wake_out.setblocking(False)
        self._context = zmq.Context()
        self._poller = zmq.Poller()
        self._publisher = self._socket(zmq.PUB)
        self._subscriber = self._socket(zmq.SUB)
        for prefix in self._topics:
            self._subscriber.subscribe(prefix)
        for connection, url in zip((self._publisher, self._subscriber), self._urls, strict=True):
            connection.connect(url)
        self._poller.register(self._subscriber, zmq.POLLIN)
        self._poller.register(self._wake_in, zmq.POLLIN)

    def _socket(self, kind: int) -> zmq.Socket[bytes]:
        connection = self._context.socket(kind)
        connection.linger = 0
        connection.heartbeat_ivl = 1000  # milliseconds; finds connections that are half open
        monitor = connection.get_monitor_socket(
            zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED
        )
        self._connected[monitor] = False
        self._poller.register(monitor, zmq.POLLIN)
        return connection

    def send(self, message: Message) -> None:
        """Send a message; where nobody is connected or a queue is full, it is dropped."""
        self._publisher.send_multipart(pack(message))

    def poll(self, timeout_s: float) -> list[Message]:
        """Wait for messages for at most so long, and take those that are there."""
        messages: list[Message] = []
        for ready, _ in self._poller.poll(int(timeout_s * 1000)):
            if ready is self._subscriber:
                messages = self._receive()
            elif ready in self._connected:
                change = recv_monitor_message(ready)["event"]
                self._connected[ready] = change == zmq.EVENT_HANDSHAKE_SUCCEEDED
            else:
                self._wake_in.recv(4096)
        return messages

    def _receive(self) -> list[Message]:
        messages = []
        with contextlib.suppress(zmq.Again):
            for _ in range(MAX_MESSAGES):
                frames = self._subscriber.recv_multipart(zmq.NOBLOCK)
                try:
                    messages.append(unpack(frames))
                except WireError as error:
                    self._complain(error)
        return messages

    def _complain(self, error: WireError) -> None:
        self.malformed += 1
        if time.monotonic() - self._complained_at >= COMPLAINT_INTERVAL_S:
            self._complained_at = time.monotonic()
            log.warning("malformed messages are dropped", count=self.malformed, last=str(error))

    def wake(self) -> None:
        """End the wait of `poll`; for any thread."""
        with contextlib.suppress(OSError):  # full: it will wake anyway; closed: it has ended
            if self._wake_out:
                self._wake_out.send(b"\0")

    def close(self) -> None:
        """Close every socket, dropping what was not sent."""
        for connection in (self._publisher, self._subscriber):
            connection.disable_monitor()
        self._context.destroy(linger=0)
        for end in (self._wake_in, self._wake_out):
            if end:
                end.close()
        self._connected = {}


class ForwarderTransport(Peer):
    """The transport over the forwarder and its journal."""

    def __init__(
        self, publish_url: str, subscribe_url: str, reader: str, topics: list[bytes]
    ) -> None:
        super().__init__(publish_url, subscribe_url, topics)
        self._reader = reader

    def publish(self, event: Event) -> None:
        """Send an event to whoever is there."""
        self.send(event)

    def fetch(self, stream: str, after: Place) -> None:
        """Ask the journal for what comes after a place."""
        self.send(Want(stream, self._reader, after))
