"""Checkout: the shop's durable sale, against an empty server and against other frameworks."""

from functools import partial

import psutil

from bench.filling import fill_shop
from bench.findings import Finding, Goal
from bench.load import CONNECTIONS, JSON, Request, drive
from bench.processes import Process, Processes
from bench.sales import BODY, Till
from bench.system import System
from bench.turns import FLUSHED, Contestant, Effort, gather, need, take_turns
from runtime.process.settings import NAMES

ITEMS = 100


def alone(processes: Processes, effort: Effort) -> list[Finding]:
    """Three items bought while broker and payment are stopped."""
    shop = Contestant("shop", partial(_shop(processes, "shop").sell, effort.seconds), FLUSHED)
    ours, empty = take_turns("checkout", [shop, _empty(processes, effort)], effort)
    return [
        Finding(
            name="checkout",
            about="a checkout of 3 items, with broker and payment stopped",
            unit="requests/s",
            ours=ours,
            others=[empty],
            goal=Goal(kind="at least", limit=0.55),
        )
    ]


def with_everything(processes: Processes, effort: Effort) -> list[Finding]:
    """The same while everything runs; every order is paid before the next turn."""
    system = _system(processes)
    till = _open(system, *NAMES)

    def sell() -> float:
        rate = till.sell(effort.seconds)
        system.drain()
        return rate

    shop = Contestant("shop and all others", sell, FLUSHED)
    ours, empty = take_turns("everything", [shop, _empty(processes, effort)], effort)
    return [
        Finding(
            name="everything",
            about="the same checkout, with everything running",
            unit="requests/s",
            ours=ours,
            others=[empty],
        )
    ]


def cost(processes: Processes, effort: Effort) -> list[Finding]:
    """The CPU of one order in all processes, from its request to the payment the shop has heard of.

    And of an empty POST.
    """
    system = _system(processes)
    till = _open(system, *NAMES)
    url, empty = processes.serve("empty")

    def of_an_order() -> float:
        before = sum(map(_cpu_s, system.running.values()))
        answered = till.load(effort.seconds, CONNECTIONS).answered
        system.drain()
        return (sum(map(_cpu_s, system.running.values())) - before) / answered * 1e6

    def of_a_post() -> float:
        before = _cpu_s(empty)
        answered = drive(Request("POST", url, BODY, JSON), effort.seconds).answered
        return (_cpu_s(empty) - before) / answered * 1e6

    contestants = [
        Contestant("an order, all processes", of_an_order, FLUSHED),
        Contestant("falcon + waitress, empty POST", of_a_post),
    ]
    ours, other = take_turns("cost", contestants, effort)
    return [
        Finding(
            name="cost",
            about="the CPU of an order, from HTTP to paid, in all processes",
            unit="µs",
            ours=ours,
            others=[other],
            goal=Goal(kind="at most", limit=3),
        )
    ]


def tails(processes: Processes, effort: Effort) -> list[Finding]:
    """The 99th percentile of checkouts with everything running, by few and many connections."""
    system = _system(processes)
    till = _open(system, *NAMES)
    url, _ = processes.serve("empty")
    findings = []
    for connections in (4, 64, 256):

        def ours_ms(connections: int = connections) -> float:
            p99_ms = till.load(effort.seconds, connections).p99_ms
            system.drain()
            return p99_ms

        def other_ms(connections: int = connections) -> float:
            return drive(Request("POST", url, BODY, JSON), effort.seconds, connections).p99_ms

        contestants = [
            Contestant("shop and all others", ours_ms, FLUSHED),
            Contestant("falcon + waitress, empty POST", other_ms),
        ]
        name = f"tail {connections}"
        ours, other = take_turns(name, contestants, effort)
        about = f"the p99 of a checkout, everything running, {connections} connections"
        findings.append(Finding(name=name, about=about, unit="ms", ours=ours, others=[other]))
    return findings


def _cpu_s(process: Process) -> float:
    times = psutil.Process(process.pid).cpu_times()
    return float(times.user + times.system)


def among_frameworks(processes: Processes, effort: Effort) -> list[Finding]:
    """The same in other frameworks, with the same tables, pragmas, rules and event."""

    def other(module: str, libraries: list[str], name: str) -> Contestant:
        need("sqlalchemy", *libraries)
        database = fill_shop(processes.folder / module / "shop.db", ITEMS)
        url, _ = processes.serve(module, {"DATABASE": str(database)})
        return Contestant(name, partial(Till(url, database).sell, effort.seconds), FLUSHED)

    shop = Contestant("shop", partial(_shop(processes, "shop").sell, effort.seconds), FLUSHED)
    fastapi = partial(other, "fastapi_shop", ["fastapi", "uvicorn"])
    flask = partial(other, "flask_shop", ["flask"])
    contestants, left_out = gather(
        [
            ("FastAPI + uvicorn + SQLAlchemy", fastapi),
            ("Flask + waitress + SQLAlchemy", flask),
        ]
    )
    ours, *others = take_turns("frameworks", [shop, *contestants], effort)
    return [
        Finding(
            name="frameworks",
            about="the same checkout, broker and payment stopped, in other frameworks",
            unit="requests/s",
            ours=ours,
            others=others,
            goal=Goal(kind="at least", limit=4),
            left_out=left_out,
        )
    ]


def _system(processes: Processes) -> System:
    return System(processes, processes.folder / "data")


def _open(system: System, *names: str) -> Till:
    fill_shop(system.path("shop"), ITEMS)
    system.start(*names)
    return Till.of(system)


def _shop(processes: Processes, *names: str) -> Till:
    return _open(_system(processes), *names)


def _empty(processes: Processes, effort: Effort) -> Contestant:
    url, _ = processes.serve("empty")
    request = Request("POST", url, BODY, JSON)
    return Contestant("falcon + waitress, empty POST", lambda: drive(request, effort.seconds).rate)
