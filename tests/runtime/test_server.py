"""Serving HTTP: what has begun is finished, and what cannot begin says why."""

import itertools
import resource
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from http.client import HTTPConnection
from typing import Any
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

import psutil
import pytest

import runtime.web.server
from runtime.process.children import listens
from runtime.process.errors import StartError
from runtime.web.server import HttpServer, allow_descriptors
from tests.conftest import eventually, free_port
from tests.runtime.conftest import ask, connect, port, read_all

Serve = Callable[[WSGIApplication], HttpServer]
GET = b"GET / HTTP/1.0\r\n\r\n"
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


def test_a_request_in_flight_is_answered_at_the_end(serve: Serve) -> None:
    slow = Slow()
    server = serve(slow)
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(ask, server, GET)
        assert slow.begun.wait(10)
        stopping = pool.submit(server.stop)
        eventually(lambda: not listens("127.0.0.1", port(server)))
        assert not stopping.done()
        slow.release.set()
        assert answer.result().endswith(b"done")
        stopping.result()
    assert not server.is_alive()


def test_an_answer_under_way_is_sent_to_its_end(serve: Serve) -> None:
    server = serve(quick)
    with connect(server) as client:
        client.sendall(b"GET /big HTTP/1.0\r\n\r\n")
        received = client.recv(100)
        with ThreadPoolExecutor() as pool:
            stopping = pool.submit(server.stop)
            eventually(lambda: not listens("127.0.0.1", port(server)))
            received += read_all(client)
            stopping.result()
    assert received.endswith(b"\r\n\r\n" + BIG)


def test_idle_connections_do_not_delay_the_end(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime.web.server, "DRAIN_TIMEOUT_S", 600)
    server = serve(quick)
    connection = HTTPConnection("127.0.0.1", port(server), timeout=10)
    connection.request("GET", "/")
    assert connection.getresponse().read() == b"done"
    server.stop()
    assert connection.sock.recv(1) == b""
    connection.close()


def test_an_end_under_load_is_announced(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each client reads of it in an answer; who has just sent is answered, too."""
    monkeypatch.setattr(runtime.web.server, "IDLE_GRACE_S", 20)
    monkeypatch.setattr(runtime.web.server, "DRAIN_TIMEOUT_S", 20)
    server, counted = serve(quick), itertools.count()
    idle = HTTPConnection("127.0.0.1", port(server), timeout=10)

    def ask_on(connection: HTTPConnection) -> str | None:
        connection.request("POST", "/", b"{}")
        answer = connection.getresponse()
        assert answer.read() == b"done"
        return answer.headers["Connection"]

    def ask_until_it_ends(_: int) -> str | None:
        with closing(HTTPConnection("127.0.0.1", port(server), timeout=10)) as connection:
            while not (ending := ask_on(connection)):
                next(counted)
            return ending

    assert ask_on(idle) is None
    with ThreadPoolExecutor(17) as pool:
        endings = pool.map(ask_until_it_ends, range(16))
        eventually(lambda: next(counted) > 200)
        stopping = pool.submit(server.stop)
        assert [*endings] == ["close"] * 16
        assert not stopping.done()
        assert ask_on(idle) == "close"  # a proxy may be just sending
        stopping.result()
    idle.close()


def test_connections_that_come_together_are_accepted_in_one_turn() -> None:
    """With one in each turn, the last of many clients would wait for long."""
    server = HttpServer(quick, "127.0.0.1", free_port(), "SHOP_PORT")
    with ExitStack() as stack:
        for _ in range(50):
            stack.enter_context(connect(server))
        server._server.turn(0)
        assert len(server._server.active_channels) == 50
    server._server.end()


def test_a_request_without_end_cannot_hold_the_process(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime.web.server, "DRAIN_TIMEOUT_S", 0.1)
    slow = Slow()
    server = serve(slow)
    with connect(server) as client:
        client.sendall(GET)
        assert slow.begun.wait(10)
        server.stop()
    assert not server.is_alive()
    slow.release.set()


def test_an_ended_server_leaves_nothing_open(serve: Serve) -> None:
    """Nor does one that could not begin."""
    process = psutil.Process()
    files, threads = process.num_fds(), threading.active_count()
    server = serve(quick)
    assert ask(server, GET).endswith(b"done")
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
    with connect(server) as client:
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


def test_a_request_that_waits_to_be_accepted_is_answered_at_the_end() -> None:
    server = HttpServer(quick, "127.0.0.1", free_port(), "SHOP_PORT")
    with connect(server) as client:
        client.sendall(GET)
        server._stopping = True  # before its first turn
        server.start()
        assert read_all(client).endswith(b"done")
    server.join()


def test_probes_wait_for_no_list(serve: Serve) -> None:
    """Their threads are their own: here requests hold all those of lists."""
    slow, begun = Slow(), threading.Semaphore(0)

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        if environ["PATH_INFO"] != "/":
            return quick(environ, start_response)
        begun.release()
        return slow(environ, start_response)

    server = serve(app)
    with ThreadPoolExecutor() as pool:
        lists = [pool.submit(ask, server, GET) for _ in range(runtime.web.server.LANES["GET"])]
        assert all(begun.acquire(timeout=10) for _ in lists)
        for path in (b"/livez", b"/readyz"):
            assert ask(server, b"GET %b HTTP/1.0\r\n\r\n" % path).endswith(b"done")
        assert not any(each.done() for each in lists)
        slow.release.set()
