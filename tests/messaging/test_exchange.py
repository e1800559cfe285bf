import shutil
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any, cast

import pytest
from peewee import OperationalError
from structlog.testing import capture_logs

from broker.journal import Journal
from inventory.app import Inventory
from messaging.event import Event, Fact
from messaging.exchange import Exchange
from messaging.outbox import Outbox
from messaging.transports.forwarder import ForwarderTransport, Peer
from messaging.transports.wire import (
    START,
    Ack,
    Message,
    Place,
    Refuse,
    Replay,
    Run,
    Want,
    pack,
    topic,
)
from runtime.process.settings import Settings
from runtime.storage.database import SqliteFile
from shop.app import Shop
from tests.conftest import Broker, eventually
from tests.messaging.conftest import NOON, effects, single
from tests.rules import create_item


class Mangler:
    """Loses, doubles and delays messages, the same ones for the same seed."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)
        self._late: list[Any] = []

    def __call__(self, messages: list[Any]) -> list[Any]:
        mangled: list[Any] = []
        for message in messages:
            late, self._late = self._late, []
            match self._random.random():
                case chance if chance < 0.08:
                    pass
                case chance if chance < 0.16:
                    mangled += [message, message]
                case chance if chance < 0.24:
                    self._late = [message]
                case _:
                    mangled.append(message)
            mangled += late
        return mangled


class Network:
    """Carries messages in memory from each end to those that subscribed."""

    def __init__(self, mangle: Callable[[list[Any]], list[Any]] = list) -> None:
        self.ends: list[End] = []
        self.changed = threading.Condition()
        self._mangle = mangle

    def carry(self, message: Message) -> None:
        head = pack(message)[0]
        with self.changed:
            for end in self.ends:
                if head.startswith(end.topics):
                    end.arrived.extend(self._mangle([message]))
            self.changed.notify_all()


class End:
    """One end of a network; does what a transport does, and a peer."""

    address = "here"

    def __init__(self, network: Network, reader: str, *topics: bytes) -> None:
        self.up = True
        self.polls = self.malformed = 0
        self.topics = topics
        self.arrived: deque[Message] = deque()
        self._network, self._reader, self._woken = network, reader, False
        network.ends.append(self)

    def open(self) -> None: ...

    def close(self) -> None: ...

    def send(self, message: Message) -> None:
        self._network.carry(message)

    publish = send

    def fetch(self, stream: str, after: Place) -> None:
        self.send(Want(stream, self._reader, after))

    def poll(self, timeout_s: float) -> list[Message]:
        with self._network.changed:
            self._network.changed.wait_for(lambda: self.arrived or self._woken, timeout_s)
            self._woken = False
            self.polls += 1
            return [self.arrived.popleft() for _ in range(len(self.arrived))]

    def wake(self) -> None:
        with self._network.changed:
            self._woken = True
            self._network.changed.notify_all()


class Numbers:
    """A service that tells numbers on one stream, and keeps those of the streams that it reads."""

    def __init__(self, path: Path, writes: str, reads: tuple[str, ...], way: Any) -> None:
        self.database = SqliteFile(path, "messaging")
        self.database.open()
        self.database.execute_sql("CREATE TABLE IF NOT EXISTS effect (n INTEGER)")
        self.outbox = Outbox(self.database, writes, "/test")
        self.broken, self.failures = "", 0
        handlers = {stream: {"counted": self.take} for stream in reads}
        self.exchange = Exchange(self.database, self.outbox, handlers, way)

    def take(self, events: list[Event]) -> None:
        for event in events:
            if event.stream == self.broken:
                self.failures += 1
                raise LookupError
            self.database.execute_sql("INSERT INTO effect VALUES (?)", (event.data["n"],))

    def tell(self, *numbers: int) -> None:
        for n in numbers:
            with self.database.write():
                self.outbox.emit("counted", [Fact(n, NOON, {"n": n})])

    def close(self) -> None:
        if self.exchange.is_alive():
            self.exchange.stop()
        self.database.close()


Make = Callable[..., Numbers]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Make services on a network; they are closed after the test."""
    made: list[Numbers] = []

    def make(network: Network, writes: str, *reads: str) -> Numbers:
        topics = [topic(Ack, writes), topic(Refuse, writes), topic(Replay, writes)]
        way = End(network, writes, *topics, *(topic(Run, stream) for stream in reads))
        made.append(Numbers(tmp_path / f"{writes}.db", writes, reads, way))
        return made[-1]

    yield make
    for service in made:
        service.close()


