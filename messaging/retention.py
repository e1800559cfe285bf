"""Retention: deletes applied events and kept answers after some days, in small steps."""

import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta

import structlog
from peewee import CharField, Tuple, fn

from messaging.tables import Inbox, RetentionClock
from runtime.process.clock import now, timestamp
from runtime.storage.database import Database
from runtime.storage.tables import KeptAnswer

log = structlog.get_logger(__name__)

STEP_ROWS = 50  # of each table in one commit, so that nothing waits longer than milliseconds
STEP_INTERVAL_S = 0.0125  # 4,000 rows a second of each table
PAUSE_S = 0.002  # at least between two steps, for the others
IDLE_S = 10.0
NOTE_INTERVAL_S = 600.0
JUMP = 0.1  # how far the clock may be ahead of expectation, as a part of the days
PRUNED = (Inbox.applied_at, KeptAnswer.kept_at)


class Retention(threading.Thread):
    """Deletes what is older than some days: rows of the inbox, and answers kept under keys.

    Neither is needed to apply an event once: the reader's place decides that.
    """

    def __init__(
        self, database: Database, days: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(name="retention", daemon=True)
        self._database = database
        self._days = timedelta(days=days)
        self._clock = clock
        self._believed: datetime | None = None
        self._read_at, self._noted_at = clock(), float("-inf")
        self._jumped = False
        self._stopping = threading.Event()

    def run(self) -> None:
        """Prune until `stop`."""
        pause_s = 0.0
        while not self._stopping.wait(pause_s):
            pause_s = IDLE_S
            if not self._database.leads:
                continue
            begun = time.monotonic()
            try:
                if self.prune(timestamp(self.believed() - self._days)):
                    self._database.checkpoint()
                    pause_s = max(PAUSE_S, begun + STEP_INTERVAL_S - time.monotonic())
            except Exception as error:
                log.error("retention waits for the database", error=repr(error))
        self._database.close()

    def stop(self) -> None:
        """End after the step that is under way."""
        self._stopping.set()
        self.join()

    def prune(self, before: str) -> bool:
        """Delete a step's worth of each table's oldest rows; whether there may be more."""
        old = [column for column in PRUNED if self._has_older(column, before)]
        if not old:  # nobody need wait for this
            return False
        with self._database.write():
            pruned = [self._delete_from(each, before) for each in old]
        return STEP_ROWS in pruned

    def _delete_from(self, column: CharField, before: str) -> int:
        model, key = column.model, Tuple(*column.model._meta.get_primary_keys())
        oldest = model.select(*key.nodes).where(column < before).order_by(column).limit(STEP_ROWS)
        pruned: int = model.delete().where(key.in_(oldest)).execute(self._database)
        return pruned

    def believed(self) -> datetime:
        """The time, as far as the wall clock can be believed.

        If the clock jumps forward, this time goes on from where it was, until all that is dated
        before the jump was deleted at its age; a long stop looks like a jump, and is treated so.
        """
        wall, read_at = now(), self._clock()
        if self._believed is None:
            noted = RetentionClock.select(RetentionClock.believed_at).scalar(self._database)
            self._believed = datetime.fromisoformat(noted) if noted else wall
        self._believed += timedelta(seconds=read_at - self._read_at)
        self._read_at = read_at
        ahead = wall - self._believed
        believed = timestamp(self._believed)
        jumped = ahead > self._days * JUMP and any(self._has_older(c, believed) for c in PRUNED)
        if jumped and not self._jumped:
            log.error(
                "the clock is further ahead than expected: nothing is deleted because of it",
                days=round(ahead / timedelta(days=1), 1),
            )
        self._jumped = jumped
        if not jumped:
            self._believed = wall
        if read_at - self._noted_at >= NOTE_INTERVAL_S:
            self._note(timestamp(self._believed))
            self._noted_at = read_at
        return self._believed

    def _has_older(self, column: CharField, moment: str) -> bool:
        """Whether a table has something that is not dated after a moment."""
        oldest = column.model.select(fn.MIN(column)).scalar(self._database)
        return oldest is not None and oldest <= moment

    def _note(self, believed_at: str) -> None:
        with self._database.write():
            RetentionClock.delete().execute(self._database)
            RetentionClock.insert(believed_at=believed_at).execute(self._database)
