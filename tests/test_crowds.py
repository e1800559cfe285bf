"""Many clients, slow ones, and those that never read: somebody who buys is served."""

import os
import resource
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from bench.filling import fill_shop
from tests.conftest import eventually
from tests.processes import MIB, World

PURCHASES = 20
GET = b"GET /livez HTTP/1.1\r\nHost: shop\r\n\r\n"


@pytest.fixture
def files() -> Iterator[None]:
    """This process may have as many files open as its clients need."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 4096:
        pytest.skip("this system allows no 4,096 open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 4096), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def shop_alone(world: World, files: None) -> World:
    world.start("shop")
    return world


def connected(world: World, number: int, stack: ExitStack) -> list[socket.socket]:
    """Connect so many clients, without waiting until each is accepted."""
    clients = []
    for _ in range(number):
        client = stack.enter_context(socket.socket())
        client.setblocking(False)
        client.connect_ex(("127.0.0.1", world.settings.shop_port))
        clients.append(client)
    return clients


def timed(action: Callable[[], Any]) -> float:
    begun = time.monotonic()
    action()
    return time.monotonic() - begun


def test_a_thousand_clients_are_served_side_by_side(shop_alone: World) -> None:
    """They connect together, and ask again when all are answered: nobody has to wait."""
    with ExitStack() as stack:
        clients = connected(shop_alone, 1000, stack)
        for _ in range(2):
            for client in clients:
                client.settimeout(10)
                client.sendall(GET)
            for client in clients:
                assert client.recv(1000).startswith(b"HTTP/1.1 200 ")


@contextmanager
def knocking(world: World, number: int, begin: bytes, drip: bytes) -> Iterator[None]:
    """So many clients that begin something and drip, and come again when they are cut off."""
    ended = threading.Event()

    def drips() -> None:
        with ExitStack() as stack:
            clients = connected(world, number, stack)
            begun = set[socket.socket]()
            while not ended.wait(0.2):
                for at, client in enumerate(clients):
                    try:
                        client.send(drip if client in begun else begin)
                        begun.add(client)
                    except BlockingIOError:
                        continue
                    except OSError:
                        begun.discard(client)
                        client.close()
                        (clients[at],) = connected(world, 1, stack)

    thread = threading.Thread(target=drips)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def test_slow_clients_shut_nobody_out(shop_alone: World) -> None:
    """While 1,100 of them knock, who buys is answered, and who asks whether it lives."""

    def complaints() -> int:
        return shop_alone.output("shop", "stderr").count("all connections are in use")

    with knocking(shop_alone, 1100, b"GET / HTTP/1.1\r\nX-Drip: ", b"x"):
        eventually(complaints)
        for _ in range(PURCHASES):
            shop_alone.post("shop", "/api/user", {"name": "Kesha"})
            shop_alone.get("shop", "/livez")
    assert len(shop_alone.get("shop", "/api/users")) == PURCHASES
    assert complaints() == 1


LISTS = b"GET /api/items HTTP/1.1\r\nHost: shop\r\n\r\n" * 20


@pytest.fixture
def big_shop(world: World, files: None) -> World:
    """A shop whose list of items has three megabytes; one has been asked for."""
    fill_shop(world.settings.data_dir / "shop.db", items=50_000)
    world.start("shop")
    assert len(world.ask("shop", "GET", "/api/items").body) > 2_500_000
    return world


def used_mib(world: World) -> float:
    return float(psutil.Process(world.processes["shop"].pid).memory_info().rss) / MIB


def test_clients_that_do_not_read_stop_nobody(big_shop: World) -> None:
    """40 connections ask for list after list, and read next to nothing."""
    before_mib, ended = used_mib(big_shop), threading.Event()
    with ExitStack() as stack:
        clients = []
        for _ in range(40):
            client = stack.enter_context(socket.socket())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(("127.0.0.1", big_shop.settings.shop_port))
            client.sendall(LISTS)
            clients.append(client)

        def drip() -> None:
            while not ended.wait(0.05):
                for client in clients:
                    with suppress(OSError):
                        client.recv(50)

        thread = threading.Thread(target=drip)
        thread.start()
        waits = list(served(big_shop))
        ended.set()
        thread.join()
    assert max(waits) < 1, waits
    assert used_mib(big_shop) - before_mib < 40


def served(world: World) -> Iterator[float]:
    """How long each of some purchases and probes takes, in seconds."""
    basket = {"user_id": 1, "item_ids": [1, 2, 3]}
    for _ in range(PURCHASES):
        yield timed(lambda: world.checkout(basket))
        for path in ("/livez", "/readyz"):
            yield timed(lambda path=path: world.get("shop", path))


def test_two_hundred_clients_ask_for_the_biggest_list(big_shop: World) -> None:
    """All at once, and each gets it whole, while others buy; they share its memory."""
    before_mib, expected = used_mib(big_shop), big_shop.ask("shop", "GET", "/api/items").body
    with ExitStack() as stack:
        clients = {client.fileno(): client for client in connected(big_shop, 200, stack)}
        received = dict.fromkeys(clients, 0)
        poller = select.poll()

        def read() -> None:
            for number in clients:
                poller.register(number, select.POLLOUT)
            while clients.keys() & received.keys():
                for number, event in poller.poll(10_000):
                    if event & select.POLLOUT:
                        clients[number].sendall(b"GET /api/items HTTP/1.0\r\n\r\n")
                        poller.modify(number, select.POLLIN)
                        continue
                    received[number] += len(part := clients[number].recv(MIB))
                    if not part:
                        poller.unregister(number)
                        sizes.append(received.pop(number))

        sizes: list[int] = []
        thread = threading.Thread(target=read)
        thread.start()
        waits = list(served(big_shop))
        thread.join()
    assert max(waits) < 2, waits
    assert len(sizes) == 200
    assert min(sizes) > len(expected)
    assert used_mib(big_shop) - before_mib < 40


@pytest.mark.usefixtures("files")
def test_descriptors_above_1023(world: World) -> None:
    """A process that has inherited all those below works and ends like any other."""
    with ExitStack() as stack:
        for _ in range(1100):
            stack.enter_context(Path(os.devnull).open())
        numbers = [number for number in range(3, 1100) if is_open(number)]
        world.processes["shop"] = world.run("-m", "shop", pass_fds=numbers)
        world.wait_until_up("shop")
        assert world.post("shop", "/api/user", {"name": "Kesha"}).status == 201
    assert world.kill("shop", number=signal.SIGTERM) == [0]
    assert "stopped" in world.output("shop", "stderr").splitlines()[-1]


def is_open(descriptor: int) -> bool:
    with suppress(OSError):
        os.fstat(descriptor)
        return True
    return False
