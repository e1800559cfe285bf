"""Events: through the broker from one process to another, against other queues."""

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from pathlib import Path

from bench.contestants.client import IN_FLIGHT
from bench.errors import LeftOut
from bench.findings import Finding, Goal
from bench.processes import NO_SETTINGS, Process, Processes, Settings
from bench.system import System
from bench.turns import Contestant, Effort, gather, need, take_turns
from runtime.process.children import listens
from scenarios.servers import HOST
from scenarios.system import free_ports

TIMEOUT_S = 300.0
RABBITMQ_PORT = 5672

# What each needs: the name of its module, the URL of its queue, and settings.
Connect = Callable[..., Callable[[], float]]


def throughput(processes: Processes, effort: Effort) -> list[Finding]:
    """So many events, from the first one written to the last one taken and acknowledged."""
    number = effort.size(20_000, quick=2_000)
    connect: Connect = partial(Clients, processes, number, count(1))
    contestants, left_out = gather(
        [
            ("outbox, broker, inbox", partial(_product, processes, connect)),
            ("NATS JetStream, sync_interval: always", partial(_nats_always, processes, connect)),
            ("NATS JetStream, default", partial(_nats_default, processes, connect)),
            ("Redis Streams, appendfsync always", partial(_redis, processes, connect)),
            ("RabbitMQ, quorum queue", partial(_rabbitmq, connect)),
        ]
    )
    ours, *others = take_turns("events", contestants, effort)
    return [
        Finding(
            name="events",
            about=f"{number:,} events from one process to another, {IN_FLIGHT:,} in flight",
            unit="events/s",
            ours=ours,
            others=others,
            goal=Goal(kind="at least", limit=1),
            left_out=left_out,
        )
    ]


class Clients:
    """A publisher and a consumer of one kind of queue, as two processes."""

    def __init__(
        self,
        processes: Processes,
        number: int,
        turns: Iterator[int],
        module: str,
        url: str,
        settings: Settings = NO_SETTINGS,
    ) -> None:
        self._processes = processes
        self._number = number
        self._module = module
        self._url = url
        self._settings = settings
        self._turns = turns

    def __call__(self) -> float:
        """Send all events through a queue of their own; gives events a second."""
        name = f"{self._module.replace('_', '-')}-{next(self._turns)}"
        consumer = self._start("consume", name)
        consumer.wait_until(consumer.lines, "is ready")
        publisher = self._start("publish", name)
        for process in (publisher, consumer):
            process.finish(TIMEOUT_S)
        begun, ended = (float(process.lines()[-1]) for process in (publisher, consumer))
        return self._number / (ended - begun)

    def _start(self, role: str, name: str) -> Process:
        return self._processes.python(
            f"{name}-{role}",
            f"bench.contestants.{self._module}",
            *(role, self._url, name, str(self._number)),
            settings=self._settings,
        )


def _product(processes: Processes, connect: Connect, name: str) -> Contestant:
    system = System(processes, processes.folder / "data")
    system.start("broker")
    clients = connect("product_events", str(system.settings.data_dir), system.environment)
    return Contestant(name, clients, "flushed by writer, journal and reader")


def _nats_always(processes: Processes, connect: Connect, name: str) -> Contestant:
    server = _program("nats-server", Path(sys.executable).parent)
    if (version := _nats_version(server)) < (2, 10):
        raise LeftOut(f"nats-server {version[0]}.{version[1]} is older than sync_interval: always")
    return _nats(processes, connect, name, server, "always", "flushed before each ack")


def _nats_default(processes: Processes, connect: Connect, name: str) -> Contestant:
    server = _program("nats-server")
    told = "weaker: flushed every two minutes"
    return _nats(processes, connect, name, server, "2m", told)._replace(counts=False)


def _nats(
    processes: Processes, connect: Connect, name: str, server: str, sync: str, durability: str
) -> Contestant:
    need("nats")
    port = next(free_ports())
    major, minor = _nats_version(server)
    folder = processes.folder / f"nats-{sync}"
    folder.mkdir()
    # An older server knows no other interval than the default one, nor the setting.
    setting = f'sync_interval: "{sync}"' if (major, minor) >= (2, 10) else ""
    config = folder / "server.conf"
    config.write_text(f'jetstream {{ store_dir: "{folder}"\n{setting} }}\n')
    command = [server, "--addr", HOST, "--port", str(port), "--config", str(config)]
    process = processes.start(folder.name, *command)
    process.wait_until(lambda: listens(HOST, port), "listens")
    label = f"{name} ({major}.{minor})"
    return Contestant(label, connect("nats_events", f"nats://{HOST}:{port}"), durability)


def _nats_version(server: str) -> tuple[int, int]:
    told = subprocess.run([server, "--version"], capture_output=True, text=True, check=True).stdout
    major, minor = told.rpartition("v")[2].split(".")[:2]
    return int(major), int(minor)


def _redis(processes: Processes, connect: Connect, name: str) -> Contestant:
    need("redis")
    server, port = _program("redis-server"), next(free_ports())
    folder = processes.folder / "redis"
    folder.mkdir()
    options = {
        "--bind": HOST,
        "--port": str(port),
        "--dir": str(folder),
        "--save": "",
        "--appendonly": "yes",
        "--appendfsync": "always",
    }
    arguments = [word for option in options.items() for word in option]
    process = processes.start("redis", server, *arguments)
    process.wait_until(lambda: listens(HOST, port), "listens")
    clients = connect("redis_events", f"redis://{HOST}:{port}")
    return Contestant(name, clients, "flushed before each answer")


def _rabbitmq(connect: Connect, name: str) -> Contestant:
    need("pika")
    if not listens(HOST, RABBITMQ_PORT):
        raise LeftOut(f"no RabbitMQ listens on port {RABBITMQ_PORT}")
    clients = connect("rabbitmq_events", f"amqp://guest:guest@{HOST}:{RABBITMQ_PORT}")
    return Contestant(name, clients, "flushed before each confirm")


def _program(name: str, *folders: Path) -> str:
    """The path of a program, from these folders or as the shell finds it."""
    for folder in folders:
        if found := shutil.which(name, path=folder):
            return found
    if found := shutil.which(name):
        return found
    raise LeftOut(f"{name} is not installed")
