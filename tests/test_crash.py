"""A process killed at each step of its work, as SQLite is tested: nothing is lost or doubled.

Plain ``pytest`` tries steps at which something was sent, flushed or printed; what lies between two
statements is the simulation's. ``-m chaos`` tries all of them, each of them twice.
"""

import contextlib
import re
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from scenarios.invariants import READERS, RULES, WRITERS, opened, prepare
from tests.conftest import eventually, own_settings
from tests.crash import Forked, steps
from tests.load import Load
from tests.processes import ALL, World


class Row(NamedTuple):
    """A function that works in a phase, its process, and what a `Load` does to lead there."""

    phase: str
    process: str
    requests: str
    function: str

    @property
    def name(self) -> str:
        return self.function.partition(":")[2]


TABLE = [  # a function that is added here has its steps tried, and is a failure if it is missing
    Row("emit", "shop", "buy", "shop.orders:Orders.checkout"),
    Row("emit", "shop", "buy", "messaging.outbox:Outbox.emit"),
    Row("emit", "shop", "buy", "runtime.storage.sqlite:SqliteFile.write"),
    Row("emit", "shop", "buy", "runtime.storage.writer:commit"),
    Row("emit", "shop", "buy", "runtime.storage.writer:Writer._serve"),
    Row("emit", "shop", "buy", "runtime.web.once:once"),
    Row("emit", "inventory", "add", "inventory.items:Items.create"),
    Row("emit", "inventory", "toggle", "inventory.items:Items.change"),
    Row("emit", "payment", "pay", "payment.payments:Payments.pay"),
    Row("publish", "shop", "buy", "messaging.publisher:Publisher.step"),
    Row("publish", "shop", "buy", "messaging.publisher:Publisher._send_window"),
    Row("publish", "shop", "buy", "messaging.publisher:Publisher._send"),
    Row("publish", "shop", "buy", "messaging.publisher:Publisher.handle_ack"),
    Row("publish", "shop", "buy", "messaging.outbox:Outbox.note"),
    Row("journal", "broker", "buy add", "broker.journal:Journal.handle"),
    Row("journal", "broker", "buy add", "broker.journal:Journal._append"),
    Row("journal", "broker", "buy add", "broker.journal:Journal._answer"),
    Row("apply", "payment", "buy", "messaging.inbox:Reader.apply"),
    Row("apply", "payment", "buy", "messaging.inbox:Reader._commit"),
    Row("apply", "payment", "buy", "messaging.inbox:Reader._apply"),
    Row("apply", "payment", "buy", "messaging.inbox:handle"),
    Row("apply", "payment", "buy", "payment.payments:Payments.pay"),
    Row("apply", "shop", "buy", "shop.orders:Orders.mark_paid"),
    Row("apply", "shop", "add toggle", "shop.catalogue:Catalogue.update"),
    Row("console", "payment", "buy pay", "payment.console:Console._announce"),
    Row("prune", "shop", "buy", "messaging.retention:Retention.prune"),
]

CHOSEN = {  # for every run: a moment, the step that comes after it, and for the how many-th time
    "order-committed": ("emit SqliteFile.write: self._write_lock.release()", 3),
    "event-sent": ("publish Publisher._send: self._sent_at = ", 1),
    "ack-received": ("publish Publisher.handle_ack: self._acked = ", 1),
    "journal-committed": ("journal Journal.handle: self._peer.send(reply)", 1),
    "place-committed": ("apply Reader._commit: self._move_on(", 1),
    "line-due": ("console Console._announce: say(", 1),
    "pruned": ("prune Retention.prune: return STEP_ROWS in pruned", 3),
}

