"""The benchmark: its arithmetic, its table, and a quick run of it."""

import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from bench import chart, load, sales
from bench.__main__ import figures
from bench.errors import Failed
from bench.figures import FIGURES
from bench.filling import ITEMS_BOUGHT, Rows, fill_all, fill_shop
from bench.findings import Finding, Goal, Result, Results, Run, Series
from bench.load import Load, Request
from bench.processes import Processes
from bench.report import keep, number, table
from bench.sales import Till
from bench.system import row
from bench.turns import Contestant, Effort, gather, need, take_turns
from messaging.event import Event
from messaging.transports.wire import Place
from runtime import ROOT
from scenarios.invariants import WRITERS

AT_LEAST, AT_MOST = Goal(kind="at least", limit=0.5), Goal(kind="at most", limit=3)
RUN = Run(
    at="2026-11-24T10:00:00.000Z",
    system="2 cores",
    load="16 connections",
    rounds=3,
    seconds=1,
    quick=False,
)


def series(*values: float, name: str = "other", counts: bool = True) -> Series:
    return Series(name=name, durability="flushed", values=list(values), counts=counts)


def finding(*others: Series, goal: Goal | None = AT_LEAST, ours: Series | None = None) -> Finding:
    ours = ours or series(10, 20, 30, name="ours")
    return Finding(
        name="sales", about="some sales", unit="sales/s", ours=ours, others=list(others), goal=goal
    )


def test_ratio_is_that_of_the_same_round():
    # The machine was slow in the first round, for both of them.
    ours, other = series(1, 100, 100), series(2, 200, 200)
    assert finding(ours=ours).ratio(other) == 0.5
    assert finding(ours=ours).ratio(series(1, 50, 400)) == 1


@pytest.mark.parametrize(
    ("goal", "verdict", "outcome"),
    [
        (AT_LEAST, 0.5, "at least 0.5: met"),
        (AT_MOST, 2, "at most 3: met"),
        (Goal(kind="at least", limit=0.6), 0.5, "at least 0.6: MISSED"),
        (Goal(kind="at most", limit=1), 2, "at most 1: MISSED"),
        (None, None, "shown"),
    ],
)
def test_worst_ratio_decides(goal, verdict, outcome):
    both = finding(series(20, 40, 60), series(5, 10, 15), goal=goal)
    assert (both.verdict, both.outcome) == (verdict, outcome)


def test_weaker_contestant_does_not_decide():
    weaker = series(1000, 1000, 1000, counts=False)
    assert finding(series(20, 40, 60), weaker).verdict == 0.5
    assert finding(weaker).outcome == "at least 0.5: nobody to compare with"


@pytest.mark.parametrize(
    ("value", "text"),
    [(1234.5, "1,234"), (99.96, "100.0"), (12.34, "12.3"), (1.234, "1.23"), (0.0456, "0.046")],
)
def test_numbers_have_the_digits_that_matter(value, text):
    assert number(value) == text


def test_table_tells_everything():
    measured = finding(series(20, 40, 60), series(1, 2, 3, name="toy", counts=False))
    measured.left_out = {"NATS": "not installed"}
    results = {
        "sales": Result(run=RUN, findings=[measured]),
        "other": Result(run=RUN, findings=[], failure="no disk"),
    }
    head, ours, other, toy, *rest = table(results).splitlines()
    assert head.split()[:5] == ["figure", "contestant", "median", "lowest", "highest"]
    assert ours.split()[:6] == ["sales", "ours", "20.0", "10.0", "30.0", "sales/s"]
    assert "at least 0.5: met" in ours
    assert other.split() == ["other", "40.0", "20.0", "60.0", "sales/s", "0.500", "flushed"]
    assert "does not count" in toy
    assert "sales without NATS: not installed" in rest
    assert "other was not measured: no disk" in rest
    assert rest[-1] == str(RUN)  # once


def test_figures_are_kept_beside_those_of_earlier_runs(tmp_path):
    path = tmp_path / "results.json"
    keep(
        path, {"sales": Result(run=RUN, findings=[finding()]), "old": Result(run=RUN, findings=[])}
    )
    kept = keep(path, {"sales": Result(run=RUN, findings=[finding(series(1, 2, 3))])})
    assert kept == Results.model_validate_json(path.read_bytes())
    assert list(kept.figures) == ["sales", "old"]
    assert len(kept.figures["sales"].findings[0].others) == 1


def test_chart(tmp_path):
    pytest.importorskip("matplotlib")
    path = tmp_path / "chart.png"
    some = [finding(series(20, 40, 60)), finding(goal=None), finding(series(1, 2, 3, counts=False))]
    told = chart.draw({"sales": Result(run=RUN, findings=some)}, path)
    assert told == f"chart: {path}"
    assert path.read_bytes().startswith(b"\x89PNG")


