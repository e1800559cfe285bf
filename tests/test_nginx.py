"""deploy/nginx/parrot-shop.conf in a real nginx, before a real shop."""

import gzip
import json
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.client import HTTPConnection, HTTPSConnection
from pathlib import Path
from typing import Any

import pytest

from runtime import ROOT
from runtime.process.children import listens
from tests.conftest import eventually, free_port
from tests.processes import ALL, SERVICES, Answer, World
from tests.programs import program

FILE = ROOT / "deploy" / "nginx" / "parrot-shop.conf"
PORTS = {"inventory": 8001, "shop": 8002, "payment": 8003}
NAMES = {name: f"{name}.example.org" for name in SERVICES}
STAFF, BUYER = "127.0.0.1", "127.0.0.2"  # the file has the first among the staff's
MAIN = """
daemon off; master_process off; pid {folder}/nginx.pid; error_log {folder}/proxy.log;
events {{}}
http {{
  access_log off; client_body_temp_path {folder}/a; proxy_temp_path {folder}/b;
  fastcgi_temp_path {folder}/c; uwsgi_temp_path {folder}/d; scgi_temp_path {folder}/e;
  include {folder}/parrot-shop.conf;
}}
"""


class Nginx:
    """nginx with the file of deploy/, of which only ports and paths are others."""

    def __init__(self, world: World, folder: Path) -> None:
        self.port, self.plain_port = free_port(), free_port()
        self.log = folder / "proxy.log"
        self._certificate = folder / "fullchain.pem"
        here = {
            "listen 80;": f"listen 127.0.0.1:{self.plain_port};",
            "listen 443 ": f"listen 127.0.0.1:{self.port} ",
            "/etc/ssl/parrot-shop": str(folder),
            "/var/lib/nginx/parrot-shop": str(folder / "cache"),
            **{f":{PORTS[name]} ": f":{world.settings.http_port(name)[0]} " for name in PORTS},
        }
        text = FILE.read_text()
        for theirs, ours in here.items():
            assert theirs in text
            text = text.replace(theirs, ours)
        (folder / "parrot-shop.conf").write_text(text)
        (folder / "nginx.conf").write_text(MAIN.format(folder=folder))
        alternatives = ",".join(f"DNS:{name}" for name in NAMES.values())
        make = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=parrots -addext"
        files = ["-keyout", folder / "privkey.pem", "-out", self._certificate]
        subprocess.run(
            [program("openssl"), *make.split(), f"subjectAltName={alternatives}", *files],
            check=True,
            capture_output=True,
        )
        self.command = [program("nginx"), "-p", str(folder), "-c", str(folder / "nginx.conf")]

    def connect(self, name: str, source: str = STAFF) -> HTTPConnection:
        """A connection under the name of a service, from this address."""
        context = ssl.create_default_context(cafile=self._certificate)
        connection: Any = HTTPSConnection(NAMES[name], self.port, context=context, timeout=10)
        connection._create_connection = lambda *_: socket.create_connection(
            ("127.0.0.1", self.port), timeout=10, source_address=(source, 0)
        )
        return connection  # type: ignore[no-any-return]

    def ask(
        self,
        name: str,
        method: str,
        path: str,
        body: Any = None,
        source: str = STAFF,
        **headers: str,
    ) -> Answer:
        named = {key.replace("_", "-"): value for key, value in headers.items()}
        if body is not None:
            named["Content-Type"] = "application/json"
        with closing(self.connect(name, source)) as connection:
            connection.request(method, path, body and json.dumps(body), named)
            answer = connection.getresponse()
            return Answer(answer.status, answer.headers, answer.read())


@contextmanager
def running(world: World, folder: Path) -> Iterator[Nginx]:
    nginx = Nginx(world, folder)
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(nginx.command, stdout=output, stderr=output)
    try:
        eventually(lambda: listens("127.0.0.1", nginx.port))
        yield nginx
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def nginx(world: World, tmp_path: Path) -> Iterator[Nginx]:
    with running(world, tmp_path) as front:
        yield front


