"""Everything started by one command, and ended by one signal, whatever happens in between."""

import json
import re
import signal
import socket
import subprocess
import urllib.request
from pathlib import Path
from typing import Any

import psutil
import pytest

import run_all
from runtime.process.settings import Settings
from scenarios.drill import conduct
from tests.conftest import eventually
from tests.pairs import on_servers
from tests.processes import ALL, RUN_ALL, SERVICES, World
from tests.test_processes import cannot_start

STOP_TIMEOUT_S = 5 + 1  # what is promised, and a little for a slow machine


def start_all(world: World, *arguments: str, **changes: str) -> subprocess.Popen[bytes]:
    """Run ``run_all.py``, and wait until it says that everything is up."""
    process = world.run(RUN_ALL, *arguments, name="run_all", **changes)
    eventually(lambda: "Ctrl-C stops" in world.output("run_all"), timeout_s=20)
    return process


def stop(
    world: World, process: subprocess.Popen[bytes], number: signal.Signals = signal.SIGTERM
) -> None:
    """End ``run_all.py`` with a signal: in time, with exit code 0, and no child is left."""
    children = world.children(process)
    process.send_signal(number)
    assert process.wait(STOP_TIMEOUT_S) == 0
    assert not [name for name, child in children.items() if child.is_running()]


@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGHUP, marks=pytest.mark.chaos)]
)
def test_it_starts_and_stops_everything(world: World, number: signal.Signals) -> None:
    """It says where the services are, shows whose line is whose, and ends the broker last."""
    process = start_all(world)
    assert sorted(world.children(process)) == sorted(ALL)
    order = world.checkout(world.stock())
    eventually(lambda: world.is_paid(order))
    line = f"payment   | Payment 1 of 4000 by user 1 for order {order} succeeded\n"
    eventually(lambda: line in world.output("run_all"))
    stop(world, process, number)

    said = world.output("run_all")
    for name in SERVICES:
        port = world.settings.http_port(name)[0]
        assert re.search(rf"^{name} +http://127.0.0.1:{port}$", said, re.MULTILINE)
    lines = world.output("run_all", "stderr").splitlines()
    assert all(re.match(r"(broker|inventory|shop|payment) +\| ", line) for line in lines), lines
    assert "\033" not in said + "".join(lines)
    stopped = [line.split()[0] for line in lines if re.search(r"\] stopped ", line)]
    assert (len(stopped), stopped[-1]) == (4, "broker")


def test_a_killed_child_stops_nobody(world: World) -> None:
    """It says which one ended and how to start it again; started by hand, that one joins in."""
    process = start_all(world)
    basket = world.stock()
    world.children(process)["payment"].kill()
    eventually(lambda: "python -m payment" in world.output("run_all"))
    assert "payment was killed by signal 9" in world.output("run_all")
    order = world.checkout(basket)
    world.start("payment")
    eventually(lambda: world.is_paid(order))
    stop(world, process)
    assert world.alive("payment")


def test_together_until_one_ends(world: World) -> None:
    """With --abort-on-exit the end of one is the end of all: exit code 1, and who it was."""
    process = start_all(world, "--abort-on-exit")
    children = world.children(process)
    children["payment"].kill()
    assert process.wait(STOP_TIMEOUT_S) == 1
    assert "payment was killed by signal 9" in world.output("run_all", "stderr")
    assert not [each for each, child in children.items() if child.is_running()]


def test_children_left_behind_go_on_and_are_named(world: World) -> None:
    """Killed itself, it leaves a working shop; the next start names each port and who holds it."""
    process = start_all(world)
    children = world.children(process)
    basket = world.stock()
    process.kill()
    process.wait()
    order = world.checkout(basket)
    eventually(lambda: world.is_paid(order))

    ended = world.finish(RUN_ALL)
    assert (ended.returncode, ended.stdout) == (1, "")
    for name in SERVICES:
        port = world.settings.http_port(name)[0]
        (line,) = [line for line in ended.stderr.splitlines() if f"{name.upper()}_PORT" in line]
        assert str(port) in line
        assert f"kill {children[name].pid} " in line
    assert "BROKER_PUBLISH_URL" in ended.stderr
    for child in children.values():
        child.terminate()
    _, alive = psutil.wait_procs(children.values(), timeout=STOP_TIMEOUT_S)
    assert not alive


