"""Requests checked and lists answered: pydantic models in, JSON out, documented by spectree."""

import hashlib
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Annotated, Any, NamedTuple
from urllib.parse import urlencode

import falcon
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    TypeAdapter,
    ValidationError,
)
from pydantic_core import PydanticCustomError, from_json, to_json
from spectree import Response, SpecTree
from spectree.plugins.falcon_plugin import FalconPlugin

from runtime import VERSION
from runtime.database import Database
from runtime.errors import FieldError, Refused
from runtime.http import PROBES
from runtime.idempotency import HEADER, KEY, once
from runtime.problem import CONTENT_TYPE, MAX_BODY_BYTES, Problem, document

MAX_ID = 2**63 - 1
MAX_LISTINGS = 16  # the whole list, and some pages of it
LOOK_INTERVAL_S = 0.01
TEXT = {"schema": {"type": "string"}}  # in the OpenAPI document


def _digits(text: object) -> object:
    if not (isinstance(text, str) and text.isascii() and text.isdigit()):
        raise PydanticCustomError("whole_number", "must be one whole number")
    return text


Id = Annotated[int, Field(strict=True, ge=1, le=MAX_ID)]
Name = Annotated[
    str,
    StringConstraints(
        strict=True, strip_whitespace=True, min_length=1, max_length=200, pattern=r"^[^\x00]*$"
    ),
    Field(json_schema_extra={"pattern": r"^[^\x00]*[^\x00\s\x85][^\x00]*$"}),  # it is not blank
]
Price = Annotated[int, Field(strict=True, ge=0, le=10**9)]  # of an item, in the smallest coin
Total = Annotated[int, Field(strict=True, ge=0, le=10**12)]  # of an order or a payment
QueryId = Annotated[int, Field(ge=1, le=MAX_ID), BeforeValidator(_digits)]
Limit = Annotated[int, Field(ge=1, le=1000), BeforeValidator(_digits)]


def like(**example: Any) -> ConfigDict:
    """The ``model_config`` of a model that the document shows by an example."""
    return ConfigDict(json_schema_extra={"example": example})


class Page(BaseModel):
    """The query of a list: at most ``limit`` rows; subclasses add ``after``, the last id seen."""

    limit: Limit | None = None

    @property
    def fetch(self) -> int | None:
        """How many rows to fetch: one more than asked for, to see whether there are more."""
        return self.limit + 1 if self.limit else None


class IdPage(Page):
    """The query of a list in which ``after`` is a number."""

    after: QueryId | None = None


class _Checker(FalconPlugin):
    """spectree's documents, with bodies parsed by pydantic and wrong ones refused our way.

    spectree's own check reads an empty body as ``{}`` and fails on some hostile JSON.
    """

    def validate(
        self, func: Callable[..., None], query: Any, json: Any, *rest: Any, **params: Any
    ) -> None:
        *_, resource, req, resp = rest
        if query is not None:
            params["query"] = _check(query, req.params)
        if json is None:
            func(resource, req, resp, **params)
            return
        body = _read_json(req)
        params["json"] = _check(json, body)
        once(req.context.database, req, resp, body, lambda: func(resource, req, resp, **params))


class _Document(SpecTree):
    """spectree's document, with headers, examples, the ids in paths, and the probes."""

    def _generate_spec(self) -> dict[str, Any]:
        spec = super()._generate_spec()
        schemas = spec["components"]["schemas"]
        for path, operations in spec["paths"].items():
            for method, operation in operations.items():
                _show("200", path, operation.get("requestBody", {}), schemas)
                for code, answer in operation["responses"].items():
                    _show(code, path, answer, schemas)
                takes, gives = operation["parameters"], operation["responses"]
                for parameter in takes:
                    if parameter["in"] == "path" and "format" not in parameter["schema"]:
                        parameter["schema"] = TypeAdapter(Id).json_schema()
                if method == "post":
                    key = {"type": "string", "pattern": f"^{KEY.pattern}$"}
                    takes.append({"name": HEADER, "in": "header", "schema": key})
                    gives["201"]["headers"] = {"Location": TEXT}
                elif "limit" in (parameter["name"] for parameter in takes):
                    takes.append({"name": "If-None-Match", "in": "header", **TEXT})
                    gives["200"]["headers"] = {"ETag": TEXT | {"required": True}, "Link": TEXT}
                    gives["304"] = {"description": "Not Modified", "headers": {"ETag": TEXT}}
        probes = {path: {"get": _probe(path, *of_it)} for path, of_it in PROBES.items()}
        return spec | {"paths": spec["paths"] | probes}


def _show(code: str, path: str, part: dict[str, Any], schemas: dict[str, Any]) -> None:
    """Give each content of a request or an answer its example."""

    def example(schema: dict[str, Any]) -> Any:
        match schema:
            case {"$ref": reference}:
                return example(schemas[reference.rpartition("/")[2]])
            case {"type": "array", "items": one}:
                return [example(one)]
        return schema.get("example", "ok")

    for content in part.get("content", {}).values():
        failed = code >= "400"
        content["example"] = (
            from_json(document(int(code), None, path)) if failed else example(content["schema"])
        )


