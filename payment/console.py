"""The console: one line on standard output for every payment, written after its commit."""

import threading

import structlog

from messaging.rest import Rest
from payment.payments import Paid, Payments
from runtime.process.output import say
from runtime.storage.database import Database

log = structlog.get_logger(__name__)

BATCH = 256
IDLE_S = 0.5  # how late it finds others' commits; its own process's wake it at once


class Console(threading.Thread):
    """Announces payments in a thread of its own: a console that hangs must not stop payments.

    It marks payments once their lines are written, so that only a crash between the two can repeat
    a line. A closed standard output stops no payment.
    """

    def __init__(self, database: Database, payments: Payments) -> None:
        super().__init__(name="console", daemon=True)
        self._database = database
        self._payments = payments
        self._committed = threading.Event()
        self._stopping = False
        self._shown = 0
        database.on_commit.append(self._committed.set)

    def run(self) -> None:
        """Announce new payments until `stop`."""
        rest = Rest()
        while not self._stopping:
            try:
                while self._database.leads and self._announce():
                    pass
            except Exception as error:
                log.error("the console waits for the database", error=repr(error))
            rest.after(self._shown)
            self._committed.wait(IDLE_S)
            self._committed.clear()
        self._database.close()

    def stop(self) -> None:
        """End the thread, unless the console hangs; the next start announces the rest."""
        self._stopping = True
        self._committed.set()
        self.join(timeout=1)

    def _announce(self) -> bool:
        rows = self._payments.unannounced(BATCH)
        if rows:
            # A mark that failed does not repeat a line.
            if lines := [_line(row) for row in rows if row.id > self._shown]:
                say("\n".join(lines))
            self._shown = rows[-1].id
            self._payments.mark_announced(self._shown)
        return bool(rows)


def _line(payment: Paid) -> str:
    order = f" for order {payment.order_id}" if payment.order_id else ""
    return f"Payment {payment.id} of {payment.price} by user {payment.user_id}{order} succeeded"