def test_contestants_take_turns_after_a_warm_up():
    order = []

    def measured(name: str) -> Contestant:
        return Contestant(name, lambda: order.append(name) or len(order))

    one, other = take_turns("sales", [measured("A"), measured("B")], Effort(2, 1.0, quick=False))
    assert "".join(order) == "ABABAB"
    assert (one.values, other.values) == ([3, 5], [4, 6])


def test_who_cannot_take_part_is_left_out_with_a_reason():
    def missing(_: str) -> Contestant:
        need("json", "no_such_library")
        raise AssertionError

    there = Contestant("there", lambda: 1.0)
    ready, left_out = gather([("missing", missing), ("there", lambda _: there)])
    assert ready == [there]
    assert left_out == {"missing": "no_such_library not installed: see bench/requirements.txt"}


@pytest.mark.parametrize("text", ["", "nothing", "checkout,nothing"])
def test_unknown_figures_are_refused(text):
    with pytest.raises(Exception, match="is not one of checkout,"):
        figures(text)


def test_no_process_is_left_behind(tmp_path):
    with pytest.raises(KeyboardInterrupt), Processes(tmp_path) as processes:
        process = processes.start("sleep", "sleep", "60")
        raise KeyboardInterrupt
    assert process._popen.returncode == -15


def test_process_that_fails_is_told_by_its_last_line(tmp_path):
    with Processes(tmp_path) as processes:
        process = processes.python("failing", "no_such_module")
        with pytest.raises(Failed, match=r"failing has ended: .*no_such_module"):
            process.wait_until(lambda: False, "works")
        with pytest.raises(Failed, match="sleep works: not within"):
            processes.start("sleep", "sleep", "60").wait_until(lambda: False, "works", 0.05)


@pytest.mark.parametrize("generator", ["wrk", "threads"])
def test_load_with_errors_is_no_load(generator, monkeypatch):
    if generator == "threads":
        monkeypatch.setattr(load, "WRK", None)
    elif not load.WRK:
        pytest.skip("wrk is not installed")
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:  # it knows no GET
        threading.Thread(target=server.serve_forever).start()
        url = f"http://127.0.0.1:{server.server_port}"
        with pytest.raises(Failed, match=r"GET .*: [1-9]\d* of \d+ requests failed"):
            load.drive(Request("GET", url), 1, connections=2)
        server.shutdown()


def test_filled_databases_are_as_the_services_write_them(tmp_path):
    """That they agree with each other is what tests/test_audit.py begins with."""
    fill_all(tmp_path, Rows(orders=5, items=10, users=4, keys=3))
    shop = tmp_path / "shop.db"
    assert row(shop, sales.COUNTED) == (5, 5 * len(ITEMS_BOUGHT), 5, 5)
    assert row(shop, "SELECT (SELECT count(*) FROM user), (SELECT count(*) FROM item)") == (4, 10)
    assert row(shop, "SELECT count(*), count(DISTINCT key) FROM kept_answer") == (3, 3)
    for stream, name in WRITERS.items():
        (body,) = row(tmp_path / f"{name}.db", "SELECT body FROM outbox WHERE sequence = 3")
        event = Event.parse(stream, place := Place.parse(json.loads(body)["id"]), body)
        assert row(tmp_path / f"{name}.db", "SELECT epoch, 3 FROM head") == place
        if stream == "orders":
            assert event.type == "order.placed"
            assert event.subject == event.data["order_id"]
            assert sum(item["price"] for item in event.data["items"]) == event.data["price"]


@pytest.mark.parametrize(("answered", "good"), [(0, True), (1, False)])
def test_sale_must_have_left_its_rows(tmp_path, monkeypatch, answered, good):
    monkeypatch.setattr(sales, "drive", lambda *_: Load(answered, 0, 1.0, 0.0))
    till = Till("http://localhost", fill_shop(tmp_path / "shop.db", 10))
    if good:
        assert till.sell(1) == 0
    else:
        with pytest.raises(Failed, match="1 checkouts were confirmed, and there are 0 orders"):
            till.sell(1)


def bench(folder: Path, *arguments: str) -> Results:
    output = folder / "results.json"
    command = [sys.executable, "-m", "bench", "--quick", "--output", output, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return Results.model_validate_json(output.read_bytes())


def test_quick_run(tmp_path):
    """What has to be counted is counted; the numbers themselves are no test's business."""
    result = bench(tmp_path, "--only", "checkout", "--rounds", "1").figures["checkout"]
    (measured,) = result.findings
    assert measured.verdict > 0
    assert len(measured.ours.values) == len(measured.others[0].values) == result.run.rounds == 1


@pytest.mark.chaos
@pytest.mark.timeout(900)
def test_every_figure(tmp_path):
    """Contestants whose libraries are missing are left out, and named."""
    results = bench(tmp_path, "--rounds", "1").figures
    assert list(results) == list(FIGURES)
    for result in results.values():
        assert result.findings
        for measured in result.findings:
            assert all(
                value > 0 for series in (measured.ours, *measured.others) for value in series.values
            )
            assert measured.others or measured.left_out
