"""Whatever is sent, the answer is the documented one, never 5xx, and a refusal changes nothing."""

import gzip
import json
import re
import socket
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, NamedTuple

import pytest
from falcon.testing import Result, TestClient

from runtime.web.server import HttpServer
from shop.app import Shop
from tests.conftest import free_port
from tests.contract import EPOCH, events, fields, post, problem, unchanged, written
from tests.shop.conftest import item, stocked  # noqa: F401  # a fixture, asked for by its name

POSTS: dict[str, tuple[str, dict[str, Any]]] = {
    "/api/item": ("inventory", {"item": {"name": "Millet", "price": 4000}}),
    "/api/user": ("stocked", {"name": "Kesha"}),
    "/api/checkout": ("stocked", {"user_id": 1, "item_ids": [1, 2, 2]}),
    "/api/payment": ("payment", {"user_id": 1, "price": 4300}),
}
LISTS = {
    "inventory": ["/api/items?"],
    "stocked": ["/api/users?", "/api/items?", "/api/orders?user_id=1&"],
    "payment": ["/api/payments?"],
}


class Door(NamedTuple):
    """A path that takes a POST, with a body that it accepts."""

    service: Any
    client: TestClient
    path: str
    body: dict[str, Any]

    def post(self, content: Any, **headers: str) -> Result:
        content = content if isinstance(content, bytes) else json.dumps(content).encode()
        headers = {"Content-Type": "application/json"} | headers
        return self.client.simulate_post(self.path, body=content, headers=headers)

    def refuses(self, content: Any, status: int, **headers: str) -> None:
        problem(self.post(content, **headers), status)


@pytest.fixture(params=POSTS)
def door(request: pytest.FixtureRequest) -> Door:
    name, body = POSTS[request.param]
    service = request.getfixturevalue(name)
    return Door(service, TestClient(service.app()), request.param, body)


