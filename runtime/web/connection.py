"""A client's connection: waitress's parser, tasks and channel, with what they lack (RFC 9112).

This module and `runtime.web.server` replace and rely on parts of waitress 3.0.2;
`tests/runtime/test_waitress.py` fails when another version has them differently.
"""

import re
import socket
import time
from contextlib import suppress
from io import BytesIO
from ipaddress import IPv6Address
from typing import Any
from weakref import WeakSet

from waitress.buffers import BytesIOBasedBuffer, ReadOnlyFileBasedBuffer
from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser, ParsingError
from waitress.task import ErrorTask, Task, WSGITask
from waitress.utilities import BadRequest, Error, RequestEntityTooLarge

from runtime.web import problem

MAX_HEADER_BYTES = 32 * 1024  # request line and headers; more is 431
SEND_BYTES = 18_000  # sent at once; with waitress's default of 1, headers and body go separately
TURN_BYTES = 64 * 1024  # sent to one client before others have their turn
LARGE_BODY_BYTES = 64 * 1024
MAX_LARGE_BODIES = 64  # at a time; more are refused, since each takes its size in memory
IDLE_TIMEOUT_S = 30  # between requests
STALL_TIMEOUT_S = 10  # how far a client may fall behind the least rate, amid a request or an answer
LEAST_RATE = 4096  # bytes a second
MAX_QUEUED_S = 0.1  # a request that waited longer for a thread is served if its client is there
SPOKEN = (b" HTTP/1.0", b" HTTP/1.1")
VERSION = re.compile(rb" HTTP/([0-9])(\.[0-9])?$")
HOST = re.compile(
    r"(?:\[([0-9a-f:.]+)\]|(?:[\w.~!$&'()*+;=-]|%[0-9a-f]{2})+)(?::[0-9]*)?",
    re.ASCII | re.IGNORECASE,
)


class _VersionNotSupported(Error):  # type: ignore[misc]  # waitress has no type hints
    code = 505
    reason = "HTTP Version Not Supported"


class _Busy(Error):  # type: ignore[misc]
    code = 503
    reason = "Service Unavailable"


class _Body(BytesIOBasedBuffer):  # type: ignore[misc]
    """The body of a request, in memory; it keeps only the length of one that is too large."""

    remain: int

    def append(self, part: bytes) -> None:
        if self.remain + len(part) > problem.MAX_BODY_BYTES:
            self.remain += len(part)
        else:
            super().append(part)


_large_bodies: WeakSet[_Body] = WeakSet()


