"""Bytes from strangers, at either port: the broker lives on, stays small, and orders are paid."""

import random
import socket
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress

import psutil
import pytest

from messaging.transports.forwarder import ForwarderTransport
from messaging.transports.wire import Place, pack
from payment.app import Payment
from runtime.process.settings import Settings
from shop.app import Shop
from tests.conftest import eventually
from tests.messaging.conftest import single
from tests.processes import World
from tests.rules import checkout
from tests.shop.conftest import stocked  # noqa: F401  # a fixture, asked for by its name

MAX_GROWTH_BYTES = 50 * 1024 * 1024
MILLION = (10**6).to_bytes(8, "big")
HUGE = (2**63 - 1).to_bytes(8, "big")
SIGNATURE = b"\xff" + bytes(8) + b"\x7f"


def greeting(version: bytes = b"\3\0", mechanism: bytes = b"NULL", server: int = 0) -> bytes:
    """The first 64 bytes of ZMTP, rfc.zeromq.org/spec/23."""
    return SIGNATURE + version + mechanism.ljust(20, b"\0") + bytes([server]) + bytes(31)


def hello(kind: bytes) -> bytes:
    """All that a socket of this kind says before its first message."""
    ready = b"\5READY\x0bSocket-Type" + len(kind).to_bytes(4, "big") + kind
    return greeting() + bytes([4, len(ready)]) + ready


# What is sent first, and what when the broker is ready for messages.
JUNK = {
    "random bytes": (random.Random(1).randbytes(100_000),),
    "HTTP": (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",),
    "TLS": (b"\x16\3\1\2\0\1\0\1\xfc\3\3" + bytes(500),),
    "ZMTP 1.0": (b"\1\0" + b"\2\0x" * 1000,),
    "ZMTP 2.0": (SIGNATURE + b"\1\2\0\0" + b"\0\1x" * 1000,),
}
UNFINISHED = {
    "nothing": (b"",),
    "half a greeting": (SIGNATURE[:5],),
    "only a signature": (SIGNATURE,),
    "ZMTP 9.9": (greeting(version=b"\x09\x09"),),
    "another server": (greeting(server=1),),
}
REFUSED = {
    "a huge length in ZMTP 1.0": (b"\xff" + HUGE + bytes(1000),),
    "another mechanism": (greeting(mechanism=b"PLAIN"),),
    "another command": (greeting() + b"\4\6\5READX",),
    "a huge command": (greeting() + b"\6" + HUGE,),
    "a property beyond its end": (greeting() + b"\4\x16\5READY\x0bSocket-Type" + HUGE[:4],),
    "another kind of socket": (hello(b"REQ"),),
    "a huge message": (hello(b"PUB"), b"\2" + HUGE),
    "a huge subscription": (hello(b"SUB"), b"\2" + HUGE),
    "a deep subscription": (hello(b"SUB"), b"\2" + MILLION + b"\1" + bytes(10**6)),
    "a publisher that falls silent": (hello(b"PUB"), b"\0\6event/" * 1000),
    "a subscriber that falls silent": (hello(b"SUB"), b"\0\2\1x" * 1000),
}


def connect(port: int, first: bytes = b"", then: bytes = b"") -> socket.socket:
    """A connection that says this, as far as it is let."""
    connection, answer = socket.create_connection(("127.0.0.1", port), timeout=10), b""
    with suppress(ConnectionError):
        connection.sendall(first)
        while then and b"READY" not in answer and (more := connection.recv(65536)):
            answer += more
        connection.sendall(then)
    return connection


def is_closed(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        while connection.recv(65536):
            pass
    except BlockingIOError:
        return False
    except ConnectionError:
        pass
    return True


@pytest.fixture
def ports(settings: Settings) -> list[int]:
    urls = settings.broker_publish_url, settings.broker_subscribe_url
    return [int(url.rpartition(":")[2]) for url in urls]


@pytest.fixture
def process(world: World) -> psutil.Process:
    """A running broker."""
    world.start("broker")
    return psutil.Process(world.processes["broker"].pid)


@pytest.fixture
def trade(process: psutil.Process, stocked: Shop, payment: Payment) -> Callable[[], None]:  # noqa: F811
    """Place an order, and wait until it is paid and the same broker, as small as before, has it."""
    stocked.exchange.start()
    payment.exchange.start()

    def trade() -> None:
        order = checkout(stocked, 1, [1])
        eventually(lambda: stocked.orders.get(order["id"])["paid_at"])
        for service in (stocked, payment):
            eventually(lambda each=service: each.exchange.status()["outbox_waiting"] == 0)
        assert process.memory_info().rss < limit

    limit = float("inf")
    trade()
    limit = process.memory_info().rss + MAX_GROWTH_BYTES
    return trade


def test_junk(ports: list[int], trade: Callable[[], None]) -> None:
    """Left open or closed, or sent byte by byte; and whoever falls silent is disconnected."""
    with ExitStack() as strangers:

        def send(*parts: bytes) -> list[socket.socket]:
            return [strangers.enter_context(connect(port, *parts)) for port in ports]

        slow = send()
        for junk, byte in zip((JUNK | UNFINISHED).values(), greeting(), strict=False):
            send(*junk)
            for connection in slow:
                connection.sendall(bytes([byte]))
            trade()
        refused = [send(*parts) for parts in REFUSED.values()]
        trade()
        for connections in refused:
            eventually(lambda each=connections: all(map(is_closed, each)))
    trade()


def test_many_connections(ports: list[int], trade: Callable[[], None]) -> None:
    """1,000 that come and go, and 200 that stay."""
    for port in ports * 500:
        connect(port).close()
    trade()
    with ExitStack() as strangers:
        for port in ports * 100:
            strangers.enter_context(connect(port))
        trade()
    trade()


@pytest.mark.skipif(not psutil.LINUX, reason="elsewhere no other process can be limited")
def test_more_connections_than_descriptors(
    settings: Settings, ports: list[int], process: psutil.Process, trade: Callable[[], None]
) -> None:
    """Whoever is connected goes on; others are let in when there is room again."""
    limit = process.num_fds() + 20
    process.rlimit(psutil.RLIMIT_NOFILE, (limit, limit))
    with closing(ForwarderTransport(settings, "late", [])) as late, ExitStack() as strangers:
        for port in ports * 50:
            strangers.enter_context(connect(port))
        eventually(lambda: process.num_fds() >= limit - 2)
        late.open()
        trade()
        assert not (late.poll(0) or late.up)
        strangers.close()
        # Each of its handshakes that began too early takes 5 s to fail.
        eventually(lambda: late.poll(0.05) or late.up, timeout_s=40)
    trade()


@pytest.mark.chaos
@pytest.mark.timeout(300)
def test_sessions_with_errors(ports: list[int], trade: Callable[[], None]) -> None:
    """Whatever is changed in what a publisher or a subscriber says."""
    noise, frames = random.Random(2), pack(single("numbers", Place(bytes(16), 1), b"{}"))
    event = b"".join(bytes([frame is not frames[-1], len(frame)]) + frame for frame in frames)
    for number in range(20_000):
        parts = noise.choice([(hello(b"PUB"), event * 9), (hello(b"SUB"), b"\0\7\1event/" * 9)])
        first, then = map(bytearray, parts)
        changed = noise.choice([first, then])
        for _ in range(noise.randrange(1, 5)):
            at = noise.randrange(len(changed))
            changed[at : at + noise.randrange(3)] = noise.randbytes(noise.randrange(3))
        parts = (first, then) if changed is then else (first + then,)
        connect(noise.choice(ports), *parts).close()
        if number % 500 == 0:
            trade()
    trade()