def test_a_part_of_everything(world: World, tmp_path: Path) -> None:
    """A relative data folder lies where it is started from."""
    process = start_all(world, "--only", "shop,broker", cwd=tmp_path, DATA_DIR="here")
    assert set(world.children(process)) == {"shop", "broker"}
    assert {path.stem for path in (tmp_path / "here").glob("*.db")} == {"shop", "broker"}
    stop(world, process)


@pytest.mark.skipif(not socket.has_ipv6, reason="this machine has no IPv6")
def test_on_ipv6_every_address_is_one_that_a_browser_takes(world: World) -> None:
    host = "[::1]"
    process = start_all(world, HOST=host)
    for name in SERVICES:
        url = f"http://[::1]:{world.settings.http_port(name)[0]}"
        assert re.search(rf"^{name} +{re.escape(url)}$", world.output("run_all"), re.MULTILINE)
        line = f"serving {' ' * 22} service={name} url={url}\n"
        eventually(lambda line=line: line in world.output("run_all", "stderr"))
        assert urllib.request.urlopen(f"{url}/livez", timeout=5).status == 200
    assert "/::1" not in world.output("run_all", "stderr")
    ended = world.finish("-m", "shop", HOST=host, DATA_DIR=str(world.settings.data_dir / "other"))
    port = world.settings.shop_port
    assert ended.stderr.startswith(f"shop: cannot listen on [::1]:{port}: Address already in use")
    ended = world.finish(RUN_ALL, HOST=host)
    held = f"port {port} (SHOP_PORT) is held by process {world.children(process)['shop'].pid} "
    assert held in ended.stderr
    stop(world, process)


def test_where_lines_are_json_each_is_an_object(world: World) -> None:
    """Its own lines, those of its children, and whatever those say when they cannot start."""
    process = start_all(world, LOG_FORMAT="json")
    order = world.checkout(world.stock())
    eventually(lambda: world.is_paid(order))
    line = f"payment   | Payment 1 of 4000 by user 1 for order {order} succeeded\n"
    eventually(lambda: line in world.output("run_all"))
    ended = world.finish(RUN_ALL, LOG_FORMAT="json")
    assert "SHOP_PORT" in ended.stderr
    assert (ended.returncode, ended.stdout) == (1, "")
    stop(world, process)
    (world.settings.data_dir / "shop.db").write_text("no database, " * 100)
    alone = world.finish(RUN_ALL, "--only", "shop", LOG_FORMAT="json")
    assert alone.returncode == 1
    written = [world.output("run_all", "stderr"), ended.stderr, alone.stderr]
    said = [json.loads(each) for text in written for each in text.splitlines()]
    assert all(isinstance(each, dict) and each["event"] for each in said)
    assert {each["service"] for each in said} == {*ALL, "run_all"}
    assert said[-1]["event"] == "nothing is running any more"


def test_a_child_that_cannot_be_started_ends_the_others(world: World, tmp_path: Path) -> None:
    """However it ends, nothing of it stays behind."""
    (tmp_path / "sitecustomize.py").write_text(
        "import subprocess, sys\n"
        "started = []\n"
        "class Popen(subprocess.Popen):\n"
        "    def __init__(self, command, **options):\n"
        "        if command[-1] == 'shop':\n"
        "            raise BlockingIOError('Resource temporarily unavailable')\n"
        "        super().__init__(command, **options)\n"
        "        print('started', self.pid, flush=True)\n"
        "subprocess.Popen = Popen\n"
    )
    ended = world.finish(RUN_ALL, PYTHONPATH=str(tmp_path))
    assert ended.returncode == 1
    assert "temporarily unavailable" in ended.stderr
    pids = [int(pid) for pid in re.findall(r"^started (\d+)$", ended.stdout, re.MULTILINE)]
    assert len(pids) == 2
    assert not any(psutil.pid_exists(pid) for pid in pids)


