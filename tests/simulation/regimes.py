"""Regimes: what happens how often, and what must have been reached, or the regime is of no use."""

from typing import NamedTuple

from tests.simulation.process import ServiceProcess
from tests.simulation.world import World

LENGTH = 150  # actions of a history

TRADE = {
    "create_item": 8.0,
    "toggle": 6.0,
    "create_user": 4.0,
    "checkout": 20.0,
    "pay": 6.0,
    "rush": 5.0,
    "try_again": 8.0,
    "nonsense": 0.5,
    "wait": 2.0,
    "poison": 1.0,
}
LIFE = {"kill": 4.0, "start": 8.0, "end": 1.0}


class Regime(NamedTuple):
    """How probable each action is, and the counters that must not stay at zero."""

    weights: dict[str, float]
    reaches: list[str]
    has_copies: bool = False
    has_backup: bool = False  # from the begin, so that there is something to restore


REGIMES = {
    "line": Regime(
        TRADE | LIFE | {"bad_line": 6, "good_line": 3, "cut": 5, "stop": 5},
        [
            "fault: message: dropped",
            "fault: message: doubled",
            "fault: message: delayed",
            "fault: message: cut off",
            "resent events",
            "gaps seen",
            "duplicates dropped",
            "replayed events",
        ],
    ),
    "crash": Regime(
        TRADE
        | LIFE
        | {"crash": 20, "strike_request": 6, "kill_all": 2, "stop": 3, "start": 20, "bad_line": 1},
        [
            *(
                f"fault: process: crash {when} at {where}"
                for when in ("before", "after")
                for where in ("begin", "insert", "update", "commit")
            ),
            "fault: process: crash before at send",
            "refused when asked again",
            "lines printed again",
        ],
    ),
    "disk": Regime(
        TRADE
        | LIFE
        | {"error": 20, "strike_request": 6, "outage": 6, "damage": 2, "prune": 2, "stop": 1},
        [
            *(
                f"fault: disk: {how} at {where}"
                for how in ("error", "error although done", "rolled back")
                for where in ("insert", "update", "commit", "select")
            ),
            "fault: disk: outage",
            "log: the journal is unreadable and was set aside",
            "log: the journal waits for its disk",
            "log: events wait for the database",
            "log: publishing waits for the database",
            "pruned",
        ],
    ),
    "poison": Regime(
        TRADE
        | LIFE
        | {
            "poison": 12,
            "nonsense": 4,
            "retry_dead": 6,
            "mend": 2,
            "outlast": 1.5,
            "wipe": 0.5,
            "wait": 8,
            "replay": 2,
            "error": 5,
            "crash": 3,
        },
        [
            "log: event failed and will be tried again",
            "log: event is dead",
            "dead letter applied",
            "dead letter is dead still",
            "dead letter applied after mending",
            "replayed",
        ],
    ),
    "loss": Regime(
        TRADE
        | LIFE
        | {
            "wipe": 5,
            "damage": 1,
            "jump": 2,
            "backup": 2,
            "stop": 2,
            "crash": 4,
            "replay": 1,
            "bad_line": 1,
            "good_line": 1,
        },
        [
            *(
                f"fault: file: lost: {role}"
                for role in ("broker", "inventory", "shop", "payment", "loyalty")
            ),
            "log: payment for an unknown order",
        ],
        has_backup=True,
    ),
    "restore": Regime(
        TRADE
        | LIFE
        | {
            "backup": 4,
            "restore_all": 1,
            "restore_some": 2,
            "archive": 1,
            "lose_journal": 1.5,
            "wipe": 0.5,
            "crash": 3,
            "bad_line": 1,
            "good_line": 1,
        },
        [
            "fault: file: all restored",
            "fault: file: restored: broker",
            "fault: file: restored: shop",
            "fault: file: restored: payment",
            "fault: file: restored: broker and shop",
            "fault: file: archived",
            "fault: file: cut",
            "halted: shop: old",
            "halted: payment: old",
            "halted: inventory: old",
            "halted: payment: ahead",
            "halted: shop: ahead",
            "halted: shop: other",
            "halted: loyalty: other",
            "halted: shop: hole",
            "halted: payment: lost",
            "mended by hand: old",
            "mended by hand: lost",
            "restored as the remedy",
        ],
        has_backup=True,
    ),
    "fork": Regime(
        TRADE
        | {
            "kill": 2,
            "start": 4,
            "fork": 1.5,
            "backup": 2,
            "check": 1,
            "stop": 2,
            "bad_line": 1,
            "good_line": 1,
        },
        ["fault: file: forked: shop", "fault: file: forked: payment", "restored as the remedy"],
        has_backup=True,
    ),
    "copies": Regime(
        TRADE
        | LIFE
        | {
            "sleep": 20,
            "usurp": 6,
            "error": 4,
            "crash": 4,
            "stop": 5,
            "bad_line": 1,
            "good_line": 1,
            "poison": 10,
            "start": 12,
        },
        ["another copy took over", "fault: process: sleep at begin"],
        has_copies=True,
    ),
}


def furnish(world: World, regime: Regime) -> None:
    """Start what a history begins with: everything, some items, and a user."""
    from tests.simulation.actions import ACTIONS  # noqa: PLC0415

    if regime.has_copies:
        for role in ("inventory", "shop", "payment", "loyalty"):
            world.add(f"{role}-2", role)
        for process in world.processes.values():
            process.is_copied = isinstance(process, ServiceProcess)
            world.terms[process.path] = (process.role, 1)
    for process in world.processes.values():
        process.start()
    for name in ("create_user", "create_item", "create_item"):
        ACTIONS[name](world)
    world.run(0.3)
    if regime.has_backup:
        ACTIONS["backup"](world)
