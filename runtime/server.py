"""Serving HTTP with waitress, and stopping without breaking off a request in flight."""

import resource
import socket
import threading
import time
from types import SimpleNamespace
from typing import Any
from wsgiref.types import WSGIApplication

import structlog
from waitress import channel, create_server, server, wasyncore
from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser, ParsingError
from waitress.task import ErrorTask, WSGITask

from runtime import problem
from runtime.errors import StartError

log = structlog.get_logger(__name__)

THREADS = 16  # with 4, waitress fell to a fifth of its rate under 64 connections
CONNECTIONS = 1000
OTHER_DESCRIPTORS = 200  # of databases, by thread, and of sockets
MAX_HEADER_BYTES = 32 * 1024  # request line and headers; more is 431
IDLE_TIMEOUT_S = 30  # a connection on which nothing moves is closed, also amid a request
MAX_UPLOAD_BYTES = 16 * 1024 * 1024  # what is read in order to answer 413 in peace
SEND_BYTES = 18_000  # so much is sent at once; waitress's 1 sends headers and body one by one
CLEANUP_INTERVAL_S = 5
LOOP_INTERVAL_S = 0.2  # how late a stop may be noticed
DRAIN_TIMEOUT_S = 2.0


# waitress takes connections for idle by the wall clock, which may jump.
channel.time = server.time = SimpleNamespace(time=time.monotonic)


class _ProblemTask(ErrorTask):  # type: ignore[misc]  # waitress has no type hints
    """What waitress itself refuses (a malformed or too large request) is a problem document too."""

    def execute(self) -> None:
        error = self.request.error
        path = getattr(self.request, "path", None) or "/"  # there is none before it is parsed
        body = problem.document(error.code, error.body.rstrip(".") + ".", path)
        self.status = f"{error.code} {error.reason}"
        self.response_headers.append(("Content-Type", problem.CONTENT_TYPE))
        self.set_close_on_finish()
        self.content_length = len(body)
        self.write(body)


class _Task(WSGITask):  # type: ignore[misc]
    """waitress's task, which would close the connection after each answer without a body (304)."""

    def set_close_on_finish(self) -> None:
        asked = self.request.headers.get("CONNECTION", "").lower() == "close"
        if self.has_body or asked or self.version != "1.1":
            super().set_close_on_finish()


class _Parser(HTTPRequestParser):  # type: ignore[misc]
    """waitress's parser, which lets the error of a malformed URL such as ``http://[`` escape."""

    def parse_header(self, header_plus: bytes) -> None:
        try:
            super().parse_header(header_plus)
        except ValueError as error:
            raise ParsingError(str(error)) from None


class _Channel(HTTPChannel):  # type: ignore[misc]
    error_task_class = _ProblemTask
    task_class = _Task
    parser_class = _Parser

    def writable(self) -> bool:
        """Below `SEND_BYTES` nothing is sent while a request is being answered: do not ask then."""
        held = self.requests and self.total_outbufs_len < SEND_BYTES
        return (
            bool(self.will_close or self.close_when_flushed or self.total_outbufs_len) and not held
        )

    def service(self) -> None:
        """Answer a request; what it was answered does not wait for those that were sent with it."""
        super().service()
        if self.requests:
            self._flush_exception(self._flush_some_if_lockable, do_close=False)


def allow_descriptors(wanted: int) -> int:
    """Raise this process's limit of open files, if it may; gives what it is then.

    Idle connections that use them up would leave none for the database.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    if soft != unlimited and soft < wanted:
        soft = wanted if hard == unlimited else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return wanted if soft == unlimited else soft


class HttpServer(threading.Thread):
    """A waitress server that listens at once and answers when it is started.

    Raises `StartError`, naming the setting, if the port cannot be had.
    """

    def __init__(self, app: WSGIApplication, host: str, port: int, setting: str) -> None:
        super().__init__(name="http", daemon=True)
        self.url = f"http://{host}:{port}"
        self._stopping = False
        self._sockets: dict[int, Any] = {}
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        allowed = allow_descriptors(CONNECTIONS + OTHER_DESCRIPTORS)
        try:
            listener = socket.create_server((host, port), family=family)
        except OSError as error:
            raise StartError(
                f"cannot listen on {host}:{port}: {error.strerror}; set {setting} or HOST"
            ) from None
        self._server = create_server(
            app,
            map=self._sockets,
            sockets=[listener],
            threads=THREADS,
            connection_limit=max(16, min(CONNECTIONS, allowed - OTHER_DESCRIPTORS)),
            max_request_header_size=MAX_HEADER_BYTES,
            max_request_body_size=MAX_UPLOAD_BYTES,
            channel_timeout=IDLE_TIMEOUT_S,
            cleanup_interval=CLEANUP_INTERVAL_S,
            clear_untrusted_proxy_headers=True,
            ident=None,
        )
        self._server.channel_class = _Channel
        self._server.adj.send_bytes = SEND_BYTES

    def run(self) -> None:
        """Serve until `stop`, then finish what has begun."""
        log.info("serving", url=self.url)
        while not self._stopping:
            self._turn(LOOP_INTERVAL_S)
        wasyncore.dispatcher.close(self._server)  # listens no more; the rest goes on
        self._turn(0)  # what has arrived already
        deadline = time.monotonic() + DRAIN_TIMEOUT_S
        while (channels := self._channels()) and time.monotonic() < deadline:
            for each in channels:
                if not (each.requests or each.request or each.total_outbufs_len):
                    each.handle_close()
            self._turn(LOOP_INTERVAL_S / 10)
        self._server.task_dispatcher.shutdown(timeout=1)
        wasyncore.close_all(self._sockets, ignore_all=True)

    def stop(self) -> None:
        """Accept nothing new, answer what is in flight (for at most 2 s), and end."""
        self._stopping = True
        self.join()

    def _turn(self, timeout_s: float) -> None:
        wasyncore.loop(timeout=timeout_s, use_poll=True, map=self._sockets, count=1)

    def _channels(self) -> list[HTTPChannel]:
        return [entry for entry in self._sockets.values() if isinstance(entry, HTTPChannel)]
