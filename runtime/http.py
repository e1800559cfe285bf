"""The HTTP shell of every service: problem+json, request ids, health, metrics and documents."""

import re
import time
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from random import getrandbits
from typing import TYPE_CHECKING, Any, Protocol
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

import falcon
import falcon.media
import structlog
from falcon.routing import BaseConverter
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Histogram,
    Metric,
    ProcessCollector,
    generate_latest,
)
from pydantic_core import from_json, to_json

from runtime import ROOT, problem
from runtime.database import Database, is_outage
from runtime.errors import FieldError, NotFound, Refused, StartError, one_line
from runtime.logs import configure_logs
from runtime.problem import MAX_BODY_BYTES
from runtime.settings import load_settings

if TYPE_CHECKING:
    from spectree import SpecTree  # the broker does without it

log = structlog.get_logger(__name__)

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
PROBES = {  # they answer without a database, too: what, in which form, with which statuses
    "/livez": ("Tell whether the process serves.", falcon.MEDIA_JSON, [200]),
    "/readyz": ("Tell whether it can do its work, and what waits.", falcon.MEDIA_JSON, [200, 503]),
    "/metrics": ("Tell Prometheus how things are.", falcon.MEDIA_TEXT, [200]),
}
POLICY = "Content-Security-Policy"  # W3C CSP 3
NOT_FRAMED = "base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'"
PAGE_POLICY = f"default-src 'self'; {NOT_FRAMED}"
DOCS_POLICY = f"default-src 'self' 'unsafe-inline' data:; {NOT_FRAMED}"  # Swagger's own
METHODS = {"GET", "POST", "PUT"}  # others are counted together
SHARED = ROOT / "runtime" / "static"  # what the pages have in common
App = falcon.App[falcon.Request, falcon.Response]


class Probed(Protocol):
    """What tells how a process is: an exchange, or the journal."""

    def status(self) -> dict[str, Any]:
        """What ``/readyz`` adds; with a ``problem`` if it cannot go on."""

    def collect(self) -> Iterable[Metric]:
        """What ``/metrics`` adds."""


def probe_app(database: Database | None, probed: Probed) -> App:
    """Make an app with health and metrics, and with our errors, and nothing else.

    The ``database``, if the app has one of its own, is opened by the first request.
    """
    metrics = CollectorRegistry()
    metrics.register(probed)
    ProcessCollector(registry=metrics)
    app = App(middleware=[_EachRequest(database, metrics)])
    app.router_options.converters["id"] = _IdConverter
    json = falcon.media.JSONHandler(dumps=to_json, loads=from_json)
    app.resp_options.media_handlers[falcon.MEDIA_JSON] = json
    app.set_error_serializer(_http_error)
    app.add_error_handler(Exception, _any_error)
    app.add_route("/livez", _Document(falcon.MEDIA_JSON, lambda: b'{"status":"alive"}'))
    app.add_route("/readyz", _Readiness(database, probed))
    app.add_route("/metrics", _Document(CONTENT_TYPE_LATEST, lambda: generate_latest(metrics)))
    return app


def http_app(database: Database, probed: Probed, api: "SpecTree", static: Path) -> App:
    """Make a service's app, with everything but its own routes.

    ``static`` is the folder of its page; ``/shared`` has what all pages have in common.
    """
    app = probe_app(database, probed)
    app.add_route("/openapi.json", _Document(falcon.MEDIA_JSON, lambda: to_json(api.spec)))
    docs = api.config.page_templates["swagger"].format(spec_url="/openapi.json").encode()
    app.add_route("/docs", _Document(falcon.MEDIA_HTML, lambda: docs, DOCS_POLICY))
    app.add_route("/", _Document(falcon.MEDIA_HTML, (static / "index.html").read_bytes))
    app.add_static_route("/static", static)
    app.add_static_route("/shared", SHARED)
    api.app = app
    return app


