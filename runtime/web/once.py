"""Changes: each is executed once, and a request that is sent again gets the first answer."""

import hashlib
import json
import re
import zlib
from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import Any, NamedTuple

from pydantic_core import to_json

from runtime.process.clock import timestamp
from runtime.process.errors import FieldError, Refused, ShopError
from runtime.storage.database import Database

PACKED_FROM_BYTES = 1024
ZLIB = b"x"  # its first byte (RFC 1950), with which neither JSON nor "ok" begins
HEADER = "Idempotency-Key"
# A string as structured fields have it (RFC 9651, 3.3.3), or the bare characters.
KEY = re.compile(r'"(?:[ !#-\[\]-~]|\\["\\]){1,255}"|[!#-~][!-~]{0,254}')
COLUMNS = "path, key, fingerprint, status, body, location"
KEEP = f"INSERT INTO kept_answer ({COLUMNS}, kept_at) VALUES {{}}"
KEPT = f"SELECT {COLUMNS} FROM kept_answer WHERE path IN ({{}}) AND key IN ({{}})"


class Answer(NamedTuple):
    """The answer to a request that has changed something."""

    status: int
    body: bytes
    location: str | None = None


class Key(NamedTuple):
    """An idempotency key, whose scope is the path, and the body that it stands for."""

    path: str
    key: str
    known: tuple[str, ...]  # its possible spellings in the table, the given one first
    fingerprint: bytes

    @classmethod
    def of(cls, path: str, given: str, body: Any) -> "Key":
        """Read a header; `Refused` if it is wrong.

        ``body`` is the parsed JSON body, None if there is none: the same document with other
        spacing is the same request.
        """
        if not KEY.fullmatch(given):
            raise Refused(
                FieldError(
                    HEADER, "must be 1 to 255 visible ASCII characters, or a string in quotes"
                )
            )
        # Here JSON's quotes and escapes are those of structured fields. Earlier versions kept a key
        # as it was sent, so that "a" and a were two keys; now they are one.
        quoted = given if given.startswith('"') else json.dumps(given)
        bare = json.loads(quoted)
        known = [quoted] if bare.startswith('"') else [quoted, bare]
        known.sort(key=lambda each: each != given)
        fingerprint = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).digest()
        return cls(path, quoted, tuple(known), fingerprint)


class Change(NamedTuple):
    """A pending change: a command, the rule that executes lists of such, and how to answer.

    ``answer`` makes the answer from the row that is the outcome. A change with a ``key`` is
    executed once.
    """

    rule: Callable[[list[Any]], Sequence[dict[str, Any] | ShopError]]
    command: Any
    answer: Callable[[dict[str, Any]], Answer]
    key: Key | None = None


def created(row: dict[str, Any], location: str | None = None) -> Answer:
    """Answer 201 with the new object, and where it can be found: a path with ``{id}`` in it."""
    return Answer(HTTPStatus.CREATED, to_json(row), location and location.format(**row))


def changed(row: dict[str, Any]) -> Answer:
    """Answer 200 with the object as it is now."""
    return Answer(HTTPStatus.OK, to_json(row))


def once(database: Database, changes: Sequence[Change]) -> list[Answer | Exception]:
    """Execute changes, unless an answer is kept under their path and key; return all answers.

    It is `Work` for the writer (`runtime.storage.writer`). The transaction of an effect keeps its
    answer, too, so there is never one without the other; a refusal keeps nothing. Of two changes
    with one key, the second waits for the outcome of the first.
    """
    outcomes: dict[int, Answer | Exception] = {}
    while waiting := [number for number in range(len(changes)) if number not in outcomes]:
        kept = _kept(database, [key for number in waiting if (key := changes[number].key)])
        first: dict[object, int] = {}
        for number in waiting:
            key = changes[number].key
            if key in kept:
                outcomes[number] = kept[key]
            else:
                first.setdefault(key[:2] if key else number, number)
        outcomes |= _executed(database, {number: changes[number] for number in first.values()})
    return [outcomes[number] for number in range(len(changes))]


def _kept(database: Database, keys: list[Key]) -> dict[Key | None, Answer | Exception]:
    """The answers kept under these keys."""
    if not keys:
        return {}
    paths, known = {key.path for key in keys}, {name for key in keys for name in key.known}
    query = KEPT.format(*(", ".join("?" * len(each)) for each in (paths, known)))
    rows = {tuple(row[:2]): row[2:] for row in database.run(query, *paths, *known)}
    found = [
        (key, rows[key.path, name])
        for key in keys
        for name in key.known[::-1]
        if (key.path, name) in rows
    ]
    return {key: _again(key, *row) for key, row in found}


def _again(
    key: Key, fingerprint: bytes, status: int, body: bytes, location: str | None
) -> Answer | Exception:
    if fingerprint != key.fingerprint:
        return Refused(FieldError(HEADER, "was used with another body: use a new key"))
    return Answer(status, zlib.decompress(body) if body.startswith(ZLIB) else body, location)


def _executed(database: Database, changes: dict[int, Change]) -> dict[int, Answer | Exception]:
    """Execute changes, one list for each rule, and keep the answers of those that have a key."""
    outcomes: dict[int, Answer | Exception] = {}
    for rule in {change.rule: None for change in changes.values()}:
        own = {number: change for number, change in changes.items() if change.rule == rule}
        rows = rule([change.command for change in own.values()])
        for (number, change), row in zip(own.items(), rows, strict=True):
            outcomes[number] = row if isinstance(row, Exception) else change.answer(row)
    answered = [(change.key, outcomes[number]) for number, change in changes.items()]
    to_keep = [
        (*key[:2], key.fingerprint, made.status, _packed(made.body), made.location, timestamp())
        for key, made in answered
        if key and isinstance(made, Answer)
    ]
    database.run_rows(KEEP, to_keep)
    return outcomes


def _packed(body: bytes) -> bytes:
    """The body as it is kept; a long one has many similar lines, and is compressed."""
    return zlib.compress(body, level=1) if len(body) > PACKED_FROM_BYTES else body
