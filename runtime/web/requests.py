"""Checks requests and answers with objects: pydantic in, JSON out, documented by spectree."""

from collections.abc import Callable
from typing import Any

import falcon
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json, to_json
from spectree import SpecTree
from spectree.models import Server
from spectree.plugins.falcon_plugin import FalconPlugin

from runtime import VERSION
from runtime.process.errors import FieldError, Refused
from runtime.storage.writer import hand_in
from runtime.web.caching import etag_of, send
from runtime.web.once import HEADER, Change, Key, once
from runtime.web.openapi import Document
from runtime.web.problem import MAX_BODY_BYTES, Problem


class _Checker(FalconPlugin):
    """spectree's documents, with bodies that pydantic parses and our refusals.

    spectree's own check reads an empty body as ``{}`` and fails on some hostile JSON.
    """

    def validate(
        self, func: Callable[..., Any], query: Any, json: Any, *rest: Any, **params: Any
    ) -> None:
        """Call a responder; for POST and PUT it returns a `Change`, which `submit` has executed."""
        *_, resource, req, resp = rest
        if query is not None:
            params["query"] = _check(query, req.params)
        if req.method in ("GET", "HEAD"):
            func(resource, req, resp, **params)
            return
        body = None
        if json:
            body = _read_json(req)
            params["json"] = _check(json, body)
        if "HTTP_200" in rest[3].codes:  # the documented answer has no model: it is text
            resp.content_type = falcon.MEDIA_TEXT
        submit(req, resp, func(resource, req, resp, **params), body)

    def bypass(self, func: Callable[..., None], method: str) -> bool:
        """Whether the document leaves a method out: HEAD is like GET, and falcon answers others."""
        return method == "HEAD" or not hasattr(func, "__self__")


def documented(title: str) -> SpecTree:
    """Make the decorator that checks a responder's ``json`` and ``query`` and documents it."""
    return Document(
        backend=_Checker,
        mode="strict",
        title=title,
        description=f"The HTTP interface of the {title.lower()} service.",
        version=VERSION,
        servers=[Server(url="/")],
        validation_error_model=Problem,
        naming_strategy=lambda model: model.__name__,
        nested_naming_strategy=lambda _parent, child: child,
    )


def submit(req: falcon.Request, resp: falcon.Response, change: Change, body: Any) -> None:
    """Have the writer execute a change, and answer; once, if the request has an idempotency key.

    ``body`` is the parsed JSON body, None if there is none.
    """
    given = req.get_header(HEADER)
    key = None if given is None else Key.of(req.path, given, body)
    answer = hand_in(req.context.database, once, change._replace(key=key))
    resp.status, resp.data = answer.status, answer.body
    if answer.location:
        resp.location = answer.location


def _read_json(req: falcon.Request) -> Any:
    if (req.content_type or "").partition(";")[0].strip().lower() != falcon.MEDIA_JSON:
        raise falcon.HTTPUnsupportedMediaType
    chunked = req.content_length is None and req.env.get("wsgi.input_terminated")
    body = req.stream.read(MAX_BODY_BYTES + 1) if chunked else req.bounded_stream.read()
    if len(body) > MAX_BODY_BYTES:
        raise falcon.HTTPContentTooLarge
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


def send_object(
    req: falcon.Request, resp: falcon.Response, row: dict[str, Any], private: bool = False
) -> None:
    """Answer one object; ``private`` if it is one user's."""
    body = to_json(row)
    send(req, resp, etag_of(body), lambda: body, private)