class _Parser(HTTPRequestParser):  # type: ignore[misc]
    command, path = "", "/"  # until the request line is parsed
    body_rcv: Any = None

    def received(self, data: bytes) -> int:
        """Take the bytes that belong to this request, and return their number."""
        consumed: int = super().received(data)
        if self.chunked:
            unparsed = len(self.body_rcv.control_line) + len(self.body_rcv.trailer)
            if unparsed > MAX_HEADER_BYTES:
                self.error = BadRequest("The header of a chunk, or the trailer, is too long")
                self.completed = True
        if self.body_bytes_received > LARGE_BODY_BYTES:
            if len(_large_bodies) >= MAX_LARGE_BODIES and self.body_rcv.buf not in _large_bodies:
                self.error = _Busy("Too many large bodies are being received. Try again")
                self.completed = True
            else:
                _large_bodies.add(self.body_rcv.buf)
        if self.completed:
            self.expect_continue = False  # it gets only the final answer
        return consumed

    def parse_header(self, header_plus: bytes) -> None:
        """Parse the request line and the headers; `ParsingError` where they are wrong."""
        line, separator, rest = header_plus.partition(b"\r\n")
        line = line.rstrip()
        if not line.endswith(SPOKEN) and (version := VERSION.search(line)):
            if version[1] != b"1":
                self.version = "1.1"
                self.error = _VersionNotSupported("This server speaks HTTP/1.1")
                return
            if version[2]:  # a later 1.x is served as 1.1
                line = line[: version.start()] + SPOKEN[1]
        try:
            super().parse_header(line + separator + rest)
            self._check_host()
        except ValueError as error:  # a malformed URL such as ``http://[``, or address
            raise ParsingError(str(error)) from None
        self._check_framing()
        if "CONNECTION" in self.headers:  # waitress reads it as one word
            options = [each.strip() for each in self.headers["CONNECTION"].lower().split(",")]
            known = [each for each in ("close", "keep-alive") if each in options]
            self.headers["CONNECTION"] = known[0] if known else ""
        if self.expect_continue and self.body_rcv is None:
            self.headers["CONNECTION"] = "close"  # the client may send a body nevertheless

    def _check_host(self) -> None:
        host = self.headers.get("HOST", "")  # waitress joins several with ", "
        if "HOST" in self.headers or self.version == "1.1":
            found = HOST.fullmatch(host)
            if not found:
                raise ParsingError("The Host header is missing, invalid or repeated")
            if found[1]:
                IPv6Address(found[1])

    def _check_framing(self) -> None:
        """Refuse a request whose end is in doubt: its rest could be taken for another request."""
        if "TRANSFER_ENCODING" in self.headers:  # waitress takes it out in HTTP/1.1
            raise ParsingError("Transfer-Encoding needs HTTP/1.1")
        if self.chunked and "CONTENT_LENGTH" in self.headers:
            raise ParsingError("Content-Length and Transfer-Encoding exclude each other")
        if self.expect_continue and self.content_length > problem.MAX_BODY_BYTES:
            self.error = RequestEntityTooLarge(problem.ADVICE[413])
            self.body_rcv = None  # so that it is complete, and answered at once
        elif self.body_rcv is not None:
            self.body_rcv.buf = _Body()


class _Answer(Task):  # type: ignore[misc]
    """An answer, whether of the app or of waitress itself."""

    def set_close_on_finish(self) -> None:
        """Close the connection after the answer, but not just because it has no body (304)."""
        wanted = self.request.headers.get("CONNECTION")
        if self.has_body or wanted == "close" or (self.version == "1.0" and not wanted):
            super().set_close_on_finish()
        elif self.version == "1.0":
            self.response_headers.append(("Connection", "Keep-Alive"))

    def build_response_header(self) -> bytes:
        """The head of the answer; while the server ends, that of the last one says so."""
        if self.channel.server.is_ending and len(self.channel.requests) <= 1:
            self.request.headers["CONNECTION"] = "close"
        header: bytes = super().build_response_header()
        return header

    def write(self, data: bytes) -> None:
        """Send a part of the body, which an answer to HEAD does without."""
        super().write(b"" if self.request.command == "HEAD" else data)


class _ProblemTask(_Answer, ErrorTask):  # type: ignore[misc]
    """A problem document for what waitress itself refuses: malformed or too large requests."""

    def execute(self) -> None:
        error = self.request.error
        path = self.request.path.encode("latin-1").decode(errors="replace")  # as WSGI has bytes
        body = problem.document(error.code, error.body.rstrip(".") + ".", path)
        self.status = f"{error.code} {error.reason}"
        self.response_headers += [
            ("Content-Type", problem.CONTENT_TYPE),
            ("Cache-Control", "no-store"),
        ]
        if error.code == _Busy.code:
            self.response_headers.append(("Retry-After", "1"))
        self.request.headers["CONNECTION"] = "close"
        self.content_length = len(body)
        self.write(body)


class _Task(_Answer, WSGITask):  # type: ignore[misc]
    pass


