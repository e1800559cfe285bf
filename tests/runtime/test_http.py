"""The HTTP shell: request ids, problems, probes and documents, alike in every service."""

import io
import re
from pathlib import Path
from typing import Any

import falcon
import peewee
import pytest
import structlog
from falcon import Request, Response
from falcon.testing import TestClient, create_environ

import inventory.app
import payment.app
import shop.app
from runtime import ROOT
from runtime.api import documented
from runtime.database import SqliteFile
from runtime.errors import FieldError, NotFound, Refused, StartError
from runtime.http import http_app
from runtime.problem import MAX_BODY_BYTES
from tests.conftest import Broker, eventually
from tests.runtime.conftest import Probe

APPS = {
    "inventory": inventory.app.create_app,
    "shop": shop.app.create_app,
    "payment": payment.app.create_app,
}
PATHS: dict[str, dict[str, set[str]]] = {
    "inventory": {
        "/api/items": {"get"},
        "/api/items/{item_id}": {"get"},
        "/api/items/{item_id}/toggle_status": {"put"},
        "/api/item": {"post"},
    },
    "shop": {
        "/api/user": {"post"},
        "/api/users": {"get"},
        "/api/items": {"get"},
        "/api/checkout": {"post"},
        "/api/orders/{order_id}": {"get"},
        "/api/orders": {"get"},
    },
    "payment": {"/api/payment": {"post"}, "/api/payments": {"get"}},
}
STREAMS = {"inventory": [], "shop": ["items", "payments"], "payment": ["orders"]}


