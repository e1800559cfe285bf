"""Behind a real proxy that keeps its connections, an end and a new start lose nearly nothing."""

import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import pytest

from runtime.process.children import listens
from tests.conftest import eventually, free_port
from tests.processes import World
from tests.programs import program
from tests.test_nginx import running

BUYERS = 16
HANDFUL = 5
HAPROXY = """
defaults
  mode http
  retries 0
  timeout connect 1s
  timeout client 10s
  timeout server 10s
  http-reuse always
frontend front
  bind 127.0.0.1:{port}
  default_backend shop
backend shop
  server shop 127.0.0.1:{shop}
"""
Connect = Callable[[], HTTPConnection]


@contextmanager
def nginx(world: World, folder: Path) -> Iterator[Connect]:
    """Run nginx with the file of deploy/ in front of the shop; gives what connects to it."""
    with running(world, folder) as front:
        yield lambda: front.connect("shop")


@contextmanager
def haproxy(world: World, folder: Path) -> Iterator[Connect]:
    """Likewise haproxy, with the least that it needs."""
    port, path = free_port(), folder / "proxy.conf"
    path.write_text(HAPROXY.format(port=port, shop=world.settings.shop_port))
    with (folder / "output").open("wb") as output:
        command = [program("haproxy"), "-f", str(path)]
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        eventually(lambda: listens("127.0.0.1", port))
        yield lambda: HTTPConnection("127.0.0.1", port, timeout=10)
    finally:
        process.kill()
        process.wait()


PROXIES = {"nginx": nginx, "haproxy": haproxy}


def buy(
    connect: Connect, prefix: str, answered: dict[str, int], is_over: Callable[[], bool]
) -> None:
    """Sign up one user after another, and note the status of each answer."""
    connection = connect()
    json = {"Content-Type": "application/json"}
    while not is_over():
        name = f"{prefix} {len(answered)}"
        try:
            connection.request("POST", "/api/user", b'{"name": "%b"}' % name.encode(), json)
            with connection.getresponse() as answer:
                answered[name] = answer.status
                answer.read()
        except HTTPException:  # haproxy closes where the shop did, and says nothing
            answered[name] = 502
            connection.close()
    connection.close()


@pytest.mark.parametrize("name", PROXIES)
def test_a_restart_behind_a_proxy(name: str, world: World, tmp_path: Path) -> None:
    """At most a handful of requests gets no answer from the shop, and none of them was done."""
    world.start("shop")
    with PROXIES[name](world, tmp_path) as connect:
        over = threading.Event()
        answered: list[dict[str, int]] = [{} for _ in range(BUYERS)]
        buyers = [
            threading.Thread(target=buy, args=(connect, f"Buyer {n}", told, over.is_set))
            for n, told in enumerate(answered)
        ]
        for buyer in buyers:
            buyer.start()

        def done() -> set[str]:
            return {
                user for told in answered for user, status in told.copy().items() if status == 201
            }

        eventually(lambda: len(done()) > 200)
        assert world.kill("shop", number=signal.SIGTERM) == [0]
        before = len(done())
        world.start("shop")
        eventually(lambda: len(done()) > before + 200)
        over.set()
        for buyer in buyers:
            buyer.join()
    lost = [user for told in answered for user, status in told.items() if status == 502]
    if name == "nginx":  # which answers 502 also where nobody listens
        log = (tmp_path / "proxy.log").read_text()
        lost = [line for line in log.splitlines() if "connect() failed" not in line]
    assert len(lost) <= HANDFUL
    assert {user for (user,) in world.rows("shop", "SELECT name FROM user")} == done()
