"""An idempotency key: one effect, however often and at the same time the request is sent."""

import hashlib
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import pytest
from falcon import Request, Response
from falcon.testing import Result, TestClient

from runtime import ROOT
from runtime.api import created, documented
from runtime.database import SqliteFile
from runtime.errors import FieldError, Refused
from runtime.http import http_app
from runtime.idempotency import once
from runtime.models import KeptAnswer
from tests.runtime.conftest import Probe, in_threads, note, notes

EMPTY = hashlib.sha256(b"{}").digest()


class Notes:
    """A resource whose effect is a note, and whose answer tells how many there are."""

    def __init__(self, database: SqliteFile) -> None:
        self.database = database
        self.answer: Any = None
        self.error: Exception | None = None

    def on_post(self, req: Request, resp: Response) -> None:
        body = req.media
        once(self.database, req, resp, body, partial(self._act, resp, body))

    def _act(self, resp: Response, body: Any) -> None:
        with self.database.write():
            note(self.database, str(body))
            row = {"count": len(notes(self.database)), "more": self.answer}
            created(resp, row, location=f"/notes/{row['count']}")
            if self.error:
                raise self.error


@pytest.fixture
def resource(database: SqliteFile) -> Notes:
    return Notes(database)


@pytest.fixture
def client(database: SqliteFile, resource: Notes) -> TestClient:
    app = http_app(database, Probe(), documented("Test"), ROOT / "shop" / "static")
    app.add_route("/notes", resource)
    app.add_route("/others", resource)
    return TestClient(app)


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


def test_at_the_same_time_there_is_one_effect(client: TestClient, database: SqliteFile) -> None:
    first, *others = in_threads(database, [partial(post, client, "k")] * 8)
    assert first.status_code == 201
    assert all(same(first, other) for other in others)
    assert len(notes(database)) == 1


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
    resource.answer = object()
    assert post(client, "k").status_code == 500
    resource.answer = None
    full = "BEFORE INSERT ON kept_answer BEGIN SELECT RAISE(ABORT, 'full'); END"
    database.execute_sql(f"CREATE TRIGGER full {full}")
    assert post(client, "k").status_code == 500
    assert notes(database) == []


def test_effect_and_answer_are_one_commit(client: TestClient, database: SqliteFile) -> None:
    commits: list[int] = []
    database.listeners.append(lambda: commits.append(len(notes(database))))
    post(client, "k")
    assert commits == [1]


def test_keys_outlive_the_process(client: TestClient, database: SqliteFile) -> None:
    first = post(client, "k")
    reopened = SqliteFile(database.path, "runtime")
    app = http_app(reopened, Probe(), documented("Test"), ROOT / "shop" / "static")
    app.add_route("/notes", Notes(reopened))
    assert same(first, post(TestClient(app), "k"))
    reopened.close()


def test_an_answer_that_was_undone_is_not_given(
    client: TestClient, database: SqliteFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a group the first answer was there, then all was undone, and done again without it."""
    transact = database.transact

    def undone_once(action: Callable[[], None]) -> None:
        with suppress(ZeroDivisionError), database.write():
            kept = {"path": "/notes", "key": "k", "fingerprint": EMPTY, "kept_at": "2026"}
            row = {"status": 201, "location": "/notes/99", "body": b'{"count":99}'}
            KeptAnswer.insert(**kept, **row).execute(database)
            action()
            raise ZeroDivisionError
        transact(action)

    monkeypatch.setattr(database, "transact", undone_once)
    first = post(client, "k")
    monkeypatch.undo()
    assert (first.json["count"], first.headers["Location"]) == (1, "/notes/1")
    assert same(first, post(client, "k"))
