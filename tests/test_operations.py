"""Whatever docs/operations.md tells an operator to type is typed here, as it is printed there."""

import ast
import configparser
import json
import os
import pwd
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from runtime import ROOT
from runtime.process.settings import Settings
from tests.conftest import eventually
from tests.processes import ALL, SERVICES, World
from tests.programs import program
from tests.test_faults import back_up
from tests.test_recovery import problem, ready

UNIT = ROOT / "deploy" / "systemd" / "parrot@.service"
DOCUMENT = (ROOT / "docs" / "operations.md").read_text()
PROGRAMS = "python|systemctl|journalctl|sqlite3|nats|chown|chmod"
BLOCKS = re.findall(r"```sh\n(.*?)```", DOCUMENT, re.DOTALL)
INLINE = re.findall(rf"`((?:{PROGRAMS}) [^`]*)`", DOCUMENT)
VARIABLES = {name.upper() for name in Settings.model_fields}
# What takes a system of its own, and how far it is tried here.
NOT_TYPED = {
    "useradd": "it would make a user of this machine; what it makes is compared with the unit",
    "DATA_DIR=": "a file; `Operator` reads it",
    "systemctl enable --now": "systemd does not run here; its units are compared",
    "systemctl edit parrot@": "likewise",
    "journalctl -u 'parrot@*'": "journald does not run here",
    "python -m shop --exchange-only": "tests/test_processes.py starts it, and an app beside it",
    "python -m runtime.health": "tests/test_deployment.py asks by it",
    "chown parrot": "there is no such user here",
    "chmod 600": "it says of itself what it does",
    "chmod -R go=": "likewise",
    "nats stream rm parrot-orders": "a tool of its own; its streams are compared",
}


def command(containing: str) -> str:
    """The one command or block of the document that is this, or in which this stands."""
    if containing in INLINE:
        return containing
    found = [text for text in dict.fromkeys([*BLOCKS, *INLINE]) if containing in text]
    assert len(found) == 1, (containing, found)
    return found[0]


