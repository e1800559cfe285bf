"""Growth: whether checkout is as fast in large databases as in small ones."""

from functools import partial

from bench.filling import fill_shop
from bench.findings import Finding, Goal
from bench.processes import Processes
from bench.sales import Till
from bench.system import System
from bench.turns import FLUSHED, Contestant, Effort, take_turns

SIZES = ((1_000, 100), (100_000, 100), (1_000_000, 100), (1_000_000, 10_000))
QUICK_SIZES = ((1_000, 100), (10_000, 1_000))


def with_rows(processes: Processes, effort: Effort) -> list[Finding]:
    """The checkout of 3 items, broker and payment stopped, with more and more orders and items."""

    def shop(orders: int, items: int) -> Contestant:
        name = f"{orders:,} orders, {items:,} items"
        system = System(processes, processes.folder / f"{orders}-{items}")
        fill_shop(system.path("shop"), items, orders)
        system.start("shop")
        return Contestant(name, partial(Till.of(system).sell, effort.seconds), FLUSHED)

    sizes = QUICK_SIZES if effort.quick else SIZES
    small, *large = take_turns("growth", [shop(*size) for size in sizes], effort)
    return [
        Finding(
            name="growth",
            about=f"a checkout of 3 items with {series.name}",
            unit="requests/s",
            ours=series,
            others=[small],
            goal=Goal(kind="at least", limit=0.9),
        )
        for series in large
    ]
