"""A history: what happens to the shop, action by action, each with dice of its own."""

import json
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from tests.simulation.dice import Dice


class Action(NamedTuple):
    """What happens, the seed of its dice, and which of them are pinned."""

    name: str
    seed: int
    pinned: dict[str, Any] = {}  # noqa: RUF012 - nobody writes to it

    def dice(self) -> Dice:
        """The action's own, the same each time."""
        return Dice(self.seed, self.pinned)


class History(NamedTuple):
    """Actions under the rules of a regime; the seed is that of what belongs to no action."""

    regime: str
    seed: int
    actions: Sequence[Action]

    @classmethod
    def thrown(cls, regime: str, seed: int, weights: dict[str, float], length: int) -> "History":
        """A history of so many actions, drawn by their weights."""
        dice = Random(f"{regime} {seed}")
        names = dice.choices(list(weights), list(weights.values()), k=length)
        return cls(regime, seed, [Action(name, dice.getrandbits(32)) for name in names])

    def save(self, path: Path) -> None:
        """Write it as JSON, an action a line."""
        lines = ",\n".join(f"  {json.dumps([*action])}" for action in self.actions)
        head = f'"regime": {json.dumps(self.regime)}, "seed": {self.seed}'
        path.write_text(f'{{{head}, "actions": [\n{lines}\n]}}\n')

    @classmethod
    def load(cls, path: Path) -> "History":
        """Read what `save` has written; ``pinned`` may be left out, and the seed may be 0."""
        told = json.loads(path.read_text())
        return cls(told["regime"], told["seed"], [Action(*each) for each in told["actions"]])
