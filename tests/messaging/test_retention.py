import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from structlog.testing import capture_logs

import messaging.retention
from messaging.retention import IDLE_S, STEP_INTERVAL_S, STEP_ROWS, Retention
from messaging.tables import Head, Inbox, Outbox
from runtime.process.clock import timestamp
from runtime.storage.sqlite import SqliteFile
from runtime.storage.tables import KeptAnswer
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


def test_what_is_too_old_goes_away_and_the_rest_stays(database: SqliteFile) -> None:
    """Outbox rows stay, however old they are. It keeps up with three thousand orders a second."""
    fill(database, days=30.01, first=1, count=MANY)
    fill(database, days=29.99, first=MANY + 1, count=3)
    pauses: list[float] = []

    def is_stopped(pause_s: float) -> bool:
        pauses.append(pause_s)
        return pause_s == IDLE_S

    retention = Retention(database, days=30)
    retention._stopping = cast(threading.Event, SimpleNamespace(wait=is_stopped))
    retention.run()
    assert sizes(database) == [3, 3, MANY + 3, 1]
    kept = [row.sequence for row in Inbox.select().execute(database)]
    assert kept == [MANY + 1, MANY + 2, MANY + 3]
    _, *between_steps, _ = pauses
    assert len(between_steps) == 2
    assert STEP_ROWS / max(STEP_INTERVAL_S, *between_steps) >= 3000


def test_what_it_changes_is_in_the_file_soon(database: SqliteFile) -> None:
    """It moves the pages itself: a commit of others would take long for so many."""
    fill(database, days=40, first=1, count=2 * STEP_ROWS)
    retention = Retention(database, days=30)
    in_file: list[int] = []

    def count_in_file(pause_s: float) -> bool:
        with closing(sqlite3.connect(f"{database.path.as_uri()}?immutable=1", uri=True)) as file:
            in_file.append(*file.execute("SELECT count(*) FROM inbox").fetchone())
        return len(in_file) == 2

    database.checkpoint()
    retention._stopping = cast(threading.Event, SimpleNamespace(wait=count_in_file))
    retention.run()
    assert in_file == [2 * STEP_ROWS, STEP_ROWS]


def test_it_goes_in_small_steps(database: SqliteFile) -> None:
    """The oldest of each table first, one commit for both, between which others get in."""
    fill(database, days=40, first=STEP_ROWS + 1, count=STEP_ROWS)
    fill(database, days=50, first=1, count=STEP_ROWS)
    retention = Retention(database, days=30)
    commits: list[list[int]] = []
    database.on_commit.append(lambda: commits.append(sizes(database)[:2]))
    before = timestamp()
    assert retention.prune(before)
    assert {row.sequence for row in Inbox.select().execute(database)} == {
        *range(STEP_ROWS + 1, 2 * STEP_ROWS + 1)
    }
    assert retention.prune(before)
    assert not retention.prune(before)
    assert commits == [[STEP_ROWS, STEP_ROWS], [0, 0]]


def test_nothing_to_prune_waits_for_nobody(database: SqliteFile) -> None:
    """It takes no lock then: a writer that is in the way does not delay it."""
    fill(database, days=1, first=1, count=3)
    with database.write():
        retention = Retention(database, days=30)
        pruner = threading.Thread(target=lambda: (retention.prune("2026"), database.close()))
        pruner.start()
        pruner.join(3)
        assert not pruner.is_alive()


class Wall:
    """Clocks that a test moves: the one on the wall, and the one that never jumps."""

    def __init__(self) -> None:
        self.start = self.now = datetime.now(UTC)
        self.lived_s = 0.0

    def live(self, days: float) -> None:
        self.now += timedelta(days=days)
        self.lived_s += days * 86400

    def jump(self, days: float) -> None:
        self.now += timedelta(days=days)

    def days(self, moment: datetime) -> float:
        """How many days after the start a moment is."""
        return (moment - self.start) / timedelta(days=1)


@pytest.fixture
def wall(monkeypatch: pytest.MonkeyPatch) -> Wall:
    clocks = Wall()
    monkeypatch.setattr(messaging.retention, "now", lambda: clocks.now)
    return clocks


def test_time_goes_on_as_before_where_the_clock_jumps_forward(
    database: SqliteFile, wall: Wall
) -> None:
    """Until all has gone at its age that was dated before; from then on the clock is believed."""
    fill(database, days=5, first=1, count=3)
    retention = Retention(database, days=30, clock=lambda: wall.lived_s)
    with capture_logs() as lines:
        retention.believed()
        wall.live(1)
        assert wall.days(retention.believed()) == pytest.approx(1)
        wall.jump(40)
        assert wall.days(retention.believed()) == pytest.approx(1)
        assert [line["days"] for line in lines] == [40]
        wall.live(2)
        assert wall.days(retention.believed()) == pytest.approx(3)
        again = Retention(database, days=30, clock=lambda: wall.lived_s)  # a new start believes
        assert wall.days(again.believed()) < 4  # what was noted, too
        assert len(lines) == 2
    for column in messaging.retention.PRUNED:
        column.model.delete().execute(database)
    assert wall.days(retention.believed()) == pytest.approx(43)


@pytest.mark.parametrize("days", [-40, -0.5, 0.5])
def test_a_clock_that_is_set_right_is_believed(
    database: SqliteFile, wall: Wall, days: float
) -> None:
    fill(database, days=5, first=1, count=3)
    retention = Retention(database, days=30, clock=lambda: wall.lived_s)
    retention.believed()
    wall.jump(days)
    assert wall.days(retention.believed()) == pytest.approx(days)


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
