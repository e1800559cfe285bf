"""The life of one process: how it starts, or says why not, what it writes, and how it ends."""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from runtime import ROOT
from tests.conftest import eventually, free_port
from tests.processes import ALL, SERVICES, World, unread_pipe


def cannot_start(world: World, name: str, code: int, **changes: str) -> str:
    """Start a process that ends with this exit code, and give the one line that it writes."""
    ended = world.finish("-m", name, **changes)
    assert (ended.returncode, ended.stdout) == (code, ""), ended.stderr
    (line,) = ended.stderr.splitlines()
    return line


def other_ports() -> dict[str, str]:
    """Ports for one more copy of everything."""
    urls = ("BROKER_PUBLISH_URL", "BROKER_SUBSCRIBE_URL")
    ports = {f"{name.upper()}_PORT": str(free_port()) for name in SERVICES}
    return ports | {setting: f"tcp://127.0.0.1:{free_port()}" for setting in urls}


def test_a_signal_ends_each_of_them(world: World) -> None:
    """SIGTERM and Ctrl-C are an ordinary end: exit code 0, and the log says so."""
    world.start(*ALL)
    world.stock()
    assert world.kill("payment", "shop", number=signal.SIGINT) == [0, 0]
    assert world.kill("inventory", "broker", number=signal.SIGTERM) == [0, 0]
    for name in ALL:
        assert "stopped" in world.output(name, "stderr").splitlines()[-1]


def test_a_request_that_began_before_the_signal_is_answered(world: World) -> None:
    """A body that is still on its way at SIGTERM is awaited, and what it causes is told."""
    world.start("broker", "inventory")
    eventually(lambda: world.get("inventory", "/readyz")["broker"] == "up")
    body = b'{"item": {"name": "Millet", "price": 4000}}'
    head = b"POST /api/item HTTP/1.1\r\nHost: here\r\nContent-Type: application/json\r\n"
    head += b"Content-Length: %d\r\n\r\n" % len(body)
    address = "127.0.0.1", world.settings.inventory_port
    with socket.create_connection(address, timeout=10) as connection:
        connection.sendall(head + body[:9])
        assert world.alive("inventory")  # who came later is answered: so the first was accepted
        world.processes["inventory"].terminate()
        eventually(lambda: not world.alive("inventory"))
        connection.sendall(body[9:])
        with http.client.HTTPResponse(connection) as answer:
            answer.begin()
            assert (answer.status, json.load(answer)["name"]) == (201, "Millet")
    assert world.processes["inventory"].wait(10) == 0
    assert world.rows("broker", "SELECT stream, sequence FROM entry") == [("items", 1)]


@pytest.mark.parametrize(
    ("name", "setting"), [("shop", "SHOP_PORT"), ("broker", "BROKER_SUBSCRIBE_URL")]
)
def test_a_busy_port(world: World, name: str, setting: str) -> None:
    """Somebody else listens there: one line names the setting to change, exit code 1."""
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = str(holder.getsockname()[1])
        value = f"tcp://127.0.0.1:{port}" if name == "broker" else port
        line = cannot_start(world, name, 1, **{setting: value})
    assert setting in line
    assert port in line


@pytest.mark.parametrize("name", ["broker", "shop"])
def test_a_data_folder_that_is_a_file(world: World, name: str) -> None:
    """There is no folder to be had: one line names the setting, exit code 1."""
    taken = world.settings.data_dir / "taken"
    taken.touch()
    assert "DATA_DIR" in cannot_start(world, name, 1, DATA_DIR=str(taken))


def test_a_second_copy(world: World) -> None:
    """On the same data folder, even on other ports: one line, exit code 1; the first goes on."""
    world.start("broker", "shop")
    for name in ("broker", "shop"):
        assert f"{name}.db" in cannot_start(world, name, 1, **other_ports())
    eventually(lambda: world.state("shop")["broker"] == "up")


