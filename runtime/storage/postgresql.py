"""A database of a PostgreSQL server, on which any number of copies of a service may run."""

import select
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import psycopg
import structlog
from peewee import (  # type: ignore[attr-defined]
    DatabaseError,
    OperationalError,
    PostgresqlDatabase,
    Psycopg3Adapter,
    __exception_wrapper__,
    fn,
)
from playhouse.db_url import parse
from playhouse.pool import MaxConnectionsExceeded
from playhouse.postgres_ext import PooledPsycopg3Database

from runtime.process.errors import StartError
from runtime.process.settings import without_password
from runtime.storage.database import BUSY_TIMEOUT_S, OPEN_TIMEOUT_S, Database, Table

log = structlog.get_logger(__name__)

MIGRATING, LEADING = 1, 2  # the advisory locks of a schema
CHANNEL = "parrot_commit"
LISTEN_S = 0.5  # how soon a copy takes over from one whose session has ended
RETRY_S = 0.5
HANG_S = 2  # a transaction whose process stands still for so long is ended: others wait for it
LOCK_TIMEOUT_MS = 2200
ANSWER_TIMEOUT_S = 2.5  # for a statement; and 2 for a connection, so that a request waits for 5 s
KNOCK_TIMEOUT_S = 0.1  # for the one that finds out whether a silent server answers again
LEAD_S = 3  # for so long a copy leads that stands still; one that runs renews it all the time
# How a machine that says nothing any more is noticed, at both ends of a connection:
KEEPALIVES = {"keepalives_idle": "2", "keepalives_interval": "1", "keepalives_count": "3"}
CONNECTION = {
    "max_connections": None,  # in the pool; the next one is for how long to wait for one of it
    "timeout": BUSY_TIMEOUT_S,
    "connect_timeout": 2,  # in seconds, the least that libpq knows
    "tcp_user_timeout": 5000,  # in milliseconds
    "client_encoding": "UTF8",
    **KEEPALIVES,
}
OPTIONS = {  # of each session
    # Whatever the server's defaults: what was confirmed is on the disk, and who has waited for the
    # lock of the head row sees what was committed meanwhile.
    "synchronous_commit": "on",
    "default_transaction_isolation": r"read\ committed",
    # What waits or hangs holds nobody up for long:
    "lock_timeout": f"{LOCK_TIMEOUT_MS}ms",
    "idle_in_transaction_session_timeout": f"{HANG_S}s",
    **{f"tcp_{name}": value for name, value in KEEPALIVES.items()},
}
# The lock of the head row: writers take turns, so that commit order is the order of sequences
# (and of ids), and each sees what the one before has done.
BEGIN_WRITING = "BEGIN; SELECT 1 FROM head FOR UPDATE"
TRY_LOCK = "SELECT pg_try_advisory_lock(hashtext(current_schema()), %s)"
SET_SEQUENCE = "SELECT setval(pg_get_serial_sequence(?, ?), ?)"  # nothing, of an empty table
LOCK = "SELECT pg_advisory_xact_lock(hashtext(current_schema()), ?)"
PATIENCE = "SET LOCAL lock_timeout = '1min'; SET LOCAL idle_in_transaction_session_timeout = 0"
RENEW = "SELECT 1"
SILENT = "the server does not answer"


class _Connection(psycopg.Connection[Any]):
    """A connection that ends if the server does not answer within ``answer_timeout_s``."""

    database: "PostgresDatabase"
    answer_timeout_s: float | None = ANSWER_TIMEOUT_S

    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        """Wait for the server, as psycopg does for each statement."""
        begun, limit_s = time.monotonic(), self.answer_timeout_s
        try:
            return super().wait(gen, interval, limit_s if timeout is None else timeout)
        except psycopg.OperationalError as error:
            if timeout is not None or not limit_s or time.monotonic() - begun < limit_s:
                raise
            self.close()
            self.database.is_silent = True
            raise psycopg.OperationalError(SILENT) from error


class _Adapter(Psycopg3Adapter):
    """peewee's adapter, with our connections."""

    def connect(self, db: "PostgresDatabase", **params: Any) -> _Connection:
        try:
            connection = _Connection.connect(dbname=db.database, **params)
        except psycopg.errors.ConnectionTimeout:
            db.is_silent = True
            raise
        connection.database = db
        db.is_silent = False
        return connection