class _EachRequest:
    """What happens around every request: the database is there, and log lines carry its id."""

    def __init__(self, database: Database | None, metrics: CollectorRegistry) -> None:
        self._database = database
        self._requests = Histogram(
            "http_request_duration_seconds",
            "Requests by route, method and status: how many, and how long they took.",
            ["route", "method", "status"],
            registry=metrics,
        )

    def process_request(self, req: falcon.Request, resp: falcon.Response) -> None:
        given = req.get_header("X-Request-ID") or ""
        request_id = given if REQUEST_ID.fullmatch(given) else f"{getrandbits(128):032x}"
        structlog.contextvars.bind_contextvars(request_id=request_id)
        resp.set_header("X-Request-ID", request_id)
        resp.set_header("X-Content-Type-Options", "nosniff")
        resp.set_header(POLICY, PAGE_POLICY)
        req.context.started = time.perf_counter()
        req.context.database = self._database
        if (req.content_length or 0) > MAX_BODY_BYTES:
            raise falcon.HTTPContentTooLarge()
        if self._database and req.path not in PROBES:
            self._database.open()

    def process_response(
        self, req: falcon.Request, resp: falcon.Response, resource: object, succeeded: bool
    ) -> None:
        write = log.debug if req.method == "GET" else log.info
        elapsed_s = time.perf_counter() - req.context.started
        method, status = req.method if req.method in METHODS else "other", resp.status_code
        self._requests.labels(req.uri_template or "other", method, status).observe(elapsed_s)
        elapsed_ms = round(elapsed_s * 1000, 1)
        write("request", method=req.method, path=req.path, status=status, ms=elapsed_ms)
        structlog.contextvars.clear_contextvars()


class _IdConverter(BaseConverter):
    """An id in a path: a whole number from 1 to 2^63-1; anything else is no such object."""

    def convert(self, value: str) -> int | None:
        if not re.fullmatch(r"[1-9][0-9]{0,18}", value, re.ASCII):
            return None
        return int(value) if int(value) < 2**63 else None


def _problem(
    req: falcon.Request,
    resp: falcon.Response,
    status: int,
    detail: str | None,
    errors: tuple[FieldError, ...] = (),
) -> None:
    resp.status = status
    resp.delete_header("Location")  # of an answer that did not come about
    resp.content_type = problem.CONTENT_TYPE
    resp.data = problem.document(status, detail, req.path, errors)


def _http_error(req: falcon.Request, resp: falcon.Response, error: falcon.HTTPError) -> None:
    _problem(req, resp, error.status_code, error.description)


def _any_error(
    req: falcon.Request, resp: falcon.Response, error: Exception, params: dict[str, Any]
) -> None:
    """The one table from exception to status."""
    match error:
        case Refused(errors=errors):
            _problem(req, resp, 422, str(error), errors)
        case NotFound():
            _problem(req, resp, 404, str(error))
        case _ if isinstance(error, StartError) or is_outage(error):
            log.error("database is not available", error=str(error))
            resp.set_header("Retry-After", "1")
            _problem(req, resp, 503, "The database cannot be used just now. Try again.")
        case _:
            log.exception("unexpected error", path=req.path)
            _problem(req, resp, 500, "The error was logged under this answer's X-Request-ID.")


class _Document:
    """A resource that is what a function makes."""

    def __init__(
        self, content_type: str, make: Callable[[], bytes], policy: str = PAGE_POLICY
    ) -> None:
        self._content_type = content_type
        self._make = make
        self._policy = policy

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        resp.content_type = self._content_type
        resp.set_header(POLICY, self._policy)
        resp.data = self._make()


class _Readiness:
    def __init__(self, database: Database | None, probed: Probed) -> None:
        self._database = database
        self._probed = probed

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        state: dict[str, Any] = {"status": "ready", "database": "up"}
        try:
            if self._database:
                self._database.open()
            state |= self._probed.status()
        except Exception as error:
            if not isinstance(error, StartError) and not is_outage(error):
                raise
            state |= {"database": "down", "problem": one_line(error)}
        if "problem" in state:
            state["status"] = "unready"
            resp.status = falcon.HTTP_503
        resp.media = state


def on_first_request(name: str, make: Callable[[], App]) -> WSGIApplication:
    """An app for other WSGI servers, made by its first request: importing it opens nothing."""

    @cache
    def app() -> App:
        configure_logs(name, load_settings())
        return make()

    def answer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        return app()(environ, start_response)

    return answer
