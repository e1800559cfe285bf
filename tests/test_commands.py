"""Commands beside a running service: dead letters, and the replay of the catalogue."""

import argparse
import json
import re
from pathlib import Path

import pytest

from runtime.process.settings import Settings
from shop import replay
from shop.app import Shop
from tests.conftest import eventually
from tests.processes import ALL, SERVICES, World, unread_pipe


def tell(world: World, body: str) -> None:
    """Put an event into the outbox of the inventory, which does not run."""
    world.rows("inventory", "UPDATE head SET sequence = sequence + 1")
    insert = f"INSERT INTO outbox SELECT sequence, CAST('{body}' AS BLOB) FROM head"
    world.rows("inventory", insert)


def test_dead_letters_are_listed_and_retried(world: World) -> None:
    """A poisoned event stops nothing; what becomes of it is the operator's choice."""
    world.start("broker", "inventory", "shop")
    world.stock()
    item = {"id": 2, "name": "Honey", "price": 5, "active": True, "version": 1}
    told = {"type": "item.created", "time": "2026-11-23T12:00:00Z"}
    assert world.finish("-m", "shop", "dead-letters").stdout == "there are no dead letters\n"
    world.kill("inventory")
    tell(world, json.dumps({**told, "data": {**item, "price": -5}}))
    tell(world, json.dumps({**told, "data": {**item, "id": 3}}))
    world.start("inventory")
    eventually(lambda: {i["id"] for i in world.get("shop", "/api/items")} == {1, 3})
    assert world.get("shop", "/readyz")["dead"] == 1

    listed = world.finish("-m", "shop", "dead-letters")
    assert re.match(r"1  \d{4}-\S+Z  items [0-9a-f]{32}:2  ", listed.stdout)
    assert listed.returncode == 0
    assert "price" in listed.stdout
    again = world.finish("-m", "shop", "dead-letters", "retry", "--all")
    assert (again.returncode, again.stdout[:16]) == (1, "1  is still dead")

    world.rows("shop", "UPDATE dead_letter SET body = CAST(replace(body, '-5', '5') AS BLOB)")
    applied = world.finish("-m", "shop", "dead-letters", "retry", "1")
    assert (applied.returncode, applied.stdout) == (0, "1  was applied\n")
    assert [i["price"] for i in world.get("shop", "/api/items")] == [4000, 5, 5]
    assert world.get("shop", "/readyz")["dead"] == 0
    for action in ("retry", "discard"):
        gone = world.finish("-m", "shop", "dead-letters", action, "1")
        assert (gone.returncode, gone.stderr) == (1, "shop: there is no dead letter 1\n")
        far = world.finish("-m", "shop", "dead-letters", action, str(2**63))
        assert (far.returncode, "is more than" in far.stderr) == (2, True)


def test_a_payment_that_was_dead_is_made_once(world: World) -> None:
    """A dead order retried while payment runs: one payment, its line, and the order is paid."""
    world.start("broker", "inventory", "shop")
    basket = world.stock()
    poisoned = world.checkout(basket)
    eventually(lambda: world.is_told("shop"))
    world.kill("broker", "shop")
    spoil = "CAST(replace(body, '\"user_id\":1', '\"user_id\":0') AS BLOB)"
    world.rows("shop", f"UPDATE outbox SET body = {spoil}")
    world.rows("broker", f"UPDATE entry SET body = {spoil} WHERE stream = 'orders'")
    world.start("broker", "shop", "payment")
    fine = world.checkout(basket)
    eventually(lambda: world.is_paid(fine))
    assert not world.is_paid(poisoned)

    mend = spoil.replace(":0", ":x").replace(":1", ":0").replace(":x", ":1")
    world.rows("payment", f"UPDATE dead_letter SET body = {mend}")
    applied = world.finish("-m", "payment", "dead-letters", "retry", "--all")
    assert (applied.returncode, applied.stdout) == (0, "1  was applied\n")
    eventually(lambda: world.is_paid(poisoned))
    eventually(lambda: poisoned in world.output("payment"))
    assert len(world.get("payment", "/api/payments")) == 2


def test_the_catalogue_is_rebuilt_beside_a_running_shop(world: World) -> None:
    world.start("broker", "inventory", "shop")
    basket = world.stock()
    world.rows("shop", "DELETE FROM item")
    eventually(lambda: world.get("shop", "/api/items") == [])
    done = world.finish("-m", "shop", "replay")
    assert (done.returncode, done.stderr) == (0, "")
    assert "from 1 events" in done.stdout
    assert world.get("shop", "/api/items") == world.get("inventory", "/api/items")
    world.checkout(basket)


def test_commands_that_cannot_be_carried_out(world: World) -> None:
    """One line that says why; payment has no replay, as what it knows are facts of its own."""
    ended = world.finish("-m", "shop", "dead-letters")
    path = world.settings.data_dir / "shop.db"
    assert (ended.returncode, ended.stderr) == (
        1,
        f"shop: there is no {path}: is DATA_DIR right?\n",
    )
    assert not path.exists()
    for name in ("payment", "inventory"):
        assert world.finish("-m", name, "replay").returncode == 2
    assert world.finish("-m", "payment", "dead-letters", "retry").returncode == 2
    assert "dead-letters" in world.finish("-m", "payment", "--help").stdout


COMMANDS = [
    *(["-m", name] for name in ALL),
    ["-m", "shop", "dead-letters"],
    ["-m", "shop", "replay"],
    ["-m", "messaging", "tail", "orders"],
    ["-m", "runtime.backup", "nowhere"],
    *(["run_all.py", *option] for option in ([], ["--demo"], ["--drill"])),
]