@on_servers
def test_it_starts_no_broker_beside_nats(world: World) -> None:
    """BROKER_URL and the databases' URLs in its environment: three services, and the shop works."""
    world.start("broker")
    process = start_all(world)
    assert sorted(world.children(process)) == sorted(SERVICES)
    order = world.checkout(world.stock())
    eventually(lambda: world.is_paid(order))
    stop(world, process)
    assert not [*world.settings.data_dir.glob("*.db")]


def test_a_child_that_hangs_is_ended_too(world: World) -> None:
    """One that does not react does not keep it from ending in time."""
    process = start_all(world, "--without", "payment")
    assert set(world.children(process)) == {"broker", "inventory", "shop"}
    world.children(process)["shop"].suspend()
    stop(world, process)


WRONG = {
    "--drill --only shop": "--only is not allowed here: ",
    "--drill --without shop": "--without is not allowed here: ",
    "--demo --only shop": "--only is not allowed here: ",
    "--demo --abort-on-exit": "--abort-on-exit is not allowed here: ",
    "--faults 5": "--faults is not allowed here: ",
    "--minutes 5": "--minutes is not allowed here: ",
    "--seed 0": "--seed is not allowed here: ",
    "--scale": "--scale is not allowed here: ",
    "--demo --scale": "--scale is not allowed here: ",
    "--exit": "--exit is not allowed here: ",
    "--demo --drill": "not allowed with argument",
    "--drill --faults 5 --minutes 5": "not allowed with argument",
    "--drill --faults 0": "argument --faults: '0' is not a whole number of at least 1",
    "--drill --faults 1.5": "argument --faults: '1.5' is not a whole number of at least 1",
    "--drill --minutes nan": "argument --minutes: 'nan' is not a number of at least 0.1",
    "--drill --minutes inf": "argument --minutes: 'inf' is not a number of at least 0.1",
    "--drill --minutes 0": "argument --minutes: '0' is not a number of at least 0.1",
    "--drill --seed -1": "argument --seed: '-1' is not a whole number of at least 0",
    "--drill --seed kea": "argument --seed: 'kea' is not a whole number of at least 0",
    "--only shop,parrot": f"'parrot' is not one of {', '.join(ALL)}",
    "--without parrot": f"'parrot' is not one of {', '.join(ALL)}",
    "--only broker": "this leaves nothing to start: the broker is NATS, at BROKER_URL",
}


@pytest.mark.parametrize("arguments", WRONG)
def test_wrong_arguments(
    arguments: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The last line says what is wrong with them, exit code 2; nothing is begun."""
    monkeypatch.setattr("sys.argv", ["run_all.py", *arguments.split()])
    monkeypatch.setattr(conduct, "drill", lambda *received: 0)
    on_nats = Settings(BROKER_URL="nats://127.0.0.1:4222")
    monkeypatch.setattr(run_all, "load_settings", lambda: on_nats)
    monkeypatch.delattr(run_all, "stop_signals")  # nothing is started, even if they are taken
    with pytest.raises(SystemExit) as ended:
        run_all.main()
    assert ended.value.code == 2
    assert WRONG[arguments] in capfd.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "given"),
    [
        ([], (None, None, None, False)),
        (["--faults", "1000"], (1000, None, None, False)),
        (["--minutes", "0.5", "--seed", "0", "--scale"], (None, 0.5, 0, True)),
    ],
)
def test_arguments_of_the_drill(
    arguments: list[str], given: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They reach the drill, whose exit code is that of all."""
    monkeypatch.setattr("sys.argv", ["run_all.py", "--drill", *arguments])
    monkeypatch.setattr(conduct, "drill", lambda *received: 0 if received == given else 3)
    with pytest.raises(SystemExit) as ended:
        run_all.main()
    assert ended.value.code == 0


def test_no_broker_is_started_beside_nats(world: World) -> None:
    """``python -m broker`` says why."""
    assert "BROKER_URL" in cannot_start(world, "broker", 1, BROKER_URL="nats://127.0.0.1:4222")


def test_the_addresses_are_shown_where_one_cannot_start(world: World) -> None:
    world.settings.data_dir.joinpath("payment.db").mkdir()
    process = start_all(world)
    assert "payment ended with exit code 1" in world.output("run_all")
    stop(world, process)
