"""Other processes: their lines are shown, their ends are told, and ports have holders."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

import runtime.process.children
from runtime.process.children import Child, ending, held, listens
from tests.conftest import eventually, free_port

Start = Callable[[str], Child]
HOST = "127.0.0.1"


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Start a child that runs this code."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    children: list[Child] = []

    def run(code: str) -> Child:
        (tmp_path / "parrot.py").write_text(code)
        children.append(Child("parrot", 32))
        return children[-1]

    yield run
    for child in children:
        child.stop(time.monotonic())
        for pipe in (child.process.stdout, child.process.stderr):
            assert pipe
            pipe.close()


def test_lines_are_shown_with_the_name(start: Start, capfd: pytest.CaptureFixture[str]) -> None:
    """Each where it was written to, and whatever its bytes are."""
    code = (
        "import sys; sys.stdout.buffer.write(b'hello\\n\\xff\\n'); "
        "print('ouch', file=sys.stderr); sys.exit(3)"
    )
    child = start(code)
    child.process.wait(10)
    child.stop(time.monotonic())
    captured = capfd.readouterr()
    assert captured.out == "parrot    | hello\nparrot    | \ufffd\n"
    assert captured.err == "parrot    | ouch\n"
    assert ending(child.process.returncode) == "ended with exit code 3"


@pytest.mark.parametrize(("no_color", "prefix"), [("", "\x1b[32m"), ("1", "parrot")])
def test_names_are_colored_on_a_terminal(
    no_color: str,
    prefix: str,
    start: Start,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(os, "isatty", lambda descriptor: True)
    monkeypatch.setenv("NO_COLOR", no_color)
    child = start("print('hello')")
    child.process.wait(10)
    child.stop(time.monotonic())
    shown = capfd.readouterr().out
    assert shown.startswith(prefix)
    assert shown.endswith("hello\n")


def test_a_child_does_not_wait_for_who_reads(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its lines are lost when nobody takes them any more, and it goes on."""
    reader, writer = os.pipe()
    os.close(reader)
    monkeypatch.setattr(runtime.process.children, "STDOUT", writer)
    child = start("for _ in range(10_000): print('a line that fills the pipe')")
    assert child.process.wait(10) == 0
    child.stop(time.monotonic())
    os.close(writer)


def test_a_child_imports_nothing_from_the_current_folder(
    start: Start, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "here").mkdir()
    os.chdir(tmp_path / "here")
    for name in ("parrot", "json"):
        Path(f"{name}.py").write_text("print('wrong')")
    child = start("import json; print('right')")
    assert child.process.wait(10) == 0
    child.stop(time.monotonic() + 1)
    assert capfd.readouterr().out == "parrot    | right\n"