AGAIN = "where an event is applied again, from which a reader's place keeps it"
RESTORED = "after an older backup was restored"
REPLACED = "for events of a warehouse that was replaced"
ELSEWHERE = {  # steps to which nothing here leads: where they are come to
    "SqliteFile.write: raise": "where another thread holds the lock for 5 s",
    "Items.change: outcomes.append(_not_found(": "for an item that is not there",
    "Items.change: continue": "for an item that is not there",
    "Publisher.handle_ack: self._compare_again(": RESTORED,
    "Publisher.handle_ack: self._compare_after(": "where the outbox was archived",
    "Journal._append: refused[stream] = ": RESTORED,
    "Journal._append: continue": "where a run leaves a gap, or is of an older epoch",
    "Journal._append: self._complain(": RESTORED,
    "Outbox.emit: raise Unavailable": RESTORED,
    "Orders.mark_paid: known = ": AGAIN,
    "Orders.mark_paid: for paid in ": AGAIN,
    "Orders.mark_paid: log.warning(": "after the shop's database was lost",
    "Catalogue.update: return": REPLACED,
    "Catalogue.update: with self.database.write(): (2)": REPLACED,
    "Catalogue.update: Item.delete()": REPLACED,
}

OLD = "SELECT key FROM kept_answer WHERE kept_at < '2001'"
HANG_S = 0.5  # longer than a writer waits for an ack, shorter than a connection


def _told(field: str) -> str:
    return f"json_extract(CAST(body AS TEXT), '$.{field}')"


_ITEM, _PAYMENT = _told("data.id"), _told("data.payment_id")
_ORDER = f"replace({_told('data.order_id')}, '-', '')"

# What one transaction writes is there together, at any moment: both queries give the same rows.
TOGETHER: dict[str, dict[str, str]] = {
    "broker": {},
    "inventory": {
        "SELECT id, version FROM item": f"SELECT {_ITEM}, count(*) FROM outbox GROUP BY 1",
    },
    "shop": {
        'SELECT id FROM "order"': f"SELECT {_ORDER} FROM outbox",
        'SELECT id FROM "order" WHERE paid_at IS NOT NULL': (
            f"SELECT {_ORDER} FROM inbox WHERE stream = 'payments' AND {_ORDER} IS NOT NULL"
        ),
        "SELECT id, version FROM item": (
            f"SELECT {_ITEM}, count(*) FROM inbox WHERE stream = 'items' GROUP BY 1"
        ),
    },
    "payment": {
        "SELECT id, order_id FROM payment": f"SELECT {_PAYMENT}, {_ORDER} FROM outbox",
        "SELECT order_id FROM payment WHERE order_id IS NOT NULL": f"SELECT {_ORDER} FROM inbox",
    },
}
for _name, _table in ("inventory", "item"), ("shop", '"order"'), ("payment", "payment"):
    _answered = f"replace({_told('id')}, '-', '')"
    _kept = f"SELECT {_answered} FROM kept_answer"
    TOGETHER[_name] |= {
        _kept: f"{_kept} WHERE {_answered} IN (SELECT id FROM {_table})",
        "SELECT sequence FROM head": "SELECT count(*) FROM outbox",
        "SELECT stream, sequence FROM cursor": "SELECT stream, count(*) FROM inbox GROUP BY 1",
        "SELECT count(*) FROM dead_letter": "SELECT 0",
    }


class ForkedWorld(World):
    """A world whose processes start quickly, and kill themselves where they are told to."""

    def run(self, *arguments: str, **changes: str) -> Forked:  # type: ignore[override]
        name = arguments[-1]
        outputs = {1: self._log(name, "stdout"), 2: self._log(name, "stderr")}
        process = Forked(name, self.environment(**changes), outputs)
        self._every.append(process)
        return process

    def is_dead(self, name: str) -> bool:
        return self.processes[name].poll() is not None

    def newest(self, name: str, table: str, stream: str) -> int:
        query = f"SELECT coalesce(max(sequence), 0) FROM {table} WHERE stream = '{stream}'"
        return int(self.rows(name, query)[0][0])

    def is_settled(self) -> bool:
        """Whether every event is told, kept and applied, and every payment announced."""
        for stream, writer in WRITERS.items():
            ((told,),) = self.rows(writer, "SELECT sequence FROM head")
            kept = self.newest("broker", "entry", stream)
            if not told == kept == self.newest(READERS[stream], "cursor", stream):
                return False
        return not self.rows("payment", "SELECT id FROM payment WHERE NOT announced")

    def lines(self) -> Counter[int]:
        """How often each payment was announced."""
        line = r"^Payment (\d+) of \d+ by user \d+ (?:for order \S+ )?succeeded$"
        return Counter(map(int, re.findall(line, self.output("payment"), re.MULTILINE)))

    def acked(self, name: str) -> int:
        """Up to where a service believes that the journal has its events."""
        ((told,),) = self.rows(name, "SELECT sequence FROM head")
        return told - self.get(name, "/readyz")["outbox_waiting"]


