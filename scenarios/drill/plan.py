"""The plan: which fault comes when, drawn from a seed and from nothing else."""

import random
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from runtime.process.settings import NAMES

SEVERAL = 0.2  # the share of faults that hit two units or more


class Fault(NamedTuple):
    """What happens to some units at once; ``for_s`` is how long they are down or stopped."""

    pause_s: float  # after the fault before
    kind: Literal["kill", "stop", "restart"]
    names: tuple[str, ...]
    for_s: float


def plan(seed: int, units: Sequence[str] = NAMES) -> Iterator[Fault]:
    """Faults without end; from the same seed, the same units get the same faults."""
    dice = random.Random(seed)
    while True:
        several = dice.random() < SEVERAL
        names = tuple(dice.sample(units, dice.randint(2, len(units)) if several else 1))
        pause_s = dice.uniform(0.1, 2.7)
        match dice.randrange(10):
            case 0 | 1 | 2 | 3:
                yield Fault(pause_s, "kill", names, dice.uniform(0, 1))
            case 4 | 5 | 6:
                yield Fault(pause_s, "stop", names, 0.1 * 50 ** dice.random())  # short ones mostly
            case _:
                yield Fault(pause_s, "restart", names, 0)
