"""An idempotency key: one effect, however often and at the same time the request is sent."""

import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
import structlog
from falcon import Request, Response
from falcon.testing import Result, TestClient
from peewee import IntegrityError

from runtime import ROOT
from runtime.process.errors import FieldError, Refused, ShopError
from runtime.storage.sqlite import SqliteFile
from runtime.storage.tables import KeptAnswer
from runtime.storage.writer import commit
from runtime.web.once import Answer, Change, Key, created, once
from runtime.web.requests import documented, submit
from runtime.web.shell import http_app
from tests.runtime.conftest import Copy, Probe, note, notes

EMPTY = hashlib.sha256(b"{}").digest()


class Notes:
    """A resource whose effect is a note, and whose answer tells how many there are."""

    def __init__(self, database: SqliteFile) -> None:
        self.database = database
        self.answer: Any = None
        self.error: Exception | None = None
        self.refused: Any = None

    def on_post(self, req: Request, resp: Response) -> None:
        submit(req, resp, self.change(req.media), req.media)

    def change(self, body: Any) -> Change:
        return Change(self._note, body, partial(created, location="/notes/{count}"))

    def _note(self, bodies: list[Any]) -> list[dict[str, Any] | ShopError]:
        rows: list[dict[str, Any] | ShopError] = []
        for body in bodies:
            if body == self.refused:
                rows.append(Refused(FieldError("a", "no")))
                continue
            note(self.database, str(body))
            rows.append({"count": len(notes(self.database)), "more": self.answer})
        if self.error:
            raise self.error
        return rows


@pytest.fixture
def resource(database: SqliteFile) -> Notes:
    return Notes(database)


def client_of(resource: Notes) -> TestClient:
    app = http_app(resource.database, Probe(), documented("Test"), ROOT / "shop" / "static")
    app.add_route("/notes", resource)
    app.add_route("/others", resource)
    return TestClient(app)


@pytest.fixture
def client(resource: Notes) -> TestClient:
    return client_of(resource)


def post(client: TestClient, key: str, body: str = "{}", path: str = "/notes") -> Result:
    headers = {"Content-Type": "application/json", "Idempotency-Key": key}
    return client.simulate_post(path, body=body, headers=headers)


def same(first: Result, second: Result) -> bool:
    return (first.status, first.content, first.headers["Location"]) == (
        second.status,
        second.content,
        second.headers["Location"],
    )


def test_the_first_answer_is_given_again(client: TestClient, database: SqliteFile) -> None:
    """The same JSON in other words is the same request; another path is another one."""
    first = post(client, "k", '{"a": 1, "b": [{"c": 2, "d": 3}]}')
    again = post(client, "k", '{ "b":[{"d":3,"c":2}],"a":1 }')
    assert first.status_code == 201
    assert same(first, again)
    assert post(client, "k", path="/others").json["count"] == len(notes(database)) == 2


def test_at_the_same_time_there_is_one_effect(copy: Copy) -> None:
    """In two copies of a service, each of which has it from several threads, and a long key."""
    databases = [copy(), copy()]
    clients = [client_of(Notes(each)) for each in databases]
    gate = threading.Barrier(8)

    def send(n: int) -> Result:
        gate.wait()
        return post(clients[n % 2], LONGEST)

    with ThreadPoolExecutor(8) as pool:
        first, *others = pool.map(send, range(8))
    assert first.status_code == 201
    assert all(same(first, other) for other in others)
    assert len(notes(databases[0])) == 1


@pytest.mark.parametrize("error", [Refused(FieldError("a", "no")), RuntimeError("no")])
def test_a_failure_keeps_nothing(
    error: Exception, client: TestClient, resource: Notes, database: SqliteFile
) -> None:
    """The same key then does what it could not do before."""
    resource.error = error
    assert post(client, "k").status_code >= 400
    assert notes(database) == []
    resource.error = None
    assert post(client, "k").status_code == 201
    assert len(notes(database)) == 1


def test_an_answer_that_cannot_be_kept_undoes_the_effect(
    client: TestClient, resource: Notes, database: SqliteFile
) -> None:
    """Effect and kept answer are one transaction."""
    with structlog.testing.capture_logs():  # to show a traceback takes seconds
        resource.answer = object()
        assert post(client, "k").status_code == 500
        resource.answer = None
        full = "BEFORE INSERT ON kept_answer BEGIN SELECT RAISE(ABORT, 'full'); END"
        database.execute_sql(f"CREATE TRIGGER full {full}")
        assert post(client, "k").status_code == 500
    assert notes(database) == []


@pytest.mark.parametrize("sent", ["abc", '"abc"', '"a\\"b"'])
def test_a_key_that_an_earlier_version_kept(
    sent: str, client: TestClient, database: SqliteFile
) -> None:
    """It was kept as it was sent, quotes and all."""
    kept = {"path": "/notes", "key": sent, "fingerprint": EMPTY, "kept_at": "2026"}
    KeptAnswer.insert(**kept, status=201, location="/notes/9", body=b'{"count":9}').execute(
        database
    )
    again = post(client, sent)
    assert (again.status_code, again.json, again.headers["Location"]) == (
        201,
        {"count": 9},
        "/notes/9",
    )
    assert notes(database) == []


