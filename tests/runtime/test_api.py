"""Lists come in pages, with an ETag; wrong parameters are refused."""

import time
from functools import partial

import pytest
from falcon import Request, Response
from falcon.testing import Result, TestClient

from runtime import ROOT
from runtime.process.fields import MAX_ID
from runtime.storage.database import SqliteFile
from runtime.web.lists import IdPage, KeptList, QueryId, send_list
from runtime.web.requests import documented
from runtime.web.shell import http_app
from tests.runtime.conftest import Probe, in_threads

api = documented("Test")


class BirdPage(IdPage):
    color: QueryId | None = None


class Birds:
    def __init__(self) -> None:
        self.ids = [1, 2, 3]

    @api.validate()
    def on_get(self, req: Request, resp: Response, query: BirdPage) -> None:
        """List birds."""
        after = query.after or 0
        rows = [{"id": number} for number in self.ids if number > after]
        send_list(req, resp, query, lambda: rows[: query.fetch])


@pytest.fixture
def birds() -> Birds:
    return Birds()


@pytest.fixture
def client(shared: SqliteFile, birds: Birds) -> TestClient:
    app = http_app(shared, Probe(), api, ROOT / "shop" / "static")
    app.add_route("/birds", birds)
    return TestClient(app)


def fields(answer: Result) -> list[str]:
    assert answer.status_code == 422
    return [error["field"] for error in answer.json["errors"]]


@pytest.mark.parametrize(
    ("query", "ids", "following"),
    [
        ("", [1, 2, 3], None),
        ("limit=1", [1], "limit=1&after=1"),
        ("limit=2", [1, 2], "limit=2&after=2"),
        ("limit=2&color=7", [1, 2], "limit=2&color=7&after=2"),
        ("limit=2&after=2", [3], None),
        ("limit=3", [1, 2, 3], None),
        ("limit=1000", [1, 2, 3], None),
        ("after=1", [2, 3], None),
        (f"after={MAX_ID}", [], None),
        ("unknown=x", [1, 2, 3], None),
    ],
)
def test_a_list_comes_in_pages(
    query: str, ids: list[int], following: str | None, client: TestClient
) -> None:
    """The link to the next page is there while there is more, and keeps the other parameters."""
    answer = client.simulate_get("/birds", query_string=query)
    assert [row["id"] for row in answer.json] == ids
    link = answer.headers.get("Link")
    if following is None:
        assert link is None
    else:
        path, _, relation = link.partition(">; ")
        assert relation == 'rel="next"'
        target, _, parameters = path.removeprefix("<").partition("?")
        assert (target, sorted(parameters.split("&"))) == ("/birds", sorted(following.split("&")))


def test_links_lead_through_the_whole_list(client: TestClient) -> None:
    ids, link = [], "</birds?limit=1>"
    while link:
        page = client.simulate_get(link[1 : link.index(">")])
        ids += [row["id"] for row in page.json]
        link = page.headers.get("Link")
    assert ids == [1, 2, 3]


WRONG = ["", "0", "-1", "1.0", "x", "1 ", "%2B1", "1_0", "\uff11", "true", "9" * 5000, str(2**63)]


@pytest.mark.parametrize("value", [*WRONG, "1001", "1&limit=2"])
def test_a_wrong_limit_is_refused(value: str, client: TestClient) -> None:
    assert fields(client.simulate_get("/birds", query_string=f"limit={value}")) == ["limit"]


@pytest.mark.parametrize("value", WRONG)
def test_a_wrong_position_is_refused(value: str, client: TestClient) -> None:
    assert fields(client.simulate_get("/birds", query_string=f"after={value}")) == ["after"]


def test_all_wrong_parameters_are_told(client: TestClient) -> None:
    answer = client.simulate_get("/birds?limit=0&after=x&color=")
    assert sorted(fields(answer)) == ["after", "color", "limit"]


@pytest.mark.parametrize("write", ["{}", "W/{}", '"other", {}', "*"])
def test_who_has_the_list_gets_no_second_one(write: str, client: TestClient, birds: Birds) -> None:
    etag = client.simulate_get("/birds").headers["ETag"]
    headers = {"If-None-Match": write.format(etag)}
    answer = client.simulate_get("/birds", headers=headers)
    assert (answer.status_code, answer.content, answer.headers["ETag"]) == (304, b"", etag)
    birds.ids.append(4)
    changed = client.simulate_get("/birds", headers=headers)
    assert changed.headers["ETag"] != etag
    assert changed.status_code == (304 if write == "*" else 200)


def test_the_same_rows_with_more_behind_them_have_another_etag(
    client: TestClient, birds: Birds
) -> None:
    before = client.simulate_get("/birds?limit=3").headers["ETag"]
    birds.ids.append(4)
    assert client.simulate_get("/birds?limit=3").headers["ETag"] != before


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


def test_one_makes_a_list_for_all_who_ask(database: SqliteFile, flock: Flock) -> None:
    """And what was committed before somebody asked is in it."""
    app = http_app(database, Probe(), api, ROOT / "shop" / "static")
    app.add_route("/flock", flock)
    client = TestClient(app)
    ask = partial(client.simulate_get, "/flock")
    answers = in_threads(database, [ask] * 8)
    assert {answer.text for answer in answers} == {'[{"id":1},{"id":2},{"id":3}]'}
    assert flock.made == 1
    flock.ids, flock.version = [1, 3, 4], 1
    commit(database)
    assert {answer.text for answer in in_threads(database, [ask] * 8)} == {
        '[{"id":1},{"id":3},{"id":4}]'
    }
    assert flock.made == 2


def test_a_kept_list_is_cut_into_pages(database: SqliteFile, flock: Flock) -> None:
    app = http_app(database, Probe(), api, ROOT / "shop" / "static")
    app.add_route("/flock", flock)
    client = TestClient(app)
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
    database: SqliteFile, flock: Flock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.web.lists.LOOK_INTERVAL_S", 60)
    app = http_app(database, Probe(), api, ROOT / "shop" / "static")
    app.add_route("/flock", flock)
    client = TestClient(app)
    assert client.simulate_get("/flock").status_code == 200
    flock.ids, flock.version, flock.error = [4], 1, OSError("disk I/O error")
    commit(database)
    for _ in range(2):
        assert client.simulate_get("/flock").status_code == 503
    flock.error = None
    assert client.simulate_get("/flock").json == [{"id": 4}]
