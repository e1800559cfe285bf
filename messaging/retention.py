"""Retention: applied events and kept answers go away after some days, in small steps."""

import threading

import structlog
from peewee import CharField, Tuple

from messaging.models import Inbox
from runtime.clock import days_ago
from runtime.database import Database
from runtime.models import KeptAnswer

log = structlog.get_logger(__name__)

STEP_ROWS = 100  # in one transaction, so that nobody waits for more than some milliseconds
PAUSE_S = 0.1  # between two steps, for the others
IDLE_S = 10.0
PRUNED = (Inbox.applied_at, KeptAnswer.kept_at)


class Retention(threading.Thread):
    """Deletes what is older than some days: rows of the inbox, and answers kept under keys.

    Neither is needed to apply an event once: that is decided by the reader's place.
    """

    def __init__(self, database: Database, days: int) -> None:
        super().__init__(name="retention", daemon=True)
        self._database = database
        self._days = days
        self._stopping = threading.Event()

    def run(self) -> None:
        """Prune until `stop`."""
        pause_s = 0.0
        while not self._stopping.wait(pause_s):
            pause_s = IDLE_S
            try:
                full = [bool(self._database.leads) and self.prune(column) for column in PRUNED]
                pause_s = PAUSE_S if any(full) else IDLE_S
            except Exception as error:
                log.error("retention waits for the database", error=repr(error))
        self._database.close()

    def stop(self) -> None:
        """End after the step that is under way."""
        self._stopping.set()
        self.join()

    def prune(self, column: CharField) -> bool:
        """Delete a step's worth of the oldest rows; whether it was a full one."""
        model, key = column.model, Tuple(*column.model._meta.get_primary_keys())
        too_old = column < days_ago(self._days)
        oldest = model.select(*key.nodes).where(too_old).order_by(column).limit(STEP_ROWS)
        if not oldest.exists(self._database):  # nobody need wait for this
            return False
        with self._database.write():
            pruned: int = model.delete().where(key.in_(oldest)).execute(self._database)
        return pruned == STEP_ROWS
