import threading
import time
from pathlib import Path

import pytest

from messaging.event import EventTooLarge, Fact, previous
from messaging.outbox import Outbox
from messaging.transports.wire import Place, digest
from runtime.storage.sqlite import SqliteFile
from tests.messaging.conftest import NOON, emit


def sequences(outbox: Outbox) -> list[int]:
    return [sequence for sequence, _ in outbox.rows(0, 10**9)]


def test_events_are_emitted_in_transactions_only(outbox: Outbox) -> None:
    with pytest.raises(AssertionError):
        outbox.emit("counted", [Fact(1, NOON, {})])
    assert (outbox.head()[0].sequence, sequences(outbox)) == (0, [])


def test_a_database_is_one_epoch_counted_from_1(tmp_path: Path) -> None:
    """The epoch is the time when the database was made and 8 random bytes, and stays."""
    before = time.time_ns()
    database = SqliteFile(tmp_path / "other.db", "messaging")
    database.open()
    made = time.time_ns()
    outbox = Outbox(database, "numbers", "/test")
    emit(database, outbox, 2)
    epoch = outbox.head()[0].epoch
    assert len(epoch) == 16
    assert before <= int.from_bytes(epoch[:8], "big") <= made
    database.close()

    again = SqliteFile(database.path, "messaging")
    again.open()
    outbox = Outbox(again, "numbers", "/test")
    emit(again, outbox)
    assert outbox.head() == (Place(epoch, 3), 0, None)
    assert sequences(outbox) == [1, 2, 3]
    again.close()


@pytest.mark.parametrize("told_before", [0, 2])
def test_what_is_rolled_back_leaves_no_hole(
    database: SqliteFile, outbox: Outbox, told_before: int
) -> None:
    emit(database, outbox, told_before)
    with pytest.raises(ZeroDivisionError), database.write():
        outbox.emit("counted", [Fact(1, NOON, {})])
        raise ZeroDivisionError
    with pytest.raises(EventTooLarge):
        emit(database, outbox, size=256 * 1024)
    assert sequences(outbox) == list(range(1, told_before + 1))
    emit(database, outbox)
    assert sequences(outbox) == list(range(1, told_before + 2))


def test_each_event_names_the_one_before_it(database: SqliteFile, outbox: Outbox) -> None:
    """In one list, and from one transaction to the next."""
    emit(database, outbox)
    with database.write():
        outbox.emit("counted", [])
        outbox.emit("counted", [Fact(n, NOON, {}) for n in range(3)])
        outbox.emit("counted", [Fact(3, NOON, {})])
    bodies = [body for _, body in outbox.rows(0, 10)]
    assert [previous(body) for body in bodies] == [None, *map(digest, bodies[:-1])]


def test_events_of_many_threads_and_processes_appear_in_sequence(tmp_path: Path) -> None:
    """Whoever looks meanwhile sees 1, 2, 3…: an event is never visible before an earlier one."""
    databases = [SqliteFile(tmp_path / "service.db", "messaging") for _ in range(2)]
    for database in databases:
        database.open()

    def work(database: SqliteFile) -> None:
        emit(database, Outbox(database, "numbers", "/test"), 20)
        database.close()

    threads = [threading.Thread(target=work, args=(databases[n % 2],)) for n in range(4)]
    for thread in threads:
        thread.start()
    outbox = Outbox(databases[0], "numbers", "/test")
    while any(thread.is_alive() for thread in threads):
        seen = sequences(outbox)
        assert seen == list(range(1, len(seen) + 1))
    assert len(sequences(outbox)) == 80
    for database in databases:
        database.close()
