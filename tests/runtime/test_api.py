"""Lists come in pages, with an ETag; wrong parameters are refused."""

import pytest
from falcon import Request, Response
from falcon.testing import Result, TestClient

from runtime import ROOT
from runtime.api import MAX_ID, IdPage, QueryId, documented, send_list
from runtime.database import SqliteFile
from runtime.http import http_app
from tests.runtime.conftest import Probe

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
