"""The plan: which fault comes when, drawn from a seed and from nothing else."""

import random
from collections.abc import Iterator
from typing import Literal, NamedTuple

from scenarios.system import NAMES

SEVERAL = 0.2  # the share of faults that hit two processes or more


class Fault(NamedTuple):
    """What happens to some processes at once; ``for_s`` is how long they are down or stopped."""

    pause_s: float  # after the fault before
    kind: Literal["kill", "stop", "restart"]
    names: tuple[str, ...]
    for_s: float


def plan(seed: int) -> Iterator[Fault]:
    """Faults without end; the same seed gives the same ones."""
    dice = random.Random(seed)
    while True:
        several = dice.random() < SEVERAL
        names = tuple(dice.sample(NAMES, dice.randint(2, len(NAMES)) if several else 1))
        pause_s = dice.uniform(0.1, 2.7)
        match dice.randrange(10):
            case 0 | 1 | 2 | 3:
                yield Fault(pause_s, "kill", names, dice.uniform(0, 1))
            case 4 | 5 | 6:
                yield Fault(pause_s, "stop", names, 0.1 * 50 ** dice.random())  # short ones mostly
            case _:
                yield Fault(pause_s, "restart", names, 0)
