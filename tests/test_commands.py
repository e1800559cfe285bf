"""Commands beside a running service: dead letters, and the replay of the catalogue."""

import argparse
import json
import os
import re
import runpy
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from runtime.process.settings import Settings
from runtime.storage.sqlite import SqliteFile
from shop import replay
from shop.app import Shop
from tests.conftest import eventually
from tests.processes import ALL, RUN_ALL, World, unread_pipe


def test_a_payment_that_was_dead_is_made_once(world: World) -> None:
    """A dead order is listed, and retried while payment runs: one payment, its line, and paid."""
    world.start("broker", "inventory", "shop")
    basket = world.stock()
    assert world.finish("-m", "shop", "dead-letters").stdout == "there are no dead letters\n"
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

    def command(*arguments: str) -> tuple[int, str]:
        ended = world.finish("-m", "payment", "dead-letters", *arguments)
        return ended.returncode, ended.stdout + ended.stderr

    code, listed = command()
    assert code == 0
    assert re.match(r"1  \d{4}-\S+Z  orders [0-9a-f]{32}:1  .*user_id", listed)
    code, again = command("retry", "--all")
    assert (code, again[:16]) == (1, "1  is still dead")
    mend = spoil.replace(":0", ":x").replace(":1", ":0").replace(":x", ":1")
    world.rows("payment", f"UPDATE dead_letter SET body = {mend}")
    assert command("retry", "1") == (0, "1  was applied\n")
    eventually(lambda: world.is_paid(poisoned))
    eventually(lambda: poisoned in world.output("payment"))
    assert len(world.get("payment", "/api/payments")) == 2
    for action in ("retry", "discard"):
        assert command(action, "1") == (1, "payment: there is no dead letter 1\n")


def test_a_command_without_a_database(world: World) -> None:
    """One line that says why."""
    ended = world.finish("-m", "shop", "dead-letters")
    path = world.settings.data_dir / "shop.db"
    line = f"shop: there is no {path}: is DATA_DIR right?\n"
    assert (ended.returncode, ended.stderr) == (1, line)
    assert not path.exists()


