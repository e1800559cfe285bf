"""The database of a PostgreSQL server: as durable and as orderly as the file, for many copies."""

import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
from peewee import DatabaseError, IntegrityError, OperationalError

from messaging.event import previous
from messaging.inbox import Reader
from messaging.outbox import Outbox
from messaging.tables import Cursor
from messaging.transports.wire import START, Place, digest
from runtime import ROOT
from runtime.process.errors import StartError
from runtime.storage.database import Database, is_outage
from runtime.storage.sqlite import SqliteFile
from runtime.storage.writer import commit
from scenarios.servers import PostgresServer
from shop.catalogue import Catalogue
from tests.conftest import eventually
from tests.messaging.conftest import EPOCH, Clock, live
from tests.pairs import require_servers
from tests.processes import SERVICES
from tests.runtime.conftest import database_at, note, notes, opening
from tests.servers import new_database, psycopg

Copy = Callable[..., Any]


@pytest.fixture
def copy(postgres_url: str) -> Iterator[Copy]:
    """Open the database once more, as another process would; ``more`` ends its URL.

    Whatever happens, connections go back into the pool.
    """
    made = []
    with opening() as opened:

        def copy(*packages: str, url: str = postgres_url, more: str = "") -> Any:
            made.append(opened(database_at(f"{url}?{more}", *packages)))
            return made[-1]

        yield copy
        assert not any(database._in_use for database in made)


@contextmanager
def outage() -> Iterator[None]:
    """What is done in this block raises one."""
    with pytest.raises(Exception) as error:
        yield
    assert is_outage(error.value), error.value


@pytest.fixture
def database(copy: Copy) -> Any:
    """An open database, with a table for a test's notes."""
    return copy()


def confirm(database: Database, text: str) -> None:
    with database.write():
        note(database, text)


def session(url: str) -> Any:
    """A session of somebody else."""
    return psycopg.connect(url, autocommit=True)


def end_sessions(url: str, where: str = "TRUE") -> None:
    """Let the server end all others' sessions, and wait for that."""
    with session(url) as other:
        other.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
            f"WHERE datname = current_database() AND pid <> pg_backend_pid() AND {where}"
        )


# Tables


def columns(database: Any) -> dict[str, list[tuple[str, bool, bool]]]:
    return {
        table: sorted((c.name, c.null, c.primary_key) for c in database.get_columns(table))
        for table in database.get_tables()
        if table not in ("note", "sqlite_sequence")
    }


@pytest.mark.parametrize("service", SERVICES)
def test_the_tables_are_those_of_the_file(service: str, copy: Copy, tmp_path: Any) -> None:
    """The same migrations make the same tables, columns and keys."""
    packages = ("runtime", "messaging", service)
    file = SqliteFile(tmp_path / "x.db", *packages)
    file.open()
    assert columns(copy(*packages)) == columns(file)
    file.close()


def test_the_tables_of_another_service_are_refused(database: Any, postgres_url: str) -> None:
    other = database_at(postgres_url, "runtime", "messaging", "payment")
    with pytest.raises(StartError, match=r"^[^\n]*another service \(shop_migration\)[^\n]*$"):
        other.open()
    assert "payment" not in database.get_tables()
    other.close_all()


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII", "EUC_JP"])
def test_a_database_of_another_encoding_is_refused(encoding: str, postgres_url: str) -> None:
    """In one line, before anything is made in it."""
    parts = urlsplit(postgres_url)
    name = f"parrot_{uuid4().hex}"
    options = f"ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0"
    with session(postgres_url) as other:
        other.execute(f"CREATE DATABASE {name} {options}")
    url = parts._replace(path=f"/{name}").geturl()
    refused = database_at(url)
    try:
        with pytest.raises(StartError, match=rf"^[^\n]*{encoding}[^\n]*UTF8[^\n]*$"):
            refused.open()
        refused.close_all()
        with session(url) as other:
            made = other.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'")
            assert made.fetchone() == (0,)
    finally:
        with session(postgres_url) as other:
            other.execute(f"DROP DATABASE {name} WITH (FORCE)")


