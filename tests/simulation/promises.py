"""The promises of docs/reliability.md, each a check of what is on the disks once all is drained."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

from pydantic_core import from_json

from messaging.transports.wire import START, Place
from tests.simulation.clients import CONFIRMED, EMITS, REFUSED
from tests.simulation.state import READS, STREAMS, Service, State

if TYPE_CHECKING:
    from tests.simulation.world import World

WRITERS = {stream: role for role, stream in STREAMS.items()}


class Broken(BaseException):
    """A promise that is not kept; the product must not catch it."""


def check(world: "World", state: State) -> None:
    """Check every promise, of which none is excused: the databases contradict nobody."""
    for promise in PROMISES:
        promise(world, state)


def require(kept: object, promise: str, *details: object) -> None:
    """Raise `Broken` with the promise's sentence, unless it is kept."""
    if not kept:
        raise Broken(": ".join([promise, " ".join(map(str, details))]) if details else promise)


class Contradiction(NamedTuple):
    """What the disks have against a process that goes on, and whether it must have noticed."""

    kind: str
    why: str
    must_be_told: bool = True


OLD, LOST, AHEAD, HOLE, OTHER = "old", "lost", "ahead", "hole", "other"


def contradictions(state: State) -> dict[str, list[Contradiction]]:
    """Which processes must not go on, by name, as the disks have it."""
    found: dict[str, list[Contradiction]] = {}
    for name, service in state.services.items():
        reasons = [*_of_writer(state, service)]
        for stream in READS.get(service.role, []):
            reasons += _of_reader(state, service, stream)
        if reasons:
            found[name] = reasons
    return found


def _of_writer(state: State, service: Service) -> Iterable[Contradiction]:
    newest, head = state.newest(service.stream), service.head
    if newest > head:
        yield Contradiction(OLD, f"the journal holds {newest}, and this database {head}")
    for place, body in state.journal[service.stream].items():
        own = service.outbox.get(place.sequence)
        if place.epoch == head.epoch and own not in (None, body):
            yield Contradiction(OLD, f"the journal holds another event under {place}")
    known = newest.sequence if newest.epoch == head.epoch else 0
    if service.outbox and min(service.outbox) > known + 1:
        oldest = min(service.outbox)
        yield Contradiction(LOST, f"{oldest} is the oldest here, and the journal ends at {known}")


def _of_reader(state: State, service: Service, stream: str) -> Iterable[Contradiction]:
    held, place = state.journal[stream], service.cursors.get(stream, START)
    newest, inbox = state.newest(stream), service.inbox[stream] | service.dead[stream]
    # An empty journal is filled again by its writer, unless that is a new one with nothing to tell.
    writers = [each for each in state.services.values() if each.stream == stream]
    is_new = all(each.head.epoch > place.epoch and not each.head.sequence for each in writers)
    if newest < place and not (is_new and newest == START):
        why = f"{place} was applied, and the journal ends at {newest}"
        yield Contradiction(AHEAD, why, newest > START)
    above = next((each for each in held if each > place), None)
    known = place.sequence if above and above.epoch == place.epoch else 0
    if above and place.sequence and known < above.sequence - 1:
        yield Contradiction(HOLE, f"what comes after {place} is missing, up to {above}")
    others = [at for at, body in inbox.items() if held.get(at, body) != body]
    if others:  # a reader asks for the event at its place when it has lost sight of the broker
        yield Contradiction(OTHER, f"other events were applied: {others}", place in others)


def confirmed_effects_are_there_once(world: "World", state: State) -> None:
    """What was confirmed is there once; what was refused is not; nothing else is."""
    for service in state.services.values():
        if service.role not in EFFECTS:
            continue
        outcomes = world.ledger.of(service.role)
        told = Counter(
            event.get("correlationid") for event in service.events if _is_asked_for(event)
        )
        for request_id, outcome in outcomes.items():
            if world.requests[request_id].path not in EMITS:
                continue
            times = told.pop(request_id, 0)
            least = outcome == CONFIRMED and not world.is_cut
            most = outcome != REFUSED
            require(
                least <= times <= most,
                f"{outcome} effects of {service.role} are told once",
                request_id,
                f"is told {times} times",
            )
        require(not told, f"{service.role} tells nothing that it was not asked for", told)
        EFFECTS[service.role](world, service)


def _is_asked_for(event: dict[str, Any]) -> bool:
    return event["type"] != "payment.succeeded" or not event["data"]["order_id"]


def _answered(world: "World", service: Service, path: str) -> Iterable[dict[str, Any]]:
    for request_id, outcome in world.ledger.of(service.role).items():
        if outcome == CONFIRMED and world.requests[request_id].path == path:
            yield from_json(world.ledger.answers[service.role, request_id])