def test_an_app_under_another_server(world: World) -> None:
    """Any WSGI server can serve the app while --exchange-only exchanges its events.

    What only the exchange can know is told there, and left out by the other.
    """
    pytest.importorskip("gunicorn", reason="requirements-dev.txt has it")
    world.start("broker", "inventory", "payment")
    command = "gunicorn --threads 16 --bind 127.0.0.1:8002 shop.app:app"
    assert f"`{command}`" in (ROOT / "docs" / "operations.md").read_text()
    command = command.replace("127.0.0.1:8002", f"127.0.0.1:{world.settings.shop_port}")
    served = world.run("-m", *command.split(), name="served")
    world.run("-m", "shop", "--exchange-only", name="exchange")
    world.wait_until_up("shop")
    world.wait_until_up("shop_exchange")
    order = world.checkout(world.stock())
    eventually(lambda: world.is_paid(order))

    families = {
        name: set(
            re.findall(r"^# TYPE (\S+)", world.ask(name, "GET", "/metrics").body.decode(), re.M)
        )
        for name in ("shop", "shop_exchange")
    }
    exchanged = families["shop_exchange"] - families["shop"]
    assert {"parrot_broker_up", "parrot_inbox_behind_events"} < exchanged
    assert not [name for name in exchanged if not re.match("parrot_(broker|events|inbox)_", name)]
    assert families["shop"] == families["shop_exchange"] - exchanged
    assert {"parrot_orders_unpaid", "parrot_ready", "parrot_dead_events"} < families["shop"]
    states = [world.state(name) for name in ("shop", "shop_exchange")]
    assert [state["broker"] for state in states] == ["unknown", "up"]
    assert world.ask("shop_exchange", "GET", "/api/items").status == 404
    served.send_signal(signal.SIGTERM)
    served.wait(15)
    assert "shop.db" in cannot_start(world, "shop", 1, **other_ports())


def test_an_import_starts_nothing(world: World, tmp_path: Path) -> None:
    """Importing an app makes no file, opens no connection, and starts no thread."""
    code = """if True:
        import psutil, inventory.app, payment.app, shop.app
        process = psutil.Process()
        print(process.open_files(), process.net_connections(), process.num_threads())"""
    ended = world.finish("-c", code, DATA_DIR=str(tmp_path / "new"))
    assert (ended.stdout, ended.stderr) == ("[] [] 1\n", "")
    assert not (tmp_path / "new").exists()


def pay_and_stop(world: World, payment: subprocess.Popen[bytes], unseen: int = 0) -> None:
    """It pays, goes on where nobody can see its lines, and ends when asked to: exit code 0."""
    world.processes["payment"] = payment
    world.wait_until_up("payment")
    for _ in range(3):
        assert world.post("payment", "/api/payment", {"user_id": 1, "price": 7}).status == 201
    waiting = "SELECT count(*) FROM payment WHERE NOT announced"
    eventually(lambda: world.rows("payment", waiting) == [(unseen,)])
    assert world.kill("payment", number=signal.SIGTERM) == [0]


@pytest.mark.parametrize(
    ("reader", "streams", "unseen"),
    [("hangs", ["stdout"], 3), ("hangs", ["stderr"], 0), ("gone", ["stdout", "stderr"], 0)],
)
def test_output_that_nobody_reads(
    world: World, reader: str, streams: list[str], unseen: int
) -> None:
    with unread_pipe(reader) as pipe:
        payment = world.run("-m", "payment", **dict.fromkeys(streams, pipe))
        pay_and_stop(world, payment, unseen)


def test_standard_streams_that_were_never_open(world: World) -> None:
    """Started as by ``>&- 2>&-``."""
    start = """if True:
        import os, sys
        os.closerange(1, 3)
        os.execv(sys.executable, [sys.executable, "-m", "payment"])"""
    pay_and_stop(world, world.run("-c", start, name="payment"))


def test_what_is_kept_is_for_its_owner_alone(world: World, tmp_path: Path) -> None:
    """Databases, keys and backups of them, under a umask that would let everybody read them."""
    world.settings.data_dir.rmdir()
    before = os.umask(0)
    try:
        world.start(*ALL)
        world.checkout(world.stock())
        assert world.finish("-m", "runtime.backup", str(tmp_path / "copy")).returncode == 0
    finally:
        os.umask(before)
    for folder in (world.settings.data_dir, tmp_path / "copy"):
        paths = [folder, *folder.rglob("*")]
        assert len(paths) > len(ALL) * 2
        assert {path.name for path in paths if path.stat().st_mode & 0o077} == set()
