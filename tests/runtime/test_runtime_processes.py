"""Other processes: their lines are shown, their ends are told, and ports have holders."""

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

import runtime.processes
from runtime.processes import Child, held, listens
from tests.conftest import eventually, free_port

Start = Callable[[str], Child]
HOST = "127.0.0.1"


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Start a child that runs this code."""
    monkeypatch.chdir(tmp_path)
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
    assert child.end() == "ended with exit code 3"


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
    monkeypatch.setattr(runtime.processes, "STDOUT", writer)
    child = start("for _ in range(10_000): print('a line that fills the pipe')")
    assert child.process.wait(10) == 0
    child.stop(time.monotonic())
    os.close(writer)


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
    assert child.end() == "was killed by signal 15"
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
    assert child.end() == "was killed by signal 9"


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


def test_a_holder_that_cannot_be_seen_is_told_too(monkeypatch: pytest.MonkeyPatch) -> None:
    connection = SimpleNamespace(laddr=SimpleNamespace(port=1), status="LISTEN", pid=None)
    monkeypatch.setattr(psutil, "net_connections", lambda kind: [connection])
    assert held({"SHOP_PORT": (HOST, 1)}) == ["port 1 (SHOP_PORT) is held by another process"]
