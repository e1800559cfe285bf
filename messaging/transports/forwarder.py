"""The transport over the ZeroMQ forwarder, and the interface of any transport."""

import contextlib
import socket
import time
from threading import Thread
from typing import Any, Protocol

import structlog
import zmq
from zmq.utils.monitor import recv_monitor_message

from messaging.transports.keys import key_pair, public_key
from messaging.transports.wire import Message, Place, Run, Want, WireError, pack, unpack
from runtime.process.clock import Complaints
from runtime.process.errors import StartError
from runtime.process.settings import Settings

log = structlog.get_logger(__name__)

MAX_MESSAGES = 2048  # from one poll; twice what three writers and the journal send at once
# Heartbeats notice a half-open connection, and these limits notice silence while one is being made:
# the kernel would wait for minutes, and nothing would look up the name again. On a thin line, an
# answer may have to wait for the data before it.
CONNECT_TIMEOUT_MS = 2000
HANDSHAKE_TIMEOUT_MS = 5000
HEARTBEAT_MS = 1000
HEARTBEAT_TIMEOUT_MS = 4000
RECONNECT_AFTER_S = 1.0
CLOSE_TIMEOUT_S = 1.0
REFUSALS = {
    zmq.EVENT_HANDSHAKE_FAILED_AUTH: "the broker does not know our key: see DATA_DIR/keys",
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL: "our keys do not match the broker's, "
    "or BROKER_CURVE differs: see DATA_DIR/keys",
    zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL: "BROKER_CURVE is on here and off there, or vice versa",
}
MONITORED = zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED | sum(REFUSALS)


def configure(connection: "zmq.Socket[bytes]", url: str) -> None:
    """Set the options of all sockets, before they are bound or connected."""
    connection.linger = 0
    connection.ipv6 = "[" in url
    connection.handshake_ivl = HANDSHAKE_TIMEOUT_MS
    connection.heartbeat_ivl = HEARTBEAT_MS
    connection.heartbeat_timeout = HEARTBEAT_TIMEOUT_MS
    # A full receive queue stops the heartbeat, and libzmq up to 4.3.5 then aborts the process
    # (zeromq/libzmq#3937). So the queue has no limit, and `poll` drops what has piled up.
    connection.rcvhwm = 0


class Transport(Protocol):
    """The interface of an exchange: publish a run, get acks, receive live runs, fetch a stream.

    All but `up` and `wake` are for one thread at a time. ``malformed`` counts malformed messages,
    and ``address`` is the broker's address, for people.
    """

    malformed: int
    address: str

    @property
    def up(self) -> bool:
        """Whether the broker can be reached."""

    def open(self) -> None:
        """Begin to connect; the transport reconnects by itself."""

    def publish(self, run: Run) -> None:
        """Send a run, which may be lost: only an ack says that the journal has it."""

    def fetch(self, stream: str, after: Place) -> None:
        """Ask for the events after a place; they come as `Replay` messages."""

    def poll(self, timeout_s: float) -> list[Message]:
        """Wait for messages, including acks and replays, for up to ``timeout_s`` seconds."""

    def wake(self) -> None:
        """End the wait of `poll`; for any thread."""

    def close(self) -> None:
        """Close all connections."""


class Peer:
    """A pair of sockets connected to the forwarder; used by one thread at a time."""

    def __init__(
        self,
        context: "zmq.Context[zmq.Socket[bytes]] | None",
        urls: tuple[str, str],
        topics: list[bytes],
    ) -> None:
        self.malformed = 0
        self._context = context
        self._urls = urls  # to publish, and to subscribe
        self.address = " and ".join(urls)
        self._topics = topics
        self._complaints = Complaints()
        self._wake_out: socket.socket | None = None

    def open(self) -> None:
        """Begin to connect; `StartError` if that is impossible, or keys are missing."""
        try:
            if not self._wake_out:  # an earlier try may have made it
                self._wake_in, self._wake_out = socket.socketpair()
                self._wake_out.setblocking(False)
                self._reset()
            self._connect()
        except (zmq.ZMQError, OSError) as error:
            raise StartError(f"cannot connect to {self.address}: {error}") from error

    def _reset(self) -> None:
        self._sockets: list[zmq.Socket[bytes]] = []
        self._poller = zmq.Poller()
        self._poller.register(self._wake_in, zmq.POLLIN)

    def _connect(self) -> None:
        assert self._context
        for kind, url in zip((zmq.PUB, zmq.SUB), self._urls, strict=True):
            self._sockets.append(self._context.socket(kind))
            self._configure(self._sockets[-1], url)
        self._publisher, self._subscriber = self._sockets
        self._poller.register(self._subscriber, zmq.POLLIN)
        for prefix in self._topics:
            self._subscriber.subscribe(prefix)
        for connection, url in zip(self._sockets, self._urls, strict=True):
            connection.connect(url)

    def _configure(self, connection: "zmq.Socket[bytes]", url: str) -> None:
        configure(connection, url)

    def send(self, message: Message) -> None:
        """Send a message; without a connection, or with a full queue, it is dropped."""
        *others, last = pack(message)
        for frame in others:  # `send_multipart` takes three times as long
            self._publisher.send(frame, zmq.SNDMORE)
        self._publisher.send(last)

    def poll(self, timeout_s: float) -> list[Message]:
        """Wait for messages for up to ``timeout_s`` seconds, and take those that have arrived."""
        messages: list[Message] = []
        for ready, _ in self._poller.poll(int(timeout_s * 1000)):
            if ready is self._subscriber:
                messages = self._receive()
            elif ready == self._wake_in.fileno():
                self._wake_in.recv(4096)
            else:
                self._note(ready)
        return messages

    def _note(self, monitor: Any) -> None:
        """Note what the monitor of a connection reports, if there is one."""

    def _receive(self) -> list[Message]:
        """Take all messages; those above the limit, after a stall, are dropped."""
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
                    if self._complaints.are_due("malformed"):
                        count, last = self.malformed, str(error)
                        log.warning("malformed messages are dropped", count=count, last=last)
        return messages

    def wake(self) -> None:
        """End the wait of `poll`; for any thread."""
        with contextlib.suppress(OSError):  # full: it wakes anyway; closed: it has ended
            if self._wake_out:
                self._wake_out.send(b"\0")

    def close(self) -> None:
        """Close all sockets, and drop unsent messages."""
        for connection in self._sockets:
            connection.close()
        for end in (self._wake_in, self._wake_out):
            if end:
                end.close()


