"""The life of one process: how it starts, or says why not, what it writes, and how it ends."""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path

import pytest

from runtime import ROOT
from runtime.storage.database import SqliteFile
from tests.conftest import eventually, free_port
from tests.processes import ALL, SERVICES, World, unread_pipe

MIB = 1024 * 1024


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


@pytest.fixture
def inventory_process(world: World) -> Iterator[World]:
    """A world in which only the inventory runs."""
    world.start("inventory")
    yield world
    assert world.alive("inventory")


@pytest.mark.parametrize("name", ALL)
def test_help(world: World, name: str) -> None:
    """--help says how it is started, and exits 0 without starting anything."""
    ended = world.finish("-m", name, "--help")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert f"python -m {name}" in ended.stdout
    assert not any(world.settings.data_dir.iterdir())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_each_of_them(world: World, number: signal.Signals) -> None:
    """SIGTERM and Ctrl-C are an ordinary end: exit code 0, and the log says so."""
    world.start(*ALL)
    world.stock()
    assert world.kill(*reversed(ALL), number=number) == [0, 0, 0, 0]
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


def answer_is_whole(answer: http.client.HTTPResponse) -> bool:
    """Read an answer to its end, or to where it was broken off."""
    try:
        answer.read()
    except (OSError, http.client.IncompleteRead):
        return False
    return True


def test_a_stop_breaks_no_answer_off(world: World) -> None:
    """Under load, whoever got the beginning of an answer at SIGTERM gets its end."""
    world.start("inventory")
    port = world.settings.inventory_port
    stopping = threading.Event()
    answered = threading.Semaphore(0)
    broken = []

    def ask() -> None:
        while not stopping.is_set():
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            with closing(connection), suppress(ConnectionError):  # before an answer has begun
                while not stopping.is_set():
                    connection.request("GET", "/docs")
                    answer = connection.getresponse()
                    if not answer_is_whole(answer):
                        broken.append(answer)
                    answered.release()

    with ThreadPoolExecutor() as pool:
        askers = [pool.submit(ask) for _ in range(12)]
        try:
            for _ in range(100):
                assert answered.acquire(timeout=10)
            assert world.kill("inventory", number=signal.SIGTERM) == [0]
        finally:
            stopping.set()
    for asker in askers:
        asker.result()
    assert not broken


@pytest.mark.parametrize(
    ("name", "setting"),
    [(name, f"{name.upper()}_PORT") for name in SERVICES]
    + [("broker", "BROKER_PUBLISH_URL"), ("broker", "BROKER_SUBSCRIBE_URL")],
)
def test_a_busy_port(world: World, name: str, setting: str) -> None:
    """Somebody else listens there: one line names the setting to change, exit code 1."""
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = str(holder.getsockname()[1])
        value = f"tcp://127.0.0.1:{port}" if name == "broker" else port
        line = cannot_start(world, name, 1, **{setting: value})
    assert setting in line
    assert port in line


@pytest.mark.parametrize(
    "setting",
    [
        "SHOP_PORT=abc",
        "SHOP_PORT=0",
        "SHOP_PORT=70000",
        "LOG_LEVEL=loud",
        "LOG_FORMAT=xml",
        "BROKER_PUBLISH_URL=nonsense",
        "DATA_DIR=",
    ],
)
def test_a_wrong_setting(world: World, setting: str) -> None:
    """A value that cannot be: one line names the variable, exit code 2."""
    variable, _, value = setting.partition("=")
    assert variable in cannot_start(world, "shop", 2, **{variable: value})


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
    assert world.get("shop", "/readyz")["broker"] == "up"


@pytest.mark.parametrize(("name", "packages"), [("broker", 1), ("shop", 3)])
def test_a_file_of_a_newer_version(world: World, name: str, packages: int) -> None:
    """A database with a step that this version does not know: one line, exit code 1."""
    path = world.settings.data_dir / f"{name}.db"
    database = SqliteFile(path, *("runtime", "messaging", name)[-packages:])
    database.open()
    database.close()
    change = f"INSERT INTO {name}_migration (name, applied) VALUES ('9999_future', '2036-01-01')"
    world.rows(name, change)
    line = cannot_start(world, name, 1)
    assert "9999_future" in line
    assert path.exists()


def test_logs_as_json(world: World) -> None:
    """Each line on standard error is an object; one request id leads through all services.

    Standard output is for payments alone.
    """
    world.start(*ALL, LOG_FORMAT="json", LOG_LEVEL="debug")
    order = world.checkout(world.stock(), X_Request_ID="from-the-buyer")
    eventually(lambda: world.is_paid(order))
    eventually(lambda: world.output("payment"))
    world.kill(*ALL, number=signal.SIGTERM)

    for name in ALL:
        lines = [json.loads(line) for line in world.output(name, "stderr").splitlines()]
        assert {line["service"] for line in lines} == {name}
        assert all(line["level"] and line["timestamp"] and line["event"] for line in lines)
        asked = [line for line in lines if line.get("request_id") == "from-the-buyer"]
        assert bool(asked) == (name in {"shop", "broker", "payment"})
    assert [name for name in ALL if world.output(name)] == ["payment"]


