"""Processes: the product's parts, stepped by the scheduler, which crash, stop, and start again."""

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from peewee import PeeweeException

from broker.journal import Journal
from examples.loyalty import Loyalty
from inventory.app import Inventory
from messaging.exchange import STOP_TIMEOUT_S
from messaging.transports.wire import Run, Want, topic
from payment.app import Payment
from payment.console import Console
from runtime.process.errors import StartError
from service import Service
from shop.app import Shop
from tests.simulation.disk import WRITES, Armed, Crash, SimulatedFile
from tests.simulation.network import Endpoint

if TYPE_CHECKING:
    from tests.simulation.world import World

TICK_S = 0.45  # how late a timer may be; what happens wakes the process at once
CONSOLE_S = 4.0  # how soon the console looks for what nobody has told it of
LOOK_S = 0.5  # how late a copy notices that it does not lead any more, or does now
MAX_STATEMENTS = 20_000  # in one step: more is a loop without an end
NEVER = float("inf")


class Process:
    """A process of the shop, or what is left of it: its files, and the network's view of it.

    ``name`` is its own, ``role`` what it runs: a service, "broker" or "loyalty".
    """

    def __init__(self, world: "World", name: str, role: str, folder: Path) -> None:
        self.world, self.name, self.role, self.folder = world, name, role, folder
        self.path = folder / f"{role}.db"
        self.up = self.calm = self.is_copied = self.waits_itself = False
        self.parts: Any = None
        self.files: list[SimulatedFile] = []
        self.connections: list[sqlite3.Connection] = []
        self.endpoints: list[Endpoint] = []
        self.armed: list[Armed] = []
        self.said: list[str] = []  # the errors that it has logged since its start
        self.stopped_until = self.cut_until = self.outage_until = self.cut_at = -NEVER
        self.cut_ways = "both"
        self._next_tick = 0.0
        self._ending = False
        self._statements = 0
        self._term, self._look_at = 0, -NEVER

    @property
    def account(self) -> str:
        """Under which name the ledger has what its database was asked."""
        return self.role if self.folder == self.world.data else self.name

    @property
    def answers(self) -> bool:
        """Whether a client that asks it now gets an answer."""
        return self.up and self.world.now >= self.stopped_until

    # Life and death

    def start(self) -> None:
        """Start it, if it can; a fault of its disk may end it at once."""
        if self.up:
            return
        self.up, self._ending, self.said = True, False, []
        self._look_at = -NEVER
        self._calm_down()
        try:
            self.run(self._make)
        except (StartError, PeeweeException, sqlite3.Error) as error:
            self.world.note("not started", self.name, type(error).__name__)
            self.world.count(f"not started: {self.role}")
            self._die()
        self._next_tick = self.world.now

    def _make(self) -> None:
        raise NotImplementedError

    def run(self, action: Callable[[], Any]) -> Any:
        """Do something as this process; None if it crashed meanwhile."""
        world = self.world
        before, world.running = world.running, self
        world.stack.append(self)
        self._statements = 0
        try:
            return action()
        except Crash:
            world.note("crashed", self.name)
            self._die()
            return None
        finally:
            world.stack.pop()
            world.running = before

    def crash(self) -> None:
        """End amid what it does."""
        self.calm = self.up = False
        raise Crash

    def kill(self) -> None:
        """End it, between two steps."""
        if self.up:
            self._die()

    def _die(self) -> None:
        self.up = self.calm = False
        self._collect()
        self.parts = None
        for endpoint in list(self.endpoints):
            endpoint.close()
        for connection in list(self.connections):
            connection.close()  # which undoes what was not committed
        for file in self.files:
            file.release()
        self.connections, self.files = [], []
        self.armed = []
        self.stopped_until = -NEVER

    def _collect(self) -> None:
        """Count what its parts have counted, before they go."""

    def end(self) -> None:
        """Begin to end as SIGTERM asks for."""
        if self.up and not self._ending:
            self._ending = True
            self._begin_to_end()
            self.wake()

    def _begin_to_end(self) -> None:
        raise NotImplementedError

    # Time

    def wake(self) -> None:
        """Be stepped as soon as the scheduler comes to it."""
        self._next_tick = self.world.now

    def heard(self, messages: int) -> None:
        """Count what came in."""

    @property
    def due(self) -> float:
        """When it is to be stepped next."""
        if not self.up or self.waits_itself:
            return NEVER
        at = self._next_tick
        for endpoint in self.endpoints:
            if endpoint.waiting and endpoint.waiting[0][0] < at:
                at = endpoint.waiting[0][0]
        return max(at, self.stopped_until)

    def step(self) -> None:
        """Let it do what is to be done now."""
        self._next_tick = self.world.now + TICK_S
        self.run(self._step)

    def _step(self) -> None:
        raise NotImplementedError

    # Faults

    def arm(self, fault: Armed) -> None:
        """Let a fault happen to it at a statement to come."""
        self.armed.append(fault)
        self.calm = False

    def fail_until(self, at: float) -> None:
        """Let its disk fail until then."""
        self.outage_until = at
        self.calm = False

    def _calm_down(self) -> None:
        faulty = self.armed or any(each.is_damaged for each in self.connections)
        self.calm = self.up and not faulty and self.world.now >= self.outage_until

    def at_point(self, word: str, in_transaction: bool = False) -> str | None:
        """What befalls a statement, or a message to be sent: the kind of a fault, or None."""
        world = self.world
        if not self.up:
            raise Crash
        self._statements += 1
        if self._statements > MAX_STATEMENTS:
            world.broken(f"{self.name} does not come to an end in one step")
        if word in WRITES and world.now < self.outage_until and world.dice.random() < 0.7:
            world.fault("disk", "outage")
            return "rolled back" if in_transaction and world.dice.random() < 0.5 else "error"
        for fault in self.armed:
            if fault.is_due(word) and not (fault.kind == "sleep" and in_transaction):
                self.armed.remove(fault)
                self._calm_down()
                return self._befall(fault, word)
        if not self.armed:
            self._calm_down()
        return None

    def _befall(self, fault: Armed, word: str) -> str | None:
        world = self.world
        group = "process" if fault.kind.startswith(("crash", "sleep")) else "disk"
        world.fault(group, f"{fault.kind} at {word.lower()}")
        if fault.kind == "sleep":
            if fault.fall:
                world.usurp(self)
            world.run(fault.seconds)
            return None
        if word == "SEND":
            self.crash()
        return fault.kind

    def leads(self) -> int:
        """For which term it leads, as far as it has noticed; without copies, it does."""
        if not self.is_copied:
            return 1
        if self.world.now >= self._look_at:
            self._look_at = self.world.now + LOOK_S
            self._term = self.world.term_of(self)
        return self._term

    # What it says

    def problem(self) -> str | None:
        """The ``problem`` of its ``/readyz``."""
        raise NotImplementedError


