"""What of the product is replaced while a world runs: clocks, ids, sockets, logs, and limits."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import broker.journal
import messaging.dead_letters
import messaging.exchange
import messaging.follower
import messaging.inbox
import messaging.publisher
import messaging.recovery
import messaging.replay
import messaging.retention
import messaging.transports.wire
import payment.console
import runtime.process.clock
import service
import shop.orders
import shop.replay
from tests.simulation.disk import SimulatedFile

if TYPE_CHECKING:
    from tests.simulation.world import World

PACKAGES = ("broker", "messaging", "runtime", "inventory", "shop", "payment")


class Log:
    """What a module logs with: a warning is counted, and an error is kept, too."""

    def __init__(self, world: "World") -> None:
        self._world = world

    def debug(self, event: str, **_: object) -> None:
        """Nobody wants to know."""

    info = debug

    def warning(self, event: str, **details: object) -> None:
        """Count it."""
        self._world.count(f"log: {event.split(',', maxsplit=1)[0].split(':', maxsplit=1)[0]}")

    def error(self, event: str, exc_info: bool = False, **details: object) -> None:
        """Count and keep it; what the product did not expect breaks its promises."""
        self.warning(event)
        self._world.said(f"{event} {details}")
        if exc_info:
            self._world.broken(f"{event} {details}")

    exception = partial(error, exc_info=True)


@contextmanager
def patched(world: "World") -> Iterator[None]:
    """Put a world under the product."""
    seconds = SimpleNamespace(monotonic=world.clock, time_ns=world.wall_ns)
    silent = SimpleNamespace(show=lambda: None, clear=lambda: None)
    changes: list[tuple[Any, str, Any]] = [
        (SimulatedFile, "world", world),
        (runtime.process.clock, "now", world.wall),
        (messaging.retention, "now", world.wall),
        (broker.journal, "time", seconds),
        (broker.journal, "REPLAY_EVENTS", world.knobs["replay_events"]),
        (messaging.exchange, "ForwarderTransport", world.transport),
        (messaging.follower.Follower.__init__, "__defaults__", (world.clock,)),
        (messaging.publisher, "WINDOW_EVENTS", world.knobs["window_events"]),
        (messaging.publisher, "FIRST_WINDOW_EVENTS", 1 + world.knobs["window_events"] // 2),
        (messaging.publisher, "SMALL_WINDOW_EVENTS", 1 + world.knobs["window_events"] // 4),
        (messaging.inbox, "RUN_EVENTS", world.knobs["run_events"]),
        (messaging.publisher, "RUN_EVENTS", world.knobs["run_events"]),
        (messaging.transports.wire, "RUN_EVENTS", world.knobs["run_events"]),
        (messaging.recovery, "time", seconds),
        (messaging.recovery, "os", SimpleNamespace(urandom=world.random_bytes)),
        (messaging.replay, "time", seconds),
        (messaging.replay, "Progress", lambda tell: silent),
        (messaging.retention, "STEP_ROWS", world.knobs["step_rows"]),
        (service, "database_of", world.database_of),
        (service, "Retention", partial(messaging.retention.Retention, clock=world.clock)),
        (service, "Exchange", world.exchange),
        (messaging.dead_letters, "DeadLetters", world.dead_letters),
        (payment.console, "say", world.print),
        (payment.console, "BATCH", world.knobs["step_rows"]),
        (shop.orders, "uuid7", world.uuid),
        (shop.replay, "os", SimpleNamespace(getpid=lambda: 1)),
        (shop.replay, "STEP_ITEMS", world.knobs["step_rows"]),
        (shop.replay, "deliver", lambda line: None),
        (shop.replay, "time", SimpleNamespace(sleep=world.run)),
    ]
    log = Log(world)
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] in PACKAGES and hasattr(module, "log"):
            changes.append((module, "log", log))
    missing = object()
    before = [(owner, name, getattr(owner, name, missing)) for owner, name, _ in changes]
    for owner, name, value in changes:
        setattr(owner, name, value)
    try:
        yield
    finally:
        for owner, name, value in before:
            delattr(owner, name) if value is missing else setattr(owner, name, value)
