"""What every service promises over HTTP, as test classes that each service's tests fill in.

They ask for two fixtures: ``service``, opened and not started, and ``client``, which asks it.
"""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import pytest
from falcon.testing import Result, TestClient

from messaging.event import Event
from messaging.tables import Outbox
from messaging.transports.wire import Place

MAX_ID = 2**53 - 1
EPOCH = bytes(15) + b"\x01"
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
NOT_NUMBERS = ['"4000"', "40.5", "true", "null", "1e999", "[1]", "{}", "9" * 400]
NOT_IDS = [*NOT_NUMBERS, "0", "-1", str(MAX_ID + 1)]
NAMES_TAKEN = {name: name.strip() for name in (" \tKesha\n", "x", " " + "x" * 200, "🦜" * 200)}
NAMES_REFUSED = ['""', '" \\t\\n "', f'"{"x" * 201}"', '"a\\u0000b"', "null", "1", "true", '["x"]']


def written(body: Any, value: str) -> bytes:
    """A body as JSON, with the text ``value`` where it has a ``...``."""
    return json.dumps(body, default=lambda _: "HERE").replace('"HERE"', value).encode()


def with_hole(body: Any, field: str) -> Any:
    """The body with a ``...`` in place of a field, such as ``item_ids.1``."""
    first, _, rest = field.partition(".")
    key: Any = int(first) if isinstance(body, list) else first
    copy = body.copy()
    copy[key] = with_hole(body[key], rest) if rest else ...
    return copy


def post(client: TestClient, path: str, body: Any, key: str | None = None) -> Result:
    """POST bytes as they are, and anything else as JSON."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"} | (
        {} if key is None else {"Idempotency-Key": key}
    )
    return client.simulate_post(path, body=content, headers=headers)


def contents(service: Any) -> str:
    """Everything in a service's database."""
    return "\n".join(service.database.connection().iterdump())


@contextmanager
def unchanged(service: Any) -> Iterator[None]:
    """Whatever happens in this block, it changes nothing in the database."""
    before = contents(service)
    yield
    assert contents(service) == before


def events(service: Any) -> list[dict[str, Any]]:
    """The documents of all events that a service has written, oldest first."""
    rows = Outbox.select().order_by(Outbox.sequence).execute(service.database)
    return [json.loads(row.body) for row in rows]


def told(service: Any) -> list[tuple[str, str, dict[str, Any]]]:
    """Type, subject and data of these events."""
    return [(event["type"], event["subject"], event["data"]) for event in events(service)]


def heard(service: Any, stream: str) -> list[Event]:
    """These events, as another service receives them."""
    documents = [(event["sequence"], json.dumps(event).encode()) for event in events(service)]
    return [Event.parse(stream, Place(EPOCH, int(n)), body) for n, body in documents]


def problem(answer: Result, status: int) -> dict[str, Any]:
    """The problem document of an answer with this status, of exactly the promised form."""
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    document: dict[str, Any] = answer.json
    members = {"type", "title", "status", "detail", "instance"}
    assert set(document) == members | ({"errors"} if status == 422 else set())
    assert document["status"] == status
    assert all(document[name] and isinstance(document[name], str) for name in members - {"status"})
    assert document["instance"].startswith("/")
    for error in document.get("errors", []):
        assert set(error) == {"field", "message"}
        assert error["message"]
    assert "Location" not in answer.headers
    return document


def fields(answer: Result) -> list[str]:
    """The fields that a refusal names."""
    return [error["field"] for error in problem(answer, 422)["errors"]]


