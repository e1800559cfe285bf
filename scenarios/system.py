"""The system under test: processes of the shop, and servers, in a folder of their own."""

import os
import random
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from pydantic_core import from_json, to_json

from runtime.process.children import spawn
from runtime.process.settings import NAMES, SERVICES, Settings, from_environment
from scenarios.servers import HOST, STOP_TIMEOUT_S, NatsServer, PostgresServer, Unit

# What names servers; these values name none.
ON_FILES = MappingProxyType(
    {
        **{f"{name}_database_url": None for name in SERVICES},
        "broker_url": None,
        "broker_replicas": 1,
        "broker_credentials": None,
        **{f"broker_tls_{name}": None for name in ("ca", "cert", "key")},
    }
)
# Below those that systems give to outgoing connections: none must take the port of a service that
# is down, and a client that tries one over and over could even be connected to itself.
PORTS = range(10_000, 16_000)
ANSWER_TIMEOUT_S = 1.0  # shorter than many a stop, so that some answers come too late
READY_TIMEOUT_S = 30.0


class Answer(NamedTuple):
    """What a service answered."""

    status: int
    body: bytes


class Process(Unit):
    """A ``python -m MODULE``; what it writes is in ``NAME.out`` and ``NAME.err`` of a folder."""

    def __init__(self, name: str, module: str, folder: Path, settings: Settings) -> None:
        super().__init__(name, settings.http_port(module)[0], folder / f"{name}.err")
        self.module = module
        self.out = folder / f"{name}.out"
        self._settings = settings

    def _spawn(self) -> "subprocess.Popen[bytes]":
        with self.out.open("ab") as out, self.log.open("ab") as err:
            return spawn(self.module, self._settings.environment(), out, err)

    def answers(self) -> bool:
        """Whether it can do its work now."""
        with suppress(OSError):
            return self.ask("GET", "/readyz").status == 200
        return False

    def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        headers: Mapping[str, str] = MappingProxyType({}),
        timeout_s: float = ANSWER_TIMEOUT_S,
    ) -> Answer:
        """One HTTP request; `OSError` if it is not answered."""
        connection = HTTPConnection(self._settings.host, self.port, timeout=timeout_s)
        try:
            content = None if body is None else to_json(body)
            typed = {"Content-Type": "application/json"} if content else {}
            connection.request(method, path, content, {**typed, **headers})
            response = connection.getresponse()
            return Answer(response.status, response.read())
        except HTTPException as error:
            raise ConnectionError(str(error)) from error
        finally:
            connection.close()


