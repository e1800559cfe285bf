"""A database of a PostgreSQL server, on which any number of copies of a service may run."""

import select
import threading
import time
from collections.abc import Callable
from functools import cache
from typing import Any

import psycopg
import structlog
from peewee import (  # type: ignore[attr-defined]
    DatabaseError,
    OperationalError,
    PostgresqlDatabase,
    __exception_wrapper__,
)
from playhouse.db_url import parse
from playhouse.pool import MaxConnectionsExceeded
from playhouse.postgres_ext import PooledPsycopg3Database

from runtime.database import BUSY_TIMEOUT_S, Database
from runtime.errors import StartError
from runtime.settings import without_password

log = structlog.get_logger(__name__)

MIGRATING, LEADING = 1, 2  # the advisory locks of a schema
CHANNEL = "parrot_commit"
LISTEN_S = 0.5  # how soon a copy takes over from one whose session has ended
RETRY_S = 0.5
HANG_S = 2  # a transaction whose process stands still for so long is ended: others wait for it
# How a machine that says nothing any more is noticed, at both ends of a connection:
KEEPALIVES = {"keepalives_idle": "2", "keepalives_interval": "1", "keepalives_count": "3"}
CONNECTION = {
    "max_connections": None,  # in the pool; the next one is for how long to wait for one of it
    "timeout": BUSY_TIMEOUT_S,
    "connect_timeout": 2,  # in seconds, the least that libpq knows
    "tcp_user_timeout": 5000,  # in milliseconds
    **KEEPALIVES,
}
OPTIONS = {  # of each session
    # Whatever the server's defaults: what was confirmed is on the disk, and who has waited for the
    # lock of the head row sees what was committed meanwhile.
    "synchronous_commit": "on",
    "default_transaction_isolation": r"read\ committed",
    # What waits or hangs holds nobody up for long:
    "lock_timeout": f"{BUSY_TIMEOUT_S}s",
    "idle_in_transaction_session_timeout": f"{HANG_S}s",
    **{f"tcp_{name}": value for name, value in KEEPALIVES.items()},
}
# The lock of the head row: writers take turns, so that commit order is the order of sequences
# (and of ids), and each sees what the one before has done.
BEGIN_WRITING = "BEGIN; SELECT 1 FROM head FOR UPDATE"
TRY_LOCK = "SELECT pg_try_advisory_lock(hashtext(current_schema()), %s)"
LOCK = "SELECT pg_advisory_xact_lock(hashtext(current_schema()), ?)"