def _inventory_is_as_asked(world: "World", service: Service) -> None:
    items = {row["id"]: row for row in service.tables["item"]}
    for item in _answered(world, service, "/api/item"):
        row = items.get(item["id"])
        same = row and (row["name"], row["price"]) == (item["name"], item["price"])
        require(same, "a confirmed item is in the warehouse", item, row)
    for row in items.values():
        changes = [e for e in service.events if e["subject"] == str(row["id"]) and _is_sense(e)]
        versions = [event["data"]["version"] for event in changes]
        require(versions == [*range(1, row["version"] + 1)], "each change is told once", row)
        active = bool(row["version"] % 2)
        require(row["active"] == active == changes[-1]["data"]["active"], "toggles toggle", row)


def _shop_is_as_asked(world: "World", service: Service) -> None:
    names = {row["name"] for row in service.tables["user"]}
    for user in _answered(world, service, "/api/user"):
        require(user["name"] in names, "a confirmed user is there", user)
    lines = defaultdict(list)
    for line in service.tables["order_line"]:
        lines[line["order_id"]].append(line)
    orders = {row["id"]: row for row in service.tables["order"]}
    for order in _answered(world, service, "/api/checkout"):
        row = orders.get(UUID(order["id"]).hex)
        same = row and (row["user_id"], row["price"]) == (order["user_id"], order["price"])
        require(same, "a confirmed order is there", order, row)
    for row in orders.values():
        price = sum(line["price"] * line["quantity"] for line in lines[row["number"]])
        at_price = all(world.prices[line["name"]] == line["price"] for line in lines[row["number"]])
        require(price == row["price"] and at_price, "an order costs what its items do", row)
    if not world.is_cut:
        told = [event["data"]["order_id"] for event in service.events if _is_sense(event)]
        facts = [str(UUID(row["id"])) for row in service.tables["order"]]
        require(facts == told, "each order is told once, in order", facts, told)


def _payment_is_as_asked(world: "World", service: Service) -> None:
    rows = {row["id"]: row for row in service.tables["payment"]}
    for payment in _answered(world, service, "/api/payment"):
        row = rows.get(payment["id"])
        same = row and (row["user_id"], row["price"]) == (payment["user_id"], payment["price"])
        require(same, "a confirmed payment is there", payment, row)
    if not world.is_cut:
        told = [event["data"]["payment_id"] for event in service.events]
        known = {*told}
        own = [payment_id for payment_id in rows if payment_id in known]
        require(own == told, "each payment is told once, in order", own, told)
        others = [row for payment_id, row in rows.items() if payment_id not in known]
        strange = [row for row in others if not _is_taken_over(service, row)]
        require(not strange, "what was not told was taken over", strange)


def _is_taken_over(payment: Service, row: dict[str, Any]) -> bool:
    """Whether an earlier database has told of a payment."""
    bodies = payment.inbox.get("payments", {}).values()
    told = [(data["order_id"], data["user_id"], data["price"]) for data in map(_data, bodies)]
    order_id = row["order_id"] and str(UUID(row["order_id"]))
    return (order_id, row["user_id"], row["price"]) in told


def _data(body: bytes) -> dict[str, Any]:
    return dict(from_json(body)["data"])


EFFECTS: dict[str, Callable[["World", Service], None]] = {
    "inventory": _inventory_is_as_asked,
    "shop": _shop_is_as_asked,
    "payment": _payment_is_as_asked,
}


def _is_sense(event: dict[str, Any]) -> bool:
    return "nonsense" not in event["data"]


def streams_are_in_order(world: "World", state: State) -> None:
    """The journal holds each stream once, in order, without a hole."""
    for stream, held in state.journal.items():
        places = [*held]
        for before, place in zip([START, *places], places, strict=False):
            follows = (before.epoch, before.sequence + 1) == place
            begins = before.epoch < place.epoch and (place.sequence == 1 or world.is_archived)
            begins |= (stream, place) in world.begun
            require(follows or begins, f"the journal holds {stream} in order", before, place)


def outbox_journal_and_inbox_agree(world: "World", state: State) -> None:
    """Outbox, journal and inbox agree byte for byte, and every reader is at the end."""
    for service in state.services.values():
        head, held = service.head, state.journal[service.stream]
        if head.sequence:
            newest = state.newest(service.stream)
            require(newest == head, "the journal has all of the outbox", service.role, newest, head)
        for sequence, body in service.outbox.items():
            kept = held.get(Place(head.epoch, sequence))
            gone = kept is None and world.is_archived and sequence < head.sequence
            require(kept == body or gone, "outbox and journal agree", service.role, sequence)
        for stream in READS.get(service.role, []):
            _inbox_agrees(world, state, service, stream)


def a_place_moves_forward_only(world: "World", state: State) -> None:
    """A reader moves on only from where it was."""
    for service in state.services.values():
        require(not service.moved_back, "no place goes back", service.role, service.moved_back)