@pytest.mark.parametrize("log_format", ["console", "json"])
@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_wrong_setting_is_a_line_of_every_command(
    world: World, command: list[str], log_format: str
) -> None:
    """Exit code 2, and an object where lines are to be JSON."""
    ended = world.finish(*command, HOST="a..b", LOG_FORMAT=log_format)
    assert (ended.returncode, ended.stdout) == (2, "")
    (line,) = ended.stderr.splitlines()
    said = json.loads(line)["event"] if log_format == "json" else line
    assert said.startswith("wrong setting HOST='a..b'")


@pytest.mark.parametrize(
    "command", [["run_all.py", "--parrot"], ["-m", "shop", "parrot"]], ids=" ".join
)
def test_a_wrong_argument_is_an_object_where_lines_are(world: World, command: list[str]) -> None:
    ended = world.finish(*command, LOG_FORMAT="json")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "parrot" in json.loads(ended.stderr)["event"]


HELPFUL = [
    ["run_all.py"],
    ["-m", "broker"],
    *(["-m", name] for name in SERVICES),
    *(["-m", name, "dead-letters"] for name in ("shop", "payment")),
    ["-m", "shop", "dead-letters", "retry"],
    ["-m", "shop", "dead-letters", "discard"],
    ["-m", "shop", "replay"],
    ["-m", "messaging"],
    ["-m", "messaging", "tail"],
    ["-m", "runtime.backup"],
]


@pytest.mark.parametrize("command", HELPFUL, ids=" ".join)
def test_every_command_tells_of_itself_by_examples(world: World, command: list[str]) -> None:
    """Without colours where they are not wanted; and it needs no proper setting."""
    ended = world.finish(*command, "--help", NO_COLOR="1", SHOP_PORT="none", COLUMNS="100")
    assert (ended.returncode, ended.stderr) == (0, "")
    _, _, examples = ended.stdout.partition("\nexamples:\n")
    name = " ".join(command).replace("-m", "python -m") if command[0] == "-m" else command[0]
    assert f"  {name}" in examples
    assert "\033" not in ended.stdout


FULL = Path("/dev/full")  # which takes nothing, as a full disk does


def written_to(world: World, stdout: int, *command: str) -> tuple[int, str]:
    """How a command ended, with its standard output there, and what it complained of."""
    process = world.run(*command, name="command", stdout=stdout)
    code = process.wait(30)
    complaint = world.output("command", "stderr")
    world._log("command", "stderr").unlink()
    return code, complaint


@pytest.mark.skipif(not FULL.exists(), reason="Linux alone has such a device")
@pytest.mark.parametrize(
    "command",
    [
        *([*command, "--help"] for command in [*HELPFUL, ["-m", "bench"]]),
        ["-m", "shop", "dead-letters"],
        ["-m", "shop", "replay"],
        ["-m", "messaging", "tail", "items", "--from", "1"],
        ["-m", "runtime.backup", "copy"],
    ],
    ids=" ".join,
)
def test_output_that_cannot_be_written_is_an_error(
    world: World, command: list[str], tmp_path: Path
) -> None:
    """A full disk is one line and exit code 1; a reader that has gone is a quiet end."""
    if "--help" not in command:
        world.start("broker", "inventory", "shop")
        world.stock()
    if command[-1] == "copy":
        command = [*command[:-1], str(tmp_path / "copy")]
    with FULL.open("wb") as full:
        code, complaint = written_to(world, full.fileno(), *command)
    assert (code, complaint.count("\n")) == (1, 1), complaint
    assert "cannot write to standard output: No space left on device" in complaint
    if command[-1].endswith("copy"):
        command = [*command[:-1], str(tmp_path / "another")]
    with unread_pipe("gone") as gone:
        assert written_to(world, gone, *command) == (0, "")


def test_output_to_nowhere_is_an_error(world: World) -> None:
    """Started as by ``>&-``, a command has nothing to write to."""
    start = """if True:
        import os, sys
        os.close(1)
        os.execv(sys.executable, [sys.executable, "run_all.py", "--help"])"""
    ended = world.finish("-c", start)
    line = "cannot write to standard output: Bad file descriptor\n"
    assert (ended.returncode, ended.stderr) == (1, line)


def test_a_long_replay_tells_how_far_it_is(
    settings: Settings, broker: object, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = []
    monkeypatch.setattr("runtime.process.progress.LINE_INTERVAL_S", 0)
    monkeypatch.setattr("runtime.process.progress.deliver", shown.append)
    assert replay.COMMAND.run(shop, argparse.Namespace()) == 0
    assert re.fullmatch(r"\d+:\d\d  0 events applied, 0 to go", shown[0])


@pytest.mark.parametrize("variable", ["SHOP_DATABASE_URL", "BROKER_URL"])
def test_a_driver_that_is_missing_is_told_in_a_line(world: World, variable: str) -> None:
    """Whether the shop is to run, or a command of it."""
    where = world.settings.data_dir
    for module in ("psycopg", "nats"):  # found before the real ones
        (where / f"{module}.py").write_text(f"raise ModuleNotFoundError('no {module}')")
    url = "postgresql://127.0.0.1:1/shop" if variable == "SHOP_DATABASE_URL" else "nats://a:1"
    for command in ([], ["dead-letters"]):
        ended = world.finish("-m", "shop", *command, PYTHONPATH=str(where), **{variable: url})
        assert ended.returncode == 1, ended
        (line,) = ended.stderr.splitlines()
        assert "requirements-scale.txt" in line