@pytest.fixture(params=LISTS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def service(name: str, request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(name)


@pytest.fixture
def client(name: str, service: Any) -> TestClient:
    return TestClient(service.app())


def holes(body: Any) -> Iterator[Any]:
    """The body with a ``...`` in place of each value in it, and of itself."""
    yield ...
    keys = body if isinstance(body, dict) else range(len(body)) if isinstance(body, list) else ()
    for key in keys:
        for hole in holes(body[key]):
            copy = body.copy()
            copy[key] = hole
            yield copy


NOT_JSON = [
    *("NaN", "Infinity", "-Infinity", "01", "+1", "1_0", "0x1", "undefined", "'x'", "1//", ""),
    *("1}{", "[" * 100_000, '"\\ud800"', '"\\udfff"', '"\\ud83d x"', '"\\x00"', '"a\nb"', '"a\0b"'),
    *("9" * 100_000, "[" * 100_000 + "]" * 100_000, '{"a":' * 100_000 + "1" + "}" * 100_000),
]
NOT_VALID = [
    *("1.0", "1e2", "-0.0", "1e400", "-1e400", "1e-400", "9" * 4300, "1" + "0" * 400),
    *("-1", str(2**63), str(2**64), str(-(2**63) - 1)),
    *("[[1]]", "[" * 100 + "]" * 100, '{"$gt": ""}', json.dumps([1] * 100_000)),
    json.dumps("x" * 1_000_000),
]


def test_a_hostile_value_at_any_place(door: Door) -> None:
    with unchanged(door.service):
        for body in holes(door.body):
            for value in NOT_JSON:
                door.refuses(written(body, value), 400)
            for value in NOT_VALID:
                door.refuses(written(body, value), 422)
        for value in NOT_JSON:
            door.refuses(written({**door.body, "extra": ...}, value), 400)


def test_a_body_that_is_broken_at_any_place(door: Door) -> None:
    """Cut off, or with a byte that JSON in UTF-8 does not have there."""
    content = json.dumps(door.body).encode()
    with unchanged(door.service):
        for at in range(len(content)):
            door.refuses(content[:at], 400)
            for wrong in (b"\0", b"\x1f", b"\x7f\x80", b"\xc0\xaf", b"\xed\xa0\x80", b"\xff"):
                door.refuses(content[:at] + wrong + content[at + 1 :], 400)


def test_the_last_of_two_members_counts(door: Door) -> None:
    """So what was checked is what is done."""
    for name in door.body:
        wrong, right = f'{{"{name}": -1, '.encode(), json.dumps(door.body).encode()[1:]
        assert door.post(wrong + right).status_code == 201
        with unchanged(door.service):
            door.refuses(b"{" + right[:-1] + f', "{name}": -1}}'.encode(), 422)


def test_a_body_in_another_form(door: Door) -> None:
    """Neither a charset nor a coding that is named makes other bytes JSON in UTF-8."""
    content = json.dumps(door.body).encode()
    form = b"--x\r\nContent-Disposition: form-data; name=name\r\n\r\nKesha\r\n--x--\r\n"
    with unchanged(door.service):
        for charset in ("utf-16", "utf-32", "utf-7", "nonsense"):
            named = {"Content-Type": f"application/json; charset={charset}"}
            for encoding in ("utf-8-sig", "utf-16", "utf-32"):
                door.refuses(json.dumps(door.body).encode(encoding), 400, **named)
        door.refuses(gzip.compress(content), 400, **{"Content-Encoding": "gzip"})
        for name in ("", "*/*", "text/json", "text/plain", "application/x-www-form-urlencoded"):
            door.refuses(content, 415, **{"Content-Type": name})
        for name in ("application/jsons", "application/json-seq", "application/problem+json", "\0"):
            door.refuses(content, 415, **{"Content-Type": name})
        door.refuses(content, 415, **{"Content-Type": "x" * 100_000})
        problem(door.client.simulate_post(door.path, body=content), 415)
        door.refuses(form, 415, **{"Content-Type": "multipart/form-data; boundary=x"})
    assert door.post(content, **{"Content-Type": "Application/JSON;charset=x"}).status_code == 201


def test_much_that_nobody_knows(door: Door) -> None:
    """60,000 members beside those that are known, and under a key: it is done, and once."""
    strange = {"": 10**4000, "\0": None, "deep": json.loads("[" * 100 + "]" * 100)}
    body = dict.fromkeys(map(str, range(60_000)), 0) | strange | door.body
    first = door.post(body, **{"Idempotency-Key": "a"})
    assert first.status_code == 201
    with unchanged(door.service):
        assert door.post(body, **{"Idempotency-Key": "a"}).content == first.content


NAMES = [
    "'; DROP TABLE user; --",
    '" OR ""="',
    "x'); DELETE FROM item WHERE ('1'='1",
    "%' OR 1=1 --",
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</script><!--",
    "{{7*7}} ${7*7} %s %n {0}",
    "../../etc/passwd",
    "$(reboot) `reboot` | reboot",
    "a\r\nSet-Cookie: a=b",
    "\x1b[2J\x1b[31m\x07\x08",
    "\x01\x7f\x9f",
    "\u202egnp.exe\u202c",
    "مرحبا שלום",
    "\u200b\u200d\u2060",
    "\ufeffKesha\ufeff",
    "a\u2028b\u2029c",
    "e\u0301" * 100,
    "\u0301" * 200,
    "👩‍👩‍👧‍👦🏴󠁧󠁢󠁥󠁮󠁧󠁿",
    "\uffff\U0010ffff\ue000",
    *("null", "NaN", "-1", "1e400", "undefined", "[object Object]", "__proto__", "\\", "\\u0000"),
]


@pytest.mark.parametrize("door", ["/api/item", "/api/user"], indirect=True)
def test_names_are_data(door: Door) -> None:
    """Whatever is in a name, it is stored and given back unchanged, in JSON and not in HTML."""
    for name in NAMES:
        answer = door.post({"name": name, "item": {"name": name, "price": 1}})
        assert (answer.status_code, answer.json["name"]) == (201, name)
        assert answer.headers["Content-Type"] == "application/json"
    listed = door.client.simulate_get(f"{door.path}s")
    assert [row["name"] for row in listed.json[-len(NAMES) :]] == NAMES
    assert listed.headers["Content-Type"] == "application/json"
    if door.path == "/api/item":
        assert [event["data"]["name"] for event in events(door.service)] == NAMES


def test_names_of_items_are_data_in_the_shop(stocked: Shop) -> None:  # noqa: F811  # the fixture
    """In its catalogue, and in orders."""
    client, ids = TestClient(stocked.app()), range(10, 10 + len(NAMES))
    for item_id, name in zip(ids, NAMES, strict=True):
        stocked.catalogue.update(EPOCH, [item(item_id, name=name)])
    listed = client.simulate_get("/api/items?after=9")
    order = post(client, "/api/checkout", {"user_id": 1, "item_ids": list(ids)})
    shown = client.simulate_get(order.headers["Location"])
    for rows in (listed.json, order.json["items"], shown.json["items"]):
        assert [row["name"] for row in rows] == NAMES


PATHS = [
    *("%00", "%", "%zz", "%f", "%ff", "%c0%af", "%ed%a0%80", "%2500", "%u0041", "%25252e"),
    *("../../etc/passwd", "..%2f..%2fetc%2fpasswd", "..%5c", "%2e%2e/", "..;/", ".git/config"),
    *("%0d%0aSet-Cookie:%20a=b", "1%0a", "1%20", "%091", "1;a=b", "1,2", "[1]", "{item_id}", "*"),
    *("1'%20OR%20'1'='1", "1%20UNION%20SELECT%201", "<script>", "${jndi:ldap://x}", "%F0%9F%A6%9C"),
    *("0x1", "1e3", "1.0", "+1", "-1", "01", "1_0", "%D9%A1", "null", "a" * 50_000, "1/" * 5000),
]


def test_junk_in_paths(service: Any, client: TestClient) -> None:
    """There is nothing, whatever the method, and the problem names the path in plain ASCII."""
    with unchanged(service):
        for junk in PATHS:
            for base in ("/", "/api/", "/api/items/", "/api/orders/", "/api/items/1/"):
                for method in ("GET", "PUT", "POST", "DELETE"):
                    answer = client.simulate_request(method, base + junk)
                    assert re.fullmatch(r"[!-~]+", problem(answer, 404)["instance"])


QUERIES = {
    "": [
        *("&&==&&", "%", "%zz=%ff", "=1", "x" * 100_000, "x=1&" * 10_000),
        *("LIMIT=0", "limit[]=0", "limit%00=0", "a=';DROP TABLE item", "after.x=0"),
    ],
    "limit": [
        *("limit=%ff", "limit=%00", "limit=1%00", "limit=1%0d%0aa:b", "limit=%31%20", "limit=-0"),
        *("limit=1,2", "limit=1;after=2", "limit=1e2", "limit=NaN", "limit=[1]", "limit={}"),
        *("limit=1&" * 10_000, "limit=" + "1" * 100_000),
    ],
    "after": ["after=1 OR 1=1", "after=%D9%A1", "after=;", "after=" + "f" * 100_000],
}


def test_junk_in_queries(name: str, service: Any, client: TestClient) -> None:
    """Parameters that nobody knows are ignored, and wrong ones named."""
    for path in LISTS[name]:
        whole = client.simulate_get(path)
        assert whole.status_code == 200
        for query in QUERIES[""]:
            assert client.simulate_get(path + query).content == whole.content, query
        for field in ("limit", "after"):
            for query in QUERIES[field]:
                assert fields(client.simulate_get(path + query)) == [field], query


INJECTED = [
    *("a\r\nSet-Cookie: a=b", "a\nSet-Cookie: a=b", "a\rb", "\0", "a\0b", "\x1b[2J", "é"),
    "x" * 100_000,
]


def test_headers_cannot_be_injected(door: Door) -> None:
    """What is echoed is clean, and what would be kept is refused."""
    for value in INJECTED:
        answer = door.post(door.body, **{"X-Request-ID": value})
        assert answer.status_code == 201
        assert re.fullmatch(r"[0-9a-f]{32}", answer.headers["X-Request-ID"])
        assert not answer.cookies
        with unchanged(door.service):
            assert fields(door.post(door.body, **{"Idempotency-Key": value})) == ["Idempotency-Key"]


def test_junk_in_headers_that_nobody_reads(name: str, client: TestClient) -> None:
    junk = ("Accept", "Accept-Encoding", "Cookie", "Date", "Host", "If-None-Match", "Range")
    for value in (*INJECTED, ";;;,=;q=x", "bytes=9-1", '"' * 1000, "W/" * 1000):
        for path in LISTS[name]:
            answer = client.simulate_get(path, headers=dict.fromkeys(junk, value))
            assert answer.status_code == 200, value


@pytest.fixture
def server(stocked: Shop) -> Iterator[HttpServer]:  # noqa: F811  # the fixture
    running = HttpServer(stocked.app(), "127.0.0.1", free_port(), "SHOP_PORT")
    running.start()
    yield running
    running.stop()


def ask(server: HttpServer, request: bytes) -> bytes:
    """Send bytes and nothing more; what is answered until the server closes."""
    port, received = int(server.url.rpartition(":")[2]), b""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        with suppress(OSError):  # it may have closed before it has read all: then ENOTCONN, too
            connection.sendall(request)
            connection.shutdown(socket.SHUT_WR)
        with suppress(ConnectionError):
            while part := connection.recv(65536):
                received += part
    return received


def get(path: bytes = b"/api/users", headers: bytes = b"") -> bytes:
    start = b"GET " + path + b" HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n"
    return start + headers + b"\r\n"


def posted(headers: bytes, body: bytes = b'{"name": "Kesha"}') -> bytes:
    start = b"POST /api/user HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n"
    return start + b"Content-Type: application/json\r\n" + headers + b"\r\n" + body


CHUNKED, KESHA = b"Transfer-Encoding: chunked\r\n", b'11\r\n{"name": "Kesha"}\r\n0\r\n\r\n'
REQUESTS = {
    200: [get(), get(b"/api/users?" + b"x" * 30_000), get(headers=b"a: b\r\n" * 5_000)],
    400: [
        *(get(b"/\xff\xfe"), get(b"http://[::1/")),
        *(b"G\0T / HTTP/1.1\r\n\r\n", b"\x16\3\1\0\r\n\r\n"),
        *(get(headers=b"X-Request-ID: a" + end + b"Set-Cookie: a=b\r\n") for end in (b"\r", b"\n")),
        *(get(headers=line + b"\r\n") for line in (b"no colon", b"X-Request-ID: \0")),
        *(posted(b"Content-Length: %b\r\n" % n) for n in (b"-1", b"+17", b"1_7", b"0x11", b"1, 7")),
        *(posted(CHUNKED, size + KESHA) for size in (b"-", b"x", b"+", b" ")),
        *(posted(b""), posted(b"Content-Length: 17\r\nContent-Length: 2\r\n")),
    ],
    404: [
        get(b"/%00"),
        get(b"/%ff%zz"),
        get(b"/../../etc/passwd"),
        b"OPTIONS * HTTP/1.1\r\nHost: shop\r\n\r\n",
    ],
    422: [
        get(b"/api/users?limit=1%0d%0aSet-Cookie:a=b"),
        posted(b"Content-Length: 17\r\nIdempotency-Key: a\r\n Set-Cookie: a=b\r\n"),
        posted(b"Content-Length: 17\r\nIdempotency-Key: a\r\nIdempotency-Key: b\r\n"),
    ],
    431: [get(headers=b"x" * 32_768), get(b"/api/users?" + b"x" * 32_768)],
    501: [
        posted(b"Transfer-Encoding: xchunked\r\n", KESHA),
        *(get(path).replace(b"GET", b"BREW") for path in (b"/api/users", b"/livez", b"/none")),
    ],
}


def test_hostile_requests_on_the_wire(stocked: Shop, server: HttpServer) -> None:  # noqa: F811
    """Also what never comes to its end, which has no effect."""
    with unchanged(stocked):
        for status, requests in REQUESTS.items():
            for request in requests:
                head, _, body = ask(server, request).partition(b"\r\n\r\n")
                assert b" %d " % status in head.partition(b"\r\n")[0], request[:200]
                assert b"Set-Cookie" not in head
                assert (b"application/problem+json" in head) == (status >= 400)
                assert json.loads(body)
        for unended in (posted(b"Content-Length: 18\r\n"), posted(CHUNKED, KESHA[:-7]), get()[:-2]):
            assert ask(server, unended) == b""
    assert b"201 Created" in ask(server, posted(CHUNKED, KESHA))