@pytest.fixture
def keep(tmp_path: Path) -> Iterator[Callable[[Network], Journal]]:
    """Start the journal of a network."""
    kept: list[Journal] = []

    def keep(network: Network) -> Journal:
        end = End(network, "", topic(Run), topic(Want))
        kept.append(Journal(tmp_path / "broker.db", cast(Peer, end)))
        kept[-1].open()
        kept[-1].start()
        return kept[-1]

    yield keep
    for journal in kept:
        journal.stop()


@pytest.fixture
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorter waits, as hundreds of lost messages cost one each."""
    monkeypatch.setattr("messaging.exchange.TICK_S", 0.005)
    monkeypatch.setattr("messaging.publisher.ACK_TIMEOUT_S", 0.02)
    monkeypatch.setattr("messaging.publisher.PROBE_INTERVAL_S", 0.1)
    monkeypatch.setattr("messaging.follower.WANT_INTERVAL_S", 0.05)


@pytest.mark.parametrize("seed", [1])
def test_300_events_arrive_once_and_in_order_over_a_bad_network(
    make: Make, keep: Callable[[Network], Journal], hurry: None, seed: int
) -> None:
    """Whatever is lost, doubled or out of order: events, acks, wants and replays alike."""
    network = Network(Mangler(seed))
    writer, reader = make(network, "writer"), make(network, "reader", "writer")
    keep(network)
    writer.tell(*range(100))
    writer.exchange.start()
    reader.exchange.start()
    writer.tell(*range(100, 300))
    eventually(lambda: effects(reader.database)[-1:] == [299])
    eventually(lambda: writer.exchange.status()["outbox_waiting"] == 0)
    assert effects(reader.database) == list(range(300))


class BadTransport(ForwarderTransport):
    """Real sockets on a bad line, in both directions."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._give, self._take = Mangler(4), Mangler(5)

    def send(self, message: Message) -> None:
        for mangled in self._give([message]):
            super().send(mangled)

    def poll(self, timeout_s: float) -> list[Message]:
        return self._take(super().poll(timeout_s))


def test_real_sockets_that_drop_double_and_reorder(
    broker: Broker, settings: Settings, tmp_path: Path, hurry: None
) -> None:
    def service(name: str, *reads: str) -> Numbers:
        topics = [topic(Ack, name), topic(Replay, name), *(topic(Run, s) for s in reads)]
        return Numbers(tmp_path / f"{name}.db", name, reads, BadTransport(settings, name, topics))

    writer, reader = service("writer"), service("reader", "writer")
    reader.exchange.start()
    writer.exchange.start()
    writer.tell(*range(300))
    eventually(lambda: effects(reader.database)[-1:] == [299])
    assert effects(reader.database) == list(range(300))
    writer.close()
    reader.close()


def test_a_journal_that_was_wiped_is_filled_again_by_its_writers(
    settings: Settings, inventory: Inventory, shop: Shop
) -> None:
    """An idle writer finds out by itself, and a reader that comes later gets every event."""
    first = Broker(settings)
    inventory.exchange.start()
    for n in range(3):
        create_item(inventory, f"Perch {n}", n)
    eventually(lambda: inventory.exchange.status()["outbox_waiting"] == 0)
    first.stop()

    elsewhere = settings.model_copy(update={"data_dir": settings.data_dir / "new"})
    shutil.copytree(settings.data_dir / "keys", elsewhere.data_dir / "keys")
    second = Broker(elsewhere)
    try:
        shop.exchange.start()
        eventually(lambda: [item["price"] for item in shop.catalogue.on_sale()] == [0, 1, 2])
    finally:
        second.stop()


def test_a_stream_that_fails_keeps_no_other_waiting(
    make: Make, keep: Callable[[Network], Journal]
) -> None:
    network = Network()
    odd, even = make(network, "odd"), make(network, "even")
    reader = make(network, "reader", "odd", "even")
    reader.broken = "odd"
    keep(network)
    for service in (odd, even, reader):
        service.exchange.start()
    odd.tell(1)
    eventually(lambda: reader.failures)
    even.tell(2, 4)
    eventually(lambda: effects(reader.database) == [2, 4])
    reader.broken = ""
    eventually(lambda: effects(reader.database) == [2, 4, 1])