def _inbox_agrees(world: "World", state: State, service: Service, stream: str) -> None:
    held, place = state.journal[stream], service.cursors.get(stream, START)
    newest = state.newest(stream)
    at_end = newest in (place, START)
    require(at_end, "every reader is at the end", service.role, stream, place, newest)
    read = service.inbox[stream] | service.dead[stream]
    for at, body in read.items():
        require(held.get(at, body) == body, "journal and inbox agree", service.role, at)
    begun = world.is_archived or Place(place.epoch, 1) in read or not place.sequence
    require(begun, "a reader begins at the first event", service.role, stream)


def nothing_is_skipped(world: "World", state: State) -> None:
    """Nothing is skipped in silence, not even by one who has begun amid a stream."""
    for service in state.services.values():
        for stream in READS.get(service.role, []):
            place = service.cursors.get(stream, START)
            read = service.inbox[stream] | service.dead[stream]
            ours = sorted(at.sequence for at in read if at.epoch == place.epoch)
            whole = [*range(ours[0] if ours else 1, place.sequence + 1)]
            require(ours == whole, "nothing is skipped", service.role, stream, ours)


def each_order_is_paid_once(world: "World", state: State) -> None:
    """Each order is paid once, at its price; and nothing that was not ordered is."""
    payment = state.services["payment"]
    paid = {row["order_id"]: row for row in payment.tables["payment"] if row["order_id"]}
    heard = [from_json(body) for body in payment.inbox["orders"].values()]
    # After `new-epoch`, an order is heard of again under another place.
    orders = {event["data"]["order_id"]: event["data"] for event in heard if _is_sense(event)}
    for order in orders.values():
        row = paid.pop(UUID(order["order_id"]).hex, None)
        same = row and (row["user_id"], row["price"]) == (order["user_id"], order["price"])
        require(same, "each order is paid once, at its price", order, row)
    strange = [row for row in paid.values() if not _is_taken_over(payment, row)]
    require(not strange, "nothing is paid that was not ordered", strange)
    shop, journal = state.services["shop"], state.journal["payments"]
    heard_of = {place.epoch for place in shop.inbox["payments"]}
    # Nobody can tell the shop what payment took over from a journal that was lost after that, nor
    # what a database told, made under a clock that was behind, before it was lost, too.
    told = {
        _data(body)["order_id"]
        for place, body in journal.items()
        if place.epoch in heard_of or place.epoch > max(heard_of, default=b"")
    }
    taken_over = {_data(body)["order_id"] for body in payment.inbox.get("payments", {}).values()}
    for row in shop.tables["order"]:
        is_untold = str(UUID(row["id"])) in taken_over - told
        require(row["paid_at"] or is_untold, "each order turns paid", row)


def the_catalogue_is_the_warehouse(world: "World", state: State) -> None:
    """The shop's catalogue is what the warehouse has."""
    shown = ("id", "name", "price", "active", "version")

    def of(role: str) -> list[tuple[Any, ...]]:
        rows = state.services[role].tables["item"]
        return sorted(tuple(row[name] for name in shown) for row in rows)

    # A new warehouse is heard of with its first event.
    if of("inventory"):
        require(of("shop") == of("inventory"), "catalogue = warehouse", of("shop"), of("inventory"))


def nothing_is_dead_but_nonsense(world: "World", state: State) -> None:
    """Nothing is dead unless it was poisoned: what failed for a while was applied after all."""
    for service in state.services.values():
        dead = [body for bodies in service.dead.values() for body in bodies.values()]
        wrong = [body for body in dead if _is_sense(from_json(body))]
        require(not wrong, "nothing is dead unless poisoned", service.role, wrong)


def loyalty_counts_each_payment_once(world: "World", state: State) -> None:
    """A handler that is not idempotent is applied once for each event."""
    loyalty = state.services["loyalty"]
    sums: Counter[int] = Counter()
    for body in loyalty.inbox["payments"].values():
        data = from_json(body)["data"]
        sums[data["user_id"]] += data["price"]
    counted = {row["user_id"]: row["paid"] for row in loyalty.tables["loyalty"]}
    require(counted == dict(sums), "loyalty counts each payment once", counted, dict(sums))


def every_payment_is_on_the_console(world: "World", state: State) -> None:
    """Each payment is announced, and marked as such."""
    payment = state.services["payment"]
    for row in payment.tables["payment"]:
        if _is_taken_over(payment, row):
            continue
        order = f" for order {UUID(row['order_id'])}" if row["order_id"] else ""
        line = f"Payment {row['id']} of {row['price']} by user {row['user_id']}{order} succeeded"
        require(row["announced"] and line in world.printed, "each payment is announced", line)


PROMISES = [
    a_place_moves_forward_only,
    streams_are_in_order,
    confirmed_effects_are_there_once,
    outbox_journal_and_inbox_agree,
    nothing_is_skipped,
    nothing_is_dead_but_nonsense,
    each_order_is_paid_once,
    the_catalogue_is_the_warehouse,
    loyalty_counts_each_payment_once,
    every_payment_is_on_the_console,
]
