"""The load: threads that buy, stock and pay, and remember what they were answered."""

import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from enum import StrEnum
from itertools import count
from typing import Any, NamedTuple
from uuid import uuid4

from runtime.process.errors import StartError
from scenarios.system import Answer, System

KEPT_ITEMS = 3  # these are never taken out of sale, so that a checkout of them is never refused
TOGGLED_ITEMS = 20  # of the newest ones
STOCK_TIMEOUT_S = 30.0
RETRY_PAUSE_S = 0.05


class Outcome(StrEnum):
    """What became of a request, as far as its client knows."""

    CONFIRMED = "confirmed"  # a 2xx was read
    REFUSED = "refused"  # any other answer was read
    UNANSWERED = "unanswered"  # the connection failed or broke first, or it took too long


class Request(NamedTuple):
    """A request that is to cause one event, which carries its ``id``."""

    id: str
    stream: str
    outcome: Outcome
    body: bytes  # of the answer

    @property
    def answer(self) -> Any:
        """What was confirmed; a toggle is answered with ``ok`` alone."""
        return None if self.body == b"ok" else json.loads(self.body)


class _Mine(threading.local):
    """What each thread has of its own."""

    def __init__(self) -> None:
        self.turns = count()


class Load:
    """Clients of the system, who go round the copies of each service.

    ``probes`` has the moment of each checkout that the prober had confirmed, one after the other,
    by `time.monotonic`.
    """

    def __init__(self, system: System, seed: int) -> None:
        self.requests: list[Request] = []
        self.tally: Counter[tuple[str, Outcome]] = Counter()
        self.probes: list[float] = []
        self._system = system
        self._seed = seed
        self._items: list[int] = []
        self._user_id = 0
        self._counting = threading.Lock()
        self._mine = _Mine()
        self._ending, self._hurried = threading.Event(), threading.Event()
        self._workers: list[Future[None]] = []

    def start(self) -> None:
        """Fill the shelves of a system that is ready, wait for the shop to hear of it, begin.

        Raises `StartError` if that does not go well.
        """
        deadline = time.monotonic() + STOCK_TIMEOUT_S
        self._user_id = self._ask_shop("POST", "/api/user", {"name": "Kesha"})["id"]
        dice = random.Random(self._seed)
        while len(self._items) < KEPT_ITEMS and time.monotonic() < deadline:
            self._create(dice)
        kept = set(self._items[:KEPT_ITEMS])
        while not kept <= {item["id"] for item in self._ask_shop("GET", "/api/items")}:
            if time.monotonic() >= deadline:
                raise StartError("the shop does not hear of the items")
            time.sleep(0.02)
        pool = ThreadPoolExecutor(thread_name_prefix="load")
        acts = [
            (self._probe, 0.01),
            (self._buy, 0.1),
            (self._buy, 0.1),
            (self._create, 0.5),
            (self._toggle, 0.2),
            (self._pay, 0.15),
        ]
        self._workers = [
            pool.submit(self._repeat, act, pause_s, random.Random(f"{self._seed} {number}"))
            for number, (act, pause_s) in enumerate(acts)
        ]
        pool.shutdown(wait=False)

    def _ask_shop(self, method: str, path: str, body: object = None) -> Any:
        answer = self._system.ask("shop", method, path, body, {}, STOCK_TIMEOUT_S)
        if answer.status >= 300:
            raise StartError(f"the shop has answered {path} with {answer}")
        return json.loads(answer.body)

    def stop(self) -> None:
        """Begin nothing new. What must be answered is still asked again, until `hurry`."""
        self._ending.set()

    def hurry(self) -> None:
        """Leave unanswered what is not answered now."""
        self.stop()
        self._hurried.set()

    def is_running(self) -> bool:
        """Whether a request is still to be made or answered; raises what a thread has raised."""
        return not all(worker.done() and worker.result() is None for worker in self._workers)

    def _repeat(
        self, act: Callable[[random.Random], None], pause_s: float, dice: random.Random
    ) -> None:
        while not self._ending.wait(dice.uniform(0, 2 * pause_s)):
            act(dice)

    def _probe(self, dice: random.Random) -> None:
        if self._checkout(self._items[:1], keyed=False).outcome is Outcome.CONFIRMED:
            self.probes.append(time.monotonic())
        else:
            self._ending.wait(RETRY_PAUSE_S)

    def _buy(self, dice: random.Random) -> None:
        keyed = dice.random() < 0.5
        basket = dice.choices(self._items[:KEPT_ITEMS], k=dice.randint(1, 4))
        self._checkout(basket if keyed else [*basket, dice.choice(self._items)], keyed)

    def _checkout(self, item_ids: list[int], keyed: bool) -> Request:
        body = {"user_id": self._user_id, "item_ids": item_ids}
        return self._send("orders", "shop", "POST", "/api/checkout", body, keyed)

    def _create(self, dice: random.Random) -> None:
        item = {"name": f"Seed {uuid4()}", "price": dice.randint(1, 10_000)}
        keyed = dice.random() < 0.5
        request = self._send("items", "inventory", "POST", "/api/item", {"item": item}, keyed)
        if request.outcome is Outcome.CONFIRMED:
            self._items.append(request.answer["id"])

    def _toggle(self, dice: random.Random) -> None:
        if newest := self._items[KEPT_ITEMS:][-TOGGLED_ITEMS:]:
            path = f"/api/items/{dice.choice(newest)}/toggle_status"
            self._send("items", "inventory", "PUT", path, None, keyed=False)

    def _pay(self, dice: random.Random) -> None:
        body = {"user_id": dice.randint(1, 10), "price": dice.randint(1, 10_000)}
        self._send("payments", "payment", "POST", "/api/payment", body, dice.random() < 0.5)

    def _send(
        self, stream: str, name: str, method: str, path: str, body: object, keyed: bool
    ) -> Request:
        """Make a request, and note its outcome; with a key, repeat it until it is answered."""
        request_id = uuid4().hex
        headers = {"X-Request-ID": request_id}
        if keyed:
            headers["Idempotency-Key"] = request_id
        answer = self._try(name, method, path, body, headers)
        while keyed and not _is_final(answer) and not self._hurried.wait(RETRY_PAUSE_S):
            answer = self._try(name, method, path, body, headers)
        if not _is_final(answer) and (keyed or self._system.settings.database_url(name)):
            answer = None  # it may have been done: when asked before, or in a commit that broke off
        request = Request(request_id, stream, _outcome(answer), answer.body if answer else b"")
        with self._counting:
            self.requests.append(request)
            self.tally[stream, request.outcome] += 1
        return request

    def _try(
        self, name: str, method: str, path: str, body: object, headers: dict[str, str]
    ) -> Answer | None:
        """Ask one copy of a service; this thread asks the next one the next time."""
        copies = self._system.copies(name)
        copy = copies[next(self._mine.turns) % len(copies)]
        try:
            answer = self._system.ask(copy, method, path, body, headers)
        except OSError:
            return None
        if answer.status == 500:
            self._system.complaints.append(f"{copy} has answered {path} with {answer}")
        return answer


def _is_final(answer: Answer | None) -> bool:
    """Whether asking again is of no use: a 503 says "try again" as much as silence does."""
    return answer is not None and answer.status < 500


def _outcome(answer: Answer | None) -> Outcome:
    if answer is None:
        return Outcome.UNANSWERED
    return Outcome.CONFIRMED if answer.status < 300 else Outcome.REFUSED
