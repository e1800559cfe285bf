"""An event as services see it, and the CloudEvents 1.0 document that it travels in."""

import logging
import re
from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime
from typing import Any, NamedTuple

from pydantic import AwareDatetime, BaseModel
from pydantic_core import from_json, to_json

from messaging.transports.wire import BEGUN, JOURNAL, Place
from runtime.process.errors import ShopError

MAX_EVENT_BYTES = 256 * 1024
PREVIOUS = re.compile(rb',"previous":"([0-9a-f]{32})"\}$')
PREVIOUS_BYTES = 48
NAMED_EVENTS = 32  # in a log line, by the ids of their requests


class EventTooLarge(ShopError):
    """An event of more than 256 KiB: its data must be smaller."""


class _Envelope(BaseModel):
    correlationid: str | None = None


class _Document(_Envelope):
    type: str
    data: dict[str, Any]
    time: AwareDatetime
    subject: str = ""


class Event(NamedTuple):
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
        """Read a document, unknown members aside; `pydantic.ValidationError` if it is not one."""
        read = _Document.model_validate_json(body)
        return cls(stream, place, read.type, read.subject, read.time, read.data, read.correlationid)


class Fact(NamedTuple):
    """The content of a new event: ``data`` is the state after it, of the object ``subject``."""

    subject: object
    time: str  # when it became so, as `runtime.process.clock.timestamp` writes it
    data: dict[str, Any]
    correlation_id: str | None = None  # of the request that caused it


def correlation_id(body: bytes) -> str | None:
    """The id of the request that caused an event; None if it has none, or is not a document."""
    with suppress(ValueError):
        return _Envelope.model_validate_json(body).correlationid
    return None


def log_run(
    log: Any,
    done: str,
    stream: str,
    first: Place,
    last: Place,
    count: int,
    ids: Iterable[str | None],
) -> None:
    """Log in one line what was done with a run, with the ids of the requests that caused it.

    The line of a backlog has no ids, unless the level is debug.
    """
    line: dict[str, object] = {"stream": stream, "place": str(first)}
    if count > 1:
        line |= {"last": last.sequence, "events": count}
    if count <= NAMED_EVENTS or logging.root.isEnabledFor(logging.DEBUG):
        line["request_id"] = " ".join(filter(None, ids))
    log.info(done, **{name: value for name, value in line.items() if value})


def previous(body: bytes) -> bytes | None:
    """The digest of the event before this one; None where its writer did not note it."""
    found = PREVIOUS.search(body, max(0, len(body) - PREVIOUS_BYTES))
    return bytes.fromhex(found[1].decode()) if found else None


def document(
    source: str, place: Place, type: str, fact: Fact, previous: bytes | None = None
) -> bytes:
    """Write the document of a new event, of at most 256 KiB (`EventTooLarge`).

    ``previous`` is the digest of the event before it. It is the last member, where the function
    of the same name finds it without reading the rest.
    """
    fields = {
        "specversion": "1.0",
        "id": str(place),
        "source": source,
        "type": type,
        "subject": str(fact.subject),
        "time": fact.time,
        "datacontenttype": "application/json",
        "data": fact.data,
        "sequence": str(place.sequence),
    }
    if fact.correlation_id:
        fields["correlationid"] = fact.correlation_id
    if previous:
        fields["previous"] = previous.hex()
    body = to_json(fields)
    if len(body) > MAX_EVENT_BYTES:
        raise EventTooLarge(
            f"{type} of {len(body)} bytes: at most {MAX_EVENT_BYTES} can be published"
        )
    return body


def renumbered(body: bytes, place: Place, previous: bytes | None) -> bytes:
    """The document of an event that is published again, at another place, after another event."""
    own = {"id": str(place), "sequence": str(place.sequence)}
    fields = {name: value for name, value in from_json(body).items() if name != "previous"} | own
    return to_json(fields | ({"previous": previous.hex()} if previous else {}))


def journal_begun(source: str, time: str) -> bytes:
    """The document of the only event of the stream `JOURNAL`: when this journal was made."""
    return document(source, BEGUN, "journal.begun", Fact(JOURNAL, time, {}))
