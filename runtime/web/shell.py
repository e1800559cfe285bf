"""The HTTP shell of every service: problem+json, request ids, health and metrics."""

import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from random import getrandbits
from threading import Lock
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

import falcon
import structlog
from falcon.routing import BaseConverter, CompiledRouter
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Histogram,
    Info,
    Metric,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily
from pydantic_core import to_json

from runtime import VERSION
from runtime.process.errors import FieldError, NotFound, Refused, StartError, Unavailable, one_line
from runtime.process.fields import MAX_ID
from runtime.process.logs import REQUEST_ID, configure_logs
from runtime.process.settings import Settings, load_settings
from runtime.storage.database import Database, is_outage
from runtime.web import problem
from runtime.web.problem import MAX_BODY_BYTES
from runtime.web.static import PAGE_POLICY, POLICY, Document, add_pages

if TYPE_CHECKING:
    from spectree import SpecTree  # the broker does without it

log = structlog.get_logger(__name__)

GIVEN_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
PROBES = {  # they answer without a database, too: summary, media type and statuses
    "/livez": ("Report whether the process is up.", falcon.MEDIA_JSON, [200]),
    "/readyz": ("Report readiness, and what is waiting.", falcon.MEDIA_JSON, [200, 503]),
    "/metrics": ("Serve metrics to Prometheus.", falcon.MEDIA_TEXT, [200]),
}
METHODS = {"GET", "HEAD", "POST", "PUT"}  # others are counted together
App = falcon.App[falcon.Request, falcon.Response]


class Probed(Protocol):
    """What reports the state of a process: a service, or the journal."""

    def status(self) -> dict[str, Any]:
        """What ``/readyz`` adds; with a ``problem`` if it cannot go on."""

    def collect(self) -> Iterable[Metric]:
        """What ``/metrics`` adds."""


def probe_app(database: Database | None, probed: Probed) -> App:
    """Make an app with health, metrics and our errors, and nothing else.

    The first request opens the ``database``, if the app has one of its own.
    """
    disable_created_metrics()  # type: ignore[no-untyped-call]  # once more is harmless
    metrics, readiness = CollectorRegistry(), _Readiness(database, probed)
    metrics.register(readiness)  # the first, as it opens the database
    metrics.register(probed)
    ProcessCollector(registry=metrics)
    Info("parrot_build", "What runs here.", registry=metrics).info({"version": VERSION})
    app = App(middleware=[_EachRequest(database, metrics)], router=_Router())
    app.router_options.converters["id"] = _IdConverter
    app.set_error_serializer(_http_error)
    app.add_error_handler(Exception, _any_error)
    app.add_route("/livez", _Report(falcon.MEDIA_JSON, lambda: b'{"status":"alive"}'))
    app.add_route("/readyz", readiness)
    app.add_route("/metrics", _Report(CONTENT_TYPE_LATEST, lambda: generate_latest(metrics)))
    return app


def http_app(
    database: Database,
    probed: Probed,
    api: "SpecTree",
    page: Path,
    facts: Mapping[str, Any] = MappingProxyType({}),
) -> App:
    """Make a service's app, with everything but its own routes.

    ``page`` is the folder of its page, and its scripts can import the ``facts``.
    """
    app = probe_app(database, probed)
    app.add_route("/openapi.json", Document(falcon.MEDIA_JSON, lambda: to_json(api.spec)))
    add_pages(app, page, facts)
    api.app = app
    return app


class _Router(CompiledRouter):
    """falcon's router, with HEAD wherever GET is (RFC 9110, 9.3.2): falcon leaves out the body."""

    def map_http_methods(self, resource: object, **options: Any) -> dict[str, Any]:
        """The responders of a resource by method."""
        methods: dict[str, Any] = super().map_http_methods(resource, **options)
        return {"HEAD": methods["GET"], **methods} if "GET" in methods else methods


