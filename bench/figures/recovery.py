"""Recovery: payment comes back to many waiting orders, while the shop goes on selling."""

import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from itertools import count
from pathlib import Path

from peewee import chunked

from bench.errors import Failed
from bench.filling import fill_journal, fill_shop, make
from bench.findings import Finding, Goal
from bench.processes import Processes
from bench.sales import Till
from bench.system import System, row
from bench.turns import FLUSHED, Contestant, Effort, take_turns
from runtime.process.clock import timestamp
from runtime.process.settings import NAMES
from shop.orders import uuid7

ITEMS = 100
BATCH = 256  # as many as a reader applies in one transaction
LOAD_S = 2.0
TIMEOUT_S = 600.0
PAYMENTS = "SELECT coalesce(max(id), 0) FROM payment"

# What payment writes for each event, and for each batch of them.
EACH = (
    """INSERT INTO inbox (stream, epoch, sequence, type, body, applied_at)
       VALUES ('orders', :epoch, :sequence, 'order.placed', :body, :at)""",
    """INSERT INTO payment (user_id, price, order_id, paid_at, announced)
       VALUES (1, 12000, :order_id, :at, 0)""",
    "UPDATE head SET sequence = sequence + 1",
    "INSERT INTO outbox (sequence, body) VALUES (:sequence, :body)",
)
PER_BATCH = """INSERT INTO cursor (stream, epoch, sequence) VALUES ('orders', :epoch, :sequence)
               ON CONFLICT DO UPDATE SET sequence = :sequence"""


def catching_up(processes: Processes, effort: Effort) -> list[Finding]:
    """Waiting orders paid a second, and what becomes of checkout meanwhile."""
    number = effort.size(50_000, quick=4_000)
    load_s = min(LOAD_S, effort.seconds)
    waiting = _Waiting(processes, number)
    contestants = [
        Contestant("payment, after it was away", waiting.catch_up, FLUSHED),
        Contestant(f"bare SQLite, {BATCH} in a commit", waiting.insert, FLUSHED),
        Contestant("checkout, nothing waits", lambda: waiting.sell_calmly(load_s), FLUSHED),
        Contestant("checkout meanwhile", lambda: waiting.sell_meanwhile(load_s), FLUSHED),
    ]
    rate, bare, calm, meanwhile = take_turns("recovery", contestants, effort)
    return [
        Finding(
            name="recovery",
            about=f"payment catches up with {number:,} orders",
            unit="orders/s",
            ours=rate,
            others=[bare],
            goal=Goal(kind="at least", limit=0.3),
        ),
        Finding(
            name="recovery load",
            about="checkout while payment catches up",
            unit="requests/s",
            ours=meanwhile,
            others=[calm],
            goal=Goal(kind="at least", limit=0.8),
        ),
    ]


class _Waiting:
    """A shop and a journal with so many orders of which payment has not heard."""

    def __init__(self, processes: Processes, number: int) -> None:
        self._processes = processes
        self._number = number
        self._template = processes.folder / "waiting"
        shop = fill_shop(self._template / "shop.db", ITEMS, number, paid=False)
        fill_journal(self._template / "broker.db", orders=shop)
        self._folders = (processes.folder / f"turn-{turn}" for turn in count(1))

    def catch_up(self) -> float:
        """Start payment, and wait for the last order; orders a second since it was ready."""
        with self._restarted() as system:
            (before,), begun = system.row("payment", PAYMENTS), time.monotonic()
            caught_up = partial(self._has_caught_up, system)
            system.running["payment"].wait_until(caught_up, "catches up", TIMEOUT_S)
            return (self._number - int(before)) / (time.monotonic() - begun)

    def insert(self) -> float:
        """Write the same rows, and do nothing else; orders a second."""
        with closing(sqlite3.connect(self._template / "shop.db")) as db:
            db.row_factory = sqlite3.Row
            told = db.execute("SELECT epoch, outbox.sequence, body FROM head, outbox")
            new = {"at": timestamp()}
            rows = [{**dict(event), **new, "order_id": uuid7().hex} for event in told]
        path = make(next(self._folders) / "payment.db")
        with closing(sqlite3.connect(path)) as db:
            db.execute("PRAGMA synchronous = full")
            begun = time.monotonic()
            for batch in chunked(rows, BATCH):
                with db:
                    for statement in EACH:
                        db.executemany(statement, batch)
                    db.execute(PER_BATCH, batch[-1])
            elapsed_s = time.monotonic() - begun
        if row(path, PAYMENTS) != (self._number,):
            raise Failed("rows are missing")
        shutil.rmtree(path.parent)
        return self._number / elapsed_s

    def sell_calmly(self, seconds: float) -> float:
        """Checkouts a second while everything runs and nothing waits."""
        folder = next(self._folders)
        fill_shop(folder / "shop.db", ITEMS)
        with self._started(folder) as system:
            return Till.of(system).sell(seconds)

    def sell_meanwhile(self, seconds: float) -> float:
        """Checkouts a second while payment catches up."""
        with self._restarted() as system:
            rate = Till.of(system).sell(seconds)
            if self._has_caught_up(system):
                raise Failed("payment caught up before the load ended: more orders must wait")
            return rate

    def _has_caught_up(self, system: System) -> bool:
        return system.row("payment", PAYMENTS) >= (self._number,)

    @contextmanager
    def _restarted(self) -> Iterator[System]:
        """Everything, with a payment that has just come back to all that waits."""
        folder = next(self._folders)
        shutil.copytree(self._template, folder)
        with self._started(folder) as system:
            yield system

    @contextmanager
    def _started(self, folder: Path) -> Iterator[System]:
        system = System(self._processes, folder)
        system.start("broker", "inventory", "shop")
        system.start("payment")
        yield system
        system.stop(*NAMES)
        shutil.rmtree(folder)
