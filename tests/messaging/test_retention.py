import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from structlog.testing import capture_logs

import messaging.retention
from messaging.models import Head, Inbox, Outbox
from messaging.retention import STEP_ROWS, Retention
from runtime.clock import timestamp
from runtime.database import SqliteFile
from runtime.models import KeptAnswer
from tests.conftest import eventually
from tests.messaging.conftest import EPOCH

MANY = 2 * STEP_ROWS + 1


@pytest.fixture
def database(tmp_path: Path) -> Iterator[SqliteFile]:
    opened = SqliteFile(tmp_path / "service.db", "runtime", "messaging")
    opened.open()
    yield opened
    opened.close()


def fill(database: SqliteFile, days: float, first: int, count: int) -> None:
    """Applied events, kept answers and told events of some days ago."""
    then = timestamp(datetime.now(UTC) - timedelta(days=days))
    numbers = range(first, first + count)
    same = {"stream": "numbers", "epoch": EPOCH, "type": "counted", "body": b"{}"}
    events = [{**same, "sequence": n, "applied_at": then} for n in numbers]
    same = {"path": "/notes", "fingerprint": b"", "status": 201, "body": b"{}"}
    answers = [{**same, "key": str(n), "kept_at": then} for n in numbers]
    with database.write():
        Inbox.insert_many(events).execute(database)
        KeptAnswer.insert_many(answers).execute(database)
        Outbox.insert_many([{"sequence": n, "body": b"{}"} for n in numbers]).execute(database)


def sizes(database: SqliteFile) -> list[int]:
    return [model.select().count(database) for model in (Inbox, KeptAnswer, Outbox, Head)]


def test_what_is_too_old_goes_away_and_the_rest_stays(
    database: SqliteFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Outbox rows stay, however old they are."""
    fill(database, days=30.01, first=1, count=MANY)
    fill(database, days=29.99, first=MANY + 1, count=3)
    monkeypatch.setattr(messaging.retention, "PAUSE_S", 0.001)
    retention = Retention(database, days=30)
    retention.start()
    eventually(lambda: sizes(database) == [3, 3, MANY + 3, 1])
    retention.stop()
    assert [row.sequence for row in Inbox.select().execute(database)] == [
        MANY + 1,
        MANY + 2,
        MANY + 3,
    ]


def test_it_goes_in_small_steps(database: SqliteFile) -> None:
    """The oldest first, and each in a transaction of its own, between which others get in."""
    fill(database, days=40, first=STEP_ROWS + 1, count=STEP_ROWS)
    fill(database, days=50, first=1, count=STEP_ROWS)
    retention = Retention(database, days=30)
    commits: list[int] = []
    database.listeners.append(lambda: commits.append(sizes(database)[0]))
    assert retention.prune(Inbox.applied_at)
    assert {row.sequence for row in Inbox.select().execute(database)} == {
        *range(STEP_ROWS + 1, 2 * STEP_ROWS + 1)
    }
    assert retention.prune(Inbox.applied_at)
    assert not retention.prune(Inbox.applied_at)
    assert commits == [STEP_ROWS, 0]


def test_nothing_to_prune_waits_for_nobody(database: SqliteFile) -> None:
    """It takes no lock then: a writer that is in the way does not delay it."""
    fill(database, days=1, first=1, count=3)
    with database.write():
        retention = Retention(database, days=30)
        pruner = threading.Thread(
            target=lambda: (retention.prune(Inbox.applied_at), database.close())
        )
        pruner.start()
        pruner.join(3)
        assert not pruner.is_alive()


def test_an_outage_ends_nothing(database: SqliteFile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messaging.retention, "IDLE_S", 0.01)
    database.execute_sql("ALTER TABLE inbox RENAME TO elsewhere")
    retention = Retention(database, days=30)
    with capture_logs() as lines:
        retention.start()
        eventually(lambda: any("waits" in line["event"] for line in lines))
    database.execute_sql("ALTER TABLE elsewhere RENAME TO inbox")
    fill(database, days=31, first=1, count=3)
    eventually(lambda: sizes(database)[:2] == [0, 0])
    retention.stop()
