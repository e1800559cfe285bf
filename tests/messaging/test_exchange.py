import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from peewee import OperationalError
from structlog.testing import capture_logs

from broker.journal import Journal
from messaging.transports.forwarder import Peer
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
from runtime.storage.sqlite import SqliteFile
from shop.app import Shop
from tests.conftest import eventually
from tests.messaging.conftest import Numbers, single


class Network:
    """Services and a journal, between which messages are carried in memory to who subscribed."""

    def __init__(self, folder: Path) -> None:
        self.ends: list[End] = []
        self.changed = threading.Condition()
        self._folder = folder
        self._close: list[Callable[[], None]] = []

    def carry(self, message: Message) -> None:
        head = pack(message)[0]
        with self.changed:
            for end in self.ends:
                if head.startswith(end.topics):
                    end.arrived.append(message)
            self.changed.notify_all()

    def service(self, writes: str, *reads: str) -> Numbers:
        """A new service, whose exchange is not started."""
        topics = [topic(Ack, writes), topic(Refuse, writes), topic(Replay, writes)]
        way = End(self, writes, *topics, *(topic(Run, stream) for stream in reads))
        service = Numbers(self._folder / f"{writes}.db", writes, reads, way)
        self._close.append(service.close)
        return service

    def keep(self) -> None:
        """Start the journal."""
        end = End(self, "", topic(Run), topic(Want))
        journal = Journal(self._folder / "broker.db", cast(Peer, end))
        journal.open()
        journal.start()
        self._close.append(journal.stop)

    def close(self) -> None:
        for close in self._close:
            close()


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


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Network]:
    """A network without a journal so far."""
    made = Network(tmp_path)
    yield made
    made.close()


def test_a_stream_that_fails_keeps_no_other_waiting(network: Network) -> None:
    odd, even = network.service("odd"), network.service("even")
    reader = network.service("reader", "odd", "even")
    reader.broken = "odd"
    network.keep()
    for service in (odd, even, reader):
        service.exchange.start()
    odd.tell(1)
    eventually(lambda: reader.failures)
    even.tell(2, 4)
    eventually(lambda: reader.heard == [2, 4])
    reader.broken = ""
    eventually(lambda: reader.heard == [2, 4, 1])


def test_nothing_ends_the_thread_before_its_process(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An outage of the database is told in a line, all else with its traceback."""
    writer, reader = network.service("writer"), network.service("reader", "writer")
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
    network.keep()
    writer.tell(1)
    eventually(lambda: reader.heard == [1])


def test_stopping_waits_for_outstanding_acks_but_not_for_ever(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("messaging.exchange.STOP_TIMEOUT_S", 0.2)
    alone, writer = network.service("alone"), network.service("writer")
    alone.tell(1)
    alone.exchange.start()
    begin = time.monotonic()
    alone.exchange.stop()
    assert time.monotonic() - begin >= 0.2
    assert alone.exchange.status()["outbox_waiting"] == 1

    network.keep()
    monkeypatch.setattr("messaging.exchange.STOP_TIMEOUT_S", 30)
    writer.exchange.start()
    writer.tell(*range(50))
    writer.exchange.stop()
    assert writer.exchange.status()["outbox_waiting"] == 0


def test_the_status_tells_where_messaging_stands(network: Network) -> None:
    service = network.service("writer", "others")
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


def test_a_halted_service_applies_nothing_any_more(network: Network) -> None:
    """Refused while it runs: its database is old, and acting on events would be done twice."""
    other, service = network.service("others"), network.service("writer", "others")
    network.keep()
    for each in (other, service):
        each.exchange.start()
    service.tell(1)
    other.tell(1)
    eventually(lambda: service.heard == [1])
    eventually(lambda: service.is_told)
    network.carry(single("writer", Place(service.outbox.head().place.epoch, 2), b"a copy's"))
    eventually(lambda: service.exchange.status().get("problem"))
    other.tell(2)
    eventually(lambda: other.is_told)
    (_, way, *_) = network.ends
    turns = way.polls
    eventually(lambda: way.polls > turns + 3)
    assert service.heard == [1]


def test_who_leads_no_more_counts_as_the_database_does(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a copy knew as a leader is true no more: another one has its events acknowledged."""
    service = network.service("numbers")
    leads = 1
    monkeypatch.setattr(SqliteFile, "leads", property(lambda database: leads))
    network.keep()
    service.exchange.start()
    service.tell(1, 2, 3)
    eventually(lambda: service.is_told)
    leads = 0
    polls = network.ends[0].polls
    eventually(lambda: network.ends[0].polls > polls + 2)
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