class Operator:
    """Types into a shell that was made as the document says, in a folder that is no repository."""

    def __init__(self, world: World, folder: Path) -> None:
        self.world = world
        self.backups = folder / "backups"
        self.backups.mkdir()
        self._home = folder / "opt"
        self._home.mkdir()
        for path in ROOT.iterdir():
            if path.name[0] != ".":
                (self._home / path.name).symlink_to(path)
        (self._home / ".venv" / "bin").mkdir(parents=True)
        bin_ = Path(sys.executable).parent
        (self._home / ".venv" / "bin" / "activate").write_text(f"PATH={bin_}:$PATH\n")
        self._settings = folder / "parrot-shop.env"
        lines = dict(line.split("=") for line in command("DATA_DIR=").splitlines())
        assert lines.keys() <= VARIABLES
        lines |= {name: value for name, value in world.settings.environment().items() if value}
        self._settings.write_text("".join(f"{name}={value}\n" for name, value in lines.items()))

    def types(self, containing: str, code: int = 0, **words: str) -> str:
        """Type a command, with words in the place of those in capitals, and return its output."""
        sudo, *shell = command("sudo -u").splitlines()
        assert sudo.startswith("sudo -u parrot")
        script = "\n".join([*shell, command(containing)])
        user = pwd.getpwuid(os.getuid()).pw_name
        here = {
            "/opt/parrot-shop": str(self._home),
            "/etc/parrot-shop.env": str(self._settings),
            "/var/lib/parrot-shop": str(self.world.settings.data_dir),
            "/backups": str(self.backups),
            "parrot:parrot": f"{user}:",
            **words,
        }
        for theirs, ours in here.items():
            script = script.replace(theirs, ours)
        ended = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd="/",
            env={"PATH": os.environ["PATH"], "HOME": str(self._home), "LANG": "C.UTF-8"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert ended.returncode == code, ended.stderr
        return ended.stdout + ended.stderr


@pytest.fixture
def operator(world: World, tmp_path: Path) -> Operator:
    if not shutil.which("sqlite3"):
        pytest.skip("the command sqlite3 is not installed")
    return Operator(world, tmp_path)


def sell(world: World, number: int = 3) -> list[str]:
    """Orders that are paid, and of which everybody has heard."""
    basket = {"user_id": 1, "item_ids": [1]}
    orders = [world.checkout(basket) for _ in range(number)]
    eventually(lambda: all(map(world.is_paid, orders)) and world.is_drained())
    return orders


def test_every_command_of_the_document_is_typed() -> None:
    """Or is among those that cannot be typed here, with the reason."""
    typed = [
        node.args[0].value
        for node in ast.walk(ast.parse(Path(__file__).read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "types"
        and isinstance(node.args[0], ast.Constant)
    ]
    known = {command(text) for text in [*typed, *NOT_TYPED, "sudo -u"]}
    assert known == {*BLOCKS, *INLINE}


def test_a_backup_is_made_and_restored_and_an_audit_made(operator: Operator, world: World) -> None:
    """By a shell with the services' settings; what was sold since is gone, and sales go on."""
    world.start(*ALL)
    world.stock()
    before = sell(world)
    assert "4 databases" in operator.types("python -m runtime.backup")
    assert "3 orders, 3 payments: nothing is wrong" in operator.types("python run_all.py --audit")
    sell(world)
    world.post("shop", "/api/user", {"name": "Gosha"})
    restore = command("cp -a /backups")
    first, *typed, last = restore.splitlines()
    units = " ".join(f"parrot@{name}" for name in ALL)
    assert (first, last) == (f"systemctl stop {units}", f"systemctl start {units}")

    world.kill(*ALL, number=signal.SIGTERM)
    # What systemctl does is done here by hand; all between it is typed.
    operator.types("cp -a /backups", systemctl="true")
    assert len(typed) == 3
    world.start(*ALL)
    orders = world.get("shop", "/api/orders?user_id=1")
    assert [order["id"] for order in orders] == before[::-1]
    assert world.post("shop", "/api/user", {"name": "Chika"}).json()["id"] == 2
    sell(world)


def test_dead_letters_are_mended_retried_and_discarded(operator: Operator, world: World) -> None:
    """Each as printed, while the shop runs."""
    world.start("broker", "inventory", "shop")
    world.stock()
    world.kill("inventory")
    item = {"id": 2, "name": "Honey", "price": -5, "active": True, "version": 1}
    for change in ({}, {"id": 3}, {"id": 4, "name": "x" * 5000}):
        told = {"type": "item.created", "time": "2026-11-23T12:00:00Z", "data": {**item, **change}}
        world.rows("inventory", "UPDATE head SET sequence = sequence + 1")
        body = json.dumps(told, separators=(",", ":"))
        insert = f"INSERT INTO outbox SELECT sequence, CAST('{body}' AS BLOB) FROM head"
        world.rows("inventory", insert)
    world.start("inventory")
    eventually(lambda: world.state("shop")["dead"] == 3)

    *listed, _ = operator.types("python -m shop dead-letters   ").splitlines()
    assert [line.split()[0] for line in listed] == ["1", "2", "3"]
    assert max(map(len, listed)) < 300
    assert "1  is still dead" in operator.types("python -m shop dead-letters retry 1", code=1)
    event = {"/tmp/event.json": str(operator.backups / "event.json")}
    assert "1  was applied" in operator.types("dead-letters mend 1", **event)
    assert world.state("shop")["dead"] == 2
    prices = {each["id"]: each["price"] for each in world.get("shop", "/api/items")}
    assert prices == {1: 4000, 2: 4000}
    again = operator.types("python -m shop dead-letters retry --all", code=1)
    assert again.count("is still dead") == len(again.splitlines()) == 2
    told = operator.types("python -m shop dead-letters discard 1", **{"discard 1": "discard 2"})
    body, done = told.splitlines()
    assert (json.loads(body)["data"]["id"], done) == (3, "2  was discarded")
    assert world.state("shop")["dead"] == 1
    assert "3 could not" in operator.types("python -m shop replay", code=1)
    assert [each["id"] for each in world.get("shop", "/api/items")] == [1]


def test_archiving_and_packing(operator: Operator, world: World) -> None:
    """The journal cut, and later the outboxes: sales go on, and nothing is paid again."""
    world.start(*ALL)
    world.stock()
    sell(world)
    world.kill(*SERVICES, "broker", number=signal.SIGTERM)
    operator.types("DELETE FROM entry")
    (archived,) = operator.backups.iterdir()
    count = "SELECT stream, count(*), max(sequence) FROM entry GROUP BY stream ORDER BY stream"
    assert world.rows("broker", count) == [("items", 1, 1), ("orders", 1, 3), ("payments", 1, 3)]
    archived.rename(operator.backups / "broker.db")
    kept = world.rows("broker", count, folder=operator.backups)
    assert kept == [("items", 1, 1), ("orders", 3, 3), ("payments", 3, 3)]
    world.start(*ALL)
    sell(world)

    four = {"--from 1": "--from 1 | head -n 4"}
    shown = operator.types("python -m messaging tail orders --from 1", **four)
    assert (shown.count("order.placed"), shown.count("events are missing")) == (4, 1)

    world.lose("broker")
    world.start("broker")
    eventually(lambda: world.rows("broker", count)[1:] == [("orders", 6, 6), ("payments", 6, 6)])

    world.kill(*SERVICES, "broker", number=signal.SIGTERM)
    operator.types("for service in shop payment")
    world.start(*ALL)
    sell(world)
    assert len(world.get("payment", "/api/payments")) == 9
    assert "from 1 events" in operator.types("python -m shop replay")

    world.kill("shop", number=signal.SIGTERM)
    padding = "CREATE TABLE pruned AS SELECT randomblob(1000000); DROP TABLE pruned"
    for statement in padding.split(";"):
        world.rows("shop", statement)
    path = world.settings.data_dir / "shop.db"
    large = path.stat().st_size
    operator.types('VACUUM"\n')
    assert path.stat().st_size < large - 900_000
    world.start("shop")
    sell(world)

    # The journal is lost after the outboxes were cut: it begins amid the streams, as told.
    world.lose("broker")
    world.start("broker")
    for name, stream in (("shop", "orders"), ("payment", "payments")):
        told = problem(world, name, "the journal lacks the events before")
        found = re.search(rf"python -m broker begin {stream} ([0-9a-f]{{32}}:\d+)", told)
        assert found, told
        world.kill("broker", number=signal.SIGTERM)
        words = {"orders": stream, "PLACE": found[1]}
        operator.types("python -m broker begin orders PLACE", **words)
        world.start("broker")
    eventually(lambda: ready(world, *SERVICES))
    sell(world)


def test_outboxes_on_postgresql_are_cut(world: World, tmp_path: Path, postgres_url: str) -> None:
    """Both at once, here in one database; the newest event stays."""
    if not shutil.which("psql"):
        pytest.skip("the command psql is not installed")
    urls = {"shop_database_url": postgres_url, "payment_database_url": postgres_url}
    world.settings = world.settings.model_copy(update=urls)
    operator = Operator(world, tmp_path)
    assert world.finish("-m", "shop", "dead-letters").returncode == 0  # which makes the tables
    fill = "INSERT INTO outbox SELECT n, '' FROM generate_series(1, 5) AS n"
    subprocess.run(["psql", postgres_url, "-qc", fill], check=True)
    assert operator.types('psql "$url"').splitlines() == ["DELETE 4", "DELETE 0"]


def test_a_reader_goes_on_behind_a_hole(operator: Operator, world: World) -> None:
    """Payment's place is shown, and moved where its line says."""
    world.start(*ALL)
    world.stock()
    sell(world, 1)
    world.kill("payment")
    for _ in range(3):
        world.checkout({"user_id": 1, "item_ids": [1]})
    eventually(lambda: world.is_told("shop"))
    world.kill("broker", "shop", number=signal.SIGTERM)
    operator.types("DELETE FROM entry")
    world.start("broker", "shop", "payment")
    told = problem(world, "payment", "the journal has no events from")
    found = re.search(r"python -m payment place orders ([0-9a-f]{32}:\d+)", told)
    assert found, told
    place = operator.types("python -m payment place orders").split()[1]
    assert place.endswith(":1")
    moved = operator.types("python -m payment place orders PLACE", PLACE=found[1])
    assert f"it was {place}" in moved
    eventually(lambda: ready(world, "payment") and world.is_drained())
    sell(world)


def test_a_reader_goes_back_where_its_writer_was_restored(operator: Operator, world: World) -> None:
    """To before the first event: the orders that it has paid are not paid again."""
    world.start(*ALL)
    world.stock()
    sell(world)
    world.kill("shop", "broker")
    restore = [back_up(world, name) for name in ("shop", "broker")]
    world.start("broker", "shop")
    sell(world, 1)
    world.kill("shop", "broker")
    for put_back in restore:
        put_back()
    world.start("broker", "shop")
    world.checkout({"user_id": 1, "item_ids": [1]})
    problem(world, "payment", "another event than the one applied")
    place = operator.types("python -m payment place orders").split()[1]
    first = f"{place.partition(':')[0]}:0"
    operator.types("python -m payment place orders PLACE --back", PLACE=first)
    eventually(lambda: ready(world, "payment"))
    sell(world)
    paid = [each["order_id"] for each in world.get("payment", "/api/payments")]
    assert len(paid) == len(set(paid)) == 8


def test_payment_and_the_journal_are_both_lost(operator: Operator, world: World) -> None:
    """All orders are paid after a word, perhaps again; or none of those that there were."""
    world.start(*ALL)
    world.stock()
    orders = sell(world)
    word = "python -m payment place orders 00000000000000000000000000000000:0"
    for again in (True, False):
        world.lose("payment")
        world.lose("broker")
        world.start("broker", "payment")
        assert word in problem(world, "payment", "cannot know")
        if again:
            operator.types("python -m payment place orders 00000000000000000000000000000000:0")
        else:
            last = world.rows("shop", "SELECT body FROM outbox ORDER BY sequence DESC LIMIT 1")
            place = json.loads(last[0][0])["id"]
            operator.types("python -m payment place orders PLACE", PLACE=place)
            orders = []
        eventually(lambda: ready(world, "payment"))
        orders += sell(world)
        paid = [each["order_id"] for each in world.get("payment", "/api/payments")]
        assert paid[::-1] == orders


def test_new_databases_that_were_made_under_an_older_clock(
    operator: Operator, world: World, tmp_path: Path
) -> None:
    """They say so, and go on in a new epoch once the clock is right."""
    world.start(*ALL)
    world.stock()
    sell(world)
    clock = tmp_path / "clock"
    clock.write_text("-86400")
    for name in ("shop", "inventory"):
        world.lose(name)
        world.processes[name] = world.run("-m", "tests.clocked", name, WALL_CLOCK=str(clock))
        world.wait_until_up(name)
        problem(world, name, "publishing stopped, the journal holds events up to")
        world.kill(name)
        world.start(name)
        problem(world, name, "publishing stopped, the journal holds events up to")
    operator.types("python -m shop new-epoch --yes")
    operator.types("python -m inventory new-epoch --yes")
    eventually(lambda: ready(world, *SERVICES))
    basket = world.stock()
    order = world.checkout(basket)
    eventually(lambda: world.is_paid(order))


def test_systemd_is_told_what_there_is(tmp_path: Path) -> None:
    """Each process by its command, its user and its settings, as systemd itself understands it."""
    text = UNIT.read_text()
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(text)
    made, folders, *_, copied = command("useradd").splitlines()
    (user,) = {made.split()[-1], unit["Service"]["User"], *re.findall(r"-[og] (\w+)", folders)}
    assert user == "parrot"
    assert folders.endswith(" /var/lib/parrot-shop /backups")
    home = unit["Service"]["WorkingDirectory"]
    assert copied.split()[1] == f"{home}/{UNIT.relative_to(ROOT)}"
    assert unit["Service"]["ReadWritePaths"] == folders.split()[-2]
    assert unit["Unit"]["StartLimitIntervalSec"] == "0"
    assert unit["Service"]["ExecStart"] == f"{home}/.venv/bin/python -m %i"
    assert f"python3 -m venv {home}/.venv" in command("useradd")
    assert f"cd {home} && . .venv/bin/activate" in command("sudo -u")
    assert unit["Service"]["EnvironmentFile"] in command("sudo -u")
    names = re.findall(r"parrot@(\w+)", command("systemctl enable --now"))
    assert set(names) == set(ALL)

    analyze = program("systemd-analyze")
    path = tmp_path / "parrot@shop.service"
    path.write_text(text.replace(f"{home}/.venv/bin/python", sys.executable))
    for task in (["verify"], ["security", "--offline=true", "--threshold=30"]):
        ended = subprocess.run(
            [analyze, *task, str(path)], capture_output=True, text=True, check=False
        )
        assert (ended.returncode, ended.stderr) == (0, ""), ended.stdout


def test_the_streams_that_nats_is_told_to_remove() -> None:
    pytest.importorskip("nats", reason="requirements-scale.txt has it")
    from messaging.transports import jetstream  # noqa: PLC0415  # few need its library

    name = jetstream._name("orders")
    assert command("nats stream rm parrot-orders") == f"nats stream rm {name}"
