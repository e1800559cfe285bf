"""Serves HTTP with waitress, and stops without cutting off a request in flight."""

import resource
import socket
import sys
import threading
import time
from typing import Any
from wsgiref.types import WSGIApplication

import structlog
from waitress import wasyncore
from waitress.adjustments import Adjustments
from waitress.server import TcpWSGIServer
from waitress.task import ThreadedTaskDispatcher

from runtime.process.errors import StartError
from runtime.process.settings import authority
from runtime.storage.writer import Writer
from runtime.web.connection import LARGE_BODY_BYTES, MAX_HEADER_BYTES, SEND_BYTES, Channel

log = structlog.get_logger(__name__)

# Threads for requests that do not wait for the writer; more would only get in each other's way.
LANES = {"/livez": 1, "/readyz": 2, "GET": 2}
CONNECTIONS = 1000
OTHER_DESCRIPTORS = 200  # of databases, by thread, and of sockets
MAX_UPLOAD_BYTES = 16 * 1024 * 1024  # read before the 413, so that the client can receive it
ACCEPTED_AT_ONCE = 100
EVICTED_AT_ONCE = 10
LEAST_STAY_S = 1.0  # before a connection that waits for its client has to make room
LOOK_INTERVAL_S = 1.0
WARN_INTERVAL_S = 60
LOOP_INTERVAL_S = 0.2  # how late a stop may be noticed
IDLE_GRACE_S = 0.5  # at the end, for requests that a proxy is just sending
DRAIN_TIMEOUT_S = 2.0


