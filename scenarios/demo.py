"""The demo: a stocked shop whose processes are killed one after another."""

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pydantic_core import from_json

from runtime.process.output import deliver
from runtime.process.settings import SERVICES, Settings, authority
from runtime.process.signals import stop_signals
from scenarios.system import ON_FILES, System

ASSORTMENT = (  # prices in the smallest coin
    ("Millet, 5 kg", 4000),
    ("Millet sprays, bundle of 20", 1250),
    ("Sunflower seeds, striped, 10 kg", 3190),
    ("Budgerigar mixture, 25 kg", 5450),
    ("Cockatiel mixture, 15 kg", 3980),
    ("Amazon & grey parrot mixture, 15 kg", 4675),
    ("Lory nectar, 1 kg", 2290),
    ("Egg food, moist, 5 kg", 2480),
    ("Pine nuts, 1 kg", 1890),
    ("Dried papaya, 1 kg", 1420),
    ("Cuttlebone", 150),
    ("Mineral block", 290),
    ("Java wood perch", 1150),
    ("Sisal rope swing", 1490),
    ("Foraging wheel", 2350),
    ("Balsa blocks to shred, 12", 890),
)
PATIENCE_S = 30.0
READING_PAUSE_S = 2.5  # between two steps, for the visitor


class Failure(Exception):
    """Something did not happen as the demo says."""


def demo(settings: Settings, leave: bool) -> int:
    """Play the demo on the ports of these settings, in a folder of its own; returns the exit code.

    With ``leave`` it ends after that, else at Ctrl-C.
    """
    with TemporaryDirectory(prefix="parrot-demo-") as folder, stop_signals() as stopped:
        own = settings.model_copy(
            update={**ON_FILES, "data_dir": Path(folder) / "data", "log_level": "warning"}
        )
        system = System(Path(folder), own)
        try:
            Story(system, lambda: bool(stopped(0 if leave else READING_PAUSE_S))).tell()
            if not leave:
                deliver("\nAll four keep running for you: the pages are at the addresses above.")
                deliver("Ctrl-C stops them, and throws their data away.")
                while not stopped(1):
                    pass
        except KeyboardInterrupt:
            deliver("Ended early.")
        except Failure as failure:
            deliver(f"FAILED: {failure}")
            return 1
        finally:
            system.terminate(SERVICES)
            system.terminate(["broker"])
            system.end()
    return 0


