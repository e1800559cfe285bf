"""The HTTP shell: request ids, problems, probes and documents, alike in every service."""

import io
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from uuid import UUID

import falcon
import peewee
import pytest
import structlog
from falcon import Request, Response
from falcon.testing import TestClient, create_environ

from runtime import ROOT
from runtime.process.errors import FieldError, NotFound, Refused, StartError
from runtime.process.logs import REQUEST_ID
from runtime.process.settings import Settings
from runtime.storage.sqlite import SqliteFile
from runtime.web.problem import MAX_BODY_BYTES
from runtime.web.requests import documented
from runtime.web.shell import App, http_app, on_first_request, probe_app
from tests.conftest import eventually
from tests.contract import problem
from tests.runtime.conftest import Probe, in_threads

PATHS: dict[str, dict[str, set[str]]] = {
    "inventory": {
        "/api/items": {"get"},
        "/api/items/{item_id}": {"get"},
        "/api/items/{item_id}/status": {"put"},
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
    "payment": {
        "/api/payment": {"post"},
        "/api/payments": {"get"},
        "/api/payments/totals": {"get"},
    },
}
STREAMS = {"inventory": [], "shop": ["items", "payments"], "payment": ["orders"]}


@pytest.fixture(params=PATHS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def client(name: str, request: pytest.FixtureRequest) -> TestClient:
    """A client of the real service."""
    return TestClient(request.getfixturevalue(name).app())


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


def test_a_request_id_is_taken(shared: SqliteFile) -> None:
    for given in ("x", "A.b_c-9", "a" * 128):
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
    merge = lambda _, __, entry: {**entry, "request_id": REQUEST_ID.get()}  # noqa: E731
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


def test_probes(name: str, client: TestClient, request: Any) -> None:
    """The broker being away makes no service unready; how far it is behind is unknown then."""
    request.getfixturevalue(name).exchange.start()
    expected = {"status": "ready", "database": "up", "outbox_waiting": 0, "dead": 0}
    behind = dict.fromkeys(STREAMS[name])
    assert client.simulate_get("/livez").status_code == 200
    ready = client.simulate_get("/readyz")
    assert (ready.status_code, ready.json) == (
        200,
        expected | {"broker": "down", "inbox_behind": behind},
    )
    request.getfixturevalue("broker")
    expected |= {"broker": "up", "inbox_behind": dict.fromkeys(behind, 0)}
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

    app = http_app(shared, Probe(status), documented("Test"), ROOT / "shop" / "static")
    ready = TestClient(app).simulate_get("/readyz")
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
    counted = dict(
        re.findall(r"^parrot_http_request_duration_seconds_count(\S+) (\S+)$", told, re.M)
    )
    assert counted == {
        '{method="GET",route="/things/{thing}",status="404"}': "3.0",
        '{method="POST",route="/livez",status="405"}': "1.0",
        '{method="GET",route="other",status="404"}': "1.0",
        '{method="other",route="other",status="404"}': "1.0",
    }
    assert 'parrot_http_request_duration_seconds_bucket{le="+Inf",method="GET"' in told
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
    assert others == {"/livez", "/readyz", "/metrics"}
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
    assert all(re.fullmatch(r"[a-z]+[A-Z][A-Za-z]+", each) for each in names)
    tags = {tag["name"]: tag["description"] for tag in document["tags"]}
    assert {tag for operation in operations.values() for tag in operation["tags"]} == set(tags)
    referred = {each.rpartition("/")[2] for each in every("$ref", document)}
    assert referred == set(document["components"]["schemas"])
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
            errors = [entry for entry in operation["responses"].items() if entry[0] >= "4"]
            assert errors
            for code, answer in errors:
                ((kind, media),) = answer["content"].items()
                assert kind == "application/problem+json"
                assert media["example"]["status"] == int(code)
                assert media["example"]["title"] == answer["description"]
                assert bool(media["example"].get("errors")) == (code == "422")


def test_the_document_tells_the_bounds_of_a_query(client: TestClient, name: str) -> None:
    document = client.simulate_get("/openapi.json").json
    path = next(path for path in PATHS[name] if path.endswith("s"))
    parameters = document["paths"][path]["get"]["parameters"]
    (limit,) = (each["schema"] for each in parameters if each["name"] == "limit")
    assert limit == {"type": "integer", "minimum": 1, "maximum": 1000}


def test_docs_need_no_internet(client: TestClient) -> None:
    """The page has its scripts and styles from its own service; of those, none loads another."""
    page = client.simulate_get("/docs")
    assert page.headers["Content-Type"].startswith("text/html")
    files = re.findall(r"(?:src|href)=\"([^\"]*)\"", page.text)
    assert len(files) == 4
    answers = {path: client.simulate_get(path) for path in files}
    assert [answer.status_code for answer in answers.values()] == [200] * 4
    for path, answer in answers.items():
        assert not re.search(r"(@import|url\()\s*['\"]?(https?:)?//", answer.text), path
    assert any("/openapi.json" in answer.text for answer in answers.values())


def test_no_documentation_site_is_in_memory() -> None:
    """spectree has a few lines for each site, and not the sites themselves."""
    apps = ", ".join(f"{name}.app" for name in PATHS)
    script = f"import {apps}, spectree.page; print(len(str(spectree.page.PAGE_TEMPLATES)))"
    command = [sys.executable, "-c", script]
    size = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert int(size) < 20_000


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
    shop.app()(environ, lambda line, *_: statuses.append(line))
    assert statuses[0].startswith(str(status))


def policy(client: TestClient, path: str) -> dict[str, str]:
    """The directives of an answer's Content-Security-Policy."""
    given = client.simulate_get(path).headers["Content-Security-Policy"]
    return dict(part.strip().split(" ", 1) for part in given.split(";"))


@pytest.mark.parametrize("path", ["/", "/static/index.html", "/livez", "/api/items", "/nowhere"])
def test_pages_may_load_and_do_what_is_their_own_only(client: TestClient, path: str) -> None:
    """No inline script or style, no frame, no base, no other host, and nothing in disguise."""
    assert policy(client, path) == {
        "default-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'self'",
        "frame-ancestors": "'none'",
        "object-src": "'none'",
    }
    assert client.simulate_get(path).headers["X-Content-Type-Options"] == "nosniff"


def test_the_documents_have_a_policy_of_their_own(client: TestClient) -> None:
    """Swagger UI has inline styles and pictures, and no inline scripts."""
    given = policy(client, "/docs")
    assert given["default-src"] == "'self'"
    assert given["style-src"] == "'self' 'unsafe-inline'"
    assert given["img-src"] == "'self' data:"
    assert given["frame-ancestors"] == "'none'"
    for path in ("/docs", "/openapi.json"):
        assert client.simulate_get(path).headers["X-Content-Type-Options"] == "nosniff"


OUTSIDE = [
    *("../app.py", "%2e%2e/app.py", "..%2fapp.py", "../../pyproject.toml", "/etc/passwd"),
    *("%2fetc%2fpasswd", "..\\app.py", "./../static/../app.py", "index.html/../../app.py"),
    *("%00", "~root", ""),
]


def test_no_path_leaves_the_static_folder(client: TestClient) -> None:
    """Also where a client sends it unencoded; what is not in the folder is not found."""
    for path in (*OUTSIDE, "../shared/../api.py", "../shared/%2e%2e/api.py"):
        problem(client.simulate_get(f"/static/{path}"), 404)
    problem(client.simulate_get("/static"), 404)
    assert client.simulate_get("/static/index.html").content == client.simulate_get("/").content


SAME = [
    "/",
    "/docs",
    "/docs/swagger-ui.css",
    "/openapi.json",
    "/static/index.html",
    "/shared/page.js",
    "/shared/style.css",
]
LISTS = {
    "inventory": ["/api/items", "/api/items/1"],
    "shop": ["/api/users", "/api/items", "/api/orders?user_id=1"],
    "payment": ["/api/payments", "/api/payments?user_id=1"],
}
UNKNOWN = f"/api/orders/{UUID(int=1)}"


@pytest.fixture
def filled(name: str, client: TestClient) -> TestClient:
    """The client of a service in which there is something to see."""
    posts = {"inventory": "/api/item", "shop": "/api/user", "payment": "/api/payment"}
    body = {"item": {"name": "Millet", "price": 1}, "name": "Kesha", "user_id": 1, "price": 1}
    assert client.simulate_post(posts[name], json=body).status_code == 201
    return client


def test_head_is_get_without_the_body(name: str, filled: TestClient) -> None:
    for path in [*SAME, *LISTS[name], "/livez", "/readyz", "/nowhere", "/api/items/9", UNKNOWN]:
        got, asked = filled.simulate_get(path), filled.simulate_head(path)
        assert (asked.status, asked.content) == (got.status, b""), path
        ids = {"x-request-id": ""}
        assert {**asked.headers, **ids} == {**got.headers, **ids}, path
    assert filled.simulate_head("/metrics").status_code == 200


READ = ("/static/index.html", "/shared/page.js", "/docs", "/livez", "/metrics")


def test_other_methods_are_refused(name: str, client: TestClient) -> None:
    """They name those that there are; what is read is asked by HEAD, too."""
    for path, methods in {**PATHS[name], **{path: {"get"} for path in READ}}.items():
        allowed = {method.upper() for method in methods} | {"OPTIONS"}
        if "GET" in allowed:
            allowed.add("HEAD")
        for method in {"GET", "POST", "PUT", "PATCH", "DELETE", "TRACE"} - allowed:
            answer = client.simulate_request(method, path.format(item_id=1, order_id=UUID(int=1)))
            problem(answer, 405)
            assert set(answer.headers["Allow"].split(", ")) == allowed


def test_every_answer_tells_how_it_may_be_kept(name: str, filled: TestClient) -> None:
    for path in [*SAME, *LISTS[name]]:
        answer = filled.simulate_get(path)
        private = "user_id" in path or "/orders/" in path
        assert answer.headers["Cache-Control"] == ("private, no-cache" if private else "no-cache")
        for known in (answer.headers["ETag"], f"W/{answer.headers['ETag']}", "*"):
            same = filled.simulate_get(path, headers={"If-None-Match": known})
            assert (same.status_code, same.content) == (304, b""), (path, known)
            for header in ("Cache-Control", "ETag"):
                assert same.headers[header] == answer.headers[header]
        for other in ('"*"', '"other"', '"*", "other"'):
            assert filled.simulate_get(path, headers={"If-None-Match": other}).status_code == 200
    for method, path in [
        *(("GET", path) for path in ("/livez", "/readyz", "/metrics", "/nowhere", "/api/orders")),
        *(("POST", path) for path in ("/api/item", "/api/user", "/api/payment", "/livez")),
        ("PUT", "/api/items/1/toggle_status"),
        ("OPTIONS", "/"),
    ]:
        answer = filled.simulate_request(method, path)
        assert answer.headers["Cache-Control"] == "no-store", path
        assert "ETag" not in answer.headers


def test_conditions_that_do_not_hold_are_ignored(client: TestClient) -> None:
    """A part is not sent, of a file no more than of a list: the whole answer is what is allowed."""
    for headers in (
        {"Range": "bytes=0-3", "If-Range": '"another"'},
        {"Range": "bytes=0-3", "If-Range": "Mon, 01 Jan 2001 00:00:00 GMT"},
        {"Range": "bytes=9999999-"},
        {"If-Modified-Since": "yesterday"},
        {"If-Modified-Since": "Mon, 99 Foo 2001 00:00:00 GMT"},
    ):
        answer = client.simulate_get("/shared/page.js", headers=headers)
        assert (answer.status_code, answer.content) == (
            200,
            client.simulate_get("/shared/page.js").content,
        )


def test_the_first_requests_share_an_app(
    shared: SqliteFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of other WSGI servers, which may have several threads at once."""
    made: list[App] = []
    monkeypatch.setattr("runtime.web.shell.configure_logs", lambda *_: None)

    def make(_: Settings) -> App:
        time.sleep(0.05)  # so that others come meanwhile
        made.append(probe_app(None, Probe()))
        return made[0]

    client = TestClient(on_first_request("test", make))
    answers = in_threads(shared, [lambda: client.simulate_get("/livez")] * 4)
    assert ([answer.status_code for answer in answers], len(made)) == ([200] * 4, 1)


def test_a_new_page_names_new_files(
    shared: SqliteFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a browser has kept of an old version has another URL, however deep it is referred to."""
    own, common = tmp_path / "own", tmp_path / "common"
    shutil.copytree(ROOT / "shop" / "static", own)
    shutil.copytree(ROOT / "runtime" / "web" / "static", common)
    monkeypatch.setattr("runtime.web.static.SHARED", common)

    def loaded() -> set[str]:
        """All that the page loads."""
        app = TestClient(http_app(shared, Probe(), documented("Test"), own))
        urls, unread = set(), {"/"}
        while unread:
            url = unread.pop()
            urls.add(url)
            text = app.simulate_get(url).text
            found = set(re.findall(r"/(?:static|shared)/[^\"'\s)]+", text))
            unread |= found - urls
        assert all(app.simulate_get(url).status_code == 200 for url in urls)
        return {url for url in urls if url != "/"}

    before = loaded()
    assert {url.partition("?")[0] for url in before} == {
        *("/static/shop.js", "/static/shop.css"),
        *("/shared/page.js", "/shared/facts.js", "/shared/style.css", "/shared/parrot.svg"),
    }
    assert loaded() == before
    with (common / "page.js").open("a") as script:
        script.write("// changed")
    assert not loaded() & before


def test_scripts_may_name_each_other_and_what_is_not_there(
    shared: SqliteFile, tmp_path: Path
) -> None:
    (tmp_path / "index.html").write_text("")
    for own, other in ("ab", "ba"):
        script = f'import "/static/{other}.js"; // unlike /static/nowhere.js'
        (tmp_path / f"{own}.js").write_text(script)
    client = TestClient(http_app(shared, Probe(), documented("Test"), tmp_path))
    assert re.match(r'import "/static/b.js\?v=\w+";', client.simulate_get("/static/a.js").text)