def test_where_lines_are_json_each_is_an_object(
    start: Start, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """What is one already is left as it is; standard output is for people."""
    monkeypatch.setenv("LOG_FORMAT", "json")
    kept = '{"event": "started", "service": "parrot"}'
    child = start(f"import sys; print('hello'); print('{kept}', file=sys.stderr); sys.exit('1')")
    assert child.process.wait(10) == 1
    child.stop(time.monotonic() + 1)
    captured = capfd.readouterr()
    assert captured.out == "parrot    | hello\n"
    first, second = captured.err.splitlines()
    assert first == kept
    assert json.loads(second).items() >= {"event": "1", "service": "parrot"}.items()


def test_a_signal_reaches_the_whole_group(start: Start, tmp_path: Path) -> None:
    code = (
        "import pathlib, subprocess, sys, time\n"
        "nap = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "pathlib.Path('pid').write_text(str(nap.pid) + '.')\n"
        "time.sleep(60)\n"
    )
    child = start(code)
    path = tmp_path / "pid"
    text = eventually(lambda: path.exists() and path.read_text())
    grandchild = psutil.Process(int(text.rstrip(".")))
    child.signal(signal.SIGTERM)
    child.stop(time.monotonic() + 10)
    assert ending(child.process.returncode) == "was killed by signal 15"
    eventually(lambda: not grandchild.is_running() or grandchild.status() == "zombie")
    child.signal(signal.SIGTERM)  # again is harmless


def test_who_ignores_a_signal_is_killed_at_the_deadline(
    start: Start, capfd: pytest.CaptureFixture[str]
) -> None:
    output = ""

    def seen() -> str:
        nonlocal output
        output += capfd.readouterr().out
        return output

    child = start(
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        "print('deaf', flush=True); time.sleep(60)"
    )
    eventually(lambda: "deaf" in seen())
    child.signal(signal.SIGTERM)
    child.stop(time.monotonic() + 0.1)
    assert ending(child.process.returncode) == "was killed by signal 9"


def test_the_holder_of_a_port_is_named() -> None:
    free = free_port()
    with socket.create_server((HOST, 0)) as holder:
        busy = holder.getsockname()[1]
        (line,) = held({"SHOP_PORT": (HOST, busy), "PAYMENT_PORT": (HOST, free)})
        assert listens(HOST, busy)
    assert line.startswith(f"port {busy} (SHOP_PORT) is held by process {os.getpid()} (")
    assert f"kill {os.getpid()}" in line
    assert held({"SHOP_PORT": (HOST, busy)}) == []
    assert not listens(HOST, busy)


@pytest.mark.parametrize("wanted", ["127.0.0.2", "::1"])
def test_a_port_on_another_address_is_free(wanted: str) -> None:
    with socket.create_server((HOST, 0)) as holder:
        port = holder.getsockname()[1]
        assert held({"SHOP_PORT": (wanted, port)}) == []


@pytest.mark.parametrize(
    ("theirs", "wanted"),
    [
        ("127.0.0.2", "127.0.0.2"),
        ("0.0.0.0", "127.0.0.2"),
        ("127.0.0.2", "0.0.0.0"),
        ("::1", "::1"),
        ("::", "127.0.0.2"),
    ],
)
def test_only_who_holds_that_address_is_named(theirs: str, wanted: str) -> None:
    """Another process that has the port on an address beside it is innocent."""
    beside = "::1" if "127" in theirs + wanted and theirs != "::" else "127.0.0.1"
    code = "import socket, sys; s = socket.create_server(("
    code += "sys.argv[1], int(sys.argv[2])), family=int(sys.argv[3]), dualstack_ipv6={}); input()"

    def family(host: str) -> socket.AddressFamily:
        return socket.AF_INET6 if ":" in host else socket.AF_INET

    both = theirs == "::"
    with socket.create_server((theirs, 0), family=family(theirs), dualstack_ipv6=both) as holder:
        port = holder.getsockname()[1]
        command = [sys.executable, "-c", code.format(False), beside, str(port)]
        command.append(str(int(family(beside))))
        other = None
        if not both:  # nothing can be beside that
            other = subprocess.Popen(command, stdin=subprocess.PIPE)
            eventually(lambda: listens(beside, port))
        (line,) = held({"SHOP_PORT": (wanted, port)})
        if other:
            assert f"process {other.pid} " not in line
            other.communicate(timeout=10)
    assert f"is held by process {os.getpid()} (" in line


@pytest.mark.parametrize(
    ("pid", "told"), [(None, "another process$"), (1, r"process 1 \([^)]*\)$")]
)
def test_nobody_is_told_to_end_what_cannot_be_ended(
    pid: int | None, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that cannot be seen, or the first one, which holds ports for what it starts."""
    with socket.create_server((HOST, 0)) as holder:
        port = holder.getsockname()[1]
        address = SimpleNamespace(ip=HOST, port=port)
        connection = SimpleNamespace(laddr=address, status="LISTEN", pid=pid)
        monkeypatch.setattr(psutil, "net_connections", lambda kind: [connection])
        (line,) = held({"SHOP_PORT": (HOST, port)})
    assert re.match(rf"port {port} \(SHOP_PORT\) is held by {told}", line)
