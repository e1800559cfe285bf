"""What HTTP clients, caches and monitors do, with each real process."""

import socket
from http.client import HTTPConnection

import pytest

from tests.conftest import eventually
from tests.processes import ALL, SERVICES, World

PROBES = ("/livez", "/readyz", "/metrics")


@pytest.fixture
def stocked(world: World) -> World:
    """All four processes, with an item, a user and a paid order."""
    world.start(*ALL)
    order = world.checkout(world.stock())
    eventually(lambda: world.is_paid(order))
    return world


def paths(name: str, world: World) -> list[str]:
    """What there is to be read of a process."""
    if name == "broker":
        return [*PROBES]
    paths = world.get(name, "/openapi.json")["paths"]
    lists = [path for path, methods in paths.items() if "get" in methods and "{" not in path]
    user = "?user_id=1"
    return ["/", "/docs", "/openapi.json", "/shared/page.js", *(f"{path}{user}" for path in lists)]


def test_monitors_may_ask_by_head(stocked: World) -> None:
    """It is answered like GET, without a body, and the connection goes on: by the broker, too."""
    for name in ALL:
        connection = HTTPConnection("127.0.0.1", stocked.settings.http_port(name)[0], timeout=10)
        for path in [*paths(name, stocked), "/nowhere"]:
            answers = []
            for method in ("HEAD", "GET", "HEAD"):
                connection.request(method, path)
                answer = connection.getresponse()
                length = int(answer.headers["Content-Length"])
                assert len(answer.read()) == (0 if method == "HEAD" else length), path
                answers.append((answer.status, answer.headers["Content-Type"], length))
                assert answer.headers["Connection"] is None
            if not path.startswith("/metrics"):  # which tells of the requests before
                assert answers[0] == answers[1] == answers[2], path
            assert answers[0][0] == (404 if path == "/nowhere" else 200), path
        connection.close()


def test_caches_ask_each_time_or_keep_nothing(stocked: World) -> None:
    for name in ALL:
        for path in [*paths(name, stocked), "/nowhere", "/api/orders?user_id=x"]:
            answer = stocked.ask(name, "GET", path)
            rule = answer.headers["Cache-Control"]
            if path.partition("?")[0] in PROBES or answer.status >= 400:
                assert rule == "no-store", path
            else:
                assert rule in ("no-cache", "private, no-cache"), path
                known = answer.headers["ETag"]
                again = stocked.ask(name, "GET", path, If_None_Match=known)
                assert (again.status, again.body) == (304, b"")
        with socket.create_connection(("127.0.0.1", stocked.settings.http_port(name)[0])) as raw:
            raw.sendall(
                b"GET http://[ HTTP/1.1\r\nHost: x\r\n\r\n"
            )  # what never reaches the service
            assert b"Cache-Control: no-store\r\n" in raw.recv(65536)
    user = stocked.post("shop", "/api/user", {"name": "Kesha"})
    assert user.headers["Cache-Control"] == "no-store"


def test_files_are_read_only(stocked: World) -> None:
    for name in SERVICES:
        for method in ("POST", "PUT", "DELETE"):
            answer = stocked.ask(name, method, "/shared/page.js")
            assert (answer.status, answer.headers["Allow"]) == (405, "GET, HEAD, OPTIONS")


def test_a_toggle_whose_answer_was_lost_may_be_sent_again(stocked: World) -> None:
    """As proxies and clients do with a PUT; without a key the state can be named."""
    path = "/api/items/1/toggle_status"
    answers = [stocked.ask("inventory", "PUT", path, Idempotency_Key='"once"') for _ in "abc"]
    assert {(answer.status, answer.body) for answer in answers} == {(200, b"ok")}
    assert stocked.get("inventory", "/api/items/1")["active"] is False
    for _ in range(2):
        stocked.ask("inventory", "PUT", "/api/items/1/status", {"active": True})
    assert stocked.get("inventory", "/api/items/1")["active"] is True
    eventually(lambda: len(stocked.get("shop", "/api/items")) == 1)
    told = stocked.rows("inventory", "SELECT count(*) FROM outbox")
    assert told == [(3,)]
