"""Growth: whether large databases are as fast as small ones."""

import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple
from uuid import UUID

from pydantic_core import to_json

from bench.errors import Failed
from bench.filling import Rows, fill_all, fill_shop
from bench.findings import Finding, Goal
from bench.load import JSON, Request, ask, drive
from bench.processes import Processes, wait_until
from bench.sales import Till
from bench.system import System, row
from bench.turns import FLUSHED, READS, Contestant, Effort, take_turns
from runtime.process.output import say
from runtime.process.settings import NAMES

SIZES = ((1_000, 100), (100_000, 100), (1_000_000, 100), (1_000_000, 10_000))
QUICK_SIZES = ((1_000, 100), (10_000, 1_000))
PAGE = 1_000
FEW = Rows(orders=2 * PAGE, items=PAGE, users=2 * PAGE, keys=PAGE)
MANY = Rows(orders=1_000_000, items=100_000, users=100_000, keys=1_000_000)
QUICK_MANY = Rows(orders=10_000, items=5_000, users=5_000, keys=10_000)
NEW_ITEM = to_json({"item": {"name": "Honey", "price": 5}})
ORDER = 'SELECT id FROM "order" WHERE number = ?'
KEPT = "SELECT count(*) FROM kept_answer"
AT_LEAST, AT_MOST = Goal(kind="at least", limit=0.9), Goal(kind="at most", limit=1.5)


def with_rows(processes: Processes, effort: Effort) -> list[Finding]:
    """The checkout with more and more orders and items; then all else, with few rows and many."""
    findings = _checkout(processes, effort)
    sizes = FEW, QUICK_MANY if effort.quick else MANY
    both = [_Filled(processes, rows, effort.seconds) for rows in sizes]
    for work in WORK:
        if work.needs:
            for filled in both:
                filled.start(work.needs)
        few, many = take_turns(
            f"growth {work.name}",
            [
                Contestant(f"{each.rows}", partial(work.measure, each), work.durability)
                for each in both
            ],
            effort,
        )
        for filled in both:
            filled.stop()
        findings.append(
            Finding(
                name=f"growth {work.name}",
                about=work.about,
                unit=work.unit,
                ours=many,
                others=[few],
                goal=work.goal,
            )
        )
    return findings


def _checkout(processes: Processes, effort: Effort) -> list[Finding]:
    """The checkout of 3 items, broker and payment stopped."""

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
            goal=AT_LEAST,
        )
        for series in large
    ]


class _Filled:
    """A whole system of so many rows, in which nothing waits."""

    def __init__(self, processes: Processes, rows: Rows, seconds: float) -> None:
        self.rows = rows
        self._seconds = seconds
        self._system = System(processes, processes.folder / f"filled-{rows.orders}")
        say(f"filling databases: {rows}")
        fill_all(self._system.settings.data_dir, rows)

    def start(self, name: str) -> None:
        """Start one process."""
        self._system.start(name)

    def stop(self) -> None:
        """End what runs."""
        self._system.stop(*self._system.running)

    def start_all(self) -> float:
        """Seconds until all four are ready and connected."""
        begun = time.monotonic()
        self._system.spawn(*NAMES)
        wait_until(self._system.is_connected, "all are ready")
        elapsed_s = time.monotonic() - begun
        self.stop()
        return elapsed_s

    def sell_with_keys(self) -> float:
        """Checkouts a second, each of which has left its answer under a key of its own."""
        path = self._system.path("shop")
        (before,) = row(path, KEPT)
        rate = Till.of(self._system).sell(self._seconds, has_keys=True)
        if row(path, KEPT) <= (before,):
            raise Failed("no answers were kept")
        return rate

    def first_orders(self) -> float:
        """Pages of a user's newest orders a second."""
        return self._pages("shop", "/api/orders?user_id=1")

    def last_orders(self) -> float:
        """Pages of a user's oldest orders a second."""
        (last,) = row(self._system.path("shop"), ORDER, [PAGE + 1])
        return self._pages("shop", f"/api/orders?user_id=1&limit={PAGE}&after={UUID(last)}")

    def first_payments(self) -> float:
        """Pages of the newest payments a second."""
        return self._pages("payment", "/api/payments")

    def last_payments(self) -> float:
        """Pages of the oldest payments a second."""
        return self._pages("payment", f"/api/payments?limit={PAGE}&after={PAGE + 1}")

    def last_users(self) -> float:
        """Pages of the newest users, which come last, a second."""
        return self._pages("shop", f"/api/users?limit={PAGE}&after={self.rows.users - PAGE}")

    def _pages(self, name: str, path: str) -> float:
        request = Request("GET", self._system.url(name, path))
        if ask(request).body.count(b'"id":') != PAGE:
            raise Failed(f"{request.url} is no page of {PAGE:,}")
        return drive(request, self._seconds).rate

    def unchanged_items(self) -> float:
        """How often a second the warehouse says that its list is unchanged."""
        request = Request("GET", self._system.url("inventory", "/api/items"))
        request = request._replace(headers={"If-None-Match": ask(request).headers["etag"]})
        if (answer := ask(request)).status != 304:
            raise Failed(f"{request.url} has answered {answer.status}")
        return drive(request, self._seconds).rate

    def new_items(self) -> float:
        """Items that the warehouse takes in a second."""
        url = self._system.url("inventory", "/api/item")
        return drive(Request("POST", url, NEW_ITEM, JSON), self._seconds).rate


class _Work(NamedTuple):
    name: str
    about: str
    measure: Callable[[_Filled], float]
    needs: str  # the process that runs; none where that is what is measured
    durability: str = READS
    unit: str = "requests/s"
    goal: Goal = AT_LEAST


WORK = (
    _Work(
        "start",
        "all four processes, until ready and connected",
        _Filled.start_all,
        needs="",
        durability="",
        unit="s",
        goal=AT_MOST,
    ),
    _Work("keys", "checkout of 3 items, with a key", _Filled.sell_with_keys, "shop", FLUSHED),
    _Work("orders", "a user's newest 1,000 orders", _Filled.first_orders, "shop"),
    _Work("orders, end", "a user's oldest 1,000 orders", _Filled.last_orders, "shop"),
    _Work("payments", "the newest 1,000 payments", _Filled.first_payments, "payment"),
    _Work("payments, end", "the oldest 1,000 payments", _Filled.last_payments, "payment"),
    _Work("users, end", "the last 1,000 users", _Filled.last_users, "shop"),
    _Work("stock", "the warehouse's list, unchanged", _Filled.unchanged_items, "inventory"),
    _Work("new items", "a new item", _Filled.new_items, "inventory", FLUSHED),
)
