"""What passes on one connection: where requests end, what is refused, and how slow one may be."""

import gc
import socket
import struct
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from http.client import HTTPConnection
from typing import Any, NoReturn
from wsgiref.types import StartResponse, WSGIEnvironment

import psutil
import pytest
import structlog
from pydantic_core import from_json

import runtime.web.connection
import runtime.web.server
from runtime.web.connection import MAX_HEADER_BYTES, STALL_TIMEOUT_S
from runtime.web.problem import MAX_BODY_BYTES
from runtime.web.server import HttpServer
from tests.conftest import eventually, free_port
from tests.runtime.conftest import ask, connect, port, read_all

BIG = b"parrot! " * 1_000_000
GET = b"GET / HTTP/1.1\r\nHost: shop\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: shop\r\n"
EXPECT = b"Expect: 100-continue\r\n"
Answers = list[tuple[int, dict[str, str], bytes]]


class App:
    """Answers with what it has received, or BIG, or nothing (304); and remembers what it did."""

    def __init__(self) -> None:
        self.served: list[str] = []
        self.release = threading.Event()
        self.release.set()

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        self.served.append(path)
        if path == "/slow":
            self.release.wait(10)
        if path == "/304":
            start_response("304 Not Modified", [("ETag", '"1"')])
            return []
        body = BIG if path == "/big" else environ["wsgi.input"].read() or b"done"
        start_response("200 OK", [("Content-Length", str(len(body)))])
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]


@pytest.fixture
def app() -> Iterator[App]:
    made = App()
    yield made
    made.release.set()


@pytest.fixture
def server(app: App) -> Iterator[HttpServer]:
    running = HttpServer(app, "127.0.0.1", free_port(), "SHOP_PORT")
    running.start()
    yield running
    app.release.set()
    running.stop()


class Clock:
    """The server's, which stands still until a test moves it."""

    def __init__(self, server: HttpServer) -> None:
        self.now = time.monotonic() + 2  # so that the server's next look is due
        self._server = server

    def monotonic(self) -> float:
        return self.now

    def move(self, by_s: float) -> None:
        """Let time pass; the server has looked at its connections before, and looks after it."""
        ask(self._server, b"GET / HTTP/1.0\r\n\r\n")
        self.now += by_s
        ask(self._server, b"GET / HTTP/1.0\r\n\r\n")


@pytest.fixture
def clock(server: HttpServer, monkeypatch: pytest.MonkeyPatch) -> Clock:
    """It is gone before the server ends, which takes real time."""
    clock = Clock(server)
    monkeypatch.setattr(runtime.web.server, "LOOK_INTERVAL_S", 0)
    for module in (runtime.web.server, runtime.web.connection):
        monkeypatch.setattr(module, "time", clock)
    return clock


def answers(received: bytes) -> Answers:
    """Split what was received into status, headers and body of each answer."""
    found: Answers = []
    while received:
        head, end, rest = received.partition(b"\r\n\r\n")
        assert end
        line, *lines = head.decode().split("\r\n")
        headers = dict(each.split(": ", 1) for each in lines)
        status = int(line.split()[1])
        length = 0 if status in (100, 304) else int(headers["Content-Length"])
        found.append((status, headers, rest[:length]))
        received = rest[length:]
    return found


def refused(received: bytes, status: int) -> None:
    """It is one problem document, and the end of the connection."""
    ((code, headers, body),) = answers(received)
    assert (code, headers["Connection"]) == (status, "close")
    assert headers["Content-Type"] == "application/problem+json"
    assert headers["Cache-Control"] == "no-store"
    assert b'"status":%d' % status in body


@pytest.mark.parametrize(
    "hosts",
    [
        b"",
        b"Host:\r\n",
        b"Host: a\r\nHost: a\r\n",
        b"Host: a\r\nHost:\r\n",
        b"Host: a\r\nhOST: b\r\n",
        *(b"Host: %b\r\n" % host for host in (b"a b", b"a/b", b"u@a", b"a:b", b"a:1:2")),
        *(b"Host: %b\r\n" % host for host in (b"[::1", b"[:::]", b"[a]", b"\xe9")),
    ],
)
def test_one_valid_host_is_needed(hosts: bytes, server: HttpServer, app: App) -> None:
    refused(ask(server, b"GET / HTTP/1.1\r\n" + hosts + b"\r\n" + GET), 400)
    if b"Host" in hosts:
        refused(ask(server, b"GET / HTTP/1.0\r\n" + hosts + b"\r\n"), 400)
    assert not app.served