def send(world: World, request: bytes) -> int:
    """Send these bytes to the inventory, check that it answers a problem, and give its status."""
    address = "127.0.0.1", world.settings.inventory_port
    with (
        socket.create_connection(address, timeout=5) as connection,
        http.client.HTTPResponse(connection) as answer,
    ):
        connection.sendall(request)
        answer.begin()
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert json.load(answer)["status"] == answer.status
        return answer.status


def test_what_is_not_http(inventory_process: World) -> None:
    """Malformed requests are answered with problem documents, and harm nobody."""
    for request in (
        b"NONSENSE\r\n\r\n",
        b"GET / HTTP/1.1 and more\r\n\r\n",
        b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: here\r\nContent-Length: many\r\n\r\n",
        b"GET /\xff%ff HTTP/1.1\r\nHost: here\r\nContent-Length: -1\r\n\r\n",
        b"GET http://[ HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\r\n\r\n",
    ):
        assert send(inventory_process, request) == 400, request
    compressed = b"POST /api/item HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: gzip\r\n\r\n"
    assert send(inventory_process, compressed) == 501
    long = b"GET / HTTP/1.1\r\nX-Long: " + b"x" * MIB
    assert send(inventory_process, long) == 431


def test_bodies_that_are_too_large(inventory_process: World) -> None:
    """More than 1 MiB is 413, however it is sent; what is far too much is not even read."""
    head = b"POST /api/item HTTP/1.1\r\nHost: here\r\nContent-Type: application/json\r\n"
    sized = head + b"Content-Length: %d\r\n\r\n"
    chunk = b"%x\r\n%b\r\n" % (MIB + 1, b" " * (MIB + 1))
    for request in (
        sized % (MIB + 1) + b" " * (MIB + 1),
        head + b"Transfer-Encoding: chunked\r\n\r\n" + chunk + b"0\r\n\r\n",
        sized % (16 * MIB + 1),
    ):
        assert send(inventory_process, request) == 413, request[:120]
    assert inventory_process.get("inventory", "/api/items") == []


OPERATIONS = ROOT / "docs" / "operations.md"
SERVED_BY = {
    "waitress": "waitress --listen=127.0.0.1:8002 shop.app:app",
    "gunicorn": "gunicorn --threads 16 --bind 127.0.0.1:8002 shop.app:app",
}


@pytest.mark.parametrize("server", ["waitress", "gunicorn"])
def test_an_app_under_other_servers(world: World, server: str) -> None:
    """Any WSGI server can serve the app while --exchange-only exchanges its events.

    What only the exchange can know is told there, and left out by the other.
    """
    pytest.importorskip(server, reason="requirements-dev.txt has it")
    world.start("broker", "inventory", "payment")
    assert server == "waitress" or f"`{SERVED_BY[server]}`" in OPERATIONS.read_text()
    command = SERVED_BY[server].replace("127.0.0.1:8002", f"127.0.0.1:{world.settings.shop_port}")
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


@pytest.mark.parametrize("name", SERVICES)
def test_an_import_starts_nothing(world: World, tmp_path: Path, name: str) -> None:
    """Importing an app makes no file, opens no connection, and starts no thread."""
    code = f"""if True:
        import psutil, {name}.app
        process = psutil.Process()
        print(process.open_files(), process.net_connections(), process.num_threads())"""
    ended = world.finish("-c", code, DATA_DIR=str(tmp_path / "new"))
    assert (ended.stdout, ended.stderr) == ("[] [] 1\n", "")
    assert not (tmp_path / "new").exists()


def pay_and_stop(world: World, payment: subprocess.Popen[bytes], hangs: bool = False) -> None:
    """It pays, goes on where nobody can see its lines, and ends when asked to: exit code 0."""
    world.processes["payment"] = payment
    world.wait_until_up("payment")
    for _ in range(3):
        assert world.post("payment", "/api/payment", {"user_id": 1, "price": 7}).status == 201
    unseen = "SELECT count(*) FROM payment WHERE NOT announced"
    eventually(lambda: world.rows("payment", unseen) == [(3 if hangs else 0,)])
    assert world.kill("payment", number=signal.SIGTERM) == [0]


@pytest.mark.parametrize("reader", ["gone", "hangs"])
def test_a_console_that_nobody_reads(world: World, reader: str) -> None:
    """A standard output that cannot be written to does not spoil the end: exit code 0."""
    with unread_pipe(reader) as stdout:
        pay_and_stop(world, world.run("-m", "payment", stdout=stdout), reader == "hangs")


@pytest.mark.parametrize("reader", ["gone", "hangs"])
def test_logs_that_nobody_reads(world: World, reader: str) -> None:
    """A standard error whose reader is gone, or does not read, stops nothing: exit code 0."""
    with unread_pipe(reader) as stderr:
        pay_and_stop(world, world.run("-m", "payment", stderr=stderr))


@pytest.mark.parametrize("descriptor", [1, 2])
def test_a_standard_stream_that_was_never_open(world: World, descriptor: int) -> None:
    """Started without standard output or error, as by ``>&-``, payment pays: exit code 0."""
    start = f"""if True:
        import os, sys
        os.close({descriptor})
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