class PostgresDatabase(Database, PooledPsycopg3Database):  # type: ignore[misc]
    """The tables of one service in a database, or schema, of their own.

    A connection is taken from the pool for each transaction, or each statement outside of one. One
    that the server has ended is replaced, so that nothing need be started again after an outage.
    One copy of the service leads: the one that holds a lock of this database.
    """

    # As wide as SQLite's.
    field_types = PostgresqlDatabase.field_types | {"AUTO": "BIGSERIAL", "INT": "BIGINT"}

    def __init__(self, url: str, *packages: str) -> None:
        self._url = without_password(url)
        given = parse(url, unquote_password=True, unquote_user=True)
        own = " ".join(f"-c {name}={value}" for name, value in OPTIONS.items())
        kwargs = CONNECTION | {"fallback_application_name": f"parrot {packages[-1]}"}
        kwargs |= given | {"options": f"{own} {given.get('options', '')}"}
        super().__init__(packages, **kwargs)
        self._watch = Watch(self)
        self._changed = 0

    def __str__(self) -> str:
        return self._url

    @property
    def leads(self) -> int:
        """For which time this copy holds the lock; it may have just lost it: that is no guard."""
        return self._watch.leads

    def claim(self) -> None:
        """Take part in who leads; a server that cannot be reached may come up later."""
        try:
            self.open()
        except DatabaseError as error:
            log.warning("the database cannot be used yet", error=str(error))
        self._watch.start()

    def _prepare(self, new: bool) -> None:
        with self.atomic():
            self.run(LOCK, MIGRATING)
            histories = {f"{package}_migration" for package in self.packages}
            tables = self.get_tables()
            strange = [name for name in tables if name.endswith("_migration")]
            if strange := sorted(set(strange) - histories):
                raise StartError(
                    f"{self} holds the tables of another service ({strange[0]}): "
                    "give each a database of its own"
                )
            self._migrate()

    def connect(self, reuse_if_open: bool = False) -> Any:
        """Take a connection from the pool; `OperationalError` if there is none to be had."""
        try:
            return super().connect(reuse_if_open)
        except MaxConnectionsExceeded as error:
            raise OperationalError(str(error)) from error

    def dedicated_connection(self) -> Any:
        """A connection of the driver's own, outside the pool."""
        return PostgresqlDatabase._connect(self)  # type: ignore[attr-defined]

    def _is_closed(self, conn: Any) -> bool:
        """Whether the server has ended it: there is something to read, and nothing was asked."""
        if not conn.closed:
            poller = select.poll()
            poller.register(conn.pgconn.socket, select.POLLIN)
            if poller.poll(0):
                conn.close()
        return bool(conn.closed)

    def run(self, sql: str, *parameters: object) -> Any:
        """Run a written-out statement."""
        return self.execute_sql(_translated(sql), parameters)

    def execute_sql(self, sql: str, params: Any = None, **options: Any) -> Any:
        """Run a statement; outside of a transaction, its connection goes back into the pool."""
        if not sql.startswith("SELECT"):  # only who writes gets here, and so alone
            self._changed += 1
        try:
            return super().execute_sql(sql, params, **options)
        finally:
            if not self.in_transaction():
                self.close()

    def _changes(self) -> int:
        return self._changed

    def _execute(self, statements: str) -> None:
        self.cursor().execute(statements)

    def begin(self, kind: str | None = None) -> None:
        """Open a transaction, which writes unless there is no ``kind``."""
        try:
            with __exception_wrapper__:
                self._execute(BEGIN_WRITING if kind else "BEGIN")
        except Exception:
            self.close()
            raise

    def commit(self) -> None:
        """Commit; the copy that leads hears of it, unless that is this one.

        In a transaction of which a statement has failed, the server would take it for a rollback.
        """
        if not self.is_connection_usable():
            raise OperationalError("the transaction was broken off by an error")
        with __exception_wrapper__:
            self._execute("COMMIT" if self.leads else f"NOTIFY {CHANNEL}; COMMIT")
        self.close()

    def rollback(self) -> None:
        """Undo everything."""
        try:
            super().rollback()
        finally:
            self.close()


@cache
def _translated(sql: str) -> str:
    return sql.replace("?", "%s")


class Watch(threading.Thread):
    """Holds the lock of the copy that leads, or tries to get it, and tells of others' commits.

    The lock is of its session: it is free when the process has died, or its connection.
    """

    def __init__(self, database: PostgresDatabase) -> None:
        super().__init__(name="watch", daemon=True)
        self.leads = 0
        self._terms = 0
        self._database = database

    def run(self) -> None:
        """Watch until the process ends."""
        trouble = ""
        while True:
            try:
                self._database.open()
                with self._database.dedicated_connection() as connection:
                    trouble = ""
                    self._listen(connection)
            except Exception as error:  # whatever it was: who does not watch never leads
                if str(error) != trouble:
                    log.warning("the database cannot be reached", error=(trouble := str(error)))
            finally:
                self.leads = 0
            time.sleep(RETRY_S)

    def _listen(self, connection: "psycopg.Connection[Any]") -> None:
        connection.execute(f"LISTEN {CHANNEL}")
        while True:
            if not self.leads:
                row = connection.execute(TRY_LOCK, [LEADING]).fetchone()
                if row and row[0]:
                    self._terms += 1
                    self.leads = self._terms
                    log.info("this copy leads")
                    self._tell()
            for _ in connection.notifies(timeout=LISTEN_S, stop_after=1):
                self._tell()

    def _tell(self) -> None:
        listeners: list[Callable[[], None]] = self._database.listeners
        for listener in listeners:
            listener()