def test_a_command_on_a_damaged_file(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """SQLite's own error, which comes while rows are read, is a line, too."""

    def run(*_: object) -> int:
        raise sqlite3.DatabaseError("database disk image is malformed")

    Shop(settings).database.open()
    monkeypatch.setenv("DATA_DIR", str(settings.data_dir))
    monkeypatch.setattr("service.configure_logs", lambda *_: None)
    assert Shop._run_command(argparse.Namespace(run=run)) == 1
    assert capfd.readouterr().err == "shop: database disk image is malformed\n"


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
def test_a_journal_that_is_locked_cannot_begin_elsewhere(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    path = settings.data_dir / "broker.db"
    SqliteFile(path, "broker").open()
    monkeypatch.setenv("DATA_DIR", str(settings.data_dir))
    monkeypatch.setattr("runtime.process.logs.configure_logs", lambda *_: None)
    monkeypatch.setattr("runtime.storage.sqlite.BUSY_TIMEOUT_S", 0)
    with closing(sqlite3.connect(path)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert run_here("-m", "broker", "begin", "orders", f"{'1' * 32}:4") == 1
    assert capfd.readouterr().err == "broker: database is locked\n"


def run_here(*command: str) -> int:
    """Run ``python COMMAND`` in this process until it ends, which must be at once: its exit code.

    What it writes is pytest's to catch, and its settings are those of this process.
    """
    module, *arguments = command[1:] if command[0] == "-m" else command
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.setattr("sys.argv", [module, *arguments])
        if command[0] == "-m":
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(module, run_name="__main__")
    return int(str(ended.value.code))


# Modules that the tests have imported, too.
imported = pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
COMMANDS = [
    *(["-m", name] for name in ALL),
    ["-m", "shop", "dead-letters"],
    ["-m", "shop", "replay"],
    ["-m", "messaging", "tail", "orders"],
    ["-m", "runtime.backup", "nowhere"],
    *([RUN_ALL, *option] for option in ([], ["--demo"], ["--drill"])),
]


@imported
@pytest.mark.parametrize("log_format", ["console", "json"])
@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_wrong_setting_is_a_line_of_every_command(
    command: list[str],
    log_format: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Exit code 2, and an object where lines are to be JSON."""
    monkeypatch.setenv("HOST", "a..b")
    monkeypatch.setenv("LOG_FORMAT", log_format)
    assert run_here(*command) == 2
    said, complaint = capfd.readouterr()
    (line,) = complaint.splitlines()
    event = json.loads(line)["event"] if log_format == "json" else line
    assert (said, event[:26]) == ("", "wrong setting HOST='a..b':")


WRONG = [
    ["-m", "payment", "replay"],  # what it knows are facts of its own
    ["-m", "payment", "dead-letters", "retry"],
    ["-m", "shop", "dead-letters", "discard", str(2**63)],
]


@imported
@pytest.mark.parametrize("command", WRONG, ids=" ".join)
def test_a_wrong_argument(command: list[str]) -> None:
    assert run_here(*command) == 2


@imported
@pytest.mark.parametrize("command", [[RUN_ALL, "--parrot"], ["-m", "shop", "parrot"]], ids=" ".join)
def test_a_wrong_argument_is_an_object_where_lines_are(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LOG_FORMAT", "json")
    assert run_here(*command) == 2
    said, complaint = capfd.readouterr()
    assert (said, "parrot" in json.loads(complaint)["event"]) == ("", True)


HELPFUL = [
    [RUN_ALL],
    *(["-m", name] for name in ALL),
    *(["-m", name, "dead-letters"] for name in ("shop", "payment")),
    ["-m", "shop", "dead-letters", "retry"],
    ["-m", "shop", "dead-letters", "discard"],
    ["-m", "shop", "replay"],
    ["-m", "messaging"],
    ["-m", "messaging", "tail"],
    ["-m", "runtime.backup"],
]


@imported
@pytest.mark.parametrize("command", HELPFUL, ids=" ".join)
def test_every_command_tells_of_itself_by_examples(
    command: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Without colours where they are not wanted; it needs no proper setting, and makes nothing."""
    changes = {"NO_COLOR": "1", "SHOP_PORT": "none", "COLUMNS": "100", "DATA_DIR": str(tmp_path)}
    for variable, value in changes.items():
        monkeypatch.setenv(variable, value)
    assert run_here(*command, "--help") == 0
    said, complaint = capfd.readouterr()
    _, _, examples = said.partition("\nexamples:\n")
    name = " ".join(command).replace("-m", "python -m").replace(RUN_ALL, "run_all.py")
    assert f"  {name}" in examples
    assert (complaint, "\033" in said, [*tmp_path.iterdir()]) == ("", False, [])


FULL = Path("/dev/full")  # which takes nothing, as a full disk does
linux = pytest.mark.skipif(not FULL.exists(), reason="Linux alone has such a device")
NO_SPACE = "cannot write to standard output: No space left on device\n"


@contextmanager
def standard_output(target: int) -> Iterator[None]:
    """Let this process write there meanwhile."""
    before = os.dup(1)
    os.dup2(target, 1)
    try:
        yield
    finally:
        os.dup2(before, 1)
        os.close(before)


@linux
@imported
@pytest.mark.parametrize("command", [*HELPFUL, ["-m", "bench"]], ids=" ".join)
def test_help_that_cannot_be_written_is_an_error(
    command: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    """A full disk is one line and exit code 1; a reader that has gone is a quiet end."""
    with FULL.open("wb") as full, standard_output(full.fileno()):
        assert run_here(*command, "--help") == 1
    assert capfd.readouterr() == ("", NO_SPACE)
    with unread_pipe("gone") as gone, standard_output(gone):
        assert run_here(*command, "--help") == 0
    assert capfd.readouterr() == ("", "")


@linux
def test_output_that_cannot_be_written_is_an_error(world: World, tmp_path: Path) -> None:
    """Likewise, of commands beside a running shop."""
    world.start("broker", "inventory", "shop")
    world.stock()
    lines = "shop dead-letters", "shop replay", "messaging tail items --from 1"
    with FULL.open("wb") as full, unread_pipe("gone") as gone:
        for stdout, expected in ((full.fileno(), (1, NO_SPACE)), (gone, (0, ""))):
            for line in (*lines, f"runtime.backup {tmp_path}/copy-{stdout}"):
                name = f"{line.split()[1]}-{stdout}".replace("/", "-")
                process = world.run("-m", *line.split(), name=name, stdout=stdout)
                assert (process.wait(30), world.output(name, "stderr")) == expected, line


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


@pytest.mark.parametrize(
    ("variable", "url", "command"),
    [
        ("SHOP_DATABASE_URL", "postgresql://127.0.0.1:1/shop", ["shop", "dead-letters"]),
        ("BROKER_URL", "nats://a:1", ["shop"]),
        ("BROKER_URL", "nats://a:1", ["messaging", "tail", "orders"]),
    ],
)
def test_a_driver_that_is_missing_is_told_in_a_line(
    world: World, variable: str, url: str, command: list[str]
) -> None:
    """Whether the shop is to run, or a command."""
    where = world.settings.data_dir
    for module in ("psycopg", "nats"):  # found before the real ones
        (where / f"{module}.py").write_text(f"raise ModuleNotFoundError('no {module}')")
    ended = world.finish("-m", *command, PYTHONPATH=str(where), **{variable: url})
    assert ended.returncode == 1, ended
    (line,) = ended.stderr.splitlines()
    assert "requirements-scale.txt" in line