def test_nginx_has_no_word_against_the_file(world: World, tmp_path: Path) -> None:
    ended = subprocess.run(
        [*Nginx(world, tmp_path).command, "-t"], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert "[warn]" not in ended.stderr


def test_buying_through_it(nginx: Nginx, world: World) -> None:
    """Staff stock the warehouse, a buyer buys, and what she may not see she does not."""
    world.start(*ALL)
    for number in range(30):
        item = {"item": {"name": f"Millet {number}", "price": 4000}}
        assert nginx.ask("inventory", "POST", "/api/item", item).status == 201

    def buyer(method: str, path: str, body: Any = None, **headers: str) -> Answer:
        return nginx.ask("shop", method, path, body, BUYER, **headers)

    eventually(lambda: len(buyer("GET", "/api/items").json()) == 30)
    assert buyer("POST", "/api/user", {"name": "Kesha"}).status == 201
    basket = {"user_id": 1, "item_ids": [1, 2]}
    keyed = [buyer("POST", "/api/checkout", basket, Idempotency_Key="once") for _ in range(2)]
    assert [answer.status for answer in keyed] == [201, 201]
    assert keyed[0].body == keyed[1].body
    path = keyed[0].headers["Location"]
    eventually(lambda: buyer("GET", path).json()["status"] == "paid")
    assert len(nginx.ask("payment", "GET", "/api/payments").json()) == 1

    listed = buyer("GET", "/api/items", Accept_Encoding="gzip")
    assert listed.headers["Content-Encoding"] == "gzip"
    assert len(json.loads(gzip.decompress(listed.body))) == 30
    again = buyer("GET", "/api/items", Accept_Encoding="gzip", If_None_Match=listed.headers["ETag"])
    assert (again.status, again.body) == (304, b"")

    for name in SERVICES:
        for private in ("/metrics", "/livez", "/readyz"):
            assert nginx.ask(name, "GET", private).status == 200
            assert nginx.ask(name, "GET", private, source=BUYER).status == 403
    assert nginx.ask("payment", "GET", "/api/payments", source=BUYER).status == 403
    refused = nginx.ask("inventory", "GET", "/", source=BUYER)
    assert refused.headers["Content-Type"] == "application/problem+json"
    assert refused.json() == {"type": "about:blank", "title": "Forbidden", "status": 403}


def test_a_page_while_its_service_is_gone(nginx: Nginx, world: World) -> None:
    """Its files are kept under the hash of what is in them; nothing else is, and it is said."""
    world.start("shop")
    page = nginx.ask("shop", "GET", "/").body.decode()
    (script,) = {part.split('"')[0] for part in page.split('src="')[1:] if "/static/" in part[:9]}
    first = nginx.ask("shop", "GET", script)
    assert first.status == 200
    assert nginx.ask("shop", "GET", "/static/shop.js").status == 200
    world.kill("shop")
    assert nginx.ask("shop", "GET", script).body == first.body
    assert nginx.ask("shop", "GET", "/static/shop.js").status == 502
    away = nginx.ask("shop", "GET", "/api/items")
    assert (away.status, away.json()["title"]) == (502, "Bad Gateway")
    assert away.headers["Strict-Transport-Security"]


def test_what_is_too_much(nginx: Nginx, world: World) -> None:
    """A body above the limit, and one buyer who asks without end: refused; the others are not."""
    world.start("shop")
    large = nginx.ask("shop", "POST", "/api/user", {"name": "x" * 1024 * 1024})
    assert (large.status, large.json()["status"]) == (413, 413)
    with closing(nginx.connect("shop", BUYER)) as connection:
        told = set()
        deadline = time.monotonic() + 20
        while 429 not in told and time.monotonic() < deadline:
            connection.request("GET", "/api/users")
            with connection.getresponse() as answer:
                answer.read()
                told.add(answer.status)
    assert told == {200, 429}
    assert nginx.ask("shop", "GET", "/api/users").status == 200
    with closing(HTTPConnection("127.0.0.1", nginx.plain_port, timeout=10)) as connection:
        connection.request("POST", "/api/user?a=1", b"{}", {"Host": NAMES["shop"]})
        answer = connection.getresponse()
        location = f"https://{NAMES['shop']}/api/user?a=1"
        assert (answer.status, answer.headers["Location"]) == (308, location)
