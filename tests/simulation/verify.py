"""The end of a history: all is healed and drained, and then the promises are checked."""

import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from broker.journal import Journal
from messaging.recovery import begin_epoch, set_place
from messaging.transports.wire import START, Place
from runtime.process.errors import Unavailable
from tests.simulation import promises, state
from tests.simulation.clients import REFUSED, UNANSWERED, Request, ask
from tests.simulation.network import GOOD
from tests.simulation.process import NEVER, ServiceProcess

if TYPE_CHECKING:
    from tests.simulation.world import World

PATIENCE_S = 60.0  # of simulated time, until all is drained
NOTICED_S = 12.0  # until a contradiction is told
FIRST: dict[str, tuple[str, dict[str, Any]]] = {  # what is asked so that an event is told
    "inventory": ("/api/item", {"name": "First", "price": 1}),
    "shop": ("nonsense", {"type": "order.placed"}),
    "payment": ("/api/payment", {"user_id": 1, "price": 1}),
}
PROBLEMS = ("publishing stopped", "the stream")  # how lines of a contradiction begin


def verify(world: "World") -> None:
    """Heal and drain; what must halt has halted, and said so; then mend it; check all promises."""
    heal(world)
    settle(world)
    _give_the_word(world)
    _let_new_databases_tell(world)
    now = state.read(world)
    if found := promises.contradictions(now):
        now, found = _let_it_be_noticed(world)
    for name, process in world.processes.items():
        if isinstance(process, ServiceProcess):
            _check_halted(world, process, found.get(name, []))
    promises.nothing_is_skipped(world, now)
    has_fork = any(process.folder != world.data for process in world.processes.values())
    if found or has_fork or world.is_mixed:
        world.note("contradictions", *found.items())
        remedy(world, found)
        _give_the_word(world)
        now = state.read(world)
        left = promises.contradictions(now)
        promises.require(not left, "what operations.md says ends a contradiction", left)
    promises.check(world, now)
    world.is_suspect = world.is_mixed = False
    world.count("checked")


def _give_the_word(world: "World") -> None:
    """Let a payment service pay that cannot know what a lost database and journal had paid."""
    for process in world.processes.values():
        if not isinstance(process, ServiceProcess) or process.role != "payment":
            continue
        if "this database is new" in (process.problem() or ""):
            lost = {"lost: payment", "lost: broker", "damaged: broker", "archived", "all restored"}
            reasons = [what for what in lost if world.counts[f"fault: file: {what}"]]
            reasons += ["a clock was set"] * world.counts["fault: clock: set"]
            promises.require(reasons, "nobody halts without a reason", process.name)
            database = process.database
            process.run(lambda database=database: set_place(database, "orders", START, back=False))
            world.count("word given")
            settle(world)


def _let_new_databases_tell(world: "World") -> None:
    """A lost database took an event along that its readers have: they say so until it is replaced.

    That is when the new one tells its first event.
    """
    now = state.read(world)
    for process in world.services():
        own = now.services[process.name]
        places = [each.cursors.get(own.stream, START) for each in now.services.values()]
        has_been_lost = world.counts[f"fault: file: lost: {process.role}"]
        if has_been_lost and not own.head.sequence and max(places) > now.newest(own.stream):
            path, body = FIRST[process.role]
            request = Request(f"r{len(world.requests)}", process.account, path, body, None)
            world.requests[request.id] = request
            world.prices |= {"First": 1}
            ask(world, process, request)
            world.count("a new database told its first event")
            settle(world)


Found = dict[str, list[promises.Contradiction]]


def _let_it_be_noticed(world: "World") -> tuple[state.State, Found]:
    """Readers compare themselves after an outage of the broker, and with what stands still."""
    world.broker.kill()
    world.run(0.5)
    world.broker.start()
    world.run(NOTICED_S)
    now = state.read(world)
    return now, promises.contradictions(now)


def _check_halted(
    world: "World", process: ServiceProcess, found: list[promises.Contradiction]
) -> None:
    problem = process.problem()
    if [each for each in found if each.must_be_told]:
        promises.require(problem, "what must halt has halted", process.name, *found)
        is_told = any(line.startswith(PROBLEMS) for line in process.said)
        promises.require(is_told, "what has halted says so", process.name, problem)
        for each in found:
            world.count(f"halted: {process.role}: {each.kind}")
    elif not found and world.copies(process)[0] is process:
        promises.require(not problem, "nobody halts without a reason", process.name, problem)


def remedy(world: "World", found: Found) -> None:
    """Do what docs/operations.md says: begin, or a new epoch, or restore all from one moment."""
    from tests.simulation.actions import put_back, start_all  # noqa: PLC0415 - they use this

    promises.require(world.backups, "nothing contradicts what was never restored", found)
    kinds = {each.kind for reasons in found.values() for each in reasons}
    by_hand = world.dice.chance("by hand", 0.7) and not world.is_mixed
    _end_forks(world)
    lost = promises.LOST in kinds <= {promises.LOST, promises.AHEAD}  # readers wait for it
    if by_hand and (lost or kinds == {promises.OLD}):
        if lost:
            _begin_journal(world)
        else:
            world.set_clock_right()
            for process in [world.processes[name] for name in found if name in world.processes]:
                _new_epoch(process)
        start_all(world)
        settle(world)
        if not promises.contradictions(state.read(world)):
            world.count(f"mended by hand: {'lost' if lost else 'old'}")
            return
    put_back(world, len(world.backups) - 1)
    world.count("restored as the remedy")
    start_all(world)
    settle(world)


