"""The world: its clock, its scheduler, its dice, and all that runs in it."""

import gc
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple
from uuid import UUID

from messaging.dead_letters import DeadLetters
from messaging.event import Event
from messaging.exchange import Exchange
from messaging.inbox import MAX_TRIES, Handlers
from messaging.transports.wire import Place
from runtime.process.settings import Settings
from runtime.storage.database import Database
from tests.simulation.clients import Ledger, Request
from tests.simulation.dice import Dice
from tests.simulation.disk import MEMORY, SimulatedFile
from tests.simulation.history import History
from tests.simulation.network import Endpoint, Network
from tests.simulation.patches import patched
from tests.simulation.process import (
    NEVER,
    BrokerProcess,
    Process,
    ServiceProcess,
)
from tests.simulation.promises import Broken

BEGIN = datetime(2026, 11, 25, tzinfo=UTC)
MAX_STEPS = 20_000  # of all processes in one stretch of time: more is a livelock


class Backup(NamedTuple):
    """A copy of all databases of one moment, and what was true then."""

    folder: Path
    ledger: Ledger
    is_archived: bool
    is_cut: bool
    expired: set[str]


class World:
    """One shop with everything that can befall it; `play` a history in it, once."""

    def __init__(self, history: History, folder: Path, trace: Callable[[str], None] | None) -> None:
        self.history = history
        self.folder = folder
        self.data = folder / "data"
        self.dice = Dice(history.seed)
        self.knobs = {
            "window_events": self.dice.pick("window", [2, 4, 8, 256]),
            "replay_events": self.dice.pick("replay", [1, 3, 8, 256]),
            "step_rows": self.dice.pick("step", [1, 3, 100]),
            "run_events": self.dice.pick("run", [1, 2, 5, 256]),
        }
        self.counts: Counter[str] = Counter()
        self.now = self.slept = 0.0
        self.wall_offset = timedelta(0)
        self.network = Network(self)
        self.broker = BrokerProcess(self, "broker", "broker", self.data)
        self.processes: dict[str, Process] = {"broker": self.broker}
        self.running: Process = self.broker
        self.stack: list[Process] = []
        self.requests: dict[str, Request] = {}  # all that there ever were
        self.prices: dict[str, int] = {}  # of every item that there ever was, by its name
        self.printed: set[str] = set()
        self.ledger = Ledger()
        self.expired: set[str] = set()  # requests whose key may have been forgotten
        self.backups: list[Backup] = []
        self.poisons: dict[tuple[str, str, str], float] = {}  # by role, stream and place
        self.failures: Counter[tuple[str, str, str]] = Counter()  # likewise, how many there were
        self.to_poison: dict[str, list[float]] = {}  # what befalls the next events, by role
        self.acked: dict[tuple[str, bytes], int] = {}  # by stream and epoch, the highest ever
        self.is_archived = self.is_cut = False
        self.begun: set[tuple[str, Place]] = set()  # where a journal began by hand, amid a stream
        self.is_mixed = False  # a database from before archiving was restored, and not the others
        self.is_suspect = False  # something was restored or forked that may contradict the rest
        self.terms: dict[Path, tuple[str, int]] = {}  # which copy leads, and its term
        self._trace = trace
        self._settings: dict[Path, Settings] = {}
        self._folders = 0

    # What is counted and told

    def count(self, what: str, times: int = 1) -> None:
        """Count how often something was reached."""
        self.counts[what] += times

    def fault(self, group: str, kind: str) -> None:
        """Count a fault: of a process, a disk, a file, or a message."""
        self.counts[f"fault: {group}: {kind}"] += 1
        if self._trace and group != "message":
            self.note("fault", group, kind)

    def note(self, *words: object) -> None:
        """Write a line of the trace."""
        if self._trace:
            self._trace(f"{self.now:.6f} {' '.join(map(str, words))}")

    def broken(self, why: str) -> None:
        """End the history: a promise is broken."""
        raise Broken(why)

    def said(self, line: str) -> None:
        """Keep an error that the running process has logged."""
        self.running.said.append(line)
        self.note(self.running.name, "says", line.replace(str(self.folder), ""))

    def print(self, lines: str) -> None:
        """Take what payment's console shows."""
        for line in lines.splitlines():
            self.count("lines printed again", line in self.printed)
            self.printed.add(line)

    # Time

    def clock(self) -> float:
        """The monotonic clock, in seconds."""
        return self.now

    def wall(self) -> datetime:
        """The wall clock, which may jump."""
        return BEGIN + timedelta(seconds=self.now) + self.wall_offset

    def wall_ns(self) -> int:
        """The wall clock in nanoseconds."""
        return (
            int((self.wall() - datetime(1970, 1, 1, tzinfo=UTC)) / timedelta(microseconds=1)) * 1000
        )

    def run(self, for_s: float) -> None:
        """Let time pass, and every process that is not amid something do what is due."""
        end = self.now + for_s
        steps = 0
        others = [each for each in self.processes.values() if each not in self.stack]
        while True:
            at, due = NEVER, []
            for process in others:
                when = process.due
                when = max(self.now, when)
                if when < at:
                    at, due = when, [process]
                elif when == at:
                    due.append(process)
            if at > end or not due:
                break
            self.now = at
            steps += 1
            if steps > MAX_STEPS * max(1.0, for_s):
                self.broken("nobody comes to rest")
            (due[0] if len(due) == 1 else self.dice.pick("first", due)).step()
        self.now = end

    # What the product gets instead of its own

    def new_epoch(self) -> bytes:
        """The epoch of a new database."""
        return self.wall_ns().to_bytes(8, "big") + self.random_bytes(8)

    def random_bytes(self, count: int) -> bytes:
        """As `os.urandom` returns them."""
        return self.dice.getrandbits(8 * count).to_bytes(count, "big")

    def set_clock_right(self) -> None:
        """Put the wall clock behind the time at which any database was made."""
        self.wall_offset = timedelta(days=400)

    def uuid(self) -> UUID:
        """The id of an order."""
        return UUID(int=self.dice.getrandbits(128), version=4)

    def settings(self, folder: Path) -> Settings:
        """The settings of processes whose databases are in a folder."""
        if folder not in self._settings:
            self._settings[folder] = Settings(DATA_DIR=folder, BROKER_CURVE="off")
        return self._settings[folder]

    def database_of(self, settings: Settings, name: str, *packages: str) -> SimulatedFile:
        """The database of a service."""
        return SimulatedFile(settings.data_dir / f"{name}.db", *packages)

    def transport(self, settings: Settings, reader: str, topics: list[bytes]) -> Endpoint:
        """The connection of the process that is running."""
        return Endpoint(self.network, self.running, reader, topics)

    def exchange(
        self,
        database: Database,
        outbox: Any,
        handlers: dict[str, Handlers],
        transport: Any,
        inherits: Handlers | None = None,
    ) -> Exchange:
        """An exchange on the simulated clock, whose handlers may fail."""
        poisonous = self._poisonous(handlers)
        return Exchange(database, outbox, poisonous, transport, self.clock, inherits)

    def dead_letters(self, database: Database, handlers: dict[str, Handlers]) -> DeadLetters:
        """Dead letters, whose handlers may fail still."""
        return DeadLetters(database, self._poisonous(handlers))

    def new_folder(self, name: str) -> Path:
        """A path on the world's disk where nothing is yet."""
        self._folders += 1
        return self.folder / f"{name}-{self._folders}"

    def _poisonous(self, handlers: dict[str, Handlers]) -> dict[str, Handlers]:
        role = self.running.role

        def guarded(handler: Callable[[list[Event]], None]) -> Callable[[list[Event]], None]:
            def handle(events: list[Event]) -> None:
                handler(events)
                if self.to_poison or self.poisons:
                    for event in events:
                        self._fail(role, event)

            return handle

        return {
            stream: {kind: guarded(handler) for kind, handler in table.items()}
            for stream, table in handlers.items()
        }

    def _fail(self, role: str, event: Event) -> None:
        """Let a handler fail once it has done its work: all of that must be undone."""
        mark = (role, event.stream, str(event.place))
        if mark not in self.poisons and self.to_poison.get(role):
            self.poisons[mark] = self.to_poison[role].pop()
        if self.poisons.get(mark, 0) > 0:
            self.poisons[mark] -= 1
            self.fault("handler", "failed")
            self.failures[mark] += 1
            raise ValueError(f"the handler of {role} fails at {event.place}")

    def check_dead(self, role: str, stream: str, place: Place) -> None:
        """What is dead has failed so often that it may be."""
        times = self.failures[role, stream, str(place)]
        if times < MAX_TRIES:
            self.broken(f"nothing is dead that has failed {times} times: {role} {stream} {place}")

    # Who is there

    def services(self) -> Iterable[ServiceProcess]:
        """One process for each database of a service."""
        paths = set()
        for process in self.processes.values():
            if isinstance(process, ServiceProcess) and process.path not in paths:
                paths.add(process.path)
                yield process

    def copies(self, of: Process) -> list[ServiceProcess]:
        """All processes on the same database, the one that leads first."""
        found = [
            each
            for each in self.processes.values()
            if isinstance(each, ServiceProcess) and each.path == of.path
        ]
        return sorted(found, key=lambda each: not each.is_leader)

    def term_of(self, process: Process) -> int:
        """For which term a copy leads: the first that asks, if nobody who is up does."""
        leader, term = self.terms.get(process.path, ("", 0))
        if leader != process.name and not (leader and self.processes[leader].up):
            leader, term = process.name, term + 1
            self.terms[process.path] = (leader, term)
            self.note("leads", process.name, term)
        return term if leader == process.name else 0

    def usurp(self, process: Process) -> None:
        """Let another copy lead, although this one does not know yet."""
        others = [each for each in self.copies(process) if each is not process and each.up]
        if process.is_copied and others:
            _, term = self.terms.get(process.path, ("", 0))
            self.terms[process.path] = (others[0].name, term + 1)
            others[0]._look_at = -NEVER
            self.count("another copy took over")

    def add(self, name: str, role: str, folder: Path | None = None) -> ServiceProcess:
        """One more process; it is not started yet."""
        process = ServiceProcess(self, name, role, folder or self.data)
        self.processes[name] = process
        return process


@contextmanager
def new_world(history: History, trace: Callable[[str], None] | None = None) -> Iterator[World]:
    """A world on a disk of its own, with the product on it, as long as it is needed."""
    with TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder:
        world = World(history, Path(folder), trace)
        collects = gc.isenabled()
        gc.disable()  # a history is short, and its end makes all of it garbage
        try:
            with patched(world):
                for role in ("inventory", "shop", "payment", "loyalty"):
                    world.add(role, role)
                try:
                    yield world
                finally:
                    for process in world.processes.values():
                        process.kill()
        finally:
            if collects:
                gc.enable()
