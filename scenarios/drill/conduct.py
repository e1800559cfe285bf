"""The conductor: load and faults together, then the drain, the check and the report."""

import random
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from itertools import islice
from pathlib import Path
from typing import Any

from runtime.process.errors import StartError
from runtime.process.output import deliver
from runtime.process.progress import Progress
from runtime.process.settings import SERVICES, load_settings
from runtime.process.signals import stop_signals
from scenarios.drill.check import check
from scenarios.drill.faults import Faults
from scenarios.drill.load import Load, Outcome, Request
from scenarios.drill.plan import Fault, plan
from scenarios.drill.report import Story, passed, report
from scenarios.servers import missing
from scenarios.snapshot import snapshot
from scenarios.system import System, free_settings, named_servers, on_servers

DEFAULT_FAULTS = 20
MAX_SEED = 2**32
DATABASE_SERVER = "postgresql"
TICK_S = 0.02
ANSWERS_TIMEOUT_S = 30.0  # for requests that are repeated until they are answered
DRAIN_TIMEOUT_S = 60.0
SNAPSHOT_TIMEOUT_S = 600.0  # a hundred thousand orders take half a minute
CALM_S = 1.0  # twice as long as a reader may take to hear of the newest event

Wait = Callable[[float], int]  # for so many seconds, or until a signal; returns how many came


def drill(faults: int | None, minutes: float | None, seed: int | None, scale: bool) -> int:
    """Play a drill of so many faults or minutes, print its report, and give the exit code.

    With ``scale``, or where the environment names servers, it is one of copies on servers of its
    own. The first signal ends it early, with check and report; the second ends it at once.
    """
    faults = DEFAULT_FAULTS if faults is minutes is None else faults
    seed = random.SystemRandom().randrange(MAX_SEED) if seed is None else seed
    named = named_servers(load_settings())
    if (scale or named) and (lacks := missing()):
        deliver(f"Not begun: {lacks}")
        return 1
    folder = Path(tempfile.mkdtemp(prefix="parrot-drill-"))
    system = on_servers(folder) if scale or named else System(folder, free_settings(folder))
    where = " on PostgreSQL and NATS servers of its own" if scale or named else ""
    why = f", since {named[0]} is set," if named and not scale else ""
    rest = "Ctrl-C ends it early; it is still checked."
    deliver(f"A drill{where}{why} with seed {seed} in {folder}. {rest}")
    player = Player(system, seed)
    try:
        player.play(islice(plan(seed, system.names), faults), 60 * (minutes or float("inf")))
        return conclude(folder, player.load.requests, player.story)
    except KeyboardInterrupt:
        deliver("Ended at once, and not checked.")
    except StartError as error:
        deliver(f"Not begun: {error}")
    deliver(f"What it has left is in {folder}")
    return 1


def conclude(folder: Path, requests: Sequence[Request], story: Story) -> int:
    """Check what is in a folder, print the report, and give the exit code.

    The folder is kept if something is wrong.
    """
    findings = check(folder, requests, story.crashes)
    deliver(f"\n{report(story, findings)}")
    if passed(story, findings):
        shutil.rmtree(folder)
        return 0
    with (folder / "requests.txt").open("w") as file:
        for request in requests:
            print(*request, file=file)
    deliver(f"The databases, what the processes wrote, and requests.txt are in {folder}")
    return 1


