"""Turns: contestants are measured A B A B, so that what disturbs one disturbs all."""

from collections.abc import Callable, Iterable, Sequence
from importlib.util import find_spec
from typing import NamedTuple

from bench.errors import LeftOut
from bench.findings import Series
from runtime.process.output import deliver

NOTHING = "nothing is kept"
FLUSHED = "WAL, synchronous=FULL"
READS = "only reads"


class Effort(NamedTuple):
    """How much is measured."""

    rounds: int
    seconds: float  # of load in one measurement
    quick: bool

    def size(self, full: int, quick: int) -> int:
        """A number of things: the full one, or that of a quick run."""
        return quick if self.quick else full


class Contestant(NamedTuple):
    """Who takes part: ``measure`` does the work once and gives one value."""

    name: str
    measure: Callable[[], float]
    durability: str = NOTHING
    counts: bool = True  # towards the goal


def take_turns(figure: str, contestants: Sequence[Contestant], effort: Effort) -> list[Series]:
    """Measure each contestant once a round, after a first time that does not count."""
    series = [
        Series(name=one.name, durability=one.durability, counts=one.counts, values=[])
        for one in contestants
    ]
    for number in range(effort.rounds + 1):
        for one, values in zip(contestants, series, strict=True):
            value = one.measure()
            if number:
                values.values.append(value)
            turn = f"{number}/{effort.rounds}" if number else "warm-up"
            deliver(f"{figure:20} {turn:8} {one.name:40} {value:12,.5g}")
    return series


def gather(
    makers: Iterable[tuple[str, Callable[[str], Contestant]]],
) -> tuple[list[Contestant], dict[str, str]]:
    """Make contestants from their names: those that can take part, and why the others cannot."""
    ready, left_out = [], {}
    for name, make in makers:
        try:
            ready.append(make(name))
        except LeftOut as error:
            left_out[name] = str(error)
            deliver(f"{name} is left out: {error}")
    return ready, left_out


def need(*modules: str) -> None:
    """Raise `LeftOut` unless these libraries are installed."""
    if missing := [module for module in modules if find_spec(module) is None]:
        raise LeftOut(f"{', '.join(missing)} not installed: see bench/requirements.txt")