def test_texts_of_any_alphabet_are_kept(
    copy: Copy, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the server, or the user's environment, has for a client's encoding."""
    database = copy()
    with session(postgres_url) as other:
        other.execute(f"ALTER DATABASE {database.database} SET client_encoding = 'LATIN1'")
    monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
    database.close_idle()
    note(database, "🦜 €")
    assert notes(database) == ["🦜 €"]


def test_services_may_have_schemas_of_one_database(copy: Copy, postgres_url: str) -> None:
    with session(postgres_url) as other:
        for name in SERVICES:
            other.execute(f"CREATE SCHEMA {name}")
    opened = {
        name: copy("runtime", "messaging", name, more=f"options=-csearch_path%3D{name}")
        for name in SERVICES
    }
    for name, each in opened.items():
        note(each, name)
    assert {name: notes(each) for name, each in opened.items()} == {name: [name] for name in opened}


def test_its_name_has_no_password() -> None:
    require_servers()
    named = database_at("postgresql://shop:se%40cret@127.0.0.1:1/shop")
    assert "cret" not in str(named)
    assert named.connect_params["password"] == "se@cret"
    with pytest.raises(OperationalError) as refused:
        named.run("SELECT 1")
    assert "cret" not in str(refused.value)


# Order and durability


WRITE = """
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from messaging.event import Fact
from messaging.outbox import Outbox
from runtime.storage import postgresql
from tests.messaging.conftest import NOON

# However slow this machine is, they wait for each other:
postgresql._Connection.answer_timeout_s = 60
url = f"{sys.argv[1]}?options=-clock_timeout%3D60s"
database = postgresql.PostgresDatabase(url, "runtime", "messaging", "shop")
outbox = Outbox(database, "numbers", "/test")

def tell(n):
    with suppress(LookupError), database.write():
        database.run("INSERT INTO note (text) VALUES (?)", str(outbox.head()[0].sequence + 1))
        outbox.emit("counted", [Fact(n, NOON, {"n": n})])
        if n % 7 == 0:
            raise LookupError

print("ready", flush=True)
input()
with ThreadPoolExecutor(4) as pool:
    list(pool.map(tell, range(1, 141)))
"""


def test_commits_sequences_and_ids_are_in_one_order(database: Any, postgres_url: str) -> None:
    """Four processes of four threads write, and some of it is undone: no reader ever sees an event
    before an earlier one, nor a gap, nor without its fact.
    """
    command = [sys.executable, "-c", WRITE, postgres_url]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    writers = [subprocess.Popen(command, cwd=ROOT, **pipes) for _ in range(4)]
    for writer in writers:
        assert writer.stdout
        assert writer.stdout.readline() == b"ready\n"
    for writer in writers:
        assert writer.stdin
        writer.stdin.write(b"\n")
        writer.stdin.flush()
    query = """SELECT (SELECT sequence FROM head), (SELECT count(*) FROM outbox),
        (SELECT coalesce(max(sequence), 0) FROM outbox), (SELECT count(*) FROM note),
        (SELECT coalesce(max(text::int), 0) FROM note)"""
    looks = 0
    while any(writer.poll() is None for writer in writers):
        assert len(set(database.run(query).fetchone())) == 1
        looks += 1
    for writer in writers:
        writer.communicate()
    assert [writer.returncode for writer in writers] == [0] * 4
    assert looks > 10
    assert notes(database) == [str(n) for n in range(1, 4 * 120 + 1)]
    bodies = [body for _, body in Outbox(database, "numbers", "/test").rows(0, 4 * 120)]
    assert [previous(body) for body in bodies] == [None, *map(digest, bodies[:-1])]


def test_what_the_server_would_do_less_well_is_set_for_each_session(
    database: Any, postgres_url: str
) -> None:
    """Commits are on the disk, and a transaction sees what was committed while it waited."""
    name = database.database
    with session(postgres_url) as other:
        other.execute(f"ALTER DATABASE {name} SET synchronous_commit = off")
        other.execute(f"ALTER DATABASE {name} SET default_transaction_isolation = 'serializable'")
    with session(postgres_url) as other:
        assert other.execute("SHOW synchronous_commit").fetchone() == ("off",)
    database.close_idle()
    for setting, value in {
        "synchronous_commit": "on",
        "transaction_isolation": "read committed",
        "lock_timeout": "2200ms",
        "idle_in_transaction_session_timeout": "2s",
    }.items():
        assert database.run(f"SHOW {setting}").fetchone() == (value,)


def test_ids_are_as_wide_as_in_the_file(database: Any) -> None:
    """And prices, versions and sequences."""
    most = 2**63 - 1
    item = {"id": most, "name": "Millet", "price": most, "active": True, "version": most}
    catalogue = Catalogue(database)
    catalogue.update(EPOCH, [item])
    assert catalogue.find([most])[most]["price"] == most
    Cursor.insert(stream="numbers", epoch=EPOCH, sequence=most).execute(database)
    assert Reader(database, "numbers", {}).place == Place(EPOCH, most)


def test_epochs_compare_as_bytes(database: Any) -> None:
    epochs = [bytes(16), b"\x00" * 15 + b"\x01", b"\x7f" * 16, b"\x80" + bytes(15), b"\xff" * 16]
    for n, epoch in enumerate(reversed(epochs)):
        Cursor.insert(stream=f"s{n}", epoch=epoch, sequence=1).execute(database)
    found = Cursor.select(Cursor.epoch).order_by(Cursor.epoch).tuples().execute(database)
    assert [bytes(epoch) for (epoch,) in found] == epochs


def test_the_catalogues_version_is_another_one_after_each_change(
    database: Any, postgres_url: str
) -> None:
    """Whoever makes it; a change that is undone is none."""
    insert = "INSERT INTO item VALUES (1, 'Millet', 4000, true, 1, 'x')"
    seen = [Catalogue(database).token()]
    with session(postgres_url) as other:
        for change in (insert, "UPDATE item SET price = 1", "DELETE FROM item"):
            other.execute(change)
            seen.append(Catalogue(database).token())
    assert len(set(seen)) == 4
    with suppress(ZeroDivisionError), database.write():
        database.run(insert)
        assert Catalogue(database).token() not in seen
        raise ZeroDivisionError
    assert Catalogue(database).token() == seen[-1]


# Connections and outages


def test_a_connection_that_the_server_has_ended_is_replaced_unnoticed(
    database: Any, postgres_url: str
) -> None:
    """However many there are in the pool."""
    gate = threading.Barrier(4)

    def read() -> None:
        with database.atomic():
            database.run("SELECT 1")
            gate.wait()

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(read) for _ in range(4)]:
            done.result()
    assert len(database._connections) >= 4
    end_sessions(postgres_url)
    for _ in range(5):
        assert note(database, "kept")
        confirm(database, "kept")
    assert len(database._connections) == 1


def meets_outage(action: Callable[[], Any]) -> bool:
    """Whether an action fails for it; not whether there is a mistake."""
    try:
        action()
    except Exception as error:
        assert is_outage(error), error
        return True
    return False


def timed(action: Callable[[], Any]) -> float:
    """How long an action took to meet an outage, in seconds."""
    begun = time.monotonic()
    assert meets_outage(action)
    return time.monotonic() - begun


@pytest.fixture
def own_url(postgres_server: PostgresServer) -> Iterator[str]:
    """A database on a server that a test may end."""
    yield from new_database(postgres_server.url("postgres"))


@pytest.mark.parametrize("number", [signal.SIGQUIT, signal.SIGINT])
def test_a_server_that_comes_back_is_used_again_at_once(
    number: signal.Signals, copy: Copy, own_url: str, postgres_server: PostgresServer
) -> None:
    """It ends amid a transaction, which is undone; what was confirmed is there.

    Meanwhile everything raises an outage, also in a process that has just started.
    """
    database, new = copy(url=own_url), database_at(own_url)
    confirm(database, "kept")

    def write() -> None:
        with database.write():
            note(database, "lost")
            if postgres_server.answers():
                postgres_server.end(number)
            note(database, "lost, too")

    read, on_sale = partial(database.run, "SELECT 1"), Catalogue(database).on_sale
    add = partial(note, database, "lost")
    try:
        assert all(map(meets_outage, [write, read, on_sale, add, new.open] * 2))
    finally:
        postgres_server.start()
    assert notes(database) == ["kept"]
    new.open()
    assert notes(new) == ["kept"]
    new.close_all()


def test_what_a_failed_statement_has_broken_off_is_not_taken_for_committed(database: Any) -> None:
    """Also if whoever ran it went on: the server answers such a commit without an error."""
    database._watch.leads = 1  # who leads tells nobody, which would fail as well
    with pytest.raises(OperationalError, match="broken off"), database.write():
        note(database, "lost")
        with suppress(DatabaseError):
            database.run("SELECT nothing_of_that_name")
    assert notes(database) == []


def test_a_commit_that_fails_is_an_outage(copy: Copy, postgres_url: str) -> None:
    """And nothing of it is kept."""
    database = copy()
    with outage(), database.write():
        note(database, "lost")
        end_sessions(postgres_url)
    assert notes(database) == []


def test_what_only_the_commit_finds_wrong_is_an_error_as_elsewhere(database: Any) -> None:
    database.run("ALTER TABLE note ADD UNIQUE (text) DEFERRABLE INITIALLY DEFERRED")
    with pytest.raises(IntegrityError), database.write():
        note(database, "twice")
        note(database, "twice")
    assert notes(database) == []


def test_a_server_that_hangs_costs_some_seconds_once(
    copy: Copy, own_url: str, postgres_server: PostgresServer
) -> None:
    """Whoever comes then hears of it at once; when it goes on, so does everybody."""
    database = copy(url=own_url)
    read, add = partial(database.run, "SELECT 1"), partial(note, database, "lost")

    def write() -> None:
        """As the one writer does for many requests."""
        _, error = commit(database, lambda each, texts: [note(each, text) for text in texts], "ab")
        assert isinstance(error, Exception)
        raise error

    actions = [write, *[read, add] * 7]
    postgres_server.freeze()
    try:
        with ThreadPoolExecutor(len(actions)) as pool:
            assert max(pool.map(timed, actions)) < 5
            took = sorted(pool.map(timed, actions))
        assert took[-1] < 5
        assert took[-2] < 1  # all but the one that has tried it
    finally:
        postgres_server.thaw()
    eventually(lambda: not meets_outage(read))
    confirm(database, "kept")
    assert notes(database)[-1] == "kept"


def test_a_query_that_takes_too_long_spoils_nothing_for_others(database: Any) -> None:
    assert timed(partial(database.run, "SELECT pg_sleep(10)")) < 5
    with ThreadPoolExecutor(15) as pool:
        found = list(pool.map(lambda _: database.run("SELECT 1").fetchone(), range(15)))
    assert found == [(1,)] * 15


def test_a_server_that_only_reads_is_noticed(database: Any, postgres_url: str) -> None:
    with session(postgres_url) as other:
        other.execute(f"ALTER DATABASE {database.database} SET default_transaction_read_only = on")
    database.close_idle()
    assert "read-only" in database.try_writing()


def test_a_lock_that_somebody_holds_for_too_long_is_an_outage(
    copy: Copy, postgres_url: str
) -> None:
    """And no longer than he holds it."""
    database = copy(more="options=-clock_timeout%3D100ms")
    with session(postgres_url) as other, other.transaction():
        other.execute("SELECT 1 FROM head FOR UPDATE")
        for write in (database.write(), database.atomic("IMMEDIATE")):
            with pytest.raises(OperationalError, match="lock timeout") as error, write:
                pytest.fail("there are two writers")
            assert is_outage(error.value)
    confirm(database, "kept")
    assert notes(database) == ["kept"]


def test_the_url_limits_the_connections(copy: Copy) -> None:
    """Who waits in vain for one meets an outage; who waits a little gets it."""
    database = copy(more="max_connections=2&timeout=1")
    held, release = threading.Barrier(3), threading.Event()

    def hold() -> None:
        with database.atomic():
            database.run("SELECT 1")
            held.wait()
            release.wait()

    with ThreadPoolExecutor(3) as pool:
        holders = [pool.submit(hold) for _ in range(2)]
        held.wait()
        try:
            with outage():
                database.run("SELECT 1")
            assert len(database._in_use) == 2
            waiting = pool.submit(database.run, "SELECT 1")
        finally:
            release.set()
        assert waiting.result().fetchone() == (1,)
        for holder in holders:
            holder.result()


def test_a_session_that_does_nothing_amid_a_transaction_is_ended(copy: Copy) -> None:
    """What a copy that stands still has locked is free again; it notices, and goes on after."""
    database = copy(more="options=-cidle_in_transaction_session_timeout%3D200ms")
    other = copy()
    with outage(), database.write():
        note(database, "lost")
        confirm(other, "of another")  # waits until the lock is free
        note(database, "lost, too")
    confirm(database, "after")
    assert notes(other) == ["of another", "after"]


def test_a_silent_server_is_noticed_by_both_ends(database: Any) -> None:
    """A machine that vanishes says nothing; the defaults of systems notice that after hours."""
    with database.connection_context():
        parameters = database.connection().info.get_parameters()
    assert (parameters["keepalives_idle"], parameters["tcp_user_timeout"]) == ("2", "5000")
    assert database.run("SHOW tcp_keepalives_idle").fetchone() == ("2",)


# Who leads


def until_exit(run: Callable[[], None]) -> None:
    with suppress(SystemExit):
        run()


@pytest.fixture
def claim(copy: Copy, postgres_url: str) -> Iterator[Copy]:
    """Let a copy take part in who leads, and count the calls of its listeners."""
    claimed = []

    def claim(made: Any) -> Any:
        claimed.append(made)
        made.heard = Counter()
        made.on_commit.append(partial(made.heard.update, "1"))
        made._watch.run = partial(until_exit, made._watch.run)
        made.claim()
        return made

    yield claim
    for each in claimed:
        each.open = sys.exit  # so its watch ends with its session, and not with the process
    end_sessions(postgres_url)
    for each in claimed:
        each._watch.join()


@pytest.fixture
def three(copy: Copy, claim: Copy) -> list[Any]:
    """Three copies, of which one leads already, and was woken for that alone."""
    copies = [copy() for _ in range(3)]  # which commits, and would wake one that led already
    for each in copies:
        claim(each)
    eventually(lambda: [each for each in leaders(copies) if each.heard["1"]])
    return copies


def leaders(copies: list[Any]) -> list[Any]:
    return [each for each in copies if each.leads]


def test_one_of_several_copies_leads_until_its_session_ends(
    three: list[Any], postgres_url: str
) -> None:
    """Then another one may, and it takes part again: nobody has to start anything."""
    (leader,) = leaders(three)
    assert leader.heard["1"] > 0  # it has been woken, to see what there is to do
    assert all(leaders(three) == [leader] for _ in range(20))
    led = set()

    def led_by_another() -> bool:
        for each in leaders(three):
            led.add(three.index(each))
            end_sessions(postgres_url)
        return len(led) > 1

    eventually(led_by_another, timeout_s=30)


def test_a_copy_that_stands_still_loses_its_lead(three: list[Any]) -> None:
    """Another one takes over within seconds; the first takes part again when it goes on."""
    (first,) = leaders(three)
    others = [each for each in three if each is not first]
    go_on = threading.Event()
    first.on_commit.append(go_on.wait)
    confirm(others[0], "heard by whoever leads")
    try:
        eventually(lambda: leaders(others))
    finally:
        go_on.set()
    eventually(lambda: len(leaders(three)) == 1)
    assert not first.leads


def test_leaders_of_schemas_of_one_database_are_not_each_others_rivals(
    copy: Copy, claim: Copy, postgres_url: str
) -> None:
    with session(postgres_url) as other:
        other.execute("CREATE SCHEMA one")
        other.execute("CREATE SCHEMA two")
    copies = [claim(copy(more=f"options=-csearch_path%3D{name}")) for name in ("one", "two")]
    eventually(lambda: leaders(copies) == copies)


def test_a_commit_elsewhere_wakes_the_copy_that_leads(database: Any, three: list[Any]) -> None:
    """So that events go out at once, whoever has written them; a read wakes nobody."""
    (leader,) = leaders(three)
    heard = leader.heard["1"]
    database.run("SELECT 1")
    for n in range(1, 4):
        confirm(database, "kept")
        eventually(lambda: leader.heard["1"] == heard + n)  # noqa: B023


# Readers and writers of events


def test_a_reader_that_another_copy_has_overtaken_undoes_its_work_and_goes_on_behind_it(
    copy: Copy,
) -> None:
    """Two copies may both believe that they lead: each event is applied once."""

    def reader(database: Any) -> Reader:
        def take(events: list[Any]) -> None:
            for event in events:
                note(database, event.data["n"])

        made = Reader(database, "numbers", {"counted": take}, clock)
        made.receive(live(1)._replace(follows=START))
        made.receive(live(2))
        return made

    database, clock = copy(), Clock()
    first, second = reader(database), reader(copy())
    first.apply()
    second.receive(live(3))
    second.apply()
    assert notes(database) == ["1", "2"]
    assert second.place == Place(EPOCH, 2)
    clock.now += 2
    assert second.want() == Place(EPOCH, 2)
    for n in (1, 2, 3):
        second.receive(live(n))
    second.apply()
    assert notes(database) == ["1", "2", "3"]
    assert (first.applied, second.applied) == (2, 1)