def age(world: World, name: str) -> None:
    """Add answers that were kept long ago, for three steps of pruning."""
    world.rows(
        name,
        """
        WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300)
        INSERT INTO kept_answer
        SELECT path, key || i, fingerprint, status, location, body, '2000-01-01T00:00:00.000Z'
        FROM kept_answer, n LIMIT 300""",
    )


Worlds = Callable[[], AbstractContextManager[ForkedWorld]]


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worlds]:
    """Four running processes, which tests share until one of them fails."""
    shared: list[ForkedWorld] = []

    @contextlib.contextmanager
    def running() -> Iterator[ForkedWorld]:
        world = shared.pop() if shared else _new_world(tmp_path_factory.mktemp("crash"))
        try:
            assert not any(map(world.is_dead, ALL))
            yield world
            shared.append(world)
        finally:
            if not shared:
                world.end()

    yield running
    for world in shared:
        world.end()


def _new_world(folder: Path) -> ForkedWorld:
    world = ForkedWorld(own_settings(folder))
    world.start(*ALL)
    return world


def troubles(
    world: ForkedWorld, process: str, armed: dict[str, str], times: int, later: Callable[..., None]
) -> Iterator[None]:
    """None at first, then more and more, for the steps to which requests alone do not lead."""
    count = Path(armed["CRASH_COUNT"])

    def quiet() -> None:
        """Let idle writers send their newest event."""
        with contextlib.suppress(AssertionError):
            eventually(lambda: world.is_dead(process), timeout_s=2.5)

    count.write_text(str(times))
    if times == 1:
        yield
    for visits in sorted({times, 1}, reverse=True):  # some steps come once only
        count.write_text(str(visits))
        broker = world.processes["broker"]  # it hangs: events are sent again, and come in batches
        broker.send_signal(signal.SIGSTOP)
        later(broker.send_signal, signal.SIGCONT)
        yield
        if process != "payment":  # it is away: what it missed is replayed
            world.kill("payment")
            later(world.start, "payment")
            yield
    quiet()
    yield
    world.kill(process)  # its start has steps, too
    world.processes[process] = world.run("-m", process, **armed)
    yield
    for is_quiet in (False, True) if process != "broker" else ():  # the journal is lost
        world.kill("broker")
        for path in world.files("broker"):
            path.unlink()
        world.start("broker")
        eventually(lambda: world.rows("broker", "SELECT 1 FROM sqlite_master WHERE name = 'entry'"))
        if is_quiet:
            quiet()
        yield


def examine(world: World, name: str, folder: Path | None = None) -> None:
    """The database of a process, or a copy in a folder, is in order."""
    assert world.rows(name, "PRAGMA integrity_check", folder) == [("ok",)]
    for query, same in TOGETHER[name].items():
        rows, expected = world.rows(name, query, folder), world.rows(name, same, folder)
        assert sorted(rows) == sorted(expected), query


def examine_all(world: World) -> None:
    """The databases agree with each other, too, once all is settled."""
    for name in ALL:
        examine(world, name)
    with opened(world.settings.data_dir) as database:
        prepare(database)
        assert not [rule for rule, query in RULES.items() if database.execute(query).fetchall()]


