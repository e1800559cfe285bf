"""Crowd: hundreds of clients come together and keep asking, until the last one is served, too."""

import resource
import select
import socket
import time
from contextlib import ExitStack
from urllib.parse import urlsplit

from bench.errors import Failed
from bench.filling import fill_shop
from bench.findings import Finding, Goal, Series
from bench.load import ANSWER_TIMEOUT_S
from bench.processes import Processes
from bench.system import System
from bench.turns import Contestant, Effort, take_turns

CLIENTS = 900
LIMIT_S = 0.5
GET = b"GET /api/items HTTP/1.1\r\nHost: shop\r\n\r\n"


def of_clients(processes: Processes, effort: Effort) -> list[Finding]:
    """From the moment at which all connect to that at which the last has its first answer."""
    system = System(processes, processes.folder / "data")
    fill_shop(system.path("shop"), 1)
    system.start("shop")
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    name = f"first answers of {CLIENTS} clients"
    ours = Contestant(name, lambda: _first_answers_s(system.url("shop", "")), "only reads")
    (first,) = take_turns("crowd", [ours], effort)
    limit = Series(name="the limit", durability="", values=[LIMIT_S] * effort.rounds)
    return [
        Finding(
            name="crowd",
            about=f"{CLIENTS} clients that connect together and keep asking, each answered once",
            unit="s",
            ours=first,
            others=[limit],
            goal=Goal(kind="at most", limit=1),
        )
    ]


def _first_answers_s(url: str) -> float:
    host, port = urlsplit(url).hostname, urlsplit(url).port
    poller = select.poll()
    with ExitStack() as stack:
        begun, clients = time.monotonic(), dict[int, socket.socket]()
        for _ in range(CLIENTS):
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex((host, port))
            poller.register(client, select.POLLOUT)
            clients[client.fileno()] = client
        waiting = set(clients)
        while waiting:
            for descriptor, event in poller.poll(1000):
                if event & select.POLLOUT:
                    poller.modify(descriptor, select.POLLIN)
                elif clients[descriptor].recv(65536).startswith(b"HTTP/1.1 200 "):
                    waiting.discard(descriptor)
                clients[descriptor].sendall(GET)
            if time.monotonic() - begun > ANSWER_TIMEOUT_S:
                raise Failed(f"{len(waiting)} of {CLIENTS} clients were not answered")
        return time.monotonic() - begun