@pytest.fixture(params=APPS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def client(name: str, request: pytest.FixtureRequest) -> TestClient:
    """A client of the real service."""
    return TestClient(APPS[name](request.getfixturevalue(name)))


class Faulty:
    def __init__(self, error: Exception) -> None:
        self.error = error

    def on_get(self, req: Request, resp: Response, **_: str) -> None:
        resp.location = "/gone"
        raise self.error


def shell(database: SqliteFile, **status: Any) -> TestClient:
    """A client of the bare shell, whose messaging tells this status."""
    return TestClient(
        http_app(database, Probe(lambda: status), documented("Test"), ROOT / "shop" / "static")
    )


@pytest.mark.parametrize("given", ["x", "A.b_c-9", "a" * 128])
def test_a_request_id_is_taken(given: str, shared: SqliteFile) -> None:
    answer = shell(shared).simulate_get("/livez", headers={"X-Request-ID": given})
    assert answer.headers["X-Request-ID"] == given


@pytest.mark.parametrize("given", [None, "", "a b", "a,b", "a" * 129, "caf\u00e9", "{}"])
def test_a_request_id_is_made_where_there_is_no_good_one(
    given: str | None, shared: SqliteFile
) -> None:
    headers = {} if given is None else {"X-Request-ID": given}
    answers = [shell(shared).simulate_get("/livez", headers=headers) for _ in range(2)]
    first, second = (answer.headers["X-Request-ID"] for answer in answers)
    assert first != second
    assert re.fullmatch(r"[A-Za-z0-9._-]{1,128}", first)


ERRORS = [
    (NotFound("There is no parrot."), 404),
    (falcon.HTTPBadRequest(description="not JSON"), 400),
    (Refused(FieldError("item.price", "too high")), 422),
    (peewee.OperationalError("secret"), 503),
    (peewee.InterfaceError("secret"), 503),
    (peewee.DatabaseError("secret"), 503),
    (OSError(28, "secret"), 503),
    (StartError("secret"), 503),
    (peewee.IntegrityError("secret"), 500),
    (RuntimeError("secret"), 500),
    (RecursionError("secret"), 500),
]


@pytest.mark.parametrize(("error", "status"), ERRORS, ids=lambda value: repr(value)[:30])
def test_an_error_is_a_problem(error: Exception, status: int, shared: SqliteFile) -> None:
    """It carries the request's id; what went wrong inside is for the log alone."""
    client = shell(shared)
    client.app.add_route("/{word}", Faulty(error))
    merge = structlog.contextvars.merge_contextvars
    with structlog.testing.capture_logs(processors=[merge]) as logged:
        answer = client.simulate_get("/a b", headers={"X-Request-ID": "r-1"})
    assert answer.status_code == status
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.headers["X-Request-ID"] == "r-1"
    assert "Location" not in answer.headers
    assert answer.headers.get("Retry-After") == ("1" if status == 503 else None)
    assert answer.json.items() >= {"status": status, "instance": "/a%20b"}.items()
    assert set(answer.json) >= {"type", "title", "detail"}
    assert "secret" not in answer.text
    told = [line for line in logged if line["log_level"] == "error"]
    assert [line["request_id"] for line in told] == (["r-1"] if status >= 500 else [])
    assert [line for line in told if line.get("exc_info")] == (told if status == 500 else [])


@pytest.mark.parametrize(
    ("method", "path", "size", "status", "allow"),
    [
        ("GET", "/none", 0, 404, ""),
        ("POST", "/livez", 0, 405, "GET"),
        ("DELETE", "/docs", 0, 405, "GET"),
        ("POST", "/livez", MAX_BODY_BYTES + 1, 413, ""),
    ],
)
def test_what_falcon_refuses_is_a_problem(
    method: str, path: str, size: int, status: int, allow: str, shared: SqliteFile
) -> None:
    answer = shell(shared).simulate_request(method, path, body=b" " * size)
    assert (answer.status_code, answer.json["status"]) == (status, status)
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.headers["X-Request-ID"]
    assert answer.headers.get("Allow", "").partition(",")[0] == allow


def test_probes_without_the_broker(name: str, client: TestClient, request: Any) -> None:
    """The broker being away makes no service unready; how far it is behind is unknown."""
    request.getfixturevalue(name).exchange.start()
    assert client.simulate_get("/livez").status_code == 200
    ready = client.simulate_get("/readyz")
    assert ready.status_code == 200
    assert ready.json == {
        "status": "ready",
        "database": "up",
        "broker": "down",
        "outbox_waiting": 0,
        "inbox_behind": dict.fromkeys(STREAMS[name]),
        "dead": 0,
    }


def test_probes_with_the_broker(
    name: str, client: TestClient, broker: Broker, request: Any
) -> None:
    request.getfixturevalue(name).exchange.start()
    expected = {
        "status": "ready",
        "database": "up",
        "broker": "up",
        "outbox_waiting": 0,
        "inbox_behind": dict.fromkeys(STREAMS[name], 0),
        "dead": 0,
    }
    eventually(lambda: client.simulate_get("/readyz").json == expected)


def test_a_service_that_stopped_publishing_is_unready(shared: SqliteFile) -> None:
    ready = shell(shared, broker="up", problem="publishing stopped").simulate_get("/readyz")
    assert ready.status_code == 503
    assert (ready.json["status"], ready.json["database"]) == ("unready", "up")
    assert ready.json["problem"] == "publishing stopped"


def test_a_service_without_its_database_is_alive_but_unready(tmp_path: Path) -> None:
    """And serves as soon as the database can be had."""
    (tmp_path / "data").write_text("in the way")
    database = SqliteFile(tmp_path / "data" / "x.db", "runtime")
    client = shell(database)
    assert client.simulate_get("/livez").status_code == 200
    assert client.simulate_get("/metrics").status_code == 200
    ready = client.simulate_get("/readyz")
    assert (ready.status_code, ready.json["database"]) == (503, "down")
    other = client.simulate_get("/docs")
    assert (other.status_code, other.headers["Retry-After"]) == (503, "1")

    (tmp_path / "data").unlink()
    assert client.simulate_get("/readyz").status_code == 200
    assert client.simulate_get("/docs").status_code == 200
    database.close()


def test_a_database_that_fails_later_makes_it_unready(shared: SqliteFile) -> None:
    def status() -> dict[str, Any]:
        raise peewee.OperationalError("disk I/O error")

    client = TestClient(
        http_app(shared, Probe(status), documented("Test"), ROOT / "shop" / "static")
    )
    ready = client.simulate_get("/readyz")
    assert (ready.status_code, ready.json["database"]) == (503, "down")


def test_metrics_are_prometheus_text(client: TestClient) -> None:
    answer = client.simulate_get("/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain; version=")
    line = re.compile(r'(# (HELP|TYPE) .+|[a-z_:]+(\{([a-z_]+="[^"]*",?)+\})? [-+0-9.eEinfNa]+)')
    assert all(line.fullmatch(each) for each in answer.text.splitlines())


def test_requests_are_counted_by_route_method_and_status(shared: SqliteFile) -> None:
    """By the route and not by the path, which anybody may choose, as they may the method."""
    client = shell(shared)
    client.app.add_route("/things/{thing}", Faulty(NotFound("gone")))
    for thing in "abc":
        client.simulate_get(f"/things/{thing}")
    client.simulate_post("/livez")
    client.simulate_get("/nowhere")
    client.simulate_patch("/nowhere")
    told = client.simulate_get("/metrics").text
    counted = dict(re.findall(r"^http_request_duration_seconds_count(\S+) (\S+)$", told, re.M))
    assert counted == {
        '{method="GET",route="/things/{thing}",status="404"}': "3.0",
        '{method="POST",route="/livez",status="405"}': "1.0",
        '{method="GET",route="other",status="404"}': "1.0",
        '{method="other",route="other",status="404"}': "1.0",
    }
    assert 'http_request_duration_seconds_bucket{le="+Inf",method="GET"' in told
    assert "answer 42.0" in told
    assert "process_resident_memory_bytes" in told


def every(key: str, value: Any) -> list[Any]:
    """All that is under this key, however deep."""
    if isinstance(value, list):
        return [found for entry in value for found in every(key, entry)]
    if not isinstance(value, dict):
        return []
    deeper = [found for entry in value.values() for found in every(key, entry)]
    return deeper + ([value[key]] if key in value else [])


def test_the_document_is_openapi(name: str, client: TestClient) -> None:
    """Every path is in it, what it refers to is there, and every answer is described."""
    document = client.simulate_get("/openapi.json").json
    assert re.fullmatch(r"3\.1\.\d+", document["openapi"])
    assert set(document["info"]) >= {"title", "version"}
    methods = {path: set(entry) for path, entry in document["paths"].items()}
    assert {path: methods[path] for path in PATHS[name]} == PATHS[name]
    others = set(methods) - set(PATHS[name])
    assert all(client.simulate_get(path).status_code == 200 for path in others)

    for reference in every("$ref", document):
        target = document
        for part in reference.removeprefix("#/").split("/"):
            target = target[part]
    operations = {
        (path, method): operation
        for path, entry in document["paths"].items()
        for method, operation in entry.items()
    }
    names = [operation["operationId"] for operation in operations.values()]
    assert len(set(names)) == len(names)
    for (path, _), operation in operations.items():
        assert operation["responses"], f"{path} has no answers"
        assert all(answer["description"] for answer in operation["responses"].values())
        in_path = [each["name"] for each in operation["parameters"] if each["in"] == "path"]
        assert in_path == re.findall(r"{(\w+)}", path)


def test_the_document_shows_everything_by_examples(client: TestClient, name: str) -> None:
    """Each operation has a sentence, and examples of what is sent and of every answer."""
    document = client.simulate_get("/openapi.json").json
    for path in PATHS[name]:
        for operation in document["paths"][path].values():
            assert re.fullmatch(r"[A-Z][^.]+\.", operation["summary"])
            parts = [*operation["responses"].values(), operation.get("requestBody", {})]
            contents = [media for part in parts for media in part.get("content", {}).values()]
            assert contents
            assert all(media["example"] for media in contents), path
            for code, answer in operation["responses"].items():
                if code >= "4":
                    (media,) = answer["content"].values()
                    assert media["example"]["status"] == int(code)
    assert {"/livez", "/readyz", "/metrics"} <= set(document["paths"])


def test_the_document_tells_the_bounds_of_a_query(client: TestClient, name: str) -> None:
    document = client.simulate_get("/openapi.json").json
    path = next(path for path in PATHS[name] if path.endswith("s"))
    parameters = document["paths"][path]["get"]["parameters"]
    (limit,) = (each["schema"] for each in parameters if each["name"] == "limit")
    assert every("minimum", limit) == [1]
    assert every("maximum", limit) == [1000]


def test_the_document_tells_that_errors_are_problems(client: TestClient, name: str) -> None:
    document = client.simulate_get("/openapi.json").json
    for path in PATHS[name]:
        for operation in document["paths"][path].values():
            errors = [answer for code, answer in operation["responses"].items() if code >= "4"]
            assert errors
            assert all(set(error["content"]) == {"application/problem+json"} for error in errors)


def test_docs_need_no_internet(client: TestClient) -> None:
    answer = client.simulate_get("/docs")
    assert answer.headers["Content-Type"].startswith("text/html")
    assert "/openapi.json" in answer.text
    elements = re.findall(r"<(?:script|link|img|iframe)\b[^>]*>", answer.text)
    assert "<script>" in elements
    assert not [each for each in elements if re.search(r"(src|href)=.?(https?:)?//", each)]
    assert not re.search(r"(@import|url\()\s*['\"]?(https?:)?//", answer.text)


def test_the_page_leads_to_the_docs(client: TestClient) -> None:
    answer = client.simulate_get("/")
    assert answer.headers["Content-Type"].startswith("text/html")
    assert re.search(r"<a\s[^>]*href=\"/docs\"", answer.text)


@pytest.mark.parametrize(
    ("body", "status"), [(b'{"name": "Kesha"}', 201), (b'"' + b"x" * MAX_BODY_BYTES + b'"', 413)]
)
def test_a_body_without_length(shop: Any, body: bytes, status: int) -> None:
    """As other servers hand on a chunked request: to its end, and measured while it is read."""
    headers = {"Content-Type": "application/json"}
    environ = create_environ("/api/user", method="POST", headers=headers)
    environ.pop("CONTENT_LENGTH", None)
    environ |= {"wsgi.input": io.BytesIO(body), "wsgi.input_terminated": True}
    statuses: list[str] = []
    APPS["shop"](shop)(environ, lambda line, *_: statuses.append(line))
    assert statuses[0].startswith(str(status))


def policy(client: TestClient, path: str) -> dict[str, str]:
    """The directives of an answer's Content-Security-Policy."""
    given = client.simulate_get(path).headers["Content-Security-Policy"]
    return dict(part.strip().split(" ", 1) for part in given.split(";"))


@pytest.mark.parametrize("path", ["/", "/static/index.html", "/api/items", "/nowhere"])
def test_pages_may_load_and_do_what_is_their_own_only(client: TestClient, path: str) -> None:
    """No inline script or style, no frame, no base, no other host."""
    assert policy(client, path) == {
        "default-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'self'",
        "frame-ancestors": "'none'",
        "object-src": "'none'",
    }


def test_the_documents_have_a_policy_of_their_own(client: TestClient) -> None:
    given = policy(client, "/docs")
    assert given["default-src"] == "'self' 'unsafe-inline' data:"
    assert given["frame-ancestors"] == "'none'"


@pytest.mark.parametrize("path", ["/", "/docs", "/livez", "/openapi.json", "/api/items", "/none"])
def test_no_answer_is_taken_for_what_it_is_not(client: TestClient, path: str) -> None:
    assert client.simulate_get(path).headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize(
    "path",
    [
        "/static/../app.py",
        "/static/%2e%2e/app.py",
        "/static/..%2fapp.py",
        "/static/../../pyproject.toml",
        "/static//etc/passwd",
        "/static/%2fetc%2fpasswd",
        "/static/..\\app.py",
        "/static/./../static/../app.py",
        "/static/index.html/../../app.py",
        "/static/%00",
        "/static/~root",
        "/static/",
        "/static",
        "/shared/../api.py",
        "/shared/%2e%2e/api.py",
    ],
)
def test_no_path_leaves_the_static_folder(client: TestClient, path: str) -> None:
    """Also where a client sends it unencoded; what is not in the folder is not found."""
    answer = client.simulate_get(path)
    assert (answer.status_code, answer.headers["Content-Type"]) == (404, "application/problem+json")
    assert client.simulate_get("/static/index.html").content == client.simulate_get("/").content
