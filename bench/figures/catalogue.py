"""Catalogue: the items for sale, sent whole, and asked for again unchanged."""

from bench.errors import Failed
from bench.filling import fill_shop
from bench.findings import Finding, Goal
from bench.load import Request, ask, drive
from bench.processes import Processes
from bench.system import System
from bench.turns import READS, Contestant, Effort, take_turns


def listed(processes: Processes, effort: Effort) -> list[Finding]:
    """A hundred items, sent whole."""
    request = _catalogue(processes, items=100)
    if ask(request).body.count(b'"id":') != 100:
        raise Failed("the catalogue does not list its 100 items")
    about = "GET /api/items of 100 items"
    return [_compared("catalogue", about, request, 200, 0.8, processes, effort)]


def unchanged(processes: Processes, effort: Effort) -> list[Finding]:
    """Ten thousand items that the client has already."""
    request = _catalogue(processes, items=10_000)
    etag = ask(request).headers["etag"]
    request = request._replace(headers={"If-None-Match": etag})
    about = "GET /api/items of 10,000 items, with If-None-Match, unchanged"
    return [_compared("unchanged", about, request, 304, 0.9, processes, effort)]


def _catalogue(processes: Processes, items: int) -> Request:
    system = System(processes, processes.folder / "data")
    fill_shop(system.path("shop"), items)
    system.start("shop")
    return Request("GET", system.url("shop", "/api/items"))


def _compared(
    name: str,
    about: str,
    request: Request,
    status: int,
    limit: float,
    processes: Processes,
    effort: Effort,
) -> Finding:
    empty = Request("GET", processes.serve("empty")[0])

    def answered(asked: Request, status: int) -> float:
        if (answer := ask(asked)).status != status:
            raise Failed(f"{asked.url} has answered {answer.status} where {status} is right")
        return drive(asked, effort.seconds).rate

    contestants = [
        Contestant("shop", lambda: answered(request, status), READS),
        Contestant("falcon + waitress, empty GET", lambda: answered(empty, 200)),
    ]
    ours, other = take_turns(name, contestants, effort)
    goal = Goal(kind="at least", limit=limit)
    return Finding(name=name, about=about, unit="requests/s", ours=ours, others=[other], goal=goal)