class System:
    """For each of these settings one copy of each service, on these servers.

    Without servers there is a broker, and databases are files. The first copy has the name of its
    service, the others ``shop-2`` and so on. ``complaints`` has a line for each end of a unit that
    was not as it should be.
    """

    def __init__(self, folder: Path, *copies: Settings, servers: Sequence[Unit] = ()) -> None:
        self.folder = folder
        self.settings = copies[0]
        self.complaints: list[str] = []
        processes = [
            Process(name if number == 1 else f"{name}-{number}", name, folder, settings)
            for name in (SERVICES if servers else NAMES)
            for number, settings in enumerate(copies, start=1)
        ]
        self._processes = {process.name: process for process in processes}
        self._units: dict[str, Unit] = {unit.name: unit for unit in (*servers, *processes)}
        self._held: set[str] = set()
        self._ended = threading.Event()
        self._starting = threading.Lock()

    @property
    def names(self) -> tuple[str, ...]:
        """All units."""
        return tuple(self._units)

    def copies(self, service: str) -> tuple[str, ...]:
        """The units that are this service."""
        return tuple(name for name, each in self._processes.items() if each.module == service)

    @property
    def services(self) -> tuple[str, ...]:
        """The units that are services, all copies of them."""
        return tuple(name for service in SERVICES for name in self.copies(service))

    def start(self, names: Iterable[str] | None = None) -> None:
        """Start units, or all, and do not wait for them."""
        with self._starting:
            for name in self._units if names is None else names:
                if not self._ended.is_set():
                    self._units[name].launch()

    def kill(self, names: Iterable[str]) -> None:
        """Let units crash at once, and wait until they are gone."""
        self._end({name: self._units[name].CRASH for name in names})

    def terminate(self, names: Iterable[str]) -> None:
        """Ask units to end, and wait; an exit code other than 0 is a complaint."""
        wanted = {name: self._units[name].STOP for name in names}
        for name, code in self._end(wanted).items():
            if code:
                ended = f"{name}, asked to end by {wanted[name].name}, {self._units[name].ended()}"
                self.complaints.append(ended)

    def _end(self, wanted: Mapping[str, signal.Signals]) -> dict[str, int]:
        for name, number in wanted.items():
            self._units[name].send(number)
        deadline = time.monotonic() + STOP_TIMEOUT_S
        return {name: self._units[name].wait(deadline) for name in wanted}

    def freeze(self, names: Iterable[str]) -> None:
        """Let units stand still."""
        for name in names:
            self._units[name].freeze()

    def thaw(self, names: Iterable[str]) -> None:
        """Let units go on."""
        for name in names:
            self._units[name].thaw()

    def hold(self, names: Iterable[str]) -> bool:
        """Take processes for oneself, all or none: until `release`, they may end."""
        if free := self._held.isdisjoint(names):
            self._held.update(names)
        return free

    def release(self, names: Iterable[str]) -> None:
        """Give processes back, which run from now on."""
        self._held.difference_update(names)

    def wait_until_ready(self, names: Iterable[str] | None = None) -> None:
        """Wait for units, or all; one that ends by itself, or takes too long, is a complaint."""
        deadline = time.monotonic() + READY_TIMEOUT_S
        for name in self._units if names is None else names:
            unit = self._units[name]
            while not unit.answers() and not self._ended.wait(0.02):
                if unit.ended() and name not in self._held and (end := unit.ended()):
                    self.complaints.append(f"{name} {end}, by itself: see {unit.log.name}")
                    break
                if time.monotonic() >= deadline:
                    self.complaints.append(f"{name} was not ready within {READY_TIMEOUT_S:.0f} s")
                    break

    def ask(self, name: str, *request: Any, **options: Any) -> Answer:
        """One HTTP request to a process, as `Process.ask` takes it."""
        return self._processes[name].ask(*request, **options)

    def state(self, name: str) -> dict[str, Any]:
        """What ``/readyz`` of a service answers; empty if it does not answer."""
        with suppress(OSError):
            return dict(from_json(self.ask(name, "GET", "/readyz").body))
        return {}

    def end(self) -> None:
        """Leave no process behind, whatever they do, and let none be started any more."""
        self._ended.set()
        with self._starting:
            for unit in reversed(self._units.values()):
                unit.remove()


def named_servers(settings: Settings) -> list[str]:
    """The variables that name servers."""
    return [name.upper() for name in ON_FILES if name.endswith("_url") and getattr(settings, name)]


def free_settings(folder: Path, ports: Iterator[int] | None = None) -> Settings:
    """Settings with ``data`` of this folder, ports that nobody has, and no servers.

    The rest is the user's.
    """
    ports = ports or free_ports()
    publish, subscribe = (f"tcp://{HOST}:{next(ports)}" for _ in range(2))
    chosen: dict[str, Any] = {
        "DATA_DIR": folder / "data",
        "HOST": HOST,
        "BROKER_HTTP_PORT": next(ports),
        "INVENTORY_PORT": next(ports),
        "SHOP_PORT": next(ports),
        "PAYMENT_PORT": next(ports),
        "BROKER_PUBLISH_URL": publish,
        "BROKER_SUBSCRIBE_URL": subscribe,
        "LOG_LEVEL": os.environ.get("LOG_LEVEL", "warning"),
    }
    return from_environment(**chosen).model_copy(update=ON_FILES)


def on_servers(folder: Path) -> System:
    """Two copies of each service on a PostgreSQL server, with a database for each service, and on
    a NATS server, all of its own.
    """
    ports = free_ports()
    postgresql = PostgresServer(next(ports), SERVICES, folder / "postgresql.log")
    nats = NatsServer(folder, next(ports), "nats")
    urls = {f"{name}_database_url": postgresql.url(name) for name in SERVICES}
    one = free_settings(folder, ports).model_copy(update={**urls, "broker_url": nats.url})
    two = one.model_copy(update={f"{name}_port": next(ports) for name in SERVICES})
    return System(folder, one, two, servers=[postgresql, nats])


def free_ports() -> Iterator[int]:
    """Ports that nobody has, each once, in random order."""
    return filter(_is_free, random.SystemRandom().sample(PORTS, len(PORTS)))


def _is_free(port: int) -> bool:
    with suppress(OSError):
        socket.create_server((HOST, port)).close()
        return True
    return False