def test_nothing_ends_the_thread_before_its_process(
    make: Make, keep: Callable[[Network], Journal], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An outage of the database is told in a line, all else with its traceback."""
    network = Network()
    writer, reader = make(network, "writer"), make(network, "reader", "writer")
    failures = [MemoryError(), ValueError(), OperationalError("server closed the connection")]
    poll = End.poll

    def bad(end: End, timeout_s: float) -> list[Message]:
        if failures:
            raise failures.pop()
        return poll(end, timeout_s)

    monkeypatch.setattr(End, "poll", bad)
    with capture_logs() as lines:
        writer.exchange.start()
        reader.exchange.start()
        eventually(lambda: len(lines) == 3)
    assert sorted(line["exc_info"] for line in lines) == [False, True, True]
    keep(network)
    writer.tell(1)
    eventually(lambda: effects(reader.database) == [1])


def test_stopping_waits_for_outstanding_acks_but_not_for_ever(
    make: Make, keep: Callable[[Network], Journal], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("messaging.exchange.STOP_TIMEOUT_S", 0.2)
    network = Network()
    alone, writer = make(network, "alone"), make(network, "writer")
    alone.tell(1)
    alone.exchange.start()
    begin = time.monotonic()
    alone.exchange.stop()
    assert 0.2 <= time.monotonic() - begin < 5
    assert alone.exchange.status()["outbox_waiting"] == 1

    keep(network)
    monkeypatch.setattr("messaging.exchange.STOP_TIMEOUT_S", 30)
    writer.exchange.start()
    writer.tell(*range(50))
    writer.exchange.stop()
    assert writer.exchange.status()["outbox_waiting"] == 0


def test_the_status_tells_where_messaging_stands(make: Make) -> None:
    network = Network()
    service = make(network, "writer", "others")
    quiet = {"outbox_waiting": 0, "inbox_behind": {"others": None}, "dead": 0}
    assert service.exchange.status() == quiet | {"broker": "unknown"}
    service.exchange.start()
    assert service.exchange.status() == quiet | {"broker": "up"}
    network.ends[0].up = False
    service.tell(1)
    assert service.exchange.status() == quiet | {"broker": "down", "outbox_waiting": 1}
    network.ends[0].up = True
    head = service.outbox.head()[0]
    assert head is not None
    eventually(lambda: service.exchange._publisher._epoch)  # it has asked
    network.carry(Replay("writer", Run("writer", START, Place(head.epoch, 9), [])))
    problem = eventually(lambda: service.exchange.status().get("problem"))
    assert "publishing stopped" in problem


def test_a_halted_service_applies_nothing_any_more(
    make: Make, keep: Callable[[Network], Journal]
) -> None:
    """Refused while it runs: its database is old, and acting on events would be done twice."""
    network = Network()
    other, service = make(network, "others"), make(network, "writer", "others")
    keep(network)
    for each in (other, service):
        each.exchange.start()
    service.tell(1)
    other.tell(1)
    eventually(lambda: effects(service.database) == [1])
    eventually(lambda: service.exchange.status()["outbox_waiting"] == 0)
    network.carry(single("writer", Place(service.outbox.head().place.epoch, 2), b"a copy's"))
    eventually(lambda: service.exchange.status().get("problem"))
    other.tell(2)
    eventually(lambda: other.exchange.status()["outbox_waiting"] == 0)
    way: Any = service.exchange._transport
    turns = way.polls
    eventually(lambda: way.polls > turns + 3)
    assert effects(service.database) == [1]


def test_who_leads_no_more_counts_as_the_database_does(
    make: Make, keep: Callable[[Network], Journal], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a copy knew as a leader is true no more: another one has its events acknowledged."""
    network = Network()
    service = make(network, "numbers")
    leads = 1
    monkeypatch.setattr(SqliteFile, "leads", property(lambda database: leads))
    keep(network)
    service.exchange.start()
    service.tell(1, 2, 3)
    eventually(lambda: service.exchange.status()["outbox_waiting"] == 0)
    leads = 0
    polls = service.exchange._transport.polls  # type: ignore[attr-defined]
    eventually(lambda: service.exchange._transport.polls > polls + 2)  # type: ignore[attr-defined]
    service.tell(4, 5)
    service.outbox.note(5, None)  # as the copy does that leads now
    assert service.exchange.status()["outbox_waiting"] == 0


def test_readers_forget_the_journal_while_it_contradicts_the_writer(shop: Shop) -> None:
    """It may be replaced by another one before the two agree; and what is behind is unknown."""
    exchange = shop.exchange
    line = SimpleNamespace(up=True, address="", publish=lambda _: None, fetch=lambda *_: None)
    exchange._transport = cast(Any, line)
    exchange._begin()
    exchange._publisher.step()
    exchange._publisher.handle_end(Run("orders", START, START, []))
    head = shop.outbox.head().place
    exchange._turn([Replay("shop", Run("items", START, Place(head.epoch, 3), []))])
    assert exchange.status()["inbox_behind"] == {"items": 3, "payments": None}
    exchange._publisher.handle_refuse(Place(head.epoch, 1))
    exchange._turn([])
    assert exchange.status()["inbox_behind"] == {"items": None, "payments": None}
