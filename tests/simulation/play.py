"""Plays a history in a new world, and tells what became of it."""

import time
import traceback
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from tests.simulation.actions import ACTIONS, pause
from tests.simulation.dice import Dice
from tests.simulation.history import History
from tests.simulation.promises import Broken
from tests.simulation.regimes import LENGTH, REGIMES, furnish
from tests.simulation.verify import verify
from tests.simulation.world import new_world


class Outcome(NamedTuple):
    """What broke, if anything; how often what was reached; and the times, in seconds."""

    broken: str | None
    counts: Counter[str]
    simulated_s: float
    cpu_s: float


def history_of(regime: str, seed: int, length: int = LENGTH) -> History:
    """The history of a seed."""
    return History.thrown(regime, seed, REGIMES[regime].weights, length)


def play(history: History, trace: Callable[[str], None] | None = None) -> Outcome:
    """Play a history, and check the promises at its end."""
    began = time.process_time()
    broken = None
    with new_world(history, trace) as world:
        try:
            furnish(world, REGIMES[history.regime])
            for number, action in enumerate(history.actions):
                world.dice = action.dice()
                world.note(f"#{number}", action.name)
                ACTIONS[action.name](world)
                pause(world)
            world.note("the end")
            world.dice = Dice(history.seed)
            verify(world)
        except Broken as error:
            broken = str(error)
        except Exception:
            broken = f"the simulation fails: {traceback.format_exc()}"
        world.note("broken" if broken else "passed", broken or "")
    world.counts["most frames"] = world.network.frames
    return Outcome(broken, world.counts, world.now - world.slept, time.process_time() - began)