class Player:
    """Plays a drill, and leaves its ``story``."""

    def __init__(self, system: System, seed: int) -> None:
        self.system = system
        self.load = Load(system, seed)
        self.story = Story(seed, system.names, {*system.copies("shop"), DATABASE_SERVER})
        self._faults = Faults(system)
        self._progress = Progress(self._tell)
        self._is_ending = False

    def play(self, faults: Iterable[Fault], limit_s: float) -> None:
        """Start everything, hit it, and let it come to rest; no process is left behind.

        Raises `StartError` if it cannot begin, and `KeyboardInterrupt` at the second signal.
        """
        with stop_signals() as stopped:
            try:
                self.system.start()
                self.system.wait_until_ready()
                if self.system.complaints:
                    raise StartError("; ".join(self.system.complaints))
                self.load.start()
                begun = time.monotonic()
                self._hit(faults, begun + limit_s, stopped)
                self._rest(begun, stopped)
            finally:
                self._progress.clear()
                self._faults.end()
                self.load.hurry()
                self.system.end()

    def _tell(self) -> str:
        confirmed = self.load.tally["orders", Outcome.CONFIRMED]
        return f"{len(self._faults.done):,} faults, {confirmed:,} orders confirmed"

    def _hit(self, faults: Iterable[Fault], deadline: float, stopped: Wait) -> None:
        for fault in faults:
            due = time.monotonic() + fault.pause_s
            while time.monotonic() < due or not self._faults.begin(fault):
                if stopped(TICK_S) or time.monotonic() >= deadline:
                    return
                self._progress.show()
        while self._faults.are_under_way() and not stopped(TICK_S):
            self._progress.show()

    def _heed(self, signals: int) -> None:
        if signals and not self._is_ending:
            self._is_ending = True
            self._progress.clear()
            deliver("Ending early. It will be checked; another signal ends it at once.")
        if signals > 1:
            raise KeyboardInterrupt

    def _rest(self, begun: float, stopped: Wait) -> None:
        def until(condition: Callable[[], bool], timeout_s: float = float("inf")) -> None:
            deadline = time.monotonic() + timeout_s
            while not condition() and time.monotonic() < deadline:
                self._progress.show()
                self._heed(stopped(TICK_S))

        self._faults.end()
        until(lambda: not self._faults.are_under_way())
        all_up = time.monotonic()
        until(lambda: self.load.probes[-1:] > [all_up], ANSWERS_TIMEOUT_S)  # the last outage's end
        self.load.stop()
        until(lambda: not self.load.is_running(), ANSWERS_TIMEOUT_S)
        self.load.hurry()
        until(lambda: not self.load.is_running())
        drain = Drain(self.system)
        until(drain.is_over, DRAIN_TIMEOUT_S)
        self.system.terminate(self.system.services)
        taken = self._take_snapshot()
        until(taken.done, SNAPSHOT_TIMEOUT_S)
        taken.result(0)
        self.system.terminate(set(self.system.names).difference(self.system.services))

        story = self.story
        story.done, story.probes = self._faults.done, self.load.probes
        story.elapsed_s, story.drained_s = drain.begun - begun, drain.took_s
        story.crashes = sum(self._repeating(one.fault) for one in story.done)
        story.complaints = self.system.complaints + drain.complaints()

    def _take_snapshot(self) -> "Future[None]":
        """Write down what is on servers, in a thread that nobody waits for at the second signal."""
        taken: Future[None] = Future()

        def take() -> None:
            try:
                snapshot(self.system.settings, self.system.settings.data_dir)
                taken.set_result(None)
            except Exception as error:
                taken.set_exception(error)

        threading.Thread(target=take, daemon=True).start()
        return taken

    def _repeating(self, fault: Fault) -> int:
        """How many crashes of a fault let payment print lines again: those of its copies, and
        of the server that records which lines were printed.
        """
        crashed = self.system.copies("payment") if fault.kind == "kill" else ()
        return len({*crashed, DATABASE_SERVER}.intersection(fault.names))


class Drain:
    """Watches a system without load come to rest."""

    def __init__(self, system: System) -> None:
        self.begun = self._busy_at = time.monotonic()
        self._system = system
        self._states: dict[str, dict[str, Any]] = {}

    @property
    def took_s(self) -> float | None:
        """How long it took until nothing was waiting any more; None while something is."""
        return None if self.complaints() else self._busy_at - self.begun

    def is_over(self) -> bool:
        """Whether nothing has been waiting anywhere for a while."""
        self._states = {name: self._system.state(name) for name in self._system.services}
        if self.complaints():
            self._busy_at = time.monotonic()
        return time.monotonic() - self._busy_at >= CALM_S

    def complaints(self) -> list[str]:
        """Which copy is not ready, or has something waiting, behind or dead; which do not lead."""
        found = [
            f"{name} has not come to rest: {state}"
            for name, state in self._states.items()
            if not is_at_rest(state)
        ]
        for service in SERVICES:
            states = [self._states.get(name, {}) for name in self._system.copies(service)]
            if (leading := sum("standby" not in state for state in states)) != 1:
                found.append(f"{service} has {leading} copies that lead")
        return found


def is_at_rest(state: dict[str, Any]) -> bool:
    """Whether a copy is ready and, if it leads, has nothing to do, by its ``/readyz``."""
    waiting = [
        state.get("outbox_waiting"),
        state.get("dead"),
        *state.get("inbox_behind", {}).values(),
    ]
    return state.get("status") == "ready" and (set(waiting) == {0} or "standby" in state)
