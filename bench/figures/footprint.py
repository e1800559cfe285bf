"""Footprint: the memory of each process, and how long all of them take to start."""

import time
from itertools import count

import psutil

from bench.findings import Finding, Goal, Series
from bench.load import Request, ask
from bench.processes import Processes, wait_until
from bench.system import System
from bench.turns import Contestant, Effort, take_turns
from runtime.process.settings import NAMES

MIB = 1024 * 1024
READY_S = 2.0
ASKED = 50  # requests before memory is read, so that what is loaded late is there
ASKED_FOR = {
    "broker": "/readyz",
    "inventory": "/api/items",
    "shop": "/api/items",
    "payment": "/api/payments",
}
WITH_TABLES = "makes its databases and keys"


def of_processes(processes: Processes, effort: Effort) -> list[Finding]:
    """All four from nothing, in a new folder each time, beside an empty server."""
    memory: dict[str, list[float]] = {name: [] for name in NAMES}
    turn = count()

    def start() -> float:
        system = System(processes, processes.folder / f"data-{next(turn)}")
        begun = time.monotonic()
        system.spawn(*NAMES)
        wait_until(system.is_connected, "all are ready")
        elapsed_s = time.monotonic() - begun
        for name in NAMES:
            _ask_often(Request("GET", system.url(name, ASKED_FOR[name])))
            memory[name].append(_own_memory_mib(system.running[name].pid))
        system.stop(*NAMES)
        return elapsed_s

    def empty() -> float:
        url, process = processes.serve("empty")
        _ask_often(Request("GET", url))
        mib = _own_memory_mib(process.pid)
        processes.stop(process)
        return mib

    contestants = [
        Contestant("from nothing to ready", start, WITH_TABLES),
        Contestant("falcon + waitress, empty", empty, durability=""),
    ]
    elapsed, least = take_turns("footprint", contestants, effort)
    limit = Series(name="the limit", durability="", values=[READY_S] * effort.rounds)
    return [
        *(
            Finding(
                name="memory",
                about=f"memory of {name} alone, not shared with other processes",
                unit="MiB",
                ours=Series(name=name, durability="", values=memory[name][1:]),
                others=[least],
                goal=Goal(kind="at most", limit=3.5),
            )
            for name in NAMES
        ),
        Finding(
            name="start",
            about="all four processes from nothing to ready and connected",
            unit="s",
            ours=elapsed,
            others=[limit],
            goal=Goal(kind="at most", limit=1),
        ),
    ]


def _ask_often(request: Request) -> None:
    for _ in range(ASKED):
        ask(request)


def _own_memory_mib(pid: int) -> float:
    return float(psutil.Process(pid).memory_full_info().uss) / MIB