class Story:
    """The steps; ``pause`` waits between two of them, and returns whether it is to end."""

    def __init__(self, system: System, pause: Callable[[], bool]) -> None:
        self._system = system
        self._pause = pause
        self._steps = 0
        self._ids: list[int] = []
        self._orders: list[str] = []

    def tell(self) -> None:
        """Play all steps; `Failure` if one does not end well, `KeyboardInterrupt` on Ctrl-C."""
        self._open()
        self._step("Kesha buys. The shop answers at once; an event triggers the payment.")
        self._await_payment(self._buy(0, 10, 10))

        self._step("The warehouse is killed (kill -9). The shop has its own copy of the catalogue:")
        self._system.kill(["inventory"])
        self._list()
        self._await_payment(self._buy(2, 12))
        self._restart("inventory")

        self._step("Payment is killed. The shop still takes orders; they stay placed.")
        self._system.kill(["payment"])
        waiting = [self._buy(5), self._buy(14, 15)]
        self._step("Payment is back, and asks the broker's journal for what it missed:")
        self._restart("payment")
        for order in waiting:
            self._await_payment(order)

        self._step("Payment is killed, one more order is placed, and the shop is killed as well.")
        self._system.kill(["payment"])
        last = self._buy(6, 9)
        self._until("the journal has the order", lambda: not self._waiting("shop"))
        self._system.kill(["shop"])
        self._step("Payment is back, while the shop is still down:")
        self._restart("payment")
        self._show_payment(last)
        self._step("The shop is back, and hears that the order was paid:")
        self._restart("shop")
        self._await_payment(last)

        self._step("Even the broker may go: events wait in each service until it is back.")
        self._system.kill(["broker"])
        waiting = [self._buy(13)]
        self._restart("broker")
        self._await_payment(waiting[0])
        self._conclude()

    def _open(self) -> None:
        deliver("A new parrot shop is starting: broker, warehouse, shop and payment.")
        self._system.start()
        self._ready(("broker", *SERVICES))
        for name in SERVICES:
            settings = self._system.settings
            deliver(f"{name:9} http://{authority(settings.host, settings.http_port(name)[0])}")
        self._step(f"The warehouse takes in {len(ASSORTMENT)} kinds of feed and toys.")
        for name, price in ASSORTMENT:
            item = self._ask("inventory", "/api/item", {"item": {"name": name, "price": price}})
            self._ids.append(item["id"])
        self._kesha = self._ask("shop", "/api/user", {"name": "Kesha"})["id"]
        self._until("the shop hears of the items", lambda: self._on_sale() == len(ASSORTMENT))
        self._list()

    def _conclude(self) -> None:
        payments = self._ask("payment", "/api/payments")
        paid = sorted(payment["order_id"] for payment in payments)
        if paid != sorted(self._orders):
            raise Failure(f"{len(self._orders)} orders, and {len(paid)} payments: {paid}")
        self._step(f"{len(paid)} orders, {len(paid)} payments, each once; nothing was lost.")

    def _step(self, text: str) -> None:
        if self._steps and self._pause():
            raise KeyboardInterrupt
        self._steps += 1
        deliver(f"\n{self._steps}. {text}")

    def _list(self) -> None:
        deliver(f"   GET /api/items      {self._on_sale()} items for sale")

    def _buy(self, *positions: int) -> str:
        """Place an order for these of the assortment, and give its id."""
        item_ids = [self._ids[position] for position in positions]
        order = self._ask("shop", "/api/checkout", {"user_id": self._kesha, "item_ids": item_ids})
        self._orders.append(order["id"])
        bought = "; ".join(f"{line['quantity']} x {line['name']}" for line in order["items"])
        deliver(f"   POST /api/checkout  201, order {order['id'][:8]} is {order['status']}")
        deliver(f"                       {bought}; {_money(order['price'])} in all")
        return str(order["id"])

    def _await_payment(self, order_id: str) -> None:
        begun = time.monotonic()

        def is_paid() -> bool:
            return bool(self._ask("shop", f"/api/orders/{order_id}")["status"] == "paid")

        self._until(f"order {order_id} is paid", is_paid)
        elapsed_s = time.monotonic() - begun
        self._show_payment(order_id)
        deliver(
            f"   GET /api/orders     order {order_id[:8]} is paid, seen after {elapsed_s:.2f} s"
        )

    def _show_payment(self, order_id: str) -> None:
        """Wait for the line that payment writes on its console."""
        console = self._system.folder / "payment.out"

        def lines() -> Iterable[str]:
            text = console.read_text(errors="replace")
            return [line for line in text.splitlines() if order_id in line]

        self._until(f"order {order_id} is paid", lambda: bool(lines()))
        for line in lines():
            deliver(f"   payment's console   {line}")

    def _restart(self, name: str) -> None:
        self._system.start([name])
        self._ready([name])
        deliver(f"   python -m {name}")

    def _ready(self, names: Iterable[str]) -> None:
        self._system.wait_until_ready(names)
        if self._system.complaints:
            raise Failure("; ".join(self._system.complaints))

    def _waiting(self, name: str) -> bool:
        return bool(self._system.state(name).get("outbox_waiting", True))

    def _on_sale(self) -> int:
        return len(self._ask("shop", "/api/items"))

    def _ask(self, name: str, path: str, body: object = None) -> Any:
        """The answer to a GET, or to a POST of ``body``."""
        method = "GET" if body is None else "POST"
        try:
            answer = self._system.ask(name, method, path, body, timeout_s=PATIENCE_S)
        except OSError as error:
            raise Failure(f"{name} does not answer {method} {path}: {error}") from error
        if answer.status >= 400:
            raise Failure(f"{method} {path} answered {answer.status}: {answer.body.decode()}")
        return from_json(answer.body)

    def _until(self, what: str, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            if time.monotonic() > deadline:
                raise Failure(f"this did not happen within {PATIENCE_S:.0f} s: {what}")
            time.sleep(0.01)


def _money(price: int) -> str:
    return f"{price // 100:,}.{price % 100:02}"
