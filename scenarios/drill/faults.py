"""The faults: what the plan says is done to the system, and how long checkout was out for it."""

import threading
import time
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise
from typing import NamedTuple

from scenarios.drill.plan import Fault
from scenarios.system import System

MAX_UNDER_WAY = 32  # far more than all units can be in


class Done(NamedTuple):
    """A fault, from its first moment until all its units were ready again.

    Moments are those of `time.monotonic`.
    """

    fault: Fault
    begun: float
    ended: float


class Faults:
    """Carries faults out, several at a time if they hit different units."""

    def __init__(self, system: System) -> None:
        self.done: list[Done] = []
        self._system = system
        self._ending = threading.Event()
        self._pool = ThreadPoolExecutor(MAX_UNDER_WAY, thread_name_prefix="fault")
        self._under_way: list[Future[None]] = []

    def begin(self, fault: Fault) -> bool:
        """Begin a fault, unless one of its units is in the hands of another."""
        if free := self._system.hold(fault.names):
            self._under_way.append(self._pool.submit(self._carry_out, fault))
        return free

    def end(self) -> None:
        """Let whatever is down or stopped come back now."""
        self._ending.set()
        self._pool.shutdown(wait=False)

    def are_under_way(self) -> bool:
        """Whether a unit is yet to come back; raises what a fault has raised."""
        self._under_way = [one for one in self._under_way if not one.done() or one.result()]
        return bool(self._under_way)

    def _carry_out(self, fault: Fault) -> None:
        if fault.kind == "restart":
            self._system.wait_until_ready(fault.names)  # only then is its exit code its own choice
        begun = time.monotonic()
        match fault.kind:
            case "kill":
                self._system.kill(fault.names)
                self._ending.wait(fault.for_s)
                self._system.start(fault.names)
            case "stop":
                self._system.freeze(fault.names)
                self._ending.wait(fault.for_s)
                self._system.thaw(fault.names)
            case "restart":
                self._system.terminate(fault.names)
                self._system.start(fault.names)
        self._system.release(fault.names)  # so that the next may hit what is only starting
        self._system.wait_until_ready(fault.names)
        self.done.append(Done(fault, begun, time.monotonic()))


def outages(
    done: Sequence[Done], probes: Sequence[float], sellers: Collection[str] = ("shop",)
) -> dict[str, list[float]]:
    """By unit, the longest gap between confirmed checkouts around each kill, in seconds.

    Only faults that killed a single unit count. If the gap overlaps another fault of
    the ``sellers``, without which there is no checkout, the kill is left out.
    """
    on_sellers = [one for one in done if not set(sellers).isdisjoint(one.fault.names)]
    longest: dict[str, list[float]] = defaultdict(list)
    for death in done:
        first = max(0, bisect_right(probes, death.begun) - 1)
        last = bisect_left(probes, death.ended) + 1
        gaps = list(pairwise(probes[first:last]))
        if death.fault.kind != "kill" or len(death.fault.names) > 1 or not gaps:
            continue
        begin, end = max(gaps, key=lambda gap: gap[1] - gap[0])
        if all(end < one.begun or begin > one.ended for one in on_sellers if one is not death):
            longest[death.fault.names[0]].append(end - begin)
    return longest
