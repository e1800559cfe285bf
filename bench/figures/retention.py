"""Retention: whether it keeps up with a busy shop, and whether buyers notice."""

import time

from bench.errors import Failed
from bench.filling import AT, fill_old
from bench.findings import Finding, Goal, Series
from bench.load import drive
from bench.processes import Processes
from bench.sales import checkout
from bench.system import System, row
from bench.turns import FLUSHED, Contestant, Effort, take_turns

OLD = "(SELECT count(*) FROM inbox WHERE applied_at = ?)"
OLD += ", (SELECT count(*) FROM kept_answer WHERE kept_at = ?)"
KEEPS_UP = 3_000  # rows of each table a second: a paid order with a key leaves one of each
RUNS, RESTS = 30, 36_500  # days, after which what was filled in is old, or not yet


def under_load(processes: Processes, effort: Effort) -> list[Finding]:
    """The rows pruned of each table a second, and the p99 of checkout meanwhile and without."""
    system = System(processes, processes.folder / "data")
    fill_old(system.path("shop"), effort.size(1_000_000, quick=50_000))
    rates: list[float] = []

    def sell(days: int) -> float:
        """The p99 of checkouts with a key, in ms; what was pruned meanwhile is noted beside it."""
        system.settings = system.settings.model_copy(update={"retention_days": days})
        system.start("shop")
        before, begun = _old(system), time.monotonic()
        load = drive(checkout(system.url("shop", ""))._replace(has_keys=True), effort.seconds)
        after, elapsed_s = _old(system), time.monotonic() - begun
        system.stop("shop")
        pruned = [b - a for a, b in zip(after, before, strict=True)]
        if 0 in after or (days == RESTS and any(pruned)):
            raise Failed(f"{pruned} rows were pruned, and {after} are left")
        if days == RUNS:
            rates.append(min(pruned) / elapsed_s)
        return load.p99_ms

    contestants = [
        Contestant("retention runs", lambda: sell(RUNS), FLUSHED),
        Contestant("retention rests", lambda: sell(RESTS), FLUSHED),
    ]
    runs, rests = take_turns("retention", contestants, effort)
    rate = Series(name="pruned of each table", durability=FLUSHED, values=rates[1:])
    limit = Series(name="the limit", durability="", values=[KEEPS_UP] * effort.rounds)
    return [
        Finding(
            name="retention",
            about="old rows pruned of each table while the shop sells",
            unit="rows/s",
            ours=rate,
            others=[limit],
            goal=Goal(kind="at least", limit=1),
        ),
        Finding(
            name="retention tail",
            about="the slowest hundredth of checkouts with a key meanwhile",
            unit="ms",
            ours=runs,
            others=[rests],
            goal=Goal(kind="at most", limit=2),
        ),
    ]


def _old(system: System) -> tuple[int, ...]:
    return row(system.path("shop"), f"SELECT {OLD}", [AT, AT])