def _end_forks(world: "World") -> None:
    for name, process in list(world.processes.items()):
        if process.folder != world.data:
            process.kill()
            del world.processes[name]
            world.ledger.forget(process.account)


def _begin_journal(world: "World") -> None:
    """`python -m broker begin`, with the broker stopped, as the writers' lines have it."""
    world.broker.kill()
    world.is_archived = True  # it begins amid a stream
    services = state.read(world).services
    for service in services.values():
        known = state.read(world).newest(service.stream)
        if service.outbox and min(service.outbox) > known.sequence + 1:
            journal = Journal(world.broker.path, None, world.clock)
            journal.open()
            first = Place(service.head.epoch, min(service.outbox))
            journal.begin(service.stream, first)
            world.begun.add((service.stream, first))
            os.close(journal._database._claim)


def _new_epoch(process: ServiceProcess) -> None:
    """`python -m shop new-epoch --yes`, likewise the others, while it runs."""
    process.run(lambda: begin_epoch(process.database, process.exchange._outbox))


def heal(world: "World", handlers: bool = True) -> None:
    """End every fault, mend what fails, and start what is down."""
    world.network.line = GOOD
    if handlers:
        world.poisons, world.to_poison = dict.fromkeys(world.poisons, 0), {}
    for process in world.processes.values():
        process.cut_until = process.outage_until = process.stopped_until = -NEVER
        process.armed = []
    world.network.hurry()
    for process in world.processes.values():
        process.start()
        process.wake()


def settle(world: "World") -> None:
    """Let time pass until nobody has anything to do, nor anything that waits."""
    deadline = world.now + PATIENCE_S
    frames = world.network.frames
    calm = 0
    while calm < 2 or not _is_read(world):
        world.run(0.5 if not calm else 2.6)  # longer than a probe's interval
        for process in world.processes.values():
            process.start()
        _ask_again(world)
        calm = calm + 1 if _is_settled(world) and not _retry_dead(world) else 0
        if world.now > deadline:
            world.note("not settled")
            _explain(world)
            return
    world.counts["frames to drain"] += world.network.frames - frames


def _is_read(world: "World") -> bool:
    """Whether every reader is at the journal's end: one that pauses does not know of it."""
    now = state.read(world)
    behind = [
        service.role
        for service in now.services.values()
        for stream in state.READS.get(service.role, [])
        if now.newest(stream) > service.cursors.get(stream, START)
    ]
    return all(world.copies(each)[0].problem() for each in world.services() if each.role in behind)


def _is_settled(world: "World") -> bool:
    for process in list(world.services()):
        leader = world.copies(process)[0]
        if not leader.is_leader:
            return False
        if not (leader.is_settled() or leader.problem()):
            return False
    return bool(world.broker.up and not world.broker.problem())


def _explain(world: "World") -> None:
    """Say why there is no end: a contradiction that nobody has told, or a livelock."""
    found = promises.contradictions(state.read(world))
    waiting = []
    for process in world.services():
        leader = world.copies(process)[0]
        if not (leader.is_settled() or leader.problem()):
            waiting.append(leader.name)
    told = [name for name, process in world.processes.items() if process.up and process.problem()]
    promises.require(
        found, "everything is drained in the end", "waiting:", waiting, "problems:", told
    )
    for name, reasons in found.items():
        if any(each.must_be_told for each in reasons):
            promises.require(name in told, "what must halt has halted", name, *reasons)


def _ask_again(world: "World") -> None:
    """Clients repeat what was not answered, under its key."""
    for service in list(world.services()):
        process = world.copies(service)[0]
        if process.folder != world.data or not process.up or process.halted:
            continue
        for name, outcome in list(world.ledger.of(process.account).items()):
            request = world.requests[name]
            if outcome == UNANSWERED and request.key and name not in world.expired and process.up:
                ask(world, process, request)
                if world.ledger.of(process.account)[name] == REFUSED:
                    world.count("refused when asked again")


def _retry_dead(world: "World") -> bool:
    """Once handlers are mended, apply what is dead; whether anything was there to apply."""
    applied = False
    for process in list(world.services()):
        letters = getattr(process.parts, "dead_letters", None)
        if not process.up or letters is None:
            continue
        for letter in process.run(letters.all) or []:
            if b'"nonsense"' not in letter["body"]:
                place = Place(letter["epoch"], letter["sequence"])
                world.check_dead(process.role, letter["stream"], place)
                with suppress(Unavailable):  # it has halted, and takes nothing before the remedy
                    process.run(lambda letters=letters, letter=letter: letters.retry(letter["id"]))
                    world.count("dead letter applied after mending")
                    applied = True
    return applied
