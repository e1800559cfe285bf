"""Payment: how long after its answer a checkout is paid, against two bare hops and one commit."""

import sqlite3
import time
from contextlib import closing
from statistics import median, quantiles
from uuid import UUID

import zmq
from pydantic_core import from_json

from bench.contestants.bare_hops import BACK, THERE
from bench.errors import Failed
from bench.filling import fill_shop
from bench.findings import Finding, Goal, Series
from bench.load import ask
from bench.processes import Processes
from bench.sales import checkout
from bench.system import System
from bench.turns import FLUSHED, Contestant, Effort, take_turns
from runtime.process.settings import NAMES
from scenarios.servers import HOST
from scenarios.system import free_ports

ITEMS = 100
IDLE_S = 0.02  # before each order
LOOK_S = 0.0001  # between two looks at the database of payment
TIMEOUT_S = 10.0


def latency(processes: Processes, effort: Effort) -> list[Finding]:
    """One order at a time, until payment's commit can be seen from another process."""
    system = System(processes, processes.folder / "data")
    fill_shop(system.path("shop"), ITEMS)
    system.start(*NAMES)
    hops = _Hops(processes)
    number = effort.size(200, quick=20)
    tails: list[float] = []

    def pay() -> float:
        """The median of so many times in ms; their 99th percentile is noted beside it."""
        times = _payment_times_ms(system, number)
        tails.append(quantiles(times, n=100, method="inclusive")[98])
        return median(times)

    contestants = [
        Contestant("order to payment, median", pay, FLUSHED),
        Contestant("two hops, one commit, bare", lambda: median(hops.times_ms(number)), FLUSHED),
    ]
    ours, bare = take_turns("payment", contestants, effort)
    tail = Series(name="99th percentile", durability=FLUSHED, values=tails[1:])
    return [
        Finding(
            name="payment",
            about="from the answer of a checkout to the commit of its payment, idle",
            unit="ms",
            ours=ours,
            others=[bare],
            goal=Goal(kind="at most", limit=3),
        ),
        Finding(
            name="payment tail",
            about="the slowest hundredth of these payments",
            unit="ms",
            ours=tail,
            others=[ours],
            goal=Goal(kind="at most", limit=10),
        ),
    ]


def _payment_times_ms(system: System, number: int) -> list[float]:
    """From the moment at which the answer is read to that at which the payment can be read."""
    request = checkout(system.url("shop", ""))
    times = []
    with closing(sqlite3.connect(f"{system.path('payment').as_uri()}?mode=ro", uri=True)) as db:
        for _ in range(number):
            time.sleep(IDLE_S)
            order = from_json(ask(request).body)
            begun = time.perf_counter()
            while not _is_paid(db, order["id"]):
                if time.perf_counter() - begun > TIMEOUT_S:
                    raise Failed(f"order {order['id']} is not paid within {TIMEOUT_S:.0f} s")
                time.sleep(LOOK_S)
            times.append((time.perf_counter() - begun) * 1000)
    return times


def _is_paid(db: sqlite3.Connection, order_id: str) -> bool:
    query = "SELECT 1 FROM payment WHERE order_id = ?"
    return db.execute(query, [UUID(order_id).hex]).fetchone() is not None


class _Hops:
    """The other end of `bench.contestants.bare_hops`."""

    def __init__(self, processes: Processes) -> None:
        ports = free_ports()
        urls = [f"tcp://{HOST}:{next(ports)}" for _ in range(2)]
        module, database = "bench.contestants.bare_hops", str(processes.folder / "hops.db")
        processes.python("hops-forward", module, "forward", *urls)
        processes.python("hops-answer", module, "answer", *urls, database)
        self._context = zmq.Context()
        self._publisher = self._context.socket(zmq.PUB)
        self._subscriber = self._context.socket(zmq.SUB)
        self._publisher.connect(urls[0])
        self._subscriber.connect(urls[1])
        self._subscriber.subscribe(BACK)
        for _ in range(100):
            if self._send_and_hear(100):
                return
        raise Failed("the bare hops do not answer")

    def times_ms(self, number: int) -> list[float]:
        """How long so many messages take, one at a time."""
        times = []
        for _ in range(number):
            time.sleep(IDLE_S)
            begun = time.perf_counter()
            if not self._send_and_hear(int(TIMEOUT_S * 1000)):
                raise Failed("a bare hop lost a message")
            times.append((time.perf_counter() - begun) * 1000)
        return times

    def _send_and_hear(self, timeout_ms: int) -> bool:
        self._publisher.send_multipart([THERE, b"." * 500])
        if not self._subscriber.poll(timeout_ms):
            return False
        self._subscriber.recv_multipart()
        return True