def test_hosts_as_they_are(server: HttpServer) -> None:
    for host in (b"shop", b"SHOP:8002", b"127.0.0.1:8002", b"[::1]:8002", b"my_shop.x-y.:", b"%41"):
        request = b"GET / HTTP/1.1\r\nConnection: close\r\nHost: %b\r\n\r\n" % host
        assert ask(server, request).startswith(b"HTTP/1.1 200 "), host
    assert ask(server, b"GET / HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.0 200 ")


@pytest.mark.parametrize("path", [b"/", b"/304", b"/big"])
@pytest.mark.parametrize(
    ("version", "connection", "kept"),
    [
        (b"1.1", b"", True),
        (b"1.1", b"Connection: TE, Close\r\n", False),
        (b"1.1", b"Connection: TE\r\nConnection: close ,x\r\n", False),
        (b"1.1", b"Connection: not-close, keep-alive\r\n", True),
        (b"1.2", b"", True),  # a minor version that is yet to come
        (b"1.0", b"", False),
        (b"1.0", b"Connection: TE\r\n", False),
        (b"1.0", b"Connection: Keep-Alive, TE\r\n", True),
        (b"1.0", b"Connection: close, Keep-Alive\r\n", False),
    ],
)
def test_connection_is_a_list_of_words(
    path: bytes, version: bytes, connection: bytes, kept: bool, server: HttpServer
) -> None:
    """Whatever the answer: with a body or without, for GET and for HEAD."""
    for method in (b"GET", b"HEAD"):
        line = b"%b %b HTTP/%b\r\nHost: a\r\n" % (method, path, version)
        last = b"GET /last HTTP/1.0\r\n\r\n"
        received = ask(server, line + connection + b"\r\n" + last)
        assert received.endswith(b"done") == kept or (path, method) == (b"/", b"GET")
        head, _, rest = received.partition(b"\r\n\r\n")
        assert (b"\r\nConnection: close" in head) == (not kept)
        assert (b"\r\nConnection: Keep-Alive" in head) == (kept and version == b"1.0")
        body = {b"/": b"done", b"/304": b"", b"/big": BIG}[path] if method == b"GET" else b""
        assert rest.removeprefix(body).startswith(b"HTTP/1.0 200") == kept


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (b"Content-Length: 1048577\r\n", 413),
        (b"Content-Length: 99999999999\r\n", 413),
        (b"Content-Length: x\r\n", 400),
        (b"Content-Length: -1\r\n", 400),
        (b"Transfer-Encoding: gzip\r\n", 501),
        (b"Content-Length: 0\r\n", 200),
        (b"", 200),
    ],
)
def test_what_is_decided_by_the_head_is_answered_at_once(
    headers: bytes, status: int, server: HttpServer, app: App
) -> None:
    """Without 100 before it, and what is sent nevertheless is no request."""
    for follows in (b"", GET, b"x" * 100_000 + GET):
        with connect(server) as client:
            client.sendall(POST + EXPECT + headers + b"\r\n" + follows)
            received = read_all(client)
        if status == 200:
            ((code, head, _),) = answers(received)
            assert (code, head["Connection"]) == (200, "close")
        else:
            refused(received, status)
    assert len(app.served) == (3 if status == 200 else 0)


def test_a_body_that_is_wanted_is_asked_for(server: HttpServer) -> None:
    with connect(server) as client:
        for _ in range(2):
            client.sendall(POST + EXPECT + b"Content-Length: 6\r\n\r\n")
            assert client.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
            client.sendall(b"parrot")
            assert answers(client.recv(1000))[0][2] == b"parrot"


CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
REFUSED = {
    "no request line": (b"nonsense\r\n\r\n", 400),
    "chunked in HTTP/1.0": (b"POST / HTTP/1.0\r\nConnection: keep-alive\r\n" + CHUNKED, 400),
    "two lengths": (POST + b"Content-Length: 5\r\n" + CHUNKED, 400),
    # It would be looked through again with each part that arrives:
    "no end of a chunk's header": (POST + CHUNKED + b"1;" + b"x" * 100_000, 400),
    "no end of a trailer": (POST + CHUNKED + b"0\r\n" + b"a: b\r\n" * 20_000, 400),
    "a large body": (POST + b"Content-Length: 99999999999\r\n\r\n", 413),
    "a large head": (GET[:-2] + b"X-Long: " + b"x" * MAX_HEADER_BYTES + b"\r\n\r\n", 431),
    "HTTP/2.0": (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
    "HTTP/2": (b"GET / HTTP/2\r\nHost: a\r\n\r\n", 505),
    "HTTP/0.9": (b"GET / HTTP/0.9\r\n\r\n", 505),
    "HTTP/2 by knowledge": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(100), 505),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_refused_and_what_follows_is_no_request(
    what: str, server: HttpServer, app: App
) -> None:
    request, status = REFUSED[what]
    received = ask(server, request + GET)
    refused(received, status)
    assert received.startswith(b"HTTP/1.1 505 HTTP Version Not Supported\r\n") == (status == 505)
    assert not app.served


def test_a_refusal_names_the_path_as_it_was_asked_for(server: HttpServer) -> None:
    received = ask(server, b"GET /caf%C3%A9 HTTP/1.1\r\nConnection: close\r\n\r\n")
    ((_, _, body),) = answers(received)
    assert from_json(body)["instance"] == "/caf%C3%A9"


def test_a_problem_has_no_body_for_head(server: HttpServer) -> None:
    head, _, body = ask(server, b"HEAD / HTTP/1.1\r\nConnection: close\r\n\r\n").partition(
        b"\r\n\r\n"
    )
    assert head.startswith(b"HTTP/1.1 400 ")
    assert body == b""


def test_a_client_that_is_gone_before_it_is_refused_leaves_nothing(server: HttpServer) -> None:
    """What could not be parsed has no path to be logged with."""
    with connect(server) as client:
        client.sendall(b"nonsense\r\n\r\n")
        reset(client)
    eventually(lambda: not server._server.active_channels)
    assert ask(server, b"GET / HTTP/1.0\r\n\r\n").endswith(b"done")


def reset(client: socket.socket) -> None:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def test_nothing_is_written_to_temporary_files(
    server: HttpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bodies as large as they may be, in one piece or in chunks, and answers that nobody reads."""

    def refuse(*_: object, **__: object) -> NoReturn:
        raise PermissionError("no folder for temporary files can be written")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    body = b"x" * MAX_BODY_BYTES
    connection = HTTPConnection("127.0.0.1", port(server), timeout=10)
    connection.request("POST", "/", body)
    assert connection.getresponse().read() == body
    parts = (body[at : at + 1000] for at in range(0, len(body), 1000))
    connection.request("POST", "/", parts, encode_chunked=True)
    assert connection.getresponse().read() == body
    connection.close()
    with connect(server, receive_bytes=4096) as client:
        client.sendall(b"GET /big HTTP/1.0\r\n\r\n")
        eventually(lambda: [c for c in server._server.channels() if c.total_outbufs_len])
        assert read_all(client).endswith(b"\r\n\r\n" + BIG)


def test_of_a_body_that_is_too_large_only_the_length_is_kept(server: HttpServer, app: App) -> None:
    with connect(server) as client:
        client.sendall(POST + b"Content-Length: 12000000\r\n\r\n")
        for _ in range(11):
            client.sendall(b"x" * 1_000_000)
        (channel,) = eventually(lambda: reading(server, 11_000_000))
        assert len(channel.request.body_rcv.buf.file.getvalue()) <= MAX_BODY_BYTES


def test_large_bodies_are_limited_in_number(server: HttpServer) -> None:
    """As each takes its size in memory; small ones go on, and large ones when there is room."""
    large = runtime.web.connection.LARGE_BODY_BYTES + 1
    request = POST + b"Content-Length: %d\r\n\r\n" % (large + 1)
    with ExitStack() as stack:
        for _ in range(runtime.web.connection.MAX_LARGE_BODIES):
            stack.enter_context(connect(server)).sendall(request + b"x" * large)
        eventually(lambda: len(reading(server, large)) == runtime.web.connection.MAX_LARGE_BODIES)
        received = ask(server, request + b"x" * large)
        refused(received, 503)
        assert answers(received)[0][1]["Retry-After"] == "1"
        assert ask(server, b"POST / HTTP/1.0\r\nContent-Length: 1\r\n\r\nx").endswith(b"x")
    eventually(lambda: not reading(server, large))
    with connect(server) as client:
        client.sendall(request + b"x" * (large + 1))
        assert client.recv(1000).startswith(b"HTTP/1.1 200 ")


def reading(server: HttpServer, size: int) -> list[Any]:
    found = [each for each in server._server.channels() if each.request]
    return [each for each in found if each.request.body_bytes_received == size]


SILENT = {
    "idle": (b"", runtime.web.connection.IDLE_TIMEOUT_S),
    "no end of the head": (b"GET / HTTP/1.1\r\nHost: shop", STALL_TIMEOUT_S),
    "no end of the body": (POST + b"Content-Length: 10\r\n\r\nx", STALL_TIMEOUT_S),
    "no end of a chunk": (POST + CHUNKED + b"9", STALL_TIMEOUT_S),
}


@pytest.mark.parametrize("begin", SILENT)
def test_a_client_that_is_silent_is_cut_off(begin: str, server: HttpServer, clock: Clock) -> None:
    start, limit_s = SILENT[begin]
    with connect(server) as client:
        client.sendall(start)
        (channel,) = eventually(server._server.channels)
        clock.move(limit_s - 0.1)
        assert channel.connected
        clock.move(0.2)
        assert client.recv(1) == b""


@pytest.mark.parametrize(
    "start",
    [b"GET / HTTP/1.1\r\nX-Drip: ", POST + b"Content-Length: 1000000\r\n\r\n"],
    ids=["head", "body"],
)
def test_a_client_that_drips_is_cut_off(start: bytes, server: HttpServer, clock: Clock) -> None:
    """A byte now and then does not count; who keeps up the least rate is not cut off."""
    seconds = range(2 * STALL_TIMEOUT_S)
    body = b"x" * runtime.web.connection.LEAST_RATE
    with connect(server) as slow, connect(server) as steady:
        slow.sendall(start)
        (channel,) = eventually(lambda: reading(server, 0))
        steady.sendall(POST + b"Content-Length: %d\r\n\r\n" % (len(body) * len(seconds)))
        for _ in seconds:
            if channel.connected:
                slow.sendall(b"x")
            clock.move(1)
            steady.sendall(body)
        assert not channel.connected
        assert steady.recv(1000).startswith(b"HTTP/1.1 200 ")


def test_who_is_being_answered_is_not_cut_off(server: HttpServer, app: App, clock: Clock) -> None:
    app.release.clear()
    with connect(server) as client:
        client.sendall(b"GET /slow HTTP/1.0\r\n\r\n")
        eventually(lambda: app.served)
        clock.move(2 * runtime.web.connection.IDLE_TIMEOUT_S)
        app.release.set()
        assert read_all(client).endswith(b"done")


def test_a_wall_clock_that_jumps_cuts_nobody_off(
    server: HttpServer, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request is half received when it goes a day forward."""
    with connect(server) as half:
        half.sendall(GET[:-2])
        clock.move(0)
        now = time.time()
        monkeypatch.setattr(time, "time", lambda: now + 86400)
        clock.move(0)
        half.sendall(b"\r\n")
        assert b"200 OK" in half.recv(1000)


BIGS = [b"GET /big HTTP/1.1\r\nHost: shop\r\n\r\n"] * 3


@pytest.mark.parametrize("method", [b"GET", b"POST"])
def test_clients_that_read_nothing_hold_no_thread(
    method: bytes, server: HttpServer, app: App
) -> None:
    """Nor the writer, nor is anything prepared for them beyond the first answer.

    And they share its memory.
    """
    clients = 32
    process = psutil.Process()
    ask(server, b"GET /big HTTP/1.0\r\n\r\n")
    gc.collect()
    before = process.memory_info().rss
    with ExitStack() as stack:
        silent = [stack.enter_context(connect(server, receive_bytes=4096)) for _ in range(clients)]
        for client in silent:
            client.sendall(b"".join(BIGS).replace(b"GET", method))
        eventually(lambda: app.served.count("/big") == 1 + clients)
        for _ in range(10):
            assert ask(server, method + b" / HTTP/1.0\r\n\r\n").endswith(b"done")
        assert app.served.count("/big") == 1 + clients
        assert process.memory_info().rss - before < 4 * len(BIG)  # of 32 times
        waiting = sum(channel.total_outbufs_len for channel in server._server.channels())
        assert waiting > 20 * len(BIG)


def test_the_next_request_is_answered_when_the_answer_before_is_read(
    server: HttpServer, app: App
) -> None:
    with connect(server, receive_bytes=4096) as client:
        client.sendall(b"".join([GET, *BIGS, b"GET /last HTTP/1.0\r\n\r\n"]))
        received = read_all(client)
    found = answers(received)
    assert [len(body) for *_, body in found] == [4, *[len(BIG)] * len(BIGS), 4]
    assert app.served == ["/", *["/big"] * len(BIGS), "/last"]


@pytest.mark.parametrize("drips", [False, True])
def test_a_client_that_does_not_read_is_cut_off(
    drips: bool, server: HttpServer, app: App, clock: Clock
) -> None:
    """Whether it reads nothing, or a few bytes now and then."""
    with connect(server, receive_bytes=4096) as client:
        client.sendall(b"".join(BIGS))
        eventually(lambda: app.served)
        (channel,) = server._server.channels()
        for second in range(3 * STALL_TIMEOUT_S):  # the system takes much at first, in its time
            assert channel.connected or second > STALL_TIMEOUT_S
            clock.move(1)
            if drips and channel.connected:
                client.recv(20)
        assert not channel.connected


KNOCKS = {
    "silent": (b"", b""),
    "heads": (b"GET / HTTP/1.1\r\nX-Drip: ", b"x"),
    "bodies": (POST + b"Content-Length: 100000\r\n\r\n", b"x"),
}


@pytest.mark.parametrize("kind", KNOCKS)
def test_who_waits_long_for_its_client_makes_room(
    kind: str, server: HttpServer, clock: Clock
) -> None:
    """However it drips; it is said once."""
    begin, drip = KNOCKS[kind]
    server._server.connections = 16

    def all_wait() -> bool:
        """The server has taken what they began with, and looked at them since."""
        channels = server._server.channels()
        looked = all(each._state and each._state[0] is each.request for each in channels)
        begun = all(bool(each.request) == bool(begin) for each in channels)
        return server._server._is_full and looked and begun

    with ExitStack() as stack, structlog.testing.capture_logs() as said:
        for _ in range(2):
            clients = [stack.enter_context(connect(server)) for _ in range(17)]
            for client in clients:
                client.sendall(begin)
            eventually(all_wait)
            clock.now += runtime.web.server.LEAST_STAY_S + 0.1
            for client in clients:
                with suppress(ConnectionError):
                    client.sendall(drip)
            assert ask(server, b"GET / HTTP/1.0\r\n\r\n").endswith(b"done")
    (line,) = (line for line in said if line["log_level"] == "warning")
    assert "all connections are in use" in line["event"]


def occupy(server: HttpServer, app: App, stack: ExitStack, method: bytes = b"GET") -> None:
    """Let all threads for a method wait, or the writer."""
    number = runtime.web.server.LANES.get(method.decode(), 1)
    before = len(app.served)
    for _ in range(number):
        slow = GET.replace(b"GET / ", method + b" /slow ")
        stack.enter_context(connect(server)).sendall(slow)
    eventually(lambda: len(app.served) == before + number)


def test_probes_and_purchases_do_not_wait_for_lists(server: HttpServer, app: App) -> None:
    """Nor do probes and lists wait for purchases."""
    lines = {b"GET": [b"POST /", b"GET /livez", b"GET /readyz"]}
    lines[b"POST"] = [b"GET /", b"GET /livez", b"GET /readyz"]
    for method, paths in lines.items():
        app.release.clear()
        with ExitStack() as stack:
            occupy(server, app, stack, method)
            for path in paths:
                assert ask(server, path + b" HTTP/1.0\r\n\r\n").endswith(b"done")
            app.release.set()


def test_a_large_body_holds_up_no_purchase(server: HttpServer, app: App) -> None:
    app.release.clear()
    with connect(server) as client:
        large = b"x" * (runtime.web.connection.LARGE_BODY_BYTES + 1)
        client.sendall(b"POST /slow HTTP/1.0\r\nContent-Length: %d\r\n\r\n%b" % (len(large), large))
        eventually(lambda: app.served == ["/slow"])
        assert ask(server, b"POST / HTTP/1.0\r\n\r\n").endswith(b"done")
        app.release.set()
        assert read_all(client).endswith(large)


def test_what_a_client_that_has_left_asked_for_is_not_done(
    server: HttpServer, app: App, clock: Clock
) -> None:
    app.release.clear()
    with ExitStack() as stack:
        occupy(server, app, stack)
        for leave in (socket.socket.close, reset):
            client = connect(server)
            client.sendall(GET.replace(b"/ ", b"/left "))
            leave(client)
        there = stack.enter_context(connect(server))
        there.sendall(GET.replace(b"/ ", b"/there "))
        eventually(lambda: len(server._server._lanes["GET"].queue) == 3)
        clock.now += 2 * runtime.web.connection.MAX_QUEUED_S
        app.release.set()
        assert b"done" in there.recv(1000)
    assert "/left" not in app.served
