"""What can happen: clients ask, processes die, disks fail, lines are bad, files are exchanged."""

import re
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from itertools import chain
from pathlib import Path
from typing import Any

from messaging.transports.wire import Place
from runtime import ROOT
from runtime.backup import backup as copy_all
from runtime.process.clock import timestamp
from runtime.process.errors import StartError
from runtime.storage.database import is_outage
from tests.simulation.clients import CONFIRMED, UNANSWERED, Request, ask, misuse
from tests.simulation.disk import Armed, remove
from tests.simulation.disk import damage as spoil
from tests.simulation.network import GOOD, Line
from tests.simulation.process import NEVER, Process, ServiceProcess
from tests.simulation.verify import heal, settle, verify
from tests.simulation.world import Backup, World

ACTIONS: dict[str, Callable[[World], None]] = {}
MONTH_S = 31 * 86400.0
ROLES = ["inventory", "shop", "payment", "loyalty"]
ASKED = ["inventory", "shop", "payment"]
ALL = ["broker", *ROLES]


def action(function: Callable[[World], None]) -> Callable[[World], None]:
    """Let histories name a function."""
    ACTIONS[function.__name__] = function
    return function


def pause(world: World) -> None:
    """Let some time pass after an action: mostly too little for anything to be over."""
    long = world.dice.chance("long", 0.25)
    world.run(world.dice.seconds("pause", 0, 1.0 if long else 0.02))


# Clients


def _ask(world: World, role: str, path: str, body: dict[str, Any]) -> None:
    """Ask one of the processes that serve a role, if one does."""
    keyed = world.dice.chance("keyed", 0.5)
    serving = [each.name for each in world.processes.values() if each.role == role]
    process = world.processes[world.dice.pick("by", serving)]
    name = f"r{len(world.requests)}"
    if process.answers:
        request = Request(name, process.account, path, body, f"key-{name}" if keyed else None)
        world.requests[name] = request
        ask(world, process, request)


@action
def create_item(world: World) -> None:
    """Add an item to the warehouse."""
    name, price = f"Item {len(world.requests)}", world.dice.whole("price", 1, 1000)
    world.prices[name] = price
    _ask(world, "inventory", "/api/item", {"name": name, "price": price})


@action
def toggle(world: World) -> None:
    """Take an item out of sale, or put it back."""
    made = _count(world, "inventory", "/api/item")
    _ask(world, "inventory", "/api/toggle", {"item_id": world.dice.whole("item", 1, made + 1)})


@action
def create_user(world: World) -> None:
    """Somebody wants to buy."""
    _ask(world, "shop", "/api/user", {"name": f"User {len(world.requests)}"})


@action
def checkout(world: World) -> None:
    """Buy some items."""
    users = _count(world, "shop", "/api/user")
    made = _count(world, "inventory", "/api/item")
    user = world.dice.whole("user", 1, max(users, 1))
    items = [world.dice.whole("item", 1, max(made, 1))]
    while world.dice.chance("more", 0.3):
        items.append(world.dice.whole("item", 1, max(made, 1)))
    _ask(world, "shop", "/api/checkout", {"user_id": user, "item_ids": items})


@action
def pay(world: World) -> None:
    """Pay directly, for no order."""
    user, price = world.dice.whole("user", 1, 3), world.dice.whole("price", 1, 1000)
    _ask(world, "payment", "/api/payment", {"user_id": user, "price": price})


@action
def rush(world: World) -> None:
    """Several buy at the same moment, so that readers get runs of events."""
    for _ in range(world.dice.whole("buyers", 2, 6)):
        world.dice.pick("what", [checkout, pay, toggle])(world)


@action
def nonsense(world: World) -> None:
    """Tell an event that its readers cannot make sense of."""
    role = world.dice.pick("role", ["inventory", "shop"])
    kind = {"inventory": "item.created", "shop": "order.placed"}[role]
    _ask(world, role, "nonsense", {"type": kind})


@action
def try_again(world: World) -> None:
    """Send a request again under its key, answered or not: it must have one effect."""
    known = [
        world.requests[name]
        for outcomes in world.ledger.outcomes.values()
        for name, outcome in outcomes.items()
        if outcome in (CONFIRMED, UNANSWERED) and name not in world.expired
    ]
    if keyed := [request for request in known[-40:] if request.key]:
        request = world.dice.pick("request", keyed)
        account = request.account
        serving = [each.name for each in world.processes.values() if each.account == account]
        process = world.processes[world.dice.pick("by", serving)]
        other = world.dice.chance("other", 0.15)
        if process.answers:
            (misuse if other else ask)(world, process, request)


def _count(world: World, role: str, path: str) -> int:
    return sum(world.requests[name].path == path for name in world.ledger.of(role))