class PostContract:
    """What a POST promises, whatever it makes; `tests.test_hostile` has more of it.

    ``taken`` are values of fields, with what the answer has for them; ``wrong`` are JSON texts.
    """

    path: ClassVar[str]
    body: ClassVar[dict[str, Any]]
    taken: ClassVar[dict[str, dict[Any, Any]]]
    wrong: ClassVar[dict[str, list[str]]]

    def written(self) -> bytes:
        return json.dumps(self.body).encode()

    def test_not_an_object(self, service: Any, client: TestClient) -> None:
        with unchanged(service):
            for content in (b"null", b"1", b'"x"', b"[]", b"[{}]"):
                assert fields(post(client, self.path, content)), content

    def test_no_fields(self, service: Any, client: TestClient) -> None:
        """Every field that is missing is named."""
        with unchanged(service):
            assert fields(post(client, self.path, {})) == list(self.body)

    def test_good_values(self, client: TestClient) -> None:
        for field, values in self.taken.items():
            for value, shown in values.items():
                content = written(with_hole(self.body, field), json.dumps(value))
                answer = post(client, self.path, content)
                assert answer.status_code == 201, content[:100]
                assert answer.json[field.rpartition(".")[2]] == shown

    def test_wrong_values(self, service: Any, client: TestClient) -> None:
        with unchanged(service):
            for field, values in self.wrong.items():
                for value in values:
                    content = written(with_hole(self.body, field), value)
                    assert fields(post(client, self.path, content)) == [field], content[:100]

    def test_up_to_a_mebibyte(self, service: Any, client: TestClient) -> None:
        content = self.written().ljust(1024 * 1024)
        assert post(client, self.path, content).status_code == 201
        with unchanged(service):
            problem(post(client, self.path, content + b" "), 413)

    def test_same_key_gives_the_same_answer(self, service: Any, client: TestClient) -> None:
        """However the body is spaced and its members are ordered, and with one effect."""
        first = post(client, self.path, self.body, key="a")
        assert first.status_code == 201
        backwards = json.loads(self.written(), object_pairs_hook=lambda pairs: dict(pairs[::-1]))
        with unchanged(service):
            for body in (self.body, json.dumps(backwards, indent=3).encode()):
                again = post(client, self.path, body, key="a")
                assert again.status_code == 201
                assert again.content == first.content
                for header in ("Content-Type", "Location"):
                    assert again.headers.get(header) == first.headers.get(header)

    def test_same_key_with_another_body(self, service: Any, client: TestClient) -> None:
        post(client, self.path, self.body, key="a")
        with unchanged(service):
            other = post(client, self.path, {**self.body, "extra": 1}, key="a")
            assert fields(other) == ["Idempotency-Key"]

    def test_another_key_or_none_is_another_request(self, client: TestClient) -> None:
        answers = [post(client, self.path, self.body, key) for key in ("a", "b", "A", None, None)]
        assert len({answer.json["id"] for answer in answers}) == len(answers)

    def test_events_carry_the_request_id(self, service: Any, client: TestClient) -> None:
        before = len(events(service))
        headers = {"Content-Type": "application/json", "X-Request-ID": "from-the-page"}
        client.simulate_post(self.path, body=self.written(), headers=headers)
        assert {event["correlationid"] for event in events(service)[before:]} <= {"from-the-page"}

    def test_refusals_are_not_kept(self, client: TestClient) -> None:
        problem(post(client, self.path, {}, key="a"), 422)
        problem(post(client, self.path, b"{", key="a"), 400)
        assert post(client, self.path, self.body, key="a").status_code == 201


