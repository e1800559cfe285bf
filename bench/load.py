"""The load: 16 connections that ask one thing again and again, as fast as they are answered."""

import json
import shutil
import subprocess
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from statistics import quantiles
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import NamedTuple
from urllib.parse import urlsplit
from uuid import uuid4

from bench.errors import Failed

CONNECTIONS = 16
ANSWER_TIMEOUT_S = 30
WRK = shutil.which("wrk")
GENERATOR = "wrk" if WRK else "threads of the benchmark (wrk is not installed)"
JSON = MappingProxyType({"Content-Type": "application/json"})
NO_HEADERS: Mapping[str, str] = MappingProxyType({})
KEY = "Idempotency-Key"

KEYS = """
local run, number = {run}, 0
request = function()
  number = number + 1
  wrk.headers[ {key} ] = run .. number
  return wrk.format()
end
"""

SCRIPT = """
wrk.method = {method}
wrk.body = {body}
{headers}
{keys}
done = function(summary, latency)
  local e = summary.errors
  local failed = e.connect + e.read + e.write + e.status + e.timeout
  io.write(string.format('\\n{{"answered": %d, "failed": %d, "seconds": %f, "p99_ms": %f}}\\n',
    summary.requests, failed, summary.duration / 1e6, latency:percentile(99) / 1e3))
end
"""


class Request(NamedTuple):
    """What is asked."""

    method: str
    url: str
    body: bytes = b""
    headers: Mapping[str, str] = NO_HEADERS
    has_keys: bool = False  # an idempotency key for each time that it is asked


class Answer(NamedTuple):
    """What is answered; the names of ``headers`` are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Load(NamedTuple):
    """What came of it; ``failed`` were answered with an error, or not at all."""

    answered: int
    failed: int
    seconds: float
    p99_ms: float  # until an answer

    @property
    def rate(self) -> float:
        """Answers a second."""
        return self.answered / self.seconds


def ask(request: Request) -> Answer:
    """Ask once, on a connection of its own."""
    parts = urlsplit(request.url)
    with closing(HTTPConnection(parts.netloc, timeout=ANSWER_TIMEOUT_S)) as connection:
        return _ask(connection, request)


def drive(request: Request, seconds: float, connections: int = CONNECTIONS) -> Load:
    """Ask for some seconds; `Failed` if anything was answered with an error."""
    make = partial(_wrk, WRK) if WRK else _threads
    load = make(request, seconds, connections)
    if load.failed or not load.answered:
        told = f"{load.failed} of {load.answered} requests failed"
        raise Failed(f"{request.method} {request.url}: {told}")
    return load


def _wrk(wrk: str, request: Request, seconds: float, connections: int) -> Load:
    headers = [f"wrk.headers[ {_lua(k)} ] = {_lua(v)}" for k, v in request.headers.items()]
    script = SCRIPT.format(
        method=_lua(request.method),
        body=_lua(request.body.decode()) if request.body else "nil",
        headers="\n".join(headers),
        keys=KEYS.format(run=_lua(f"{uuid4()}-"), key=_lua(KEY)) if request.has_keys else "",
    )
    length = ["--threads", "1", "--duration", f"{max(1, round(seconds))}s"]
    length += ["--timeout", f"{ANSWER_TIMEOUT_S}s"]
    with TemporaryDirectory() as folder:
        path = Path(folder) / "request.lua"
        path.write_text(script)
        command: list[str | Path] = [
            wrk,
            *length,
            "--connections",
            str(connections),
            "--script",
            path,
            request.url,
        ]
        told = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=seconds + 2 * ANSWER_TIMEOUT_S,
            check=False,
        )
    if told.returncode or told.stderr:
        raise Failed(f"wrk: {told.stderr.strip()}")
    return Load(**json.loads(told.stdout.splitlines()[-1]))


def _lua(text: str) -> str:
    return f"[==[{text}]==]"


def _threads(request: Request, seconds: float, connections: int) -> Load:
    ended = threading.Event()
    netloc = urlsplit(request.url).netloc

    def repeat() -> tuple[list[float], int]:
        times_ms, failed = [], 0
        with closing(HTTPConnection(netloc, timeout=ANSWER_TIMEOUT_S)) as connection:
            while not ended.is_set():
                asked = time.monotonic()
                failed += _ask(connection, request).status >= 400
                times_ms.append((time.monotonic() - asked) * 1000)
        return times_ms, failed

    begun = time.monotonic()
    with ThreadPoolExecutor(connections) as pool:
        workers = [pool.submit(repeat) for _ in range(connections)]
        ended.wait(seconds)
        ended.set()
    elapsed_s = time.monotonic() - begun
    results = [worker.result() for worker in workers]
    times_ms = [each for times_ms, _ in results for each in times_ms]
    p99_ms = quantiles(times_ms, n=100, method="inclusive")[98]
    return Load(len(times_ms), sum(failed for _, failed in results), elapsed_s, p99_ms)


def _ask(connection: HTTPConnection, request: Request) -> Answer:
    path = urlsplit(request.url)._replace(scheme="", netloc="").geturl()
    headers = {**request.headers, **({KEY: str(uuid4())} if request.has_keys else {})}
    connection.request(request.method, path, request.body or None, headers)
    response = connection.getresponse()
    return Answer(
        response.status,
        {name.lower(): value for name, value in response.getheaders()},
        response.read(),
    )