# Processes


def _one(world: World, names: list[str]) -> Process:
    """One of the processes that run one of these roles."""
    running = [each.name for each in world.processes.values() if each.role in names]
    return world.processes[world.dice.pick("who", running)]


@action
def kill(world: World) -> None:
    """Kill a process, and perhaps start it again soon."""
    process = _one(world, ALL)
    if process.up:
        world.fault("process", "killed")
        process.kill()
    if world.dice.chance("again", 0.6):
        world.run(world.dice.seconds("down", 0, 1.0))
        process.start()


@action
def end(world: World) -> None:
    """End a process in order."""
    process = _one(world, ALL)
    if process.up:
        world.fault("process", "ended")
        process.end()


@action
def start(world: World) -> None:
    """Start what is down."""
    down = [name for name, process in world.processes.items() if not process.up]
    if who := world.dice.pick("who", down or [None]):
        world.processes[who].start()


@action
def start_all(world: World) -> None:
    """Start all that is down."""
    for process in world.processes.values():
        process.start()


@action
def kill_all(world: World) -> None:
    """Kill everything at the same moment."""
    for process in world.processes.values():
        if process.up:
            world.fault("process", "killed")
            process.kill()


@action
def stop(world: World) -> None:
    """Let a process stand still for a while, as SIGSTOP does."""
    process = _one(world, ALL)
    long = world.dice.chance("longer", 0.2)
    if process.up:
        world.fault("process", "stopped")
        process.stopped_until = world.now + world.dice.seconds("for", 0.05, 20 if long else 2)


@action
def crash(world: World) -> None:
    """Let a process crash at a statement to come, or when it sends."""
    process = _one(world, ALL)
    kind = world.dice.pick("kind", ["crash before", "crash after"])
    _arm(world, process, kind, ["any", "any", "COMMIT", "COMMIT", "INSERT", "SEND"])


@action
def error(world: World) -> None:
    """Let a statement to come fail, whether it was done or not."""
    process = _one(world, ALL)
    kind = world.dice.pick("kind", ["error", "error although done", "rolled back"])
    _arm(world, process, kind, ["any", "any", "COMMIT", "COMMIT", "write"])


@action
def sleep(world: World) -> None:
    """Let a process stand still amid what it does, while the others go on."""
    process = _one(world, ALL)
    if isinstance(process, ServiceProcess):
        process = world.copies(process)[0]
    _arm(world, process, "sleep", ["any", "BEGIN", "BEGIN"])


@action
def strike_request(world: World) -> None:
    """Let a crash or an error befall a request, and not what goes on beside it."""
    role = world.dice.pick("who", ASKED)
    kind = world.dice.pick("kind", ["crash before", "crash after", "error", "error although done"])
    _arm(world, world.processes[role], kind, ["any", "COMMIT", "INSERT", "write"])
    {"inventory": create_item, "shop": checkout, "payment": pay}[role](world)


def _arm(world: World, process: Process, kind: str, strikes: list[str]) -> None:
    where = world.dice.pick("at", strikes)
    countdown = world.dice.whole("after", 0, 3 if where in ("COMMIT", "BEGIN") else 12)
    seconds = world.dice.seconds("for", 0.01, 4)
    fall = world.dice.chance("fall", 0.7)
    if process.up and len(process.armed) < 2:
        process.arm(Armed(kind, where, countdown, seconds, fall))


# Disks and lines


@action
def outage(world: World) -> None:
    """Let a disk fail, or be full, for a while."""
    process = _one(world, ALL)
    if process.up:
        world.fault("disk", "failing")
        process.fail_until(world.now + world.dice.seconds("for", 0.1, 4))


@action
def bad_line(world: World) -> None:
    """Let the network lose, double and delay messages, until the line is changed again."""
    world.fault("line", "bad")
    drop, double, delay = (world.dice.seconds(each, 0, 0.3) for each in ("drop", "double", "delay"))
    world.network.line = Line(drop, double, delay, world.dice.seconds("late", 0.001, 1.5))


@action
def good_line(world: World) -> None:
    """Mend the network."""
    world.network.line = GOOD


@action
def cut(world: World) -> None:
    """Cut a process off, in one direction or both."""
    process = _one(world, ALL)
    world.fault("line", "cut")
    process.cut_ways = world.dice.pick("ways", ["both", "in", "out"])
    process.cut_at = world.now
    process.cut_until = world.now + world.dice.seconds("for", 0.1, 4)


# Events that fail


