"""Real processes for tests: start them, ask them, kill them."""

import contextlib
import http.client
import json
import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import psutil
import pytest

from runtime import ROOT
from runtime.process.settings import NAMES as ALL
from runtime.process.settings import SERVICES, Settings
from scenarios.invariants import WRITERS
from scenarios.servers import Server
from scenarios.snapshot import snapshot

RUN_ALL = str(ROOT / "run_all.py")
STREAMS = {writer: stream for stream, writer in WRITERS.items()}
FILES = {f"{name}_database_url": None for name in SERVICES}
MIB = 1024 * 1024
NOT_INHERITED = {"NO_COLOR", "PYTHONUNBUFFERED"}  # they would hide how a process writes


def eventually(condition: Callable[[], Any], timeout_s: float = 15) -> Any:
    """Wait until a condition is true, and give its value; fail at the deadline."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {timeout_s} s; last: {value!r}"
        time.sleep(0.01)
    return value


class Answer(NamedTuple):
    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class World:
    """The processes of one test, with settings of their own; their output goes to files.

    ``servers`` are those that it runs on, by the names under which they are started and killed
    like its processes: NATS may be the "broker", and PostgreSQL is the "database".
    """

    def __init__(
        self, settings: Settings, servers: Mapping[str, Server] = MappingProxyType({})
    ) -> None:
        self.settings = settings
        self.servers = servers
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._every: list[subprocess.Popen[bytes]] = []
        self._children: list[psutil.Process] = []
        settings.data_dir.mkdir(parents=True, exist_ok=True)

    @property
    def names(self) -> tuple[str, ...]:
        """Everything that can be started and killed."""
        return (*sorted(self.servers.keys() - ALL), *ALL)

    def environment(self, **changes: str) -> dict[str, str]:
        inherited = {name: os.environ[name] for name in os.environ.keys() - NOT_INHERITED}
        return {**inherited, **self.settings.environment(), **changes}

    def run(
        self,
        *arguments: str,
        name: str = "",
        cwd: Path = ROOT,
        stdout: int | None = None,
        stderr: int | None = None,
        pass_fds: Sequence[int] = (),
        **changes: str,
    ) -> subprocess.Popen[bytes]:
        """Start ``python ARGUMENTS``; what it writes is `output` of ``name``, or of the last one.

        ``stdout`` and ``stderr`` are file descriptors to write to instead, ``pass_fds`` those that
        it inherits.
        """
        name = name or arguments[-1]
        with (
            self._log(name, "stdout").open("ab") as out,
            self._log(name, "stderr").open("ab") as err,
        ):
            process = subprocess.Popen(
                [sys.executable, *arguments],
                cwd=cwd,
                env=self.environment(**changes),
                stdin=subprocess.DEVNULL,
                stdout=out if stdout is None else stdout,
                stderr=err if stderr is None else stderr,
                pass_fds=pass_fds,
            )
        self._every.append(process)
        return process

    def finish(self, *arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
        """Run ``python ARGUMENTS`` until it ends by itself."""
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=ROOT,
            env=self.environment(**changes),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    def start(self, *names: str, **changes: str) -> None:
        """Start processes, and wait until they serve."""
        for name in names:
            if name in self.servers and not self.servers[name].answers():
                self.servers[name].start()
            elif name not in self.servers:
                self.processes[name] = self.run("-m", name, **changes)
        for name in names:
            self.wait_until_up(name)

    def wait_until_up(self, name: str) -> None:
        eventually(lambda: self.alive(name), timeout_s=30)

    def alive(self, name: str) -> bool:
        """Whether a process answers."""
        if name in self.servers:
            return self.servers[name].answers()
        with contextlib.suppress(OSError):
            return self.ask(name, "GET", "/livez").status == 200
        return False

    def kill(self, *names: str, number: int = signal.SIGKILL) -> list[int]:
        """Send a signal that ends them, wait for their end, and give the exit codes of processes.

        A server crashes at SIGKILL, and is stopped in order at any other signal.
        """
        processes = [name for name in names if name not in self.servers]
        for name in processes:
            self.processes[name].send_signal(number)
        for name in names:
            if name in self.servers:
                server = self.servers[name]
                server.kill() if number == signal.SIGKILL else server.stop()
        return [self.processes.pop(name).wait(10) for name in processes]

    def lose(self, name: str) -> None:
        """Kill a process, and delete what it keeps."""
        self.kill(name)
        if self.settings.database_url(name):
            self.rows(name, "DROP SCHEMA public CASCADE; CREATE SCHEMA public")
        for path in self.files(name):
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def signal(self, name: str, number: signal.Signals) -> None:
        """Let a process stand still, or go on."""
        if name not in self.servers:
            self.processes[name].send_signal(number)
        elif number == signal.SIGSTOP:
            self.servers[name].freeze()
        else:
            self.servers[name].thaw()

    def pause(self, name: str, for_s: float) -> None:
        """Let a process stand still for a while, as SIGSTOP does."""
        self.signal(name, signal.SIGSTOP)
        try:
            time.sleep(for_s)
        finally:
            self.signal(name, signal.SIGCONT)

    @contextlib.contextmanager
    def full_disk(self, name: str) -> Iterator[None]:
        """Let no file of a process grow beyond the size that its database's -wal has now.

        Nor beyond a mebibyte: SQLite begins a -wal anew when it has four.
        """
        if not hasattr(resource, "prlimit"):
            pytest.skip("only Linux can change the limits of another process")
        pid = self.processes[name].pid
        size = min(MIB, (self.settings.data_dir / f"{name}.db-wal").stat().st_size)
        limits = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, limits[1]))
        try:
            yield
        finally:
            resource.prlimit(pid, resource.RLIMIT_FSIZE, limits)

    def ask(self, name: str, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """One HTTP request; `OSError` if it is not answered."""
        port = self.settings.http_port(name)[0]
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        try:
            named = {key.replace("_", "-"): value for key, value in headers.items()}
            if body is not None:
                named = {"Content-Type": "application/json", **named}
            content = body if isinstance(body, bytes | None) else json.dumps(body).encode()
            connection.request(method, path, content, named)
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())
        except http.client.HTTPException as error:
            raise ConnectionError(str(error)) from error
        finally:
            connection.close()

    def get(self, name: str, path: str) -> Any:
        return self.ask(name, "GET", path).json()

    def post(self, name: str, path: str, body: Any, **headers: str) -> Answer:
        return self.ask(name, "POST", path, body, **headers)

    def stock(self) -> dict[str, Any]:
        """Add an item and a user, and wait until the shop sells it: the body of a checkout."""
        new = {"item": {"name": "Millet", "price": 4000}}
        item = self.post("inventory", "/api/item", new).json()
        user = self.post("shop", "/api/user", {"name": "Kesha"}).json()
        eventually(lambda: item in self.get("shop", "/api/items"))
        return {"user_id": user["id"], "item_ids": [item["id"]]}

    def checkout(self, basket: dict[str, Any], **headers: str) -> str:
        """Place an order, and give its id."""
        answer = self.post("shop", "/api/checkout", basket, **headers)
        assert answer.status == 201, answer
        return str(answer.json()["id"])

    def is_paid(self, order_id: str) -> bool:
        return bool(self.get("shop", f"/api/orders/{order_id}")["status"] == "paid")

    def state(self, name: str) -> Any:
        """What ``/readyz`` of a service tells."""
        return self.get(name, "/readyz")

    def is_told(self, *names: str) -> bool:
        """Whether the journal has every event of these services."""
        return not any(self.state(name)["outbox_waiting"] for name in names)

    def is_drained(self) -> bool:
        """Whether the journal has every event, and everybody has applied what it has."""
        states = [self.state(name) for name in SERVICES]
        if any(state["database"] == "down" for state in states):
            return False
        assert not any(state["dead"] for state in states), states
        waiting = [state["outbox_waiting"] for state in states]
        behind = [count for state in states for count in state["inbox_behind"].values()]
        return all(state["broker"] == "up" for state in states) and {*waiting, *behind} == {0}

    def rows(self, name: str, query: str, folder: Path | None = None) -> list[Any]:
        """Look into the database of a process, or change it, from outside; or a copy in a folder.

        What NATS holds is written to the file first that the journal would have.
        """
        if not folder and (url := self.settings.database_url(name)):
            return _rows(url, query)
        if not folder and name == "broker" and self.settings.broker_url:
            snapshot(self.settings.model_copy(update=FILES), self.settings.data_dir)
        path = (folder or self.settings.data_dir) / f"{name}.db"
        with contextlib.closing(sqlite3.connect(path, timeout=10)) as database, database:
            return database.execute(query).fetchall()

    def files(self, name: str) -> list[Path]:
        """The database of a process, with what SQLite keeps beside it; or the folder of NATS."""
        store = [self.servers[name].log.with_suffix("")] if name in self.servers else []
        return [*store, *self.settings.data_dir.glob(f"{name}.db*")]

    def output(self, name: str, stream: str = "stdout") -> str:
        """What a process has written, over all its starts."""
        return self._log(name, stream).read_text(errors="replace")

    def _log(self, name: str, stream: str) -> Path:
        return self.settings.data_dir.parent / f"{Path(name).stem}.{stream}"

    def children(self, process: subprocess.Popen[bytes]) -> dict[str, psutil.Process]:
        """The processes that ``run_all.py`` has started, by name."""
        found = psutil.Process(process.pid).children(recursive=True)
        self._children += found
        return {child.cmdline()[-1]: child for child in found}

    def end(self) -> None:
        for process in self._every:
            if process.poll() is None:
                self._children += psutil.Process(process.pid).children(recursive=True)
                process.kill()
                process.wait()
        for child in self._children:
            with contextlib.suppress(psutil.NoSuchProcess):  # it compares the start time, too
                child.kill()


def _rows(url: str, query: str) -> list[Any]:
    import psycopg  # noqa: PLC0415  # few need it

    with psycopg.connect(url) as connection:
        found = connection.execute(query)
        return found.fetchall() if found.description else []


def trap(folder: Path) -> Path:
    """Make a folder with modules that have the names of ours, and of a library's."""
    wrong = "raise SystemExit('this is not the shop')"
    folder.mkdir()
    for name in (*ALL, "runtime", "messaging", "scenarios", "structlog", "json"):
        if name in ("shop", "json"):
            (folder / f"{name}.py").write_text(wrong)
        else:
            (folder / name).mkdir()
            for file in ("__init__", "__main__"):
                (folder / name / f"{file}.py").write_text(wrong)
    return folder


@contextlib.contextmanager
def unread_pipe(reader: str) -> Iterator[int]:
    """The writing end of a pipe whose reader is "gone", or "hangs" with the pipe full."""
    source, target = os.pipe()
    if reader == "gone":
        os.close(source)
    else:
        os.set_blocking(target, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(target, b"." * 4096)
        os.set_blocking(target, True)
    try:
        yield target
    finally:
        os.close(target)
        if reader != "gone":
            os.close(source)