def test_two_keys_of_an_earlier_version_that_are_now_one(
    client: TestClient, database: SqliteFile
) -> None:
    """Each client that sends its own again gets its own answer."""
    for number, key in enumerate(("abc", '"abc"')):
        kept = {"path": "/notes", "key": key, "fingerprint": EMPTY, "kept_at": "2026"}
        row = {"status": 201, "location": "/notes/9", "body": b'{"count":%d}' % number}
        KeptAnswer.insert(**kept, **row).execute(database)
    assert [post(client, key).json["count"] for key in ("abc", '"abc"')] == [0, 1]


LONGEST = '"' + '\\"' * 255 + '"'


def test_keys(client: TestClient) -> None:
    """As Stripe's clients send them, or as a string of structured fields: all different."""
    bare = ("!", "~" * 255, 'a"c\\', "abc", "A", "a")
    strings = ('"8e03 978e"', '"a\\"b\\\\"', '" "', '"\\"!\\""', '"\\"abc\\""', LONGEST)
    keys = (*bare, *strings)
    assert [post(client, key).json["count"] for key in keys] == list(range(1, len(keys) + 1))


@pytest.mark.parametrize(
    ("key", "other"), [("abc", '"abc"'), ('"d"', "d"), ('a"b\\', '"a\\"b\\\\"')]
)
def test_a_key_is_the_same_with_quotes(key: str, other: str, client: TestClient) -> None:
    assert same(post(client, key), post(client, other))


BARE = ("", "x" * 256, "a b", "a\tb", "é", "\x7f")
STRINGS = ('"', '""', '"a', '"a"b', '"a\\n"', '"a\\', '"é"', f'"{"x" * 256}"', '"a", "b"')


@pytest.mark.parametrize("key", [*BARE, *STRINGS], ids=lambda key: repr(key)[:20])
def test_wrong_keys(key: str, client: TestClient, database: SqliteFile) -> None:
    refused = post(client, key)
    assert refused.status_code == 422
    assert [each["field"] for each in refused.json["errors"]] == ["Idempotency-Key"]
    assert notes(database) == []


def test_keys_outlive_the_process(client: TestClient, database: SqliteFile) -> None:
    first = post(client, "k")
    reopened = SqliteFile(database.path, "runtime")
    assert same(first, post(client_of(Notes(reopened)), "k"))
    reopened.close()


def answers(resource: Notes, *keyed: tuple[str | None, Any]) -> list[Answer | Exception]:
    """What a list of requests is answered, each with its key and body."""
    changes = [
        resource.change(body)._replace(key=key and Key.of("/notes", key, body))
        for key, body in keyed
    ]
    return list(commit(resource.database, once, changes))


def test_in_a_list_each_key_has_one_effect(copy: Copy) -> None:
    """Who comes second gets the first answer; who has no key is no repetition."""
    resource = Notes(copy())
    first, second, other, bare, third, bare_again = answers(
        resource, ("k", 1), ('"k"', 1), ("l", 1), (None, 1), ("k", 1), (None, 1)
    )
    assert first == second == third
    assert len({each.location for each in (first, other, bare, bare_again)}) == 4  # type: ignore[union-attr]
    assert len(notes(resource.database)) == 4
    assert answers(resource, ("l", 1), ("k", 1)) == [other, first]


def test_in_a_list_a_key_is_for_one_body(resource: Notes, database: SqliteFile) -> None:
    """Who comes first has the key, unless it is refused."""
    resource.refused = 1
    first, second, third = answers(resource, ("k", 1), ("k", 2), ("k", 3))
    assert isinstance(first, Refused)
    assert isinstance(second, Answer)
    assert isinstance(third, Refused)
    assert "another body" in str(third)
    assert notes(database) == ["2"]


def test_a_list_that_fails_is_undone_and_each_is_done_alone(
    resource: Notes, database: SqliteFile
) -> None:
    """Its answers are those of then."""
    full = (
        "BEFORE INSERT ON kept_answer WHEN NEW.key = '\"b\"' BEGIN SELECT RAISE(ABORT, 'full'); END"
    )
    database.execute_sql(f"CREATE TRIGGER full {full}")
    first, failed, last = answers(resource, ("a", 1), ("b", 2), ("c", 3))
    assert isinstance(failed, IntegrityError)
    assert [each.location for each in (first, last)] == ["/notes/1", "/notes/2"]  # type: ignore[union-attr]
    assert notes(database) == ["1", "3"]
    assert answers(resource, ("a", 1), ("c", 3)) == [first, last]


def test_a_key_that_comes_twice_in_a_list_undoes_nothing(
    resource: Notes, database: SqliteFile
) -> None:
    """Nobody else's change is to be made again for it."""
    change = resource.change(1)._replace(key=Key.of("/notes", "k", 1))
    with database.write():
        first, second = once(database, [change, change])
    assert first == second
    assert notes(database) == ["1"]