@action
def poison(world: World) -> None:
    """Let the handler of an event to come fail some times, or until it is mended."""
    role = world.dice.pick("who", ["shop", "payment", "loyalty"])
    mended = role == "loyalty" or world.dice.chance("mended", 0.7)
    times = world.dice.whole("times", 1, 7) if mended else NEVER
    skip = world.dice.whole("skip", 0, 3)
    world.fault("handler", "poisoned" if times == NEVER else "fails for a while")
    world.to_poison.setdefault(role, []).extend([times, *[0] * skip])


@action
def mend(world: World) -> None:
    """Mend every handler that fails."""
    world.poisons = dict.fromkeys(world.poisons, 0)


@action
def outlast(world: World) -> None:
    """Wait until what fails again and again is dead: it stops nothing that comes after it."""
    heal(world, handlers=False)
    times = [*world.poisons.values(), *chain.from_iterable(world.to_poison.values())]
    failing = sum(times_left != 0 for times_left in times)  # each for 12.7 s at most
    world.run(16.0 * (1 + failing))
    for (role, stream, place), left in world.poisons.items():
        service = world.processes[role]
        if left == NEVER and service.up:
            reached = service.exchange._readers[stream].place
            if reached < Place.parse(place):
                world.broken(f"one poisoned event stops nothing: {role} {place} {reached}")


@action
def retry_dead(world: World) -> None:
    """Apply a dead letter after all, by the command, whose handler may fail still."""
    role = world.dice.pick("who", ["shop", "payment"])
    command(world, role, lambda parts: _retry(world, parts))


def _retry(world: World, parts: Any) -> None:
    letters = parts.dead_letters.all()
    if letters:
        failed = parts.dead_letters.retry(world.dice.pick("letter", letters)["id"])
        world.count("dead letter is dead still" if failed else "dead letter applied")


def command(world: World, role: str, do: Callable[[Any], None]) -> None:
    """Run a command of a service in a process of its own, on the service's database."""
    if not world.processes[role].path.exists():
        return
    process = ServiceProcess(world, f"{role}-command", role, world.data)
    process.up = process.calm = process.waits_itself = True

    def run() -> None:
        parts = process.parts = ServiceProcess.make[role](world.settings(world.data))
        parts.database.open(new=False)
        do(parts)

    try:
        process.run(run)
    except (StartError, Exception) as error:
        if not isinstance(error, StartError) and not is_outage(error):
            world.broken(f"a command of {role} raised {error!r}")
        world.count("a command failed")
    process.parts = None
    process.kill()


@action
def replay(world: World) -> None:
    """Build the catalogue anew from the first event on, while the shop sells."""
    import shop.replay  # noqa: PLC0415 - it is patched

    if world.is_suspect:  # of a journal that contradicts the shop, it would take the items
        return
    command(
        world, "shop", lambda parts: world.count("replayed", shop.replay._run(parts, None) == 0)
    )


# Time


@action
def wait(world: World) -> None:
    """Let time pass."""
    world.run(world.dice.seconds("for", 0.1, 4))


@action
def jump(world: World) -> None:
    """Set the wall clock, forwards or back."""
    world.fault("clock", "set")
    world.wall_offset += timedelta(seconds=world.dice.seconds("by", -100_000, 100_000))


@action
def prune(world: World) -> None:
    """A month passes, in which nothing happens, and retention takes away what is older."""
    world.now += MONTH_S
    world.slept += MONTH_S
    world.expired |= {*world.requests}
    for process in world.services():
        retention = process.parts and getattr(process.parts, "tasks", [])
        if process.up and retention:
            process.run(lambda parts=process.parts: _prune(world, parts))


def _prune(world: World, parts: Any) -> None:
    retention = next(task for task in parts.tasks if task.name == "retention")
    try:
        before = timestamp(retention.believed() - retention._days)
        while retention.prune(before):
            world.count("pruned")
    except Exception as failed:
        if not is_outage(failed):
            world.broken(f"retention raised {failed!r}")


# Files


@action
def backup(world: World) -> None:
    """Copy all databases, as they are at one moment."""
    if world.is_suspect or not all(_path(world, name).exists() for name in ALL):
        return
    folder = world.new_folder("backup")
    try:
        copy_all(world.data, folder)
    except sqlite3.DatabaseError:
        return  # a file is damaged, and that was not noticed yet
    world.backups.append(
        Backup(folder, world.ledger.copy(), world.is_archived, world.is_cut, set(world.expired))
    )
    world.count("backed up")


def _path(world: World, role: str) -> Path:
    return world.data / f"{role}.db"


@action
def restore_all(world: World) -> None:
    """Put back everything as it was at one moment: what was confirmed since is lost."""
    if not world.backups:
        return
    world.fault("file", "all restored")
    put_back(world, world.dice.whole("which", 0, len(world.backups) - 1))
    start_all(world)


