"""A database on a PostgreSQL server, which any number of copies of a service may share."""

import select
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
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
from runtime.storage.database import BUSY_TIMEOUT_S, OPEN_TIMEOUT_S, Database, Table, target

log = structlog.get_logger(__name__)

MIGRATING, LEADING = 1, 2  # the advisory locks of a schema
CHANNEL = "parrot_commit"
LISTEN_S = 0.5  # how soon a copy takes over from one whose session has ended
RETRY_S = 0.5
HANG_S = 2  # a transaction whose process stands still for so long is ended: others wait
LOCK_TIMEOUT_MS = 2200
ANSWER_TIMEOUT_S = 2.5  # for a statement; with 2 s to connect, a request waits 5 s
KNOCK_TIMEOUT_S = 0.1  # for the thread that finds out whether a silent server answers again
LEAD_S = 3  # how long a copy that stands still leads; one that runs renews the lead
# How both ends of a connection notice a dead machine:
KEEPALIVES = {"keepalives_idle": "2", "keepalives_interval": "1", "keepalives_count": "3"}
CONNECTION = {
    "max_connections": None,  # in the pool; the next is how long to wait for one of them
    "timeout": BUSY_TIMEOUT_S,
    "connect_timeout": 2,  # in seconds, the least that libpq knows
    "tcp_user_timeout": 5000,  # in milliseconds
    "client_encoding": "UTF8",
    **KEEPALIVES,
}
OPTIONS = {  # of each session
    # Not the server's defaults: commits are on the disk, and a writer that has waited for the
    # lock of the head row sees the commits of others.
    "synchronous_commit": "on",
    "default_transaction_isolation": r"read\ committed",
    # Waiting or hanging transactions hold nobody up for long:
    "lock_timeout": f"{LOCK_TIMEOUT_MS}ms",
    "idle_in_transaction_session_timeout": f"{HANG_S}s",
    **{f"tcp_{name}": value for name, value in KEEPALIVES.items()},
}
# The lock of the head row: writers take turns, so that commit order is the order of sequences
# (and of ids), and each sees what the one before has done.
BEGIN_WRITING = "BEGIN; SELECT 1 FROM head FOR UPDATE"
TRY_LOCK = "SELECT pg_try_advisory_lock(hashtext(current_schema()), %s)"
SET_SEQUENCE = "SELECT setval(pg_get_serial_sequence(?, ?), ?)"  # no effect on an empty table
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

    Each transaction, and each statement outside of one, takes a connection from the pool. One that
    the server has closed is replaced, so that an outage needs no restart. The copy of the service
    that holds a lock of this database leads.
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
        self.is_silent = False  # whether its last answer did not come in time
        self._knocking = threading.Lock()

    def __str__(self) -> str:
        return self._url

    @property
    def leads(self) -> int:
        """This copy's term as leader, from 1; 0 without the lock. It may just have lost it."""
        return self._watch.leads

    def claim(self) -> None:
        """Compete for the lead; a server that cannot be reached may come up later."""
        try:
            self.open()
        except DatabaseError as error:
            log.warning("the database cannot be used yet", error=str(error))
        self._watch.start()

    def _prepare(self, new: bool) -> None:
        with self.atomic(), self.patience():  # to change a large table takes long
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
        """Take a connection from the pool; `OperationalError` if there is none.

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
        """Let the statements of the open transaction take any time."""
        connection = self.connection()
        self._execute(PATIENCE)
        connection.answer_timeout_s = None
        try:
            yield
        finally:
            connection.answer_timeout_s = ANSWER_TIMEOUT_S

    def _is_closed(self, conn: Any) -> bool:
        """Whether the server has closed it: then there is data to read before any query."""
        if not conn.closed:
            poller = select.poll()
            poller.register(conn.pgconn.socket, select.POLLIN)
            if poller.poll(0):
                conn.close()
        return bool(conn.closed)

    def run(self, sql: str, *parameters: object) -> Any:
        """Run a written-out statement."""
        return self.execute_sql(sql.replace("?", "%s"), parameters)

    def execute_sql(self, sql: str, params: Any = None, **options: Any) -> Any:
        """Run a statement; outside of a transaction, its connection goes back into the pool."""
        try:
            return super().execute_sql(sql, params, **options)
        finally:
            if not self.in_transaction():
                self.close()

    def load(self, model: type[Table], rows: Iterable[Sequence[object]]) -> None:
        """Add rows by COPY."""
        statement = f"COPY {target(model)} FROM STDIN"
        with __exception_wrapper__, self.cursor().copy(statement) as copying:
            for row in rows:
                copying.write_row(row)

    def let_ids_follow(self, model: type[Table]) -> None:
        """Let new ids continue after the written ones."""
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
        """Commit, and notify the copy that leads, unless that is this one.

        In a transaction with a failed statement, the server would treat it as a rollback.
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


class Watch(threading.Thread):
    """Holds the lock of the copy that leads, or tries to get it, and reports others' commits.

    The lock belongs to a session: when the process or its connection dies, the lock is free.
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
            except Exception as error:  # of any kind: a copy that stops watching would never lead
                if str(error) != trouble:
                    log.warning("the database cannot be reached", error=(trouble := str(error)))
            finally:
                self.leads = 0
            time.sleep(RETRY_S)

    def _listen(self, connection: "psycopg.Connection[Any]") -> None:
        connection.execute(f"LISTEN {CHANNEL}")
        if connection.info.server_version >= 140000:  # older ones have no such setting
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
                    self._notify()
            for _ in connection.notifies(timeout=LISTEN_S):
                self._notify()

    def _notify(self) -> None:
        listeners: list[Callable[[], None]] = self._database.on_commit
        for listener in listeners:
            listener()
