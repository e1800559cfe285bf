"""Clients: what was asked of the services, what they answered, and what must be true since."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from inventory.items import NewStatus, ToCreate
from messaging.event import Fact
from payment.payments import Pay
from runtime.process.clock import timestamp
from runtime.process.errors import NotFound, Refused, ShopError
from runtime.storage.database import is_outage
from runtime.storage.writer import hand_in
from runtime.web import once as idempotency
from runtime.web.once import Change, created
from shop.orders import Checkout

if TYPE_CHECKING:
    from tests.simulation.process import ServiceProcess
    from tests.simulation.world import World

CONFIRMED, UNANSWERED, REFUSED = "confirmed", "unanswered", "refused"
EMITS = {"/api/item", "/api/toggle", "/api/checkout", "/api/payment", "nonsense"}


@dataclass(frozen=True)
class Request:
    """A request that would change something; its id travels with every event that it causes."""

    id: str
    account: str  # whose it is: a role's, or that of a fork
    path: str
    body: dict[str, Any]
    key: str | None = None


@dataclass
class Ledger:
    """What the present databases were asked, by service and id of the request."""

    outcomes: dict[str, dict[str, str]] = field(default_factory=dict)  # by role
    answers: dict[tuple[str, str], bytes] = field(default_factory=dict)

    def copy(self) -> "Ledger":
        """As it is now, for a backup."""
        outcomes = {role: dict(known) for role, known in self.outcomes.items()}
        return Ledger(outcomes, dict(self.answers))

    def forget(self, account: str) -> None:
        """Its database is lost."""
        self.outcomes.pop(account, None)
        self.answers = {name: told for name, told in self.answers.items() if name[0] != account}

    def restore(self, account: str, other: "Ledger") -> None:
        """Its database is as it was at another time."""
        self.forget(account)
        self.outcomes[account] = dict(other.of(account))
        self.answers |= {name: told for name, told in other.answers.items() if name[0] == account}

    def of(self, role: str) -> dict[str, str]:
        """Outcome by request of one service."""
        return self.outcomes.setdefault(role, {})


def change(parts: Any, request: Request) -> Change:
    """What a responder makes of a request: the rule that its path stands for, and the command."""
    body = request.body

    def emit(facts: list[Fact]) -> list[dict[str, Any]]:
        parts.outbox.emit(body["type"], facts)
        return [fact.data for fact in facts]

    rule, command = {
        "/api/user": lambda: (parts.users.create, body["name"]),
        "/api/item": lambda: (parts.items.create, ToCreate(*body.values(), request.id)),
        "/api/toggle": lambda: (parts.items.change, NewStatus(body["item_id"], None, request.id)),
        "/api/checkout": lambda: (parts.orders.checkout, Checkout(*body.values(), request.id)),
        "/api/payment": lambda: (parts.payments.pay, Pay(*body.values(), None, request.id)),
        "nonsense": lambda: (emit, Fact(request.id, timestamp(), {"nonsense": True}, request.id)),
    }[request.path]()
    return Change(rule, command, created)


def misuse(world: "World", process: "ServiceProcess", request: Request) -> None:
    """Send another body under a key that was answered: it is refused, and has no effect."""
    if world.ledger.of(process.account).get(request.id) != CONFIRMED:
        return
    assert request.key
    key = idempotency.Key.of(request.path, request.key, request.body | {"another": True})

    def serve() -> bool:
        asked = change(process.parts, request)._replace(key=key)
        hand_in(process.parts.database, idempotency.once, asked)
        return True

    try:
        if process.run(serve):
            world.broken(f"a key of {request.path} was answered for another body")
    except (Refused, ShopError):
        world.count("a misused key was refused")
    except Exception as error:
        if not is_outage(error):
            world.broken(f"{request.path} of {process.name} raised {error!r}")


def ask(world: "World", process: "ServiceProcess", request: Request) -> bytes | None:
    """Ask a process; the ledger has the outcome. The answer's body, if there is one."""
    outcomes = world.ledger.of(process.account)
    first = request.id not in outcomes
    outcomes.setdefault(request.id, UNANSWERED)
    halted = process.halted

    def serve() -> idempotency.Answer:
        key = request.key and idempotency.Key.of(request.path, request.key, request.body)
        asked = change(process.parts, request)._replace(key=key or None)
        return hand_in(process.parts.database, idempotency.once, asked)

    answer = None
    outcome = UNANSWERED
    try:
        if answer := process.run(serve):
            outcome = CONFIRMED
    except (Refused, NotFound):
        outcome = REFUSED
    except ShopError as error:
        world.note("503", type(error).__name__)
    except Exception as error:
        if not is_outage(error):
            world.broken(f"{request.path} of {process.name} raised {error!r}")
    world.note("asked", process.name, request.path, request.id, outcome)
    world.count(f"{request.path} {outcome}")
    if outcome == CONFIRMED and first and halted and request.path in EMITS:
        world.broken(f"{process.name} confirmed {request.path} although its publishing has stopped")
    if outcomes[request.id] == CONFIRMED and outcome != CONFIRMED:
        if outcome == REFUSED:
            world.broken(f"{request.id} was confirmed, and is refused now under the same key")
        return None  # it was confirmed all the same
    outcomes[request.id] = outcome
    if answer is None:
        return None
    body: bytes = answer.body
    kept = world.ledger.answers.setdefault((process.account, request.id), body)
    if kept != body:
        world.broken(f"{request.id} was answered with {kept!r}, and then with {body!r}")
    return body
