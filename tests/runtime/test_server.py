"""Serving HTTP: what has begun is finished, and what cannot begin says why."""

import resource
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from typing import Any
from urllib.request import urlopen
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

import psutil
import pytest

import runtime.web.connection
import runtime.web.server
from runtime.process.children import listens
from runtime.process.errors import StartError
from runtime.web.server import HttpServer, allow_descriptors
from tests.conftest import eventually, free_port

Serve = Callable[[WSGIApplication], HttpServer]
BIG = b"parrot " * 1_000_000


class Slow:
    """An app that answers when it is released."""

    def __init__(self) -> None:
        self.begun, self.release = threading.Event(), threading.Event()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> list[bytes]:
        self.begun.set()
        self.release.wait(10)
        start_response("200 OK", [("Content-Length", "4")])
        return [b"done"]


def quick(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    body = BIG if environ["PATH_INFO"] == "/big" else b"done"
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]


@pytest.fixture
def serve() -> Iterator[Serve]:
    servers: list[HttpServer] = []

    def start(app: WSGIApplication) -> HttpServer:
        servers.append(HttpServer(app, "127.0.0.1", free_port(), "SHOP_PORT"))
        servers[-1].start()
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


def port(server: HttpServer) -> int:
    return int(server.url.rpartition(":")[2])


def get(url: str) -> bytes:
    with urlopen(url, timeout=10) as answer:
        return bytes(answer.read())


def ask(server: HttpServer, request: bytes) -> bytes:
    """Send bytes, and read until the server closes."""
    with socket.create_connection(("127.0.0.1", port(server)), timeout=10) as connection:
        connection.sendall(request)
        return b"".join(iter(lambda: connection.recv(65536), b""))


def test_a_request_in_flight_is_answered_at_the_end(serve: Serve) -> None:
    slow = Slow()
    server = serve(slow)
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(get, server.url)
        assert slow.begun.wait(10)
        stopping = pool.submit(server.stop)
        eventually(lambda: not listens("127.0.0.1", port(server)))
        assert not stopping.done()
        slow.release.set()
        assert answer.result() == b"done"
        stopping.result()
    assert not server.is_alive()


def test_an_answer_under_way_is_sent_to_its_end(serve: Serve) -> None:
    server = serve(quick)
    with socket.create_connection(("127.0.0.1", port(server)), timeout=10) as connection:
        connection.sendall(b"GET /big HTTP/1.0\r\n\r\n")
        received = connection.recv(100)
        with ThreadPoolExecutor() as pool:
            stopping = pool.submit(server.stop)
            eventually(lambda: not listens("127.0.0.1", port(server)))
            received += b"".join(iter(lambda: connection.recv(65536), b""))
            stopping.result()
    assert received.endswith(b"\r\n\r\n" + BIG)


def test_idle_connections_do_not_delay_the_end(serve: Serve) -> None:
    server = serve(quick)
    connection = HTTPConnection("127.0.0.1", port(server), timeout=10)
    connection.request("GET", "/")
    assert connection.getresponse().read() == b"done"
    began = time.monotonic()
    server.stop()
    assert time.monotonic() - began < runtime.web.server.DRAIN_TIMEOUT_S
    assert connection.sock.recv(1) == b""
    connection.close()


def test_a_request_without_end_cannot_hold_the_process(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime.web.server, "DRAIN_TIMEOUT_S", 0.1)
    slow = Slow()
    server = serve(slow)
    with socket.create_connection(("127.0.0.1", port(server))) as connection:
        connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert slow.begun.wait(10)
        server.stop()
    assert not server.is_alive()
    slow.release.set()


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999\r\n\r\n", 413),
        (b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
    ],
    ids=["no request line", "no length", "body too large", "no coding"],
)
def test_what_the_server_refuses_is_a_problem(request_: bytes, status: int, serve: Serve) -> None:
    head, _, body = ask(serve(quick), request_).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.%d %d " % (b"HTTP/1.1" in request_, status))
    assert b"Content-Type: application/problem+json" in head
    assert b'"status":%d' % status in body


