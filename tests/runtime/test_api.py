"""A list that is kept whole in memory: what all get of it, and when it is made anew.

What lists promise over HTTP is in `tests.contract`.
"""

import time
from functools import partial

import pytest
from falcon import Request, Response
from falcon.testing import TestClient

from runtime import ROOT
from runtime.storage.sqlite import SqliteFile
from runtime.web.lists import IdPage, KeptList
from runtime.web.requests import documented
from runtime.web.shell import http_app
from tests.runtime.conftest import Probe, in_threads

api = documented("Test")


class Flock:
    """A list that is kept, over numbers that change when the test says so."""

    def __init__(self, database: SqliteFile) -> None:
        self.ids = [1, 2, 3]
        self.version = 0
        self.made = 0
        self.error: Exception | None = None
        self.kept = KeptList(database, self.look, self.all)

    def look(self) -> int:
        if self.error:
            raise self.error
        return self.version

    def all(self) -> list[dict[str, int]]:
        self.made += 1
        time.sleep(0.05)  # so that others come meanwhile
        return [{"id": number} for number in self.ids]

    @api.validate()
    def on_get(self, req: Request, resp: Response, query: IdPage) -> None:
        """List a flock."""
        self.kept.send(req, resp, query)


@pytest.fixture
def flock(database: SqliteFile) -> Flock:
    return Flock(database)


def commit(database: SqliteFile) -> None:
    with database.write():
        pass


@pytest.fixture
def client(database: SqliteFile, flock: Flock) -> TestClient:
    app = http_app(database, Probe(), api, ROOT / "shop" / "static")
    app.add_route("/flock", flock)
    return TestClient(app)


def test_one_makes_a_list_for_all_who_ask(
    database: SqliteFile, flock: Flock, client: TestClient
) -> None:
    """And what was committed before somebody asked is in it."""
    ask = partial(client.simulate_get, "/flock")
    answers = in_threads(database, [ask] * 8)
    assert {answer.text for answer in answers} == {'[{"id":1},{"id":2},{"id":3}]'}
    assert flock.made == 1
    flock.ids, flock.version = [1, 3, 4], 1
    commit(database)
    answers = in_threads(database, [ask] * 8)
    assert {answer.text for answer in answers} == {'[{"id":1},{"id":3},{"id":4}]'}
    assert flock.made == 2


def test_a_kept_list_is_cut_into_pages(flock: Flock, client: TestClient) -> None:
    flock.ids = [2, 3, 5, 7, 1000]
    whole = client.simulate_get("/flock")
    for after in range(9):
        rest = [number for number in flock.ids if number > after]
        for limit in range(1, 7):
            page = client.simulate_get(f"/flock?after={after}&limit={limit}" if after else "/flock")
            expected = rest[:limit] if after else flock.ids
            assert [row["id"] for row in page.json] == expected
            link = page.headers.get("Link")
            assert bool(link) == (len(expected) < len(rest))
            assert link is None or f"after={expected[-1]}>" in link
            assert (page.headers["ETag"] == whole.headers["ETag"]) == (expected == flock.ids)


def test_a_list_that_could_not_be_looked_at_is_not_the_old_one(
    database: SqliteFile, flock: Flock, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.web.lists.LOOK_INTERVAL_S", 60)
    assert client.simulate_get("/flock").status_code == 200
    flock.ids, flock.version, flock.error = [4], 1, OSError("disk I/O error")
    commit(database)
    for _ in range(2):
        assert client.simulate_get("/flock").status_code == 503
    flock.error = None
    assert client.simulate_get("/flock").json == [{"id": 4}]