def put_back(world: World, number: int) -> None:
    """Restore all databases from a backup; later backups are of a time that never was."""
    kill_everything(world)
    chosen = world.backups[number]
    for name in ALL:
        remove(_path(world, name))
        shutil.copyfile(chosen.folder / f"{name}.db", _path(world, name))
    world.ledger = chosen.ledger.copy()
    world.is_archived, world.is_cut = chosen.is_archived, chosen.is_cut
    world.expired |= chosen.expired
    del world.backups[number + 1 :]
    world.is_suspect = False


def kill_everything(world: World) -> None:
    """End all processes; forks end for good."""
    for name, process in list(world.processes.items()):
        process.kill()
        if process.folder != world.data:
            del world.processes[name]
            world.ledger.forget(name)


@action
def restore_some(world: World) -> None:
    """Put back some databases, but not all: what contradicts the others must be noticed."""
    if not world.backups:
        return
    which = world.dice.pick(
        "which",
        [["broker"], *([role] for role in ROLES), ["broker", "shop"], ["broker", "payment"],
         ["broker", "inventory"], ["shop", "payment"]],
    )  # fmt: skip
    world.fault("file", f"restored: {' and '.join(which)}")
    heal(world)
    if world.dice.chance("settled", 0.7):
        settle(world)
    for process in world.processes.values():
        if process.role in which:
            process.kill()
    chosen = world.backups[world.dice.whole("from", 0, len(world.backups) - 1)]
    world.is_mixed = chosen.is_archived != world.is_archived
    for role in which:
        remove(_path(world, role))
        shutil.copyfile(chosen.folder / f"{role}.db", _path(world, role))
        if role in ASKED:
            world.ledger.restore(role, chosen.ledger)
    world.is_suspect = True
    verify(world)


@action
def wipe(world: World) -> None:
    """Lose a database for good; a new one takes its place."""
    _lose(world, _one(world, ALL))


@action
def lose_journal(world: World) -> None:
    """Lose the journal for good."""
    _lose(world, world.broker)


def _lose(world: World, process: Process) -> None:
    world.fault("file", f"lost: {process.role}")
    for each in [each for each in world.processes.values() if each.path == process.path]:
        each.kill()
    remove(process.path)
    world.ledger.forget(process.role)
    if process.role in ("shop", "payment", "inventory") or world.is_cut:
        world.is_suspect = True  # if the clock was set back: it is not younger
    world.run(world.dice.seconds("down", 0, 2))
    process.start()


@action
def damage(world: World) -> None:
    """Let the journal's file become unreadable, under it or while it is down."""
    world.fault("file", "damaged: broker")
    if world.dice.chance("running", 0.5):
        if world.broker.up:
            world.broker.arm(Armed("damage", "any", world.dice.whole("after", 0, 6)))
        return
    world.broker.kill()
    remove(world.broker.path)
    spoil(world.broker.path)
    world.is_suspect |= world.is_cut
    world.broker.start()


@action
def archive(world: World) -> None:
    """Archive the journal as docs/operations.md has it, and perhaps cut the outboxes, too."""
    verify(world)  # nothing is waiting, behind or dead
    kill_everything(world)
    world.fault("file", "archived")
    told = (ROOT / "docs/operations.md").read_text()
    delete, cut = re.findall(r"^ +(DELETE FROM .*?;)", told, re.M | re.S)
    with closing(sqlite3.connect(world.broker.path)) as database:
        database.executescript(delete)
    world.is_archived = True
    if world.dice.chance("cut", 0.5):
        world.fault("file", "cut")
        world.is_cut = True
        for role in ("shop", "payment"):
            with closing(sqlite3.connect(_path(world, role))) as database:
                database.executescript(cut)
    start_all(world)


@action
def fork(world: World) -> None:
    """Start a copy of the shop or of payment beside the original, on a copy of its database."""
    role = world.dice.pick("who", ["shop", "payment", "inventory"])
    if f"{role}-fork" in world.processes or not _path(world, role).exists():
        return
    world.fault("file", f"forked: {role}")
    world.is_suspect = True
    original = world.processes[role]
    original.kill()
    folder = world.new_folder("fork")
    folder.mkdir()
    for suffix in ("", "-wal"):
        if (source := Path(f"{original.path}{suffix}")).exists():
            shutil.copyfile(source, folder / source.name)
    original.start()
    copy = world.add(f"{role}-fork", role, folder)
    world.ledger.outcomes[copy.account] = dict(world.ledger.of(role))
    copy.start()


@action
def usurp(world: World) -> None:
    """Let another copy lead, before the one that does has noticed."""
    process = _one(world, ["shop", "payment", "inventory"])
    world.usurp(process)


@action
def check(world: World) -> None:
    """Heal and drain it all, and check the promises, amid the history."""
    verify(world)