def _probe(path: str, summary: str, media_type: str, codes: list[int]) -> dict[str, Any]:
    answers = {
        str(code): {"description": HTTPStatus(code).phrase, "content": {media_type: {}}}
        for code in codes
    }
    name = f"get_{path.strip('/')}"
    told = {"summary": summary, "operationId": name, "tags": ["health"], "parameters": []}
    return {**told, "responses": answers}


def documented(title: str) -> SpecTree:
    """Make the decorator that checks a responder's ``json`` and ``query`` and documents it."""
    return _Document(
        backend=_Checker,
        mode="strict",
        title=title,
        version=VERSION,
        validation_error_model=Problem,
        naming_strategy=lambda model: model.__name__,
        nested_naming_strategy=lambda _parent, child: child,
    )


class _Answers(Response):
    """spectree's answers, documented under the media types that they have: text without a model."""

    def generate_spec(self, *arguments: Any, **named: Any) -> dict[str, Any]:
        spec = super().generate_spec(*arguments, **named)
        for code, answer in spec.items():
            answer.setdefault("content", {falcon.MEDIA_TEXT: TEXT})
            if code >= "400":
                answer["content"] = {CONTENT_TYPE: answer["content"][falcon.MEDIA_JSON]}
        return spec


def answers(status: int, model: Any, *problems: int) -> Response:
    """The documented answers of a responder: its success, and its problems."""
    codes = {f"HTTP_{code}": Problem for code in (*problems, 503)}
    return _Answers(**{f"HTTP_{status}": model}, **codes)


def _read_json(req: falcon.Request) -> Any:
    if (req.content_type or "").partition(";")[0].strip().lower() != falcon.MEDIA_JSON:
        raise falcon.HTTPUnsupportedMediaType(description="Send Content-Type: application/json.")
    chunked = req.content_length is None and req.env.get("wsgi.input_terminated")
    body = req.stream.read(MAX_BODY_BYTES + 1) if chunked else req.bounded_stream.read()
    if len(body) > MAX_BODY_BYTES:
        raise falcon.HTTPContentTooLarge()
    try:
        return from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise falcon.HTTPBadRequest(description=f"The body is not JSON: {error}.") from None


def _check(model: type[BaseModel], data: Any) -> BaseModel:
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise Refused(
            *(
                FieldError(".".join(map(str, wrong["loc"])) or "body", wrong["msg"])
                for wrong in error.errors(include_url=False, include_context=False)
            )
        ) from None


def created(resp: falcon.Response, row: dict[str, Any], location: str | None = None) -> None:
    """Answer 201 with the new object, and where it can be found."""
    resp.status = HTTPStatus.CREATED
    resp.media = row
    if location:
        resp.location = location


class Listing(NamedTuple):
    """A list as it is answered: JSON, the link to the next page or "", and the ETag."""

    body: bytes
    link: str
    etag: str

    @classmethod
    def of(cls, path: str, query: Page, rows: list[dict[str, Any]]) -> "Listing":
        """Make one of what ``query.fetch`` gave."""
        link = ""
        if query.limit and len(rows) > query.limit:
            rows = rows[: query.limit]
            position = query.model_dump(mode="json", exclude_none=True) | {"after": rows[-1]["id"]}
            link = f'<{path}?{urlencode(position)}>; rel="next"'
        body = to_json(rows)
        return cls(body, link, hashlib.sha256(link.encode() + body).hexdigest()[:32])


class Listings:
    """Keeps listings as long as ``version`` stays the same, which tells of every change.

    It is asked after each commit of this process, and else at most every 10 ms, for the commits
    of others: even the shortest query costs more than all else that an answer from here takes.
    """

    def __init__(self, database: Database, version: Callable[[], object]) -> None:
        self._version = version
        self._kept: tuple[object, dict[str, Listing]] = None, {}
        self._look_at = float("-inf")
        database.listeners.append(self._look_again)

    def _look_again(self) -> None:
        self._look_at = float("-inf")

    def get(self, query: Page, make: Callable[[], Listing]) -> Listing:
        """The listing of a query; if need be, it is made, from what there is now or later."""
        if (now := time.monotonic()) >= self._look_at:
            self._look_at = now + LOOK_INTERVAL_S
            version = self._version()
            if self._kept[0] != version:
                self._kept = version, {}
        _, kept = self._kept
        listing = kept.get(str(query)) or make()
        if len(kept) < MAX_LISTINGS:
            kept[str(query)] = listing
        return listing


def send_list(
    req: falcon.Request,
    resp: falcon.Response,
    query: Page,
    fetch: Callable[[], list[dict[str, Any]]],
    kept: Listings | None = None,
) -> None:
    """Answer a list, with a link to the next page if there is one.

    ``fetch`` gives at most ``query.fetch`` rows. The answer carries an ETag; who has it already
    gets 304 (RFC 9110, 13.1.2).
    """

    def make() -> Listing:
        return Listing.of(req.path, query, fetch())

    listing = kept.get(query, make) if kept else make()
    resp.etag = listing.etag
    if listing.link:
        resp.set_header("Link", listing.link)
    if any(tag in ("*", listing.etag) for tag in req.if_none_match or ()):
        resp.status = HTTPStatus.NOT_MODIFIED
    else:
        resp.data = listing.body
