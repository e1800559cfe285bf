"""The forwarder: relays every message from publishers to subscribers, and nothing more."""

import threading
from contextlib import suppress
from types import SimpleNamespace

import structlog
import zmq
from zmq.auth.thread import ThreadAuthenticator

from messaging.transports.forwarder import configure
from messaging.transports.keys import is_admitted, key_pair
from runtime.process.clock import Complaints
from runtime.process.errors import StartError
from runtime.process.settings import Settings

log = structlog.get_logger(__name__)

INSIDE = "inproc://publish", "inproc://subscribe"  # for the journal: no network, nothing encrypted
# What is larger closes the connection.
MAX_MESSAGE_BYTES = 1024 * 1024  # four times the largest event
MAX_TOPIC_BYTES = 1024  # libzmq keeps subscriptions in a tree, and overflows its stack in deep ones


class Forwarder(threading.Thread):
    """`zmq.proxy` between the two endpoints, in a thread of its own.

    Peers in the same ``context``, which ends with it, connect to `INSIDE`. Over the network, it
    admits peers whose public keys are in the folder of keys at the time of their handshake.
    Raises `StartError` if an endpoint cannot be bound, or if keys are missing.
    """

    def __init__(self, settings: Settings, context: "zmq.Context[zmq.Socket[bytes]]") -> None:
        super().__init__(name="forwarder", daemon=True)
        self._secret = key_pair(settings.keys, "broker").secret if settings.keys else None
        self._zmq = context
        self._authenticator = ThreadAuthenticator(self._zmq)
        self._keys, self._complaints = settings.keys, Complaints()
        if settings.keys:  # before there is anything that a stranger could connect to
            asked = SimpleNamespace(callback=self._admits)
            self._authenticator.configure_curve_callback("*", asked)
            self._authenticator.start()
        self._sockets: list[zmq.Socket[bytes]] = []
        publish, subscribe = settings.broker_publish_url, settings.broker_subscribe_url
        self._bind(zmq.XSUB, "BROKER_PUBLISH_URL", publish, MAX_MESSAGE_BYTES)
        self._bind(zmq.XPUB, "BROKER_SUBSCRIBE_URL", subscribe, MAX_TOPIC_BYTES)
        for endpoint, inside in zip(self._sockets, INSIDE, strict=True):
            endpoint.bind(inside)

    def _admits(self, domain: str, key: bytes) -> bool:
        """Whether a peer may come in: asked at each handshake."""
        assert self._keys
        admitted = is_admitted(self._keys, key)
        if not admitted and self._complaints.are_due(public := key.decode(errors="replace")):
            log.warning("a peer was refused: none of our *.key files has its key", public=public)
        return admitted

    def _bind(self, kind: int, setting: str, url: str, max_bytes: int) -> None:
        endpoint = self._zmq.socket(kind)
        configure(endpoint, url)
        endpoint.maxmsgsize = max_bytes
        if self._secret:
            endpoint.curve_server = True
            endpoint.curve_secretkey = self._secret
        self._sockets.append(endpoint)
        try:
            endpoint.bind(url)
        except zmq.ZMQError as error:
            self._authenticator.stop()
            self._zmq.destroy(linger=0)
            raise StartError(
                f"cannot listen on {url}: {error.strerror}; set {setting} to another address"
            ) from None

    def run(self) -> None:
        """Relay until `stop`."""
        try:
            with suppress(zmq.ContextTerminated):
                zmq.proxy(*self._sockets)
        finally:
            for endpoint in self._sockets:
                endpoint.close()

    def stop(self) -> None:
        """End the proxy by terminating its context, and close both endpoints."""
        self._authenticator.stop()
        self._zmq.term()
        self.join()