def test_an_ended_server_leaves_nothing_open(serve: Serve) -> None:
    """Nor does one that could not begin."""
    process = psutil.Process()
    files, threads = process.num_fds(), threading.active_count()
    server = serve(quick)
    assert get(server.url) == b"done"
    server.stop()
    with socket.create_server(("127.0.0.1", 0)) as holder, pytest.raises(StartError):
        HttpServer(quick, "127.0.0.1", holder.getsockname()[1], "SHOP_PORT")
    eventually(lambda: process.num_fds() <= files, timeout_s=3)
    eventually(lambda: threading.active_count() <= threads, timeout_s=3)


def test_a_busy_port_names_its_setting() -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        busy = holder.getsockname()[1]
        with pytest.raises(StartError, match=rf"^[^\n]*:{busy}[^\n]* SHOP_PORT[^\n]*$"):
            HttpServer(quick, "127.0.0.1", busy, "SHOP_PORT")


def test_a_host_that_is_not_ours_names_its_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it is another machine's, or no machine's at all."""
    with pytest.raises(StartError, match="HOST"):
        HttpServer(quick, "192.0.2.1", free_port(), "SHOP_PORT")

    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(StartError, match="HOST"):
        HttpServer(quick, "no-such-host", free_port(), "SHOP_PORT")


def test_an_answer_does_not_wait_for_the_requests_behind_it(serve: Serve) -> None:
    """Of two sent together the first is answered, and the loop does not spin meanwhile."""
    app = Slow()

    def first_quick(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        return (quick if environ["PATH_INFO"] == "/quick" else app)(environ, start_response)

    server = serve(first_quick)
    with socket.create_connection(("127.0.0.1", port(server)), timeout=10) as client:
        client.sendall(
            b"GET /quick HTTP/1.1\r\nHost: a\r\n\r\nGET /slow HTTP/1.1\r\nHost: a\r\n\r\n"
        )
        assert app.begun.wait(10)
        assert b"done" in client.recv(10_000)
        before = psutil.Process().cpu_times().user
        time.sleep(0.5)  # in which there is nothing to do
        assert psutil.Process().cpu_times().user - before < 0.25
        app.release.set()
        assert b"done" in client.recv(10_000)


def test_idle_connections_leave_files_for_the_database(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The limit of open files is raised where that may be, and connections fit into it."""
    limits = {"soft": 256, "hard": 1024}
    monkeypatch.setattr(resource, "getrlimit", lambda _: tuple(limits.values()))
    monkeypatch.setattr(resource, "setrlimit", lambda _, new: limits.update(soft=new[0]))
    server = HttpServer(quick, "127.0.0.1", free_port(), "SHOP_PORT")
    assert limits == {"soft": 1024, "hard": 1024}
    assert 0 < 1024 - runtime.web.server.OTHER_DESCRIPTORS - server._server.connections < 500
    limits["hard"] = resource.RLIM_INFINITY
    assert allow_descriptors(5000) == limits["soft"] == 5000
    server._server.close()


def test_an_answer_without_a_body_keeps_the_connection(serve: Serve) -> None:
    """As 304 is, to which pages that poll owe their speed; unless the client wants it closed."""

    def unchanged(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        start_response("304 Not Modified", [("ETag", '"1"')])
        return []

    connection = HTTPConnection("127.0.0.1", port(serve(unchanged)), timeout=10)
    connection.request("GET", "/")
    first = connection.getresponse()
    assert (first.status, first.read(), first.headers["Connection"]) == (304, b"", None)
    held = connection.sock
    connection.request("GET", "/", headers={"Connection": "close"})
    second = connection.getresponse()
    assert held
    assert (second.status, second.read(), second.headers["Connection"]) == (304, b"", "close")
    connection.close()


def test_headers_that_are_too_large_are_refused(serve: Serve) -> None:
    server = serve(quick)
    connection = HTTPConnection("127.0.0.1", port(server), timeout=10)
    connection.request(
        "GET", "/", headers={"X-Long": "x" * runtime.web.connection.MAX_HEADER_BYTES}
    )
    answer = connection.getresponse()
    assert (answer.status, answer.headers["Content-Type"]) == (431, "application/problem+json")
    connection.close()
