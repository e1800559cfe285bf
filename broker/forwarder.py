"""The forwarder: relays every message from publishers to subscribers, and nothing more."""

import threading
from contextlib import suppress

import zmq

from runtime.errors import StartError

MAX_MESSAGE_BYTES = 1024 * 1024  # four times the largest event; more closes the connection


class Forwarder(threading.Thread):
    """`zmq.proxy` between the two endpoints, in a thread of its own.

    Raises `StartError` if an endpoint cannot be bound.
    """

    def __init__(self, publish_url: str, subscribe_url: str) -> None:
        super().__init__(name="forwarder", daemon=True)
        self._zmq = zmq.Context()
        self._sockets = [
            self._bind(zmq.XSUB, "BROKER_PUBLISH_URL", publish_url),
            self._bind(zmq.XPUB, "BROKER_SUBSCRIBE_URL", subscribe_url),
        ]

    def _bind(self, kind: int, setting: str, url: str) -> zmq.Socket[bytes]:
        endpoint = self._zmq.socket(kind)
        endpoint.linger = 0
        endpoint.heartbeat_ivl = 1000  # milliseconds
        endpoint.maxmsgsize = MAX_MESSAGE_BYTES
        try:
            endpoint.bind(url)
        except zmq.ZMQError as error:
            self._zmq.destroy(linger=0)
            raise StartError(
                f"cannot listen on {url}: {error.strerror}; set {setting} to another address"
            ) from None
        return endpoint

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
        self._zmq.term()
        self.join()