def crash(world: ForkedWorld, row: Row, step: str, times: int, folder: Path) -> None:
    """Kill a process when it comes to a step for the n-th time: nothing is amiss after it.

    The first time at once, so that what it has just sent may be lost; later, when that is out.
    """
    text = steps(row.function)[step].text
    load = Load(world)
    armed = {
        "CRASH_AT": f"{row.function} {step}",
        "CRASH_COUNT": f"{folder}/count",
        "CRASH_LINGER_S": "0" if times == 1 else "0.05",
    }
    before = world.lines()
    load.buy()
    eventually(world.is_settled)  # a payment that is not marked would be announced again
    world.kill(row.process)
    if row.phase == "prune":  # which begins with the process
        age(world, row.process)
        Path(armed["CRASH_COUNT"]).write_text(str(times))
        world.processes[row.process] = world.run("-m", row.process, **armed)
    else:
        world.start(row.process, **armed)
    work: list[Future[Any]] = []
    with ThreadPoolExecutor() as pool:

        def later(action: Callable[..., Any], *arguments: Any) -> None:
            work.append(pool.submit(lambda: (time.sleep(HANG_S), action(*arguments))))

        def send(kind: str) -> None:
            for _ in range(4):
                getattr(load, kind)()

        def is_over() -> bool:
            done = all(request.done() for request in work)
            return world.is_dead(row.process) or (done and world.is_settled())

        for _ in troubles(world, row.process, armed, times, later):
            work += [pool.submit(send, kind) for kind in row.requests.split() * 2]
            eventually(is_over)
            if world.is_dead(row.process):
                break
        else:
            pytest.fail(f"nothing leads to {row.name}: {text}")

        assert world.processes.pop(row.process).wait() == -signal.SIGKILL
        for path in world.files(row.process):
            shutil.copy(path, folder)
        examine(world, row.process, folder)
        repeated = Counter[int]()
        if row.process == "payment":
            unmarked = world.rows("payment", "SELECT id FROM payment WHERE NOT announced", folder)
            repeated.update({number for (number,) in unmarked} & world.lines().keys())
        if row.process == "broker":
            wait(work)
            for stream, writer in WRITERS.items():
                assert world.acked(writer) <= world.newest("broker", "entry", stream)
        world.start(row.process)
        for request in work:
            request.result()

    eventually(world.is_settled)
    eventually(lambda: row.phase != "prune" or not world.rows(row.process, OLD))
    examine_all(world)
    load.check()
    payments = {number for (number,) in world.rows("payment", "SELECT id FROM payment")}
    assert world.lines() == before + Counter(payments - before.keys()) + repeated


def every_step() -> Iterator[tuple[Row, str, str]]:
    """The steps of the table, with their names and texts; a function that is not there fails."""
    for row in TABLE:
        try:
            for name, step in steps(row.function).items():
                yield row, name, f"{row.name}: {step.text}"
        except (ImportError, AttributeError):
            yield row, "missing", f"{row.name}: missing"


def parameter(row: Row, name: str, text: str) -> Any:
    reasons = [reason for start, reason in ELSEWHERE.items() if text.startswith(start)]
    marks = [pytest.mark.skip(reason=f"only {reason}") for reason in reasons]
    return pytest.param(row, name, id=f"{row.phase}-{row.name}-{name}", marks=marks)


@pytest.mark.parametrize("chosen", CHOSEN)
def test_a_crash_loses_and_doubles_nothing(worlds: Worlds, chosen: str, tmp_path: Path) -> None:
    """Killed at a moment that matters: each request and each event has its effect once."""
    start, times = CHOSEN[chosen]
    found = [
        (row, name) for row, name, text in every_step() if f"{row.phase} {text}".startswith(start)
    ]
    assert found, f"no step is {start}"
    with worlds() as world:
        crash(world, *found[0], times, tmp_path)


@pytest.mark.chaos
@pytest.mark.parametrize("times", [1, 3], ids=["first", "third"])
@pytest.mark.parametrize(("row", "name"), [parameter(*step) for step in every_step()])
def test_a_crash_at_any_step_loses_and_doubles_nothing(
    worlds: Worlds, row: Row, name: str, times: int, tmp_path: Path
) -> None:
    """Likewise at every step, when it comes for the first time, or the third."""
    with worlds() as world:
        crash(world, row, name, times, tmp_path)


def test_what_is_left_out_is_there() -> None:
    """Each step that is left out by its text is a step of a function in the table."""
    texts = [text for _, _, text in every_step()]
    assert [start for start in ELSEWHERE if not any(text.startswith(start) for text in texts)] == []
