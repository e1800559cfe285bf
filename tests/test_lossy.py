"""Events over a line that loses, doubles and shuffles: each arrives once and in order."""

import sqlite3
from contextlib import ExitStack, closing
from typing import Any

import pytest
import zmq

from broker.forwarder import INSIDE
from broker.journal import Journal
from messaging.exchange import transport
from messaging.inbox import place_of
from messaging.transports.forwarder import Peer
from messaging.transports.wire import Run, Want, topic
from runtime.process.settings import Settings
from tests.conftest import eventually
from tests.lossy import Faults, LossyForwarder
from tests.messaging.conftest import Numbers

WINDOW = 256  # events and messages ahead of the last ack


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorter waits: a loss costs one. And one event in a message: so there are many to lose.

    The wait for acks is still longer than the journal needs for a window that it has already.
    """
    monkeypatch.setattr("messaging.publisher.RUN_EVENTS", 1)
    monkeypatch.setattr("messaging.transports.wire.RUN_EVENTS", 1)
    monkeypatch.setattr("messaging.publisher.WINDOW_EVENTS", WINDOW)
    monkeypatch.setattr("messaging.exchange.TICK_S", 0.005)
    monkeypatch.setattr("messaging.publisher.ACK_TIMEOUT_S", 0.05)
    monkeypatch.setattr("messaging.follower.WANT_INTERVAL_S", 0.05)


def most_frames_per_event(events: int, faults: Faults) -> float:
    """How often an event may be sent, or replayed, on average.

    A receiver takes what comes up to the first message that is not in its place, and that one,
    too, unless it was dropped: ``(1 - drop) / (1 - in_place)`` messages on average. For as many,
    a rewind or an answer costs a window, or what is left of the stream if that is less. Twice
    the mean leaves room for chance, and for slow machines, on which a rewind overtakes the ack.
    """
    in_place = (1 - faults.drop) * (1 - faults.reorder) * (1 - faults.delay)
    window = sum(min(WINDOW, left) for left in range(1, events + 1)) / events
    return 2 * (1 + window * (1 - in_place) / (1 - faults.drop))


def rows(settings: Settings, name: str, table: str) -> list[Any]:
    with closing(sqlite3.connect(settings.data_dir / f"{name}.db")) as database:
        return database.execute(f"SELECT sequence, body FROM {table} ORDER BY sequence").fetchall()


def check(settings: Settings, events: int, loss: float, seed: int, timeout_s: float) -> None:
    """The reader starts when half is in the journal: it has to catch up, and to keep up."""
    faults = Faults(drop=loss, double=loss, reorder=loss, delay=loss)
    context = zmq.Context()
    forwarder = LossyForwarder(settings, context, faults, seed)
    peer = Peer(context, INSIDE, [topic(Run), topic(Want)])
    journal = Journal(settings.data_dir / "broker.db", peer)
    with ExitStack() as stack:

        def service(name: str, *reads: str) -> Numbers:
            way = transport(settings, name, name, reads)
            made = Numbers(settings.data_dir / f"{name}.db", name, reads, way)
            stack.callback(made.close)
            return made

        journal.open()
        for each in (forwarder, journal):
            each.start()
            stack.callback(each.stop)
        writer, reader = service("writer"), service("reader", "writer")
        writer.exchange.start()
        writer.tell(*range(events))
        eventually(lambda: writer.exchange.status()["outbox_waiting"] <= events / 2, timeout_s)
        reader.exchange.start()
        eventually(lambda: place_of(reader.database, "writer").sequence == events, timeout_s)
        eventually(lambda: writer.is_told)
        assert reader.heard == [*range(events)]

    told = rows(settings, "writer", "outbox")
    assert len(told) == events
    assert rows(settings, "broker", "entry") == told
    assert rows(settings, "reader", "inbox") == told

    bound = most_frames_per_event(events, faults)
    sent, replayed = (forwarder.seen[kind] / events for kind in ("event", "replay"))
    cost = f"per event {sent:.1f} frames sent, {replayed:.1f} replayed; at most {bound:.1f}"
    print(f"{events} events at {loss:.0%}, seed {seed}: {cost}; {dict(forwarder.seen)}")
    assert max(sent, replayed) <= bound, cost


def test_all_arrive_once_and_in_order(settings: Settings) -> None:
    """Events, acks, wants and replays are all dropped, doubled, reordered and delayed alike."""
    check(settings, events=300, loss=0.05, seed=2, timeout_s=40)


@pytest.mark.chaos
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("loss", [0.1, 0.3])
def test_ten_thousand_arrive_once_and_in_order(settings: Settings, loss: float) -> None:
    """The same for long, up to a line on which two messages in three are not in their place."""
    check(settings, 10_000, loss, seed=7, timeout_s=1400)
