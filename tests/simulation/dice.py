"""Dice: one sequence of random numbers for each action, of which a history may pin some."""

from collections.abc import Mapping, Sequence
from random import Random
from typing import Any, TypeVar

T = TypeVar("T")


class Dice(Random):
    """Throws by a seed; what is ``pinned`` by name comes out as pinned, and is thrown all the same.

    So no throw depends on what is pinned, nor on the dice of another action.
    """

    def __init__(self, seed: int, pinned: Mapping[str, Any] | None = None) -> None:
        super().__init__(seed)
        self._pinned = pinned or {}

    def pick(self, name: str, choices: Sequence[T]) -> T:
        """One of several."""
        thrown = choices[int(self.random() * len(choices))]
        return self._pinned.get(name, thrown)

    def whole(self, name: str, low: int, high: int) -> int:
        """A whole number, both ends included."""
        thrown = low + int(self.random() * (high - low + 1))
        return self._pinned.get(name, thrown)

    def seconds(self, name: str, low: float, high: float) -> float:
        """A time."""
        thrown = low + self.random() * (high - low)
        return self._pinned.get(name, thrown)

    def chance(self, name: str, probability: float) -> bool:
        """Whether it happens."""
        thrown = self.random() < probability
        return self._pinned.get(name, thrown)