class ListContract:
    """What a list promises, whatever it lists. ``query`` is what it cannot do without."""

    path: ClassVar[str]
    query: ClassVar[dict[str, Any]] = {}
    newest_first: ClassVar[bool] = False
    whole: ClassVar[bool] = False  # however long it is

    def add(self, service: Any) -> Any:
        """Add something that the list shows, and give its id."""
        raise NotImplementedError

    @pytest.fixture
    def ids(self, service: Any) -> list[Any]:
        """The ids of five entries, in the order of the list."""
        added = [str(self.add(service)) for _ in range(5)]
        return added[::-1] if self.newest_first else added

    def get(self, client: TestClient, headers: Any = None, **query: Any) -> Result:
        return client.simulate_get(self.path, params=self.query | query, headers=headers)

    def test_is_whole_without_a_limit(self, client: TestClient, ids: list[Any]) -> None:
        answer = self.get(client)
        assert answer.status_code == 200
        assert [str(row["id"]) for row in answer.json] == ids
        assert "Link" not in answer.headers
        assert answer.headers["Content-Type"] == "application/json"

    def test_has_an_end(self, service: Any, client: TestClient) -> None:
        """Without a limit there are a thousand rows, and a link to the others; items come whole."""
        with service.database.write():
            for _ in range(1001):
                self.add(service)
        answer = self.get(client)
        assert len(answer.json) == (1001 if self.whole else 1000)
        assert ("Link" in answer.headers) != self.whole
        if not self.whole:
            rest = client.simulate_get(answer.headers["Link"][1:].partition(">")[0])
            assert len(rest.json) == 1
            assert "Link" not in rest.headers
            ids = [row["id"] for row in answer.json + rest.json]
            assert len(set(ids)) == 1001

    def test_may_be_empty(self, client: TestClient) -> None:
        for query in ({}, {"limit": 1}):
            answer = self.get(client, **query)
            assert (answer.status_code, answer.json) == (200, [])
            assert "Link" not in answer.headers

    @pytest.mark.parametrize("limit", [1, 2, 4, 5, 6, 1000])
    def test_pages_make_up_the_list(self, client: TestClient, ids: list[Any], limit: int) -> None:
        """Following the links gives each entry once, and the last page has no link."""
        whole = self.get(client).json
        pages = [self.get(client, limit=limit)]
        while link := pages[-1].headers.get("Link"):
            match = re.fullmatch(r'<(/api/[^>]+)>; rel="next"', link)
            assert match
            pages.append(client.simulate_get(match[1]))
        assert [row for page in pages for row in page.json] == whole
        assert [len(page.json) for page in pages[:-1]] == [limit] * (len(pages) - 1)
        assert 0 < len(pages[-1].json) <= limit

    def test_after_without_a_limit_is_the_rest(self, client: TestClient, ids: list[Any]) -> None:
        rest = self.get(client, after=ids[1])
        assert [str(row["id"]) for row in rest.json] == ids[2:]
        assert self.get(client, after=ids[-1]).json == []

    def test_wrong_parameters(self, client: TestClient) -> None:
        """Nothing but one whole number in range will do; an order's id is no number at all."""
        texts = ("abc", "0", "-1", "", "1.0", " 1", "\uff11", str(MAX_ID + 1), "9" * 5000)
        for name in ("limit", "after", *self.query):
            for value in (*texts, *["1001"] * (name == "limit"), ["1", "2"]):
                query = self.query | {name: value}
                answer = client.simulate_get(self.path, params=query, params_csv=False)
                assert fields(answer) == [name], value
        assert sorted(fields(self.get(client, limit=0, after="x"))) == ["after", "limit"]

    @pytest.mark.parametrize("query", [{}, {"limit": 2}])
    def test_is_not_sent_to_who_has_it(
        self, service: Any, client: TestClient, ids: list[Any], query: dict[str, Any]
    ) -> None:
        first = self.get(client, **query)
        etag = first.headers["ETag"]
        assert re.fullmatch(r'(W/)?"[^"]+"', etag)
        for known in (etag, f'"other", {etag}', f"W/{etag}", "*"):
            same = self.get(client, {"If-None-Match": known}, **query)
            assert (same.status_code, same.content) == (304, b"")
            assert same.headers["ETag"] == etag
        for unknown in ('"other"', "", '"', "é", ",", '"*"', '"*", "other"'):
            answer = self.get(client, {"If-None-Match": unknown}, **query)
            assert (answer.status_code, answer.json) == (200, first.json)

    def test_is_sent_when_it_has_changed(
        self, service: Any, client: TestClient, ids: list[Any]
    ) -> None:
        """Also where only the link has."""
        etags = [self.get(client, **query).headers["ETag"] for query in ({}, {"limit": 5})]
        self.add(service)
        for etag, query, count in zip(etags, ({}, {"limit": 5}), (6, 5), strict=True):
            changed = self.get(client, {"If-None-Match": etag}, **query)
            assert (changed.status_code, len(changed.json)) == (200, count)
            assert changed.headers["ETag"] != etag
