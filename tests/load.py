"""Load on the running shop: what was confirmed to a user, and whether all of it came true."""

import json
import random
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

from tests.conftest import eventually
from tests.processes import ALL, STREAMS, Answer, World

PAUSE_S = 0.05  # between the requests of a thread
REFUSED_PAUSE_S = 0.1


class Load:
    """What one user does: each POST is repeated under its key until it is confirmed.

    Every second one once more, as if that answer had been lost. A toggle has no key: after one
    that was not answered its item may be in either state, and is left alone; also after a 503
    where the database is a server's, which may have ended while it committed.
    """

    def __init__(self, world: World) -> None:
        self.refused: Counter[str] = Counter()  # how often each process answered 503
        self._world = world
        self._basket = world.stock()
        self.user_id = self._basket["user_id"]
        self._name = f"Seed for user {self.user_id}"
        self._orders: dict[str, int] = {}  # the prices of what was confirmed
        self._payments: dict[int, int] = {}
        self._versions: dict[int, set[int]] = {}  # those that an item may have
        self._toggled = self.add()
        self._toggling = threading.Lock()

    def buy(self) -> str:
        quantity = random.randint(1, 3)
        basket = {**self._basket, "item_ids": self._basket["item_ids"] * quantity}
        order = self._confirmed("shop", "/api/checkout", basket)
        self._orders[order["id"]] = 4000 * quantity
        return str(order["id"])

    def pay(self) -> int:
        body = {"user_id": self.user_id, "price": random.randint(1, 10**6)}
        payment_id = self._confirmed("payment", "/api/payment", body)["id"]
        self._payments[payment_id] = body["price"]
        return int(payment_id)

    def add(self) -> int:
        new = {"item": {"name": self._name, "price": 1}}
        item_id = self._confirmed("inventory", "/api/item", new)["id"]
        self._versions[item_id] = {1}
        return int(item_id)

    def toggle(self) -> None:
        with self._toggling:
            self._toggle()

    def _toggle(self) -> None:
        (version,) = self._versions[self._toggled]
        possible = {version, version + 1}
        with suppress(OSError):
            path = f"/api/items/{self._toggled}/toggle_status"
            answer = self._world.ask("inventory", "PUT", path)
            if self._is_done("inventory", answer, 200):
                possible = {version + 1}
            elif not self._world.settings.inventory_database_url:
                possible = {version}
        self._versions[self._toggled] = possible
        if len(possible) > 1:
            self._toggled = self.add()

    def _confirmed(self, name: str, path: str, body: dict[str, Any]) -> Any:
        key = str(uuid.uuid4())

        def answer() -> Any:
            try:
                answer = self._world.post(name, path, body, Idempotency_Key=key)
            except OSError:  # nobody is there just now
                return None
            return answer.json() if self._is_done(name, answer, 201) else None

        answers = [eventually(answer, timeout_s=30) for _ in range(random.randint(1, 2))]
        assert answers[0] == answers[-1]
        return answers[0]

    def _is_done(self, name: str, answer: Answer, status: int) -> bool:
        """Only a database that cannot be used now is a reason not to do what is asked."""
        if answer.status == 503:
            assert answer.headers["Content-Type"] == "application/problem+json"
            assert int(answer.headers["Retry-After"]) > 0
            self.refused[name] += 1
            time.sleep(REFUSED_PAUSE_S)
            return False
        assert answer.status == status, answer
        return True

    def act(self) -> None:
        """Do each thing once."""
        for action in (self.buy, self.pay, self.add, self.toggle):
            action()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Do each thing again and again, in several threads, until the end of the block."""
        ending = threading.Event()
        actions = (self.buy, self.buy, self.buy, self.pay, self.add, self.toggle)

        def repeat(action: Callable[[], object]) -> None:
            while not ending.wait(PAUSE_S):
                action()

        with ThreadPoolExecutor(len(actions)) as pool:
            workers = [pool.submit(repeat, action) for action in actions]
            try:
                yield
            finally:
                ending.set()
            for worker in workers:
                worker.result()

    def advance(self) -> None:
        """Wait until some more is confirmed."""
        seen = self._confirmed_count()
        eventually(lambda: self._confirmed_count() > seen + 5)

    def _confirmed_count(self) -> int:
        return len(self._orders) + len(self._payments) + len(self._versions)

    def check(self, within_s: float = 30) -> None:
        """Wait until all is told and applied: then what was confirmed is there, everywhere once."""
        unpaid = f'SELECT id FROM "order" WHERE user_id = {self.user_id} AND paid_at IS NULL'
        eventually(lambda: not self._world.rows("shop", unpaid), within_s)
        eventually(self._world.is_drained, within_s)
        self._check_items()
        self._check_orders_and_payments(self._journal()["payments"])
        for name in ALL:
            if not self._world.settings.database_url(name):
                assert self._world.rows(name, "PRAGMA integrity_check") == [("ok",)]

    def _check_items(self) -> None:
        items = "SELECT id, name, price, active, version FROM item ORDER BY id"
        eventually(lambda: self._world.rows("shop", items) == self._world.rows("inventory", items))
        mine = [row for row in self._world.rows("inventory", items) if row[1] == self._name]
        assert [item_id for item_id, *_ in mine] == sorted(self._versions)
        for item_id, _, _, active, version in mine:
            assert version in self._versions[item_id]
            assert active == version % 2

    def _check_orders_and_payments(self, told: list[Any]) -> None:
        orders = self._world.get("shop", f"/api/orders?user_id={self.user_id}")
        assert _facts(orders, "id", "price") == sorted(self._orders.items())
        payments = self._world.get("payment", f"/api/payments?user_id={self.user_id}")
        for_orders = [payment for payment in payments if payment["order_id"]]
        assert _facts(for_orders, "order_id", "price") == sorted(self._orders.items())
        direct = [payment for payment in payments if not payment["order_id"]]
        assert _facts(direct, "id", "price") == sorted(self._payments.items())
        told = [fact for fact in told if fact["user_id"] == self.user_id]
        paid = _facts(payments, "id", "order_id", "price")
        assert _facts(told, "payment_id", "order_id", "price") == paid

    def _journal(self) -> dict[str, list[Any]]:
        """What each stream tells; the journal has it byte for byte as it is in the outbox."""
        told = "SELECT epoch, outbox.sequence, body FROM head, outbox ORDER BY outbox.sequence"
        kept = "SELECT epoch, sequence, body FROM entry WHERE stream = '{}' ORDER BY 1, 2"
        facts = {}
        for name, stream in STREAMS.items():
            events = self._world.rows(name, told)
            assert self._world.rows("broker", kept.format(stream)) == events
            assert [sequence for _, sequence, _ in events] == list(range(1, len(events) + 1))
            facts[stream] = [json.loads(body)["data"] for *_, body in events]
        return facts


@contextmanager
def under_load(world: World) -> Iterator[Load]:
    """Load before, during and after what the block does; then all of it has come true."""
    load = Load(world)
    load.act()
    with load.running():
        load.advance()
        yield load
        load.advance()
    load.act()
    load.check()


def _facts(rows: Iterable[dict[str, Any]], *names: str) -> list[tuple[Any, ...]]:
    return sorted(tuple(row[name] for name in names) for row in rows)
