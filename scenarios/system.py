"""The system under test: four processes in a folder of their own."""

import os
import random
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from pydantic_core import from_json, to_json

from runtime.processes import Child
from runtime.settings import Settings

NAMES = ("broker", "inventory", "shop", "payment")
HOST = "127.0.0.1"
SERVICES = tuple(name for name in NAMES if name != "broker")
# Below those that systems give to outgoing connections: none must take the port of a service that
# is down, and a client that tries one over and over could even be connected to itself.
PORTS = range(10_000, 16_000)
ANSWER_TIMEOUT_S = 1.0  # shorter than many a stop, so that some answers come too late
READY_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 10.0


class Answer(NamedTuple):
    """What a service answered."""

    status: int
    body: bytes


class System:
    """The processes, with these settings: what they write is in ``NAME.out`` and ``NAME.err``
    of a folder.

    ``complaints`` has a line for each end of a process that was not as it should be.
    """

    def __init__(self, folder: Path, settings: Settings) -> None:
        self.folder = folder
        self.settings = settings
        self.complaints: list[str] = []
        self.crashes: Counter[str] = Counter()
        self._children: dict[str, Child] = {}
        self._held: set[str] = set()
        self._ended = threading.Event()
        self._starting = threading.Lock()

    def start(self, names: Iterable[str] = NAMES) -> None:
        """Start processes, and do not wait for them."""
        with self._starting:
            for name in () if self._ended.is_set() else names:
                with (
                    (self.folder / f"{name}.out").open("ab") as out,
                    (self.folder / f"{name}.err").open("ab") as err,
                ):
                    self._children[name] = Child(name, 0, self.settings.environment(), out, err)

    def kill(self, names: Iterable[str]) -> None:
        """Kill processes at once, and wait until they are gone."""
        self.signal(names, signal.SIGKILL)
        for name in names:
            self.crashes[name] += 1
            self._children[name].process.wait()

    def terminate(self, names: Iterable[str]) -> None:
        """Ask processes to end, and wait; an exit code other than 0 is a complaint."""
        self.signal(names, signal.SIGTERM)
        deadline = time.monotonic() + STOP_TIMEOUT_S
        for name in names:
            child = self._children[name]
            child.stop(deadline)
            if child.process.returncode:
                self.complaints.append(f"{name}, asked to end by SIGTERM, {child.end()}")

    def signal(self, names: Iterable[str], number: signal.Signals) -> None:
        """Send a signal to processes."""
        for name in names:
            self._children[name].signal(number)

    def hold(self, names: Iterable[str]) -> bool:
        """Take processes for oneself, all or none: until `release`, they may end."""
        if free := self._held.isdisjoint(names):
            self._held.update(names)
        return free

    def release(self, names: Iterable[str]) -> None:
        """Give processes back, which run from now on."""
        self._held.difference_update(names)

    def is_ready(self, name: str) -> bool:
        """Whether a process can do its work now."""
        with suppress(OSError):
            return self.ask(name, "GET", "/readyz").status == 200
        return False

    def wait_until_ready(self, names: Iterable[str] = NAMES) -> None:
        """Wait for processes; one that ends by itself, or takes too long, is a complaint."""
        deadline = time.monotonic() + READY_TIMEOUT_S
        for name in names:
            while not self.is_ready(name) and not self._ended.wait(0.02):
                child = self._children[name]
                if child.process.poll() is not None and self._is_lost(name, child):
                    self.complaints.append(f"{name} {child.end()}, by itself: see {name}.err")
                    break
                if time.monotonic() >= deadline:
                    self.complaints.append(f"{name} was not ready within {READY_TIMEOUT_S:.0f} s")
                    break

    def _is_lost(self, name: str, ended: Child) -> bool:
        return name not in self._held and self._children[name] is ended

    def ask(
        self,
        name: str,
        method: str,
        path: str,
        body: object = None,
        headers: Mapping[str, str] = MappingProxyType({}),
        timeout_s: float = ANSWER_TIMEOUT_S,
    ) -> Answer:
        """One HTTP request; `OSError` if it is not answered."""
        port = self.settings.http_port(name)[0]
        connection = HTTPConnection(self.settings.host, port, timeout=timeout_s)
        try:
            content = None if body is None else to_json(body)
            told = {"Content-Type": "application/json"} if content else {}
            connection.request(method, path, content, {**told, **headers})
            response = connection.getresponse()
            return Answer(response.status, response.read())
        except HTTPException as error:
            raise ConnectionError(str(error)) from error
        finally:
            connection.close()

    def state(self, name: str) -> dict[str, Any]:
        """What ``/readyz`` of a service tells; nothing if it does not answer."""
        with suppress(OSError):
            return dict(from_json(self.ask(name, "GET", "/readyz").body))
        return {}

    def end(self) -> None:
        """Leave no process behind, whatever they do, and let none be started any more."""
        self._ended.set()
        with self._starting:
            for child in self._children.values():
                child.stop(time.monotonic())


def free_settings(folder: Path) -> Settings:
    """Settings with ``data`` of this folder, and ports that nobody has; the rest is the user's."""
    free = filter(_is_free, random.SystemRandom().sample(PORTS, len(PORTS)))
    publish, subscribe = (f"tcp://{HOST}:{next(free)}" for _ in range(2))
    chosen: dict[str, Any] = {
        "DATA_DIR": folder / "data",
        "HOST": HOST,
        "BROKER_HTTP_PORT": next(free),
        "INVENTORY_PORT": next(free),
        "SHOP_PORT": next(free),
        "PAYMENT_PORT": next(free),
        "BROKER_PUBLISH_URL": publish,
        "BROKER_SUBSCRIBE_URL": subscribe,
        "LOG_LEVEL": os.environ.get("LOG_LEVEL", "warning"),
    }
    return Settings(**chosen)


def _is_free(port: int) -> bool:
    with suppress(OSError):
        socket.create_server((HOST, port)).close()
        return True
    return False