class ForwarderTransport(Peer):
    """The transport over the forwarder and its journal."""

    def __init__(self, settings: Settings, reader: str, topics: list[bytes]) -> None:
        urls = settings.broker_publish_url, settings.broker_subscribe_url
        super().__init__(None, urls, topics)
        self._reader = reader
        self._keys = settings.keys
        self._refusal = ""
        self._refused_at: float | None = None
        self._connected: dict[Any, bool] = {}  # by the socket that monitors a connection

    @property
    def up(self) -> bool:
        """Whether both sockets are connected."""
        return bool(self._connected) and all(self._connected.values())

    def publish(self, run: Run) -> None:
        """Send a run to all subscribers of its stream."""
        self.send(run)

    def fetch(self, stream: str, after: Place) -> None:
        """Ask the journal for the events after a place."""
        self.send(Want(stream, self._reader, after))

    def poll(self, timeout_s: float) -> list[Message]:
        """Wait for messages, and connect again some time after a refusal."""
        if self._refused_at and time.monotonic() - self._refused_at >= RECONNECT_AFTER_S:
            self._reconnect()
        return super().poll(timeout_s)

    def close(self) -> None:
        """Close all sockets, and drop unsent messages."""
        self._disconnect()
        super().close()

    def _connect(self) -> None:
        self._own = key_pair(self._keys, "client") if self._keys else None
        self._server = public_key(self._keys, "broker") if self._keys else None
        self._disconnect()
        self._context = zmq.Context()
        super()._connect()

    def _configure(self, connection: "zmq.Socket[bytes]", url: str) -> None:
        super()._configure(connection, url)
        connection.connect_timeout = CONNECT_TIMEOUT_MS
        if self._own and self._server:
            connection.curve_publickey, connection.curve_secretkey = self._own
            connection.curve_serverkey = self._server
        monitor = connection.get_monitor_socket(MONITORED)
        self._connected[monitor] = False
        self._poller.register(monitor, zmq.POLLIN)

    def _note(self, monitor: Any) -> None:
        """Note whether a connection is there, or was refused."""
        change = recv_monitor_message(monitor)["event"]
        self._connected[monitor] = change == zmq.EVENT_HANDSHAKE_SUCCEEDED
        if change in REFUSALS and not self._refused_at:
            self._refused_at, self._refusal = time.monotonic(), REFUSALS[change]

    def _reconnect(self) -> None:
        """Connect again with the current keys: after a refusal, ZeroMQ does not."""
        self._refused_at = None
        if self.up:  # the handshake that failed was with a broker that was ending
            return
        if self._complaints.are_due(self._refusal):
            log.warning("the broker refuses the handshake", reason=self._refusal)
        try:
            self._connect()
        except (StartError, zmq.ZMQError, OSError) as error:
            self._disconnect()
            self._refused_at = time.monotonic()
            if self._complaints.are_due("connect"):
                log.warning("the broker cannot be reached again yet", error=str(error))

    def _disconnect(self) -> None:
        for connection in self._sockets:
            connection.disable_monitor()
        for monitor in self._connected:
            monitor.close()
        if self._context:
            end = Thread(target=self._context.destroy, args=(0,), daemon=True)
            end.start()  # it may wait for a silent name server
            end.join(CLOSE_TIMEOUT_S)
        self._context, self._connected = None, {}
        self._reset()