def allow_descriptors(wanted: int) -> int:
    """Raise this process's limit of open files, if it may, and return the limit.

    Idle connections that use them up would leave none for the database.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    if soft != unlimited and soft < wanted:
        soft = wanted if hard == unlimited else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return wanted if soft == unlimited else soft


def _dispatcher(threads: int) -> ThreadedTaskDispatcher:
    dispatcher = ThreadedTaskDispatcher()
    dispatcher.set_thread_count(threads)
    return dispatcher


class _Server(TcpWSGIServer):  # type: ignore[misc]  # waitress has no type hints
    """waitress's server, which accepts every connection and makes room for it."""

    channel_class = Channel
    is_ending = False

    def __init__(self, app: WSGIApplication, listener: socket.socket, connections: int) -> None:
        self._is_full = False
        self._look_at = self._warn_at = 0.0
        settings = Adjustments(
            sockets=[listener],
            max_request_header_size=MAX_HEADER_BYTES,
            max_request_body_size=MAX_UPLOAD_BYTES,
            outbuf_overflow=sys.maxsize,  # no temporary files
            outbuf_high_watermark=sys.maxsize,  # no thread waits for a client
            clear_untrusted_proxy_headers=False,  # nothing reads them
            ident=None,
        )
        settings.send_bytes = SEND_BYTES
        self._lanes = {name: _dispatcher(threads) for name, threads in LANES.items()}
        super().__init__(
            app,
            map={},
            _sock=listener,
            dispatcher=Writer(super().pull_trigger),
            adj=settings,
            sockinfo=(listener.family, listener.type, listener.proto, listener.getsockname()),
            bind_socket=False,
        )
        self.connections = connections

    def turn(self, timeout_s: float) -> None:
        """Run the loop once: serve what is ready, or wait for it."""
        now = time.monotonic()
        if now >= self._look_at:
            self._look_at = now + LOOK_INTERVAL_S
            for channel in self.channels():
                if not channel.look(now):
                    channel.handle_close()
        if self._is_full:
            self._make_room(now)
        wasyncore.loop(timeout=timeout_s, use_poll=True, map=self._map, count=1)
        self.task_dispatcher.wake()

    def pull_trigger(self) -> None:
        """Wake the loop; the writer does so itself, once for all its answers."""
        if not self.task_dispatcher.is_current():
            super().pull_trigger()

    def channels(self) -> list[Channel]:
        """The open connections."""
        return list(self.active_channels.values())

    def readable(self) -> bool:
        """Whether to accept connections."""
        return self.accepting and not self._is_full

    def handle_accept(self) -> None:
        """Accept all waiting connections; waitress accepts one in each turn of its loop."""
        places = self.connections - len(self.active_channels)
        self._is_full = places <= 0
        for _ in range(min(ACCEPTED_AT_ONCE, places)):
            there_are = len(self.active_channels)
            super().handle_accept()
            if len(self.active_channels) == there_are:
                break

    def _make_room(self, now: float) -> None:
        """Close the connections that have waited for their clients the longest."""
        if now >= self._warn_at:
            self._warn_at = now + WARN_INTERVAL_S
            log.warning("all connections are in use: idle and slow ones are closed")
        channels = self.channels()
        if len(channels) >= self.connections:
            for channel in channels:
                channel.look(now)
            channels.sort(key=lambda channel: channel.since)
            for channel in channels[:EVICTED_AT_ONCE]:
                if channel.since < now - LEAST_STAY_S:
                    channel.handle_close()
        self._is_full = len(self.active_channels) >= self.connections

    def add_task(self, channel: Channel) -> None:
        """Serve a connection's next request, once the previous answer has been sent."""
        if channel.is_drained():
            channel.queued_at = time.monotonic()
            self._lane(channel.requests[0]).add_task(channel)
        else:
            channel.is_held = True

    def _lane(self, request: Any) -> ThreadedTaskDispatcher | Writer:
        """The threads for a request: probes have their own, and large bodies avoid the writer."""
        lanes = self._lanes
        if request.command in ("GET", "HEAD") or request.body_bytes_received > LARGE_BODY_BYTES:
            return lanes.get(request.path) or lanes["GET"]
        return self.task_dispatcher

    def end(self) -> None:
        """Stop listening, finish what has begun, and close everything."""
        self.is_ending = True
        for _ in range(self.connections // ACCEPTED_AT_ONCE + 1):
            self.turn(0)  # accept and read what has arrived already
        wasyncore.dispatcher.close(self)
        now = time.monotonic()
        grace, deadline = now + IDLE_GRACE_S, now + DRAIN_TIMEOUT_S
        while self.active_channels and (now := time.monotonic()) < deadline:
            for channel in self.channels():
                if now >= grace and channel.is_idle:
                    channel.handle_close()
            self.turn(LOOP_INTERVAL_S / 10)
        for threads in (self.task_dispatcher, *self._lanes.values()):
            threads.shutdown(timeout=max(0.1, deadline + 1 - time.monotonic()))
        wasyncore.close_all(self._map, ignore_all=True)


class HttpServer(threading.Thread):
    """A waitress server that listens at once and answers when it is started.

    Raises `StartError`, naming the setting, if it cannot have the port.
    """

    def __init__(self, app: WSGIApplication, host: str, port: int, setting: str) -> None:
        super().__init__(name="http", daemon=True)
        self.url = f"http://{authority(host, port)}"
        self._stopping = False
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            listener = socket.create_server((host, port), family=family)
        except OSError as error:
            raise StartError(
                f"cannot listen on {authority(host, port)}: {error.strerror}; set {setting} or HOST"
            ) from None
        others = OTHER_DESCRIPTORS + listener.fileno()  # lower numbers are open, some inherited
        allowed = allow_descriptors(CONNECTIONS + others)
        self._server = _Server(app, listener, max(16, min(CONNECTIONS, allowed - others)))

    def run(self) -> None:
        """Serve until `stop`, then finish what has begun."""
        log.info("serving", url=self.url)
        while not self._stopping:
            self._server.turn(LOOP_INTERVAL_S)
        self._server.end()

    def stop(self) -> None:
        """Accept nothing new, answer what is in flight (for at most 2 s), and end."""
        self._stopping = True
        self.join()
