"""Several copies of each service on one PostgreSQL: one leads, all serve, nothing is done twice."""

import itertools
import random
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from runtime.process.settings import Settings
from scenarios.servers import PostgresServer
from tests.conftest import eventually, own_settings
from tests.load import under_load
from tests.pairs import SCALE, new_databases, new_world
from tests.processes import SERVICES, Answer, World

TAKEOVER_S = 10
SESSIONS = "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
LEADING = """SELECT pid FROM pg_locks JOIN pg_database ON pg_database.oid = database
             WHERE locktype = 'advisory' AND objid = 2 AND granted
               AND datname = current_database()"""
END = "SELECT pg_terminate_backend(pid) FROM ({}) AS found WHERE pid <> pg_backend_pid()"
ENDS = signal.SIGTERM, signal.SIGKILL, signal.SIGSTOP


def plain_for(plain: tuple[str, Any], names: Sequence[str], hows: Sequence[Any]) -> Any:
    """Each of these ``names`` with each ``how``, of which plain ``pytest`` tries one alone."""
    return pytest.mark.parametrize(
        ("name", "how"),
        [
            pytest.param(*each, marks=[pytest.mark.chaos] * (each != plain))
            for each in itertools.product(names, hows)
        ],
    )


class Copies(World):
    """Copies of each service, each in a world of its own on the same servers.

    Whoever asks for a service asks any of its copies that run.
    """

    def __init__(self, first: World, count: int) -> None:
        super().__init__(first.settings, first.servers)
        self._asleep: tuple[str, World] | None = None
        self.each = [first, *(World(self._apart(n), first.servers) for n in range(1, count))]

    def _apart(self, number: int) -> Settings:
        own = own_settings(self.settings.data_dir.parent / f"copy-{number}")
        keep = {name: getattr(own, name) for name in ("data_dir", *[f"{s}_port" for s in SERVICES])}
        return self.settings.model_copy(update=keep)

    def of(self, name: str) -> list[World]:
        """The copies of a service that run."""
        running = [copy for copy in self.each if name in copy.processes]
        return [copy for copy in running if (name, copy) != self._asleep]

    @contextmanager
    def asleep(self, name: str, copy: World) -> Iterator[None]:
        """Let a copy stand still, which nobody asks then."""
        self._asleep = name, copy
        copy.signal(name, signal.SIGSTOP)
        try:
            yield
        finally:
            copy.signal(name, signal.SIGCONT)
            self._asleep = None

    def ask(self, name: str, *request: Any, **headers: str) -> Answer:
        return random.choice(self.of(name)).ask(name, *request, **headers)

    def leaders(self, name: str) -> list[World]:
        """The copies of a service that lead, and say so."""
        leading = []
        for copy in self.of(name):
            with suppress(OSError):
                state = copy.state(name)
                if state["database"] == "up" and not state.get("standby"):
                    leading.append(copy)
        return leading

    def leader(self, name: str, other_than: World | None = None) -> World:
        """The one copy of a service that leads, once there is one."""

        def found() -> World | None:
            leading = self.leaders(name)  # two, if it has changed while they were asked
            return leading[0] if len(leading) == 1 and leading[0] is not other_than else None

        leading: World = eventually(found, TAKEOVER_S)
        return leading

    def state(self, name: str) -> Any:
        return self.leader(name).state(name)

    def lines(self) -> list[str]:
        """What all copies of payment have written."""
        return [line for copy in self.each for line in copy.output("payment").splitlines()]

    def end(self) -> None:
        for copy in self.each:
            copy.end()


@pytest.fixture(scope="module")
def shared(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Copies]:
    """Copies that run on between the tests."""
    settings = own_settings(tmp_path_factory.mktemp("copies"))
    with new_world(SCALE, settings, request) as first:
        copies = Copies(first, 3)
        first.start("broker")
        try:
            yield copies
        finally:
            copies.end()


@pytest.fixture
def copies(shared: Copies) -> Copies:
    """Three copies of each service, up and quiet."""
    for copy in shared.each:
        copy.start(*[name for name in SERVICES if name not in copy.processes])
    for name in SERVICES:
        shared.leader(name)
    eventually(shared.is_drained)
    return shared


def line(payment: dict[str, Any]) -> str:
    """What the console says of a payment."""
    order = f" for order {payment['order_id']}" if payment["order_id"] else ""
    told = "Payment {id} of {price} by user {user_id}{order} succeeded"
    return told.format(**{**payment, "order": order})


