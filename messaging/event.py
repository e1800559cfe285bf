"""An event as services see it, and the CloudEvents 1.0 document that it travels in."""

from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import structlog
from pydantic import AwareDatetime, BaseModel
from pydantic_core import to_json

from messaging.wire import Place
from runtime.errors import ShopError

MAX_EVENT_BYTES = 256 * 1024


class EventTooLarge(ShopError):
    """An event of more than 256 KiB: what it tells must be smaller."""


class _Envelope(BaseModel):
    correlationid: str | None = None


class _Document(_Envelope):
    type: str
    data: dict[str, Any]
    time: AwareDatetime
    subject: str = ""


@dataclass(frozen=True)
class Event:
    """A past-tense fact: ``data`` is the state after it, of the object that ``subject`` names."""

    stream: str
    place: Place
    type: str
    subject: str
    time: datetime
    data: dict[str, Any]
    correlation_id: str | None

    @classmethod
    def parse(cls, stream: str, place: Place, body: bytes) -> "Event":
        """Read a document, unknown members aside; `pydantic.ValidationError` if it is none."""
        told = _Document.model_validate_json(body)
        return cls(stream, place, told.type, told.subject, told.time, told.data, told.correlationid)


def correlation_id(body: bytes) -> str | None:
    """The id of the request that caused an event; None where it tells none, or is no document."""
    with suppress(ValueError):
        return _Envelope.model_validate_json(body).correlationid
    return None


def document(
    source: str, place: Place, type: str, subject: object, time: str, data: dict[str, Any]
) -> bytes:
    """Write the document of a new event, of at most 256 KiB (`EventTooLarge`).

    Its ``correlationid`` is the id of the request that this thread is serving.
    """
    fields = {
        "specversion": "1.0",
        "id": str(place),
        "source": source,
        "type": type,
        "subject": str(subject),
        "time": time,
        "datacontenttype": "application/json",
        "data": data,
        "sequence": str(place.sequence),
    }
    request_id = structlog.contextvars.get_contextvars().get("request_id")
    if request_id:
        fields["correlationid"] = request_id
    body = to_json(fields)
    if len(body) > MAX_EVENT_BYTES:
        raise EventTooLarge(f"{type} of {len(body)} bytes: at most {MAX_EVENT_BYTES} can be told")
    return body
