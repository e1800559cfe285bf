"""Checkout: the shop's durable sale, against an empty server and against other frameworks."""

from functools import partial

from bench.filling import fill_shop
from bench.findings import Finding, Goal
from bench.load import JSON, Request, drive
from bench.processes import Processes
from bench.sales import BODY, Till
from bench.system import NAMES, System
from bench.turns import FLUSHED, Contestant, Effort, gather, need, take_turns

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