class Channel(HTTPChannel):  # type: ignore[misc]
    """A connection that waits for its client without a thread, and not forever.

    Its next request is served once the client has received the previous answer. ``since`` is when
    it began to wait for its client (`time.monotonic`).
    """

    error_task_class = _ProblemTask
    task_class = _Task
    parser_class = _Parser
    sendbuf_len: int

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.sendbuf_len = min(self.sendbuf_len, TURN_BYTES)
        self.is_held = False  # the next request waits until the output is gone
        self.lingers = False
        self.queued_at = 0.0
        self.since = time.monotonic()
        self._served = 0
        self._moved = 0  # bytes, since the last look
        self._sent = 0  # bytes, in this turn
        self._state: object = None
        self._deadline = 0.0

    @property
    def is_idle(self) -> bool:
        """Whether no request or answer has begun."""
        return self.lingers or not (self.requests or self.request or self.total_outbufs_len)

    def look(self, now: float) -> bool:
        """Note whether it waits for its client; False if it has waited too long."""
        if self.requests and not self.is_held:
            self._state = None
            self.since = now
            return True
        state = (self.request, self._served, bool(self.total_outbufs_len), self.lingers)
        limit_s = IDLE_TIMEOUT_S if self.is_idle and not self.lingers else STALL_TIMEOUT_S
        if state != self._state:
            self._state, self.since, self._deadline = state, now, now + limit_s
        elif not self.lingers:
            self._deadline = min(now + limit_s, self._deadline + self._moved / LEAST_RATE)
        self._moved = 0
        return now <= self._deadline

    def recv(self, buffer_size: int) -> bytes:
        """Receive, and count it."""
        data: bytes = super().recv(buffer_size)
        self._moved += len(data)
        return data

    def send(self, data: bytes, do_close: bool = True) -> int:
        """Send, unless it has sent much in this turn: a fast client must not hold up others."""
        if self._sent >= TURN_BYTES:
            return 0
        sent: int = super().send(data, do_close)
        self._sent += sent
        self._moved += sent
        return sent

    def write_soon(self, data: Any) -> int:
        """Queue data to send; large data is not copied, so that clients share it."""
        if isinstance(data, bytes) and len(data) > SEND_BYTES:
            data = ReadOnlyFileBasedBuffer(BytesIO(data))
            data.prepare()
        self._sent = 0
        written: int = super().write_soon(data)
        return written

    def readable(self) -> bool:
        """Whether to read the next request, or the rest before a close."""
        return self.lingers or not (
            self.requests or self.total_outbufs_len or self.will_close or self.close_when_flushed
        )

    def writable(self) -> bool:
        """Whether to send; while a request is being answered, not below `SEND_BYTES`."""
        if self.lingers:
            return bool(self.will_close)
        if self.requests and not self.is_held and self.total_outbufs_len < SEND_BYTES:
            return False
        return bool(
            self.will_close or self.close_when_flushed or self.total_outbufs_len or self.is_held
        )

    def handle_write(self) -> None:
        """Send; then serve the next request, or end."""
        self._sent = 0
        if not (self.is_held or self.close_when_flushed):
            super().handle_write()
            return
        self._flush_exception(self._flush_some)  # no thread uses it now
        if self.will_close or not self.connected:
            self.handle_close()
        elif not self.total_outbufs_len:
            if self.is_held:
                self.is_held = False
                self.server.add_task(self)
            else:
                self._linger()

    def _linger(self) -> None:
        """End the answer, and read on: a close with unread input would reset the connection."""
        self.lingers = True
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)

    def is_drained(self) -> bool:
        """Send what can be sent now; returns whether that was all. For the serving thread."""
        if self.total_outbufs_len:
            self._sent = 0
            self._flush_exception(self._flush_some_if_lockable, do_close=False)
        return not self.total_outbufs_len

    def service(self) -> None:
        """Answer a request, unless its client left while it waited for a thread."""
        self._served += 1
        if time.monotonic() - self.queued_at > MAX_QUEUED_S and self._has_left():
            self.connected = False
        super().service()

    def _has_left(self) -> bool:
        try:
            return not self.socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except (OSError, AttributeError):  # it was reset, or is closed
            return True
