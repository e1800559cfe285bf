"""Beyond one machine: copies of the shop on PostgreSQL, the row they queue for, and JetStream."""

import re
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import count

from bench.errors import Failed, LeftOut
from bench.figures.events import Clients
from bench.filling import fill_shop, shop_packages
from bench.findings import Finding
from bench.load import CONNECTIONS, drive
from bench.processes import Processes, wait_until
from bench.sales import checkout
from bench.system import System
from bench.turns import FLUSHED, Contestant, Effort, take_turns
from runtime.storage.database import Database
from runtime.storage.factory import server
from runtime.storage.migrate_to import copy
from runtime.storage.sqlite import SqliteFile
from scenarios.servers import HOST, NatsServer, PostgresServer, missing
from scenarios.system import free_ports

ITEMS = 100
COPIES = (4, 2, 1)
SERVER = "PostgreSQL, fsync and synchronous_commit on"
ORDERS = 'SELECT count(*) FROM "order"'
# What each sale needs of the one row that all writers queue for, and nothing else of a sale.
EMIT = """BEGIN;
SELECT 1 FROM head FOR UPDATE;
UPDATE head SET sequence = sequence + 1 RETURNING sequence \\gset
INSERT INTO outbox (sequence, body) VALUES (:sequence, decode(repeat('7b', 400), 'hex'));
COMMIT;
"""


def beyond_one_machine(processes: Processes, effort: Effort) -> list[Finding]:
    """Checkouts by 1, 2 and 4 copies on one PostgreSQL, and what limits any number of them."""
    if lacks := missing():
        raise LeftOut(lacks)
    with _postgresql() as postgresql:
        shops = [_shop(processes, postgresql, number, effort) for number in COPIES]
        four, two, one, file = take_turns("copies", [*shops, _embedded(processes, effort)], effort)
        head = Contestant("SQL alone", partial(_emit, processes, postgresql, effort), SERVER)
        (emits,) = take_turns("head row", [head], effort)
    number = effort.size(20_000, quick=2_000)
    with _nats(processes) as nats:
        always, forwarder = take_turns(
            "stream",
            [_events(processes, number, nats.url), _events(processes, number, None)],
            effort,
        )
    return [
        Finding(
            name="copies",
            about="checkouts of 3 items by copies of the shop, 16 connections to each",
            unit="requests/s",
            ours=four,
            others=[two, one, file],
        ),
        Finding(
            name="head row",
            about="transactions that emit one event each, 16 at a time, without any Python",
            unit="commits/s",
            ours=emits,
            others=[],
        ),
        Finding(
            name="stream",
            about=f"{number:,} events from outbox to inbox, through JetStream or the forwarder",
            unit="events/s",
            ours=always,
            others=[forwarder],
        ),
    ]


@contextmanager
def _postgresql() -> Iterator[PostgresServer]:
    postgresql = PostgresServer(next(free_ports()))
    try:
        postgresql.start()
        yield postgresql
    finally:
        postgresql.remove()


@contextmanager
def _nats(processes: Processes) -> Iterator[NatsServer]:
    nats = NatsServer(processes.folder / "nats", next(free_ports()))
    try:
        nats.start()
        yield nats
    finally:
        nats.stop()


def _database(processes: Processes, postgresql: PostgresServer, name: str) -> Database:
    """A shop's database on the server, stocked like the one that it is copied from."""
    postgresql.create(name)
    source = SqliteFile(fill_shop(processes.folder / name / "shop.db", ITEMS), *shop_packages())
    target = server(postgresql.url(name), *shop_packages())
    for each in (source, target):
        each.open()
    with target.write():
        copy(source, target)
    return target


def _shop(
    processes: Processes, postgresql: PostgresServer, number: int, effort: Effort
) -> Contestant:
    """So many copies on one database, measured together; they are there for their turn only."""
    name = f"shop{number}"
    database = _database(processes, postgresql, name)
    systems = [System(processes, processes.folder / name / "data") for _ in range(number)]
    for system in systems:
        system.settings = system.settings.model_copy(
            update={"shop_database_url": postgresql.url(name)}
        )

    def sell() -> float:
        for system in systems:
            system.start("shop")
        wait_until(lambda: [each.state("shop") for each in systems], "all copies are ready")
        before = _count(database)
        loads = _drive(systems, effort.seconds)
        sold = _count(database) - before
        for system in systems:
            system.stop("shop")
        answered = sum(answered for answered, _ in loads)
        if not answered <= sold <= answered + CONNECTIONS * number:
            raise Failed(f"{answered} checkouts were confirmed, and there are {sold} orders")
        return sum(rate for _, rate in loads)

    label = f"{number} {'copies' if number > 1 else 'copy'} on PostgreSQL"
    return Contestant(label, sell, SERVER)


def _drive(systems: list[System], seconds: float) -> list[tuple[int, float]]:
    """Buy at all of them at once; for each how many were confirmed, and how many a second."""

    def one(system: System) -> tuple[int, float]:
        load = drive(checkout(system.url("shop", "")), seconds)
        return load.answered, load.rate

    with ThreadPoolExecutor(len(systems)) as pool:
        return list(pool.map(one, systems))


def _count(database: Database) -> int:
    return int(database.run(ORDERS).fetchone()[0])


def _embedded(processes: Processes, effort: Effort) -> Contestant:
    system = System(processes, processes.folder / "embedded")
    fill_shop(system.path("shop"), ITEMS)

    def sell() -> float:
        system.start("shop")
        ((_, rate),) = _drive([system], effort.seconds)
        system.stop("shop")
        return rate

    return Contestant("one shop on its file", sell, FLUSHED)


def _emit(processes: Processes, postgresql: PostgresServer, effort: Effort) -> float:
    script = processes.folder / "emit.sql"
    script.write_text(EMIT)
    database = f"shop{COPIES[0]}"
    told = subprocess.run(
        [
            *("pgbench", "-n", "-T", str(round(effort.seconds)), "-c", str(CONNECTIONS)),
            *("-f", str(script), "-h", HOST, "-p", str(postgresql.port), "-U", "postgres"),
            database,
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if not (rate := re.search(r"tps = ([0-9.]+)", told.stdout)):
        raise Failed(f"pgbench: {told.stderr.strip()}")
    return float(rate[1])


def _events(processes: Processes, number: int, url: str | None) -> Contestant:
    """From an outbox to an inbox, both in files, through the one or the other."""
    name = "outbox, JetStream, inbox" if url else "outbox, forwarder and journal, inbox"
    system = System(processes, processes.folder / ("jetstream" if url else "forwarder"))
    system.settings.data_dir.mkdir(parents=True)
    if url:
        system.settings = system.settings.model_copy(update={"broker_url": url})
    else:
        system.start("broker")
    folder, turns = str(system.settings.data_dir), count(1)
    clients = Clients(processes, number, turns, "product_events", folder, system.environment)
    return Contestant(name, clients, "flushed by writer, broker and reader")