class _EachRequest:
    """Surrounds each request: opens the database, tags log lines with its id, and measures it."""

    def __init__(self, database: Database | None, metrics: CollectorRegistry) -> None:
        self._database = database
        requests = Histogram(
            "parrot_http_request_duration_seconds",
            "Requests by route, method and status: how many, and how long they took.",
            ["route", "method", "status"],
            registry=metrics,
        )
        self._of = cache(requests.labels)

    def process_request(self, req: falcon.Request, resp: falcon.Response) -> None:
        given = req.get_header("X-Request-ID") or ""
        request_id = given if GIVEN_ID.fullmatch(given) else f"{getrandbits(128):032x}"
        REQUEST_ID.set(request_id)
        req.context.request_id = request_id
        resp.set_header("X-Request-ID", request_id)
        resp.set_header("X-Content-Type-Options", "nosniff")
        resp.set_header("Cache-Control", "no-store")  # unless the answer says otherwise
        resp.set_header(POLICY, PAGE_POLICY)
        req.context.started = time.perf_counter()
        req.context.database = self._database
        if req.method not in falcon.COMBINED_METHODS:
            raise falcon.HTTPNotImplemented()
        if (req.content_length or 0) > MAX_BODY_BYTES:
            raise falcon.HTTPContentTooLarge()
        if self._database and req.path not in PROBES:
            self._database.open()

    def process_response(
        self, req: falcon.Request, resp: falcon.Response, resource: object, succeeded: bool
    ) -> None:
        write = log.debug if req.method in ("GET", "HEAD") else log.info
        elapsed_s = time.perf_counter() - req.context.started
        method, status = req.method if req.method in METHODS else "other", resp.status_code
        self._of(req.uri_template or "other", method, status).observe(elapsed_s)
        elapsed_ms = round(elapsed_s * 1000, 1)
        write("request", method=req.method, path=req.path, status=status, ms=elapsed_ms)
        REQUEST_ID.set(None)


class _IdConverter(BaseConverter):
    """An id in a path: a whole number from 1 to 2^53-1; anything else is no such object."""

    def convert(self, value: str) -> int | None:
        if not re.fullmatch(r"[1-9][0-9]{0,15}", value, re.ASCII):
            return None
        return int(value) if int(value) <= MAX_ID else None


def _problem(
    req: falcon.Request,
    resp: falcon.Response,
    status: int,
    detail: str | None,
    errors: tuple[FieldError, ...] = (),
) -> None:
    resp.status = f"{status} {problem.title(status)}"
    resp.set_header("Cache-Control", "no-store")
    for name in ("ETag", "Link", "Location"):  # of the answer that failed
        resp.delete_header(name)
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
            log.error("the request cannot be served now", error=str(error))
            resp.set_header("Retry-After", "1")
            _problem(req, resp, 503, str(error) if isinstance(error, Unavailable) else None)
        case _:
            log.exception("unexpected error", path=req.path)
            _problem(req, resp, 500, "The error was logged under this answer's X-Request-ID.")


class _Report:
    """A resource with new content each time."""

    def __init__(self, content_type: str, write: Callable[[], bytes]) -> None:
        self._content_type = content_type
        self._write = write

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        resp.content_type = self._content_type
        resp.data = self._write()


class _Readiness:
    def __init__(self, database: Database | None, probed: Probed) -> None:
        self._database = database
        self._probed = probed

    def collect(self) -> Iterator[Metric]:
        ready = self._state()["status"] == "ready"
        yield GaugeMetricFamily("parrot_ready", "Whether /readyz answers 200.", value=ready)

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        state = self._state()
        resp.data = to_json(state)
        if state["status"] != "ready":
            resp.status = falcon.HTTP_503

    def _state(self) -> dict[str, Any]:
        state: dict[str, Any] = {"status": "ready", "database": "up"}
        try:
            if self._database:
                self._database.open()
                if trouble := self._database.try_writing():
                    state["problem"] = f"the last write has failed: {trouble}"
            state |= self._probed.status()
            if self._database:
                self._database.check()
        except Exception as error:
            if not isinstance(error, StartError) and not is_outage(error):
                raise
            state |= {"database": "down", "problem": one_line(error)}
        if "problem" in state:
            state["status"] = "unready"
        return state


def on_first_request(name: str, make: Callable[[Settings], App]) -> WSGIApplication:
    """An app for other WSGI servers, made by its first request: importing it opens nothing."""
    making = Lock()  # several may come first

    @cache
    def app() -> App:
        settings = load_settings()
        configure_logs(name, settings)
        return make(settings)

    def answer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        with making:
            made = app()
        return made(environ, start_response)

    return answer