class BrokerProcess(Process):
    """The journal; the forwarder beside it is the network, which is down while this is."""

    def _make(self) -> None:
        peer = Endpoint(self.world.network, self, "journal", [topic(Run), topic(Want)])
        self.parts = Journal(self.path, peer, self.world.clock, SimulatedFile)
        self.parts.open()
        peer.open()

    def _step(self) -> None:
        self.parts.step()
        if self._ending:
            self._die()

    def _begin_to_end(self) -> None:
        pass

    def _collect(self) -> None:
        if self.parts:
            self.world.count("replayed events", self.parts._replayed)
            self.world.count("stored events", self.parts._stored)

    def problem(self) -> str | None:
        """The ``problem`` of its ``/readyz``."""
        return self.parts._trouble if self.parts else None


class ServiceProcess(Process):
    """A service: its exchange, its console if it has one, and what it is asked."""

    make: ClassVar[dict[str, type[Service]]] = {
        each.name: each for each in (Inventory, Shop, Payment, Loyalty)
    }

    def _make(self) -> None:
        self.parts = self.make[self.role](self.world.settings(self.folder))
        self.parts.database.claim()
        self.exchange = self.parts.exchange
        self.exchange._transport.open()
        self._console = next((task for task in self.parts.tasks if isinstance(task, Console)), None)
        self._announce_at = self.world.now

    @property
    def stream(self) -> str:
        """The stream that it writes."""
        return str(self.exchange._outbox.stream)

    def _step(self) -> None:
        goes_on = self.exchange.step()
        if self._console:
            self._announce(self._console)
        if not goes_on:
            self.world.count("ended in order")
            self._die()

    def _announce(self, console: Console) -> None:
        """A turn of the console's thread."""
        if not console._committed.is_set() and self.world.now < self._announce_at:
            return
        self._announce_at = self.world.now + CONSOLE_S
        console._committed.clear()
        try:
            while self.parts.database.leads and console._announce():
                pass
        except (PeeweeException, sqlite3.Error):
            self.world.count("the console waited for the database")

    def _begin_to_end(self) -> None:
        self.exchange._stop_at = self.world.now + STOP_TIMEOUT_S

    def _collect(self) -> None:
        if self.parts is None or not hasattr(self, "exchange"):
            return
        count = self.world.count
        count("resent events", self.exchange._publisher.resent)
        for reader in self.exchange._readers.values():
            count("duplicates dropped", reader.duplicates)
            count("gaps seen", reader.gaps)
            count("applied events", reader.applied)

    @property
    def halted(self) -> bool:
        """Whether it has stopped to publish, for a contradiction."""
        return bool(self.exchange._publisher.problem)

    def problem(self) -> str | None:
        """The ``problem`` of its ``/readyz``."""
        return self.run(lambda: self.exchange.status().get("problem")) if self.up else None

    @property
    def database(self) -> Any:
        """Its database, as its exchange has it."""
        return self.exchange._database

    @property
    def is_leader(self) -> bool:
        """Whether its exchange is the one that runs."""
        return self.up and self.exchange._term == self.leads() != 0

    def is_settled(self) -> bool:
        """Whether it has told all that it has to tell, and heard all that there is."""
        publisher, readers = self.exchange._publisher, self.exchange._readers.values()
        told = publisher.ready and publisher.waiting == 0
        shown = not (self._console and self._console._payments.unannounced(1))
        return told and shown and all(reader.behind == 0 for reader in readers)
