"""Problem documents (RFC 9457): the form of every error over HTTP."""

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from falcon import code_to_http_status
from pydantic import BaseModel
from pydantic_core import to_json

from runtime.process.errors import FieldError

CONTENT_TYPE = "application/problem+json"
MAX_BODY_BYTES = 1024 * 1024
TITLES = {422: "Unprocessable Content"}  # RFC 9110, 15.5.21; falcon has the older name
ADVICE = {
    404: "There is nothing at this path: /docs lists all paths.",
    405: "This path does not accept this method: the Allow header lists those that it accepts.",
    413: f"A body may have at most {MAX_BODY_BYTES} bytes.",
    415: "Send Content-Type: application/json.",
    501: "This method is unknown.",
    503: "The database is not available just now. Try again.",
}


class Problem(BaseModel):
    """A problem document, as the OpenAPI document describes it."""

    class FieldProblem(BaseModel):
        """What is wrong with one field."""

        field: str
        message: str

    type: str
    title: str
    status: int
    detail: str
    instance: str
    errors: list[FieldProblem] = []


def title(status: int) -> str:
    """The name of a status."""
    return TITLES.get(status) or code_to_http_status(status).partition(" ")[2]


def document(
    status: int, detail: str | None, path: str, errors: Sequence[FieldError] = ()
) -> bytes:
    """Write the document of an error at a path."""
    body: dict[str, Any] = {
        "type": "about:blank",
        "title": title(status),
        "status": status,
        "detail": detail or ADVICE.get(status, HTTPStatus(status).description),
        "instance": quote(path),
    }
    if errors:
        body["errors"] = [error._asdict() for error in errors]
    return to_json(body)
