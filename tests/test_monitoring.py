"""What deploy/ has for Prometheus, tried with a real one that watches real processes."""

import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest

from runtime import ROOT
from tests.conftest import eventually, free_port
from tests.processes import ALL, World
from tests.programs import program

FILES = ROOT / "deploy" / "prometheus"
PORTS = {"broker": 8000, "inventory": 8001, "shop": 8002, "payment": 8003}
FIRED = 'group by (alertname, job) (last_over_time(ALERTS{alertstate="firing"}[1h]))'
DOWN = {
    "broker": ("ParrotBrokerDown", "parrot-broker"),
    **{name: ("ParrotServiceDown", f"parrot-{name}") for name in ("inventory", "shop", "payment")},
}
NOT_SHOWN = {
    "parrot_build_info",
    "parrot_events_acked_total",
    "parrot_events_malformed_total",
    "parrot_events_published_total",
}
UNPAID = ("ParrotOrdersUnpaid", None)
Alarm = tuple[str, str | None]


class Prometheus:
    """A real one, with our files, asked over HTTP."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}/api/v1"

    def query(self, text: str) -> list[dict[str, str]]:
        """The labels of each series that this has data for now."""
        with urlopen(f"{self._url}/query?{urlencode({'query': text})}", timeout=10) as answer:
            found = json.load(answer)["data"]["result"]
        return [each["metric"] for each in found if each["value"][1] != "NaN"]

    def fired(self) -> set[Alarm]:
        """Every alarm that has fired so far."""
        return {(each["alertname"], each.get("job")) for each in self.query(FIRED)}

    def firing(self) -> set[Alarm]:
        found = self.query('ALERTS{alertstate="firing"}')
        return {(each["alertname"], each.get("job")) for each in found}

    def sees(self, *names: str) -> bool:
        """Whether these are up, and the services among them see the broker."""
        up = {each["job"] for each in self.query("up == 1")}
        return {f"parrot-{name}" for name in names} <= up and not self.query(
            "parrot_broker_up != 1"
        )


@contextmanager
def prometheus(world: World, folder: Path, faster: bool) -> Iterator[Prometheus]:
    """Run our files on this world's ports; ``faster`` looks each second."""
    config, alerts = ((FILES / name).read_text() for name in ("prometheus.yml", "alerts.yml"))
    for name, port in PORTS.items():
        config = config.replace(
            f"127.0.0.1:{port}", f"127.0.0.1:{world.settings.http_port(name)[0]}"
        )
    if faster:
        config = config.replace("interval: 10s", "interval: 1s")
    (folder / "prometheus.yml").write_text(config)
    (folder / "alerts.yml").write_text(alerts)
    port = free_port()
    options = {
        "config.file": folder / "prometheus.yml",
        "storage.tsdb.path": folder / "series",
        "web.listen-address": f"127.0.0.1:{port}",
    }
    command = [program("prometheus"), *(f"--{name}={value}" for name, value in options.items())]
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        found = Prometheus(port)
        eventually(lambda: "ready to receive" in (folder / "prometheus.log").read_text())
        eventually(lambda: found.sees(*ALL), timeout_s=30)
        yield found
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    "what", [("check", "config", "prometheus.yml"), ("test", "rules", "alerts.test.yml")]
)
def test_promtool_has_no_word_against_the_files(what: tuple[str, ...]) -> None:
    ended = subprocess.run(
        [program("promtool"), *what], cwd=FILES, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_every_alarm_is_tried_and_says_what_to_do() -> None:
    rules = re.split(r"- alert: ", (FILES / "alerts.yml").read_text())[1:]
    tried = (FILES / "alerts.test.yml").read_text()
    for rule in rules:
        name = rule.split()[0]
        assert re.search(rf"alertname: {name}\n +eval_time: \w+\n +exp_alerts:", tried), name
        assert "action:" in rule


def queries(part: Any) -> set[str]:
    """Every expression in a part of a dashboard."""
    if isinstance(part, list):
        return {text for entry in part for text in queries(entry)}
    if not isinstance(part, dict):
        return set()
    own = {part["expr"]} if "expr" in part else set()
    return own | {text for entry in part.values() for text in queries(entry)}


def test_every_query_of_the_dashboard_gives_data(world: World, tmp_path: Path) -> None:
    dashboard = json.loads((ROOT / "deploy" / "grafana" / "parrot-shop.json").read_text())
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))
    wanted = {text.replace("$__rate_interval", "30s") for text in queries(dashboard["panels"])}
    assert len(wanted) >= 20
    world.start(*ALL)
    basket = world.stock()
    with prometheus(world, tmp_path, faster=True) as watching:

        def without_data() -> set[str]:
            world.checkout(basket)
            return {text for text in wanted if not watching.query(text)}

        eventually(lambda: not without_data(), timeout_s=30)
        named = set(re.findall(r"parrot_\w+", " ".join(wanted)))
        for name in ALL:  # and nothing that an operator should see is left out
            text = world.ask(name, "GET", "/metrics").body.decode()
            shown = {re.sub("_(count|bucket)$", "", each) for each in named}
            left_out = set(re.findall(r"^# TYPE (parrot_\w+)", text, re.MULTILINE)) - shown
            assert left_out <= NOT_SHOWN


@pytest.mark.chaos
@pytest.mark.timeout(900)
def test_each_process_in_turn_with_the_files_as_they_are(world: World, tmp_path: Path) -> None:
    """Each that is killed raises its own alarm, no other, which ends with its return."""
    world.start(*ALL)
    basket = world.stock()
    with prometheus(world, tmp_path, faster=False) as watching:
        expected: set[Alarm] = set()
        for name in ALL:
            world.kill(name)
            due = {DOWN[name]}
            if name == "payment":
                world.checkout(basket)
                due.add(UNPAID)
            eventually(lambda due=due: due <= watching.firing(), timeout_s=90)
            world.start(name)
            eventually(lambda: watching.sees(*ALL) and not watching.firing(), timeout_s=90)
            expected |= due
            assert watching.fired() == expected