class PostgresDatabase(Database, PooledPsycopg3Database):  # type: ignore[misc]
    """The tables of one service in a database, or schema, of their own.

    A connection is taken from the pool for each transaction, or each statement outside of one. One
    that the server has ended is replaced, so that nothing need be started again after an outage.
    One copy of the service leads: the one that holds a lock of this database.
    """

    # As wide as SQLite's.
    psycopg3_adapter = _Adapter
    field_types = PostgresqlDatabase.field_types | {"AUTO": "BIGSERIAL", "INT": "BIGINT"}

    def __init__(self, url: str, *packages: str) -> None:
        self._url = without_password(url)
        given = parse(url, unquote_password=True, unquote_user=True)
        own = " ".join(f"-c {name}={value}" for name, value in OPTIONS.items())
        kwargs = CONNECTION | {"fallback_application_name": f"parrot {packages[-1]}"}
        kwargs |= given | {"options": f"{own} {given.get('options', '')}"}
        super().__init__(packages, **kwargs)
        self._watch = Watch(self)
        self.is_silent = False  # whether it has not answered in time, the last time
        self._knocking = threading.Lock()

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
        with self.atomic(), self.patience():  # a large table may take long to change
            self.run(f"SET LOCAL lock_timeout = '{OPEN_TIMEOUT_S}s'")  # then it is tried again
            encoding = self.connection().info.parameter_status("server_encoding")
            if encoding != "UTF8":
                raise StartError(
                    f"{self} is encoded in {encoding}, and would not take every name: "
                    "make it with ENCODING 'UTF8' TEMPLATE template0"
                )
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
        """Take a connection from the pool; `OperationalError` if there is none to be had.

        While the server is silent, one thread at a time waits for it, and all others fail at once.
        """
        if self.is_silent and self._knocking.acquire(timeout=KNOCK_TIMEOUT_S):
            try:
                if self.is_silent:
                    self.dedicated_connection().close()
            finally:
                self._knocking.release()
        try:
            return super().connect(reuse_if_open)
        except MaxConnectionsExceeded as error:
            raise OperationalError(str(error)) from error

    def _connect(self) -> Any:
        if self.is_silent:
            raise OperationalError(SILENT)
        return super()._connect()

    def dedicated_connection(self) -> Any:
        """A connection of the driver's own, outside the pool."""
        with __exception_wrapper__:
            return PostgresqlDatabase._connect(self)  # type: ignore[attr-defined]

    @contextmanager
    def patience(self) -> Iterator[None]:
        """Let the statements of the transaction that is open take as long as they like."""
        connection = self.connection()
        self._execute(PATIENCE)
        connection.answer_timeout_s = None
        try:
            yield
        finally:
            connection.answer_timeout_s = ANSWER_TIMEOUT_S

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
        try:
            return super().execute_sql(sql, params, **options)
        finally:
            if not self.in_transaction():
                self.close()

    def load(self, model: type[Table], rows: Iterator[tuple[Any, ...]]) -> None:
        """Add many rows by COPY."""
        columns = ", ".join(f'"{field.column_name}"' for field in model._meta.sorted_fields)
        statement = f'COPY "{model._meta.table_name}" ({columns}) FROM STDIN'
        with __exception_wrapper__, self.cursor().copy(statement) as copying:
            for row in rows:
                copying.write_row(row)

    def let_ids_follow(self, model: type[Table]) -> None:
        """Let new ids go on behind those that were written."""
        key: Any = model._meta.primary_key
        newest = model.select(fn.MAX(key)).scalar(self)
        self.run(SET_SEQUENCE, f'"{model._meta.table_name}"', key.column_name, newest)

    def _execute(self, statements: str) -> None:
        with __exception_wrapper__:
            self.cursor().execute(statements)

    def begin(self, kind: str | None = None) -> None:
        """Open a transaction, which writes unless there is no ``kind``."""
        try:
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
        if connection.info.server_version >= 140000:  # those before it cannot
            connection.execute(f"SET idle_session_timeout = '{LEAD_S}s'")
        while True:
            if self.leads:
                connection.execute(RENEW)
            else:
                row = connection.execute(TRY_LOCK, [LEADING]).fetchone()
                if row and row[0]:
                    self._terms += 1
                    self.leads = self._terms
                    log.info("this copy leads")
                    self._tell()
            for _ in connection.notifies(timeout=LISTEN_S):
                self._tell()

    def _tell(self) -> None:
        listeners: list[Callable[[], None]] = self._database.listeners
        for listener in listeners:
            listener()
