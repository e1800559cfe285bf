import json
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any

import pytest
from pydantic import ValidationError

from messaging.event import MAX_EVENT_BYTES, Event, EventTooLarge, Fact, document, previous
from messaging.transports.wire import Place, digest
from tests.messaging.conftest import EPOCH, NOON

PLACE = Place(EPOCH, 258)


def told(**data: Any) -> bytes:
    return document("/shop", PLACE, "order.placed", Fact(7, NOON, data))


def caused(request_id: str) -> bytes:
    return document("/shop", PLACE, "order.placed", Fact(7, NOON, {}, request_id))


def test_the_document_is_compact_cloudevents_json() -> None:
    body = told(price=1, name="Жако")
    fields = json.loads(body)
    assert fields == {
        "specversion": "1.0",
        "id": f"{EPOCH.hex()}:258",
        "source": "/shop",
        "type": "order.placed",
        "subject": "7",
        "time": NOON,
        "datacontenttype": "application/json",
        "data": {"price": 1, "name": "Жако"},
        "sequence": "258",
    }
    assert body == json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode()


def test_the_request_id_becomes_the_correlation_id() -> None:
    body = caused("r-1")
    assert json.loads(body)["correlationid"] == "r-1"
    assert Event.parse("orders", PLACE, body).correlation_id == "r-1"


def test_what_comes_last_is_the_digest_of_the_event_before_it() -> None:
    before = told(price=1)
    for fact in (Fact(7, NOON, {}), Fact(7, NOON, {}, "r-1")):
        body = document("/shop", PLACE, "order.placed", fact, digest(before))
        assert json.loads(body)["previous"] == blake2b(before, digest_size=16).hexdigest()
        assert previous(body) == digest(before)
    assert previous(before) is previous(b"") is previous(b"{") is None
    assert previous(told(text='","previous":"' + "0" * 32)) is None


def test_an_event_is_read_as_it_was_told() -> None:
    noon = datetime(2026, 11, 23, 12, tzinfo=UTC)
    assert Event.parse("orders", PLACE, told(price=1)) == Event(
        "orders", PLACE, "order.placed", "7", noon, {"price": 1}, None
    )


def test_members_that_are_not_known_are_ignored() -> None:
    body = json.dumps(json.loads(told()) | {"tomorrow": [1]}).encode()
    assert Event.parse("orders", PLACE, body).type == "order.placed"


@pytest.mark.parametrize("missing", ["type", "data", "time"])
def test_a_member_that_is_needed_is_missed(missing: str) -> None:
    fields = json.loads(told())
    del fields[missing]
    with pytest.raises(ValidationError):
        Event.parse("orders", PLACE, json.dumps(fields).encode())


@pytest.mark.parametrize(
    "body", [b"{", b"[]", b"\xff", b"null", b"[" * 100_000, b'{"type":"\\ud800"}'], ids=repr
)
def test_what_is_no_document_does_not_validate(body: bytes) -> None:
    with pytest.raises(ValidationError):
        Event.parse("orders", PLACE, body)


def test_an_event_has_at_most_256_kib() -> None:
    room = 256 * 1024 - len(told(text=""))
    assert len(told(text="x" * room)) == MAX_EVENT_BYTES == 256 * 1024
    with pytest.raises(EventTooLarge):
        told(text="x" * (room + 1))