def test_all_serve_and_one_leads(copies: Copies) -> None:
    """Whichever copy is asked reads and writes; the others say that they stand by."""
    for name in SERVICES:
        states = [copy.state(name) for copy in copies.of(name)]
        assert [state["status"] for state in states] == ["ready"] * 3
        assert sorted(state.get("standby", False) for state in states) == [False, True, True]
    orders = []
    for copy in copies.each:
        orders.append(copy.checkout(copy.stock()))
        paid = copy.post("payment", "/api/payment", {"user_id": 1, "price": 7})
        assert paid.status == 201
    for copy in copies.each:
        for order in orders:
            eventually(lambda order=order, copy=copy: copy.is_paid(order))
    payments = copies.get("payment", "/api/payments")
    lists = ["/api/items", "/api/users", "/api/payments"]
    for name, path in zip(SERVICES, lists, strict=True):
        assert len({copy.ask(name, "GET", path).body for copy in copies.of(name)}) == 1
    written = sorted(line(payment) for payment in payments)
    eventually(lambda: sorted(copies.lines()) == written)


@plain_for(("payment", signal.SIGKILL), SERVICES, ENDS)
def test_another_copy_takes_over(copies: Copies, name: str, how: signal.Signals) -> None:
    """The leader ended, killed or stopped under load: nothing confirmed is lost, or there twice.

    One that is only stopped keeps its lock. A line is repeated only by a kill.
    """
    with under_load(copies) as load:
        leader = copies.leader(name)
        if how == signal.SIGSTOP:
            leader.pause(name, 0.5)
        else:
            leader.kill(name, number=how)
            copies.leader(name, other_than=leader)
    payments = copies.get("payment", f"/api/payments?user_id={load.user_id}")
    once = (name, how) != ("payment", signal.SIGKILL)

    def written() -> list[str]:
        lines = [told for told in copies.lines() if f" by user {load.user_id} " in told]
        return sorted(lines if once else {*lines})

    eventually(lambda: written() == sorted(map(line, payments)))


@plain_for(("payment", 0), SERVICES, (0, 7))
def test_a_leader_that_sleeps_through_a_change(copies: Copies, name: str, how: float) -> None:
    """Its session ends while it stands still, and another copy leads: it does nothing twice."""
    with under_load(copies) as load, copies.asleep(name, copies.leader(name)):
        assert copies.rows(name, END.format(LEADING))
        copies.leader(name)
        load.advance()
        time.sleep(how)


@plain_for(("shop", SESSIONS), SERVICES, (LEADING, SESSIONS))
def test_sessions_that_the_server_ends(copies: Copies, name: str, how: str) -> None:
    """The leader's session, or all of them, ended under load: one leads again, and all goes on."""
    with under_load(copies) as load:
        assert copies.rows(name, END.format(how))
        load.advance()
        copies.leader(name)


@plain_for(("database", signal.SIGKILL), ("database", "broker"), ENDS[:2])
def test_a_server_that_is_started_again(copies: Copies, name: str, how: signal.Signals) -> None:
    """PostgreSQL or NATS ended under load, and started again: no copy need be."""
    with under_load(copies):
        copies.kill(name, number=how)
        copies.start(name)


def test_each_copy_sells_what_the_warehouse_has(copies: Copies) -> None:
    """What one copy of the inventory changes, every copy of the shop lists, sells and refuses."""
    basket = copies.stock()
    (item_id,) = basket["item_ids"]

    def is_listed(copy: World) -> bool:
        return item_id in [item["id"] for item in copy.get("shop", "/api/items")]

    for warehouse in copies.of("inventory"):
        for listed, status in ((False, 422), (True, 201)):
            toggled = warehouse.ask("inventory", "PUT", f"/api/items/{item_id}/toggle_status")
            assert toggled.status == 200
            for copy in copies.of("shop"):
                eventually(lambda copy=copy, listed=listed: is_listed(copy) == listed)
                assert copy.post("shop", "/api/checkout", basket).status == status


def test_copies_on_the_own_broker(cluster: PostgresServer, settings: Settings) -> None:
    """Copies on PostgreSQL exchange events through the broker of the embedded pair, too."""
    with new_databases(cluster) as urls:
        in_the_clear = settings.model_copy(update={**urls, "broker_curve": "off"})
        copies = Copies(World(in_the_clear, {"database": cluster}), 2)
        try:
            for copy in copies.each:
                copy.start(*SERVICES)
            copies.each[0].start("broker")
            with under_load(copies):
                leader = copies.leader("shop")
                leader.kill("shop")
                copies.leader("shop", other_than=leader)
        finally:
            copies.end()
