"""Makes a history that breaks a promise as short as it goes: most of it has no part in it."""

from collections.abc import Callable

from tests.simulation.history import Action, History
from tests.simulation.play import play


def shrink(history: History, show: Callable[[str], None] = lambda line: None) -> History:
    """Leave out actions, by halves and then one by one, while it breaks the same promise.

    An action has dice of its own, so what is left throws as before.
    """
    kind = _kind(play(history).broken)
    actions = [*history.actions]
    size = max(len(actions) // 2, 1)
    while True:
        start = 0
        before = len(actions)
        while start < len(actions):
            shorter = actions[:start] + actions[start + size :]
            if _kind(play(history._replace(actions=shorter)).broken) == kind:
                actions = shorter
                show(f"{len(actions)} actions")
            else:
                start += size
        if size == 1 and len(actions) == before:
            return _without_pauses(history._replace(actions=actions), kind)
        size = max(size // 2, 1)


def _without_pauses(history: History, kind: str | None) -> History:
    """Pin the pause after each action to zero where that changes nothing."""
    for at, action in enumerate(history.actions):
        quick = Action(action.name, action.seed, {**action.pinned, "pause": 0.0})
        actions = [*history.actions[:at], quick, *history.actions[at + 1 :]]
        if _kind(play(history._replace(actions=actions)).broken) == kind:
            history = history._replace(actions=actions)
    return history


def _kind(broken: str | None) -> str | None:
    """The promise, without what is different each time."""
    return broken and broken.split(":")[0]
