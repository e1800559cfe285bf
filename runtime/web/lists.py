"""Answers with lists: by the page, with a link to the next one, or whole from memory."""

import threading
import time
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable
from functools import partial
from typing import Annotated, Any, NamedTuple
from urllib.parse import urlencode

import falcon
from pydantic import BaseModel, BeforeValidator, Field
from pydantic_core import PydanticCustomError, to_json

from runtime.process.fields import MAX_ID
from runtime.storage.database import Database
from runtime.web.caching import etag_of, send

MAX_ROWS = 1000  # of an answer, unless the list is kept whole
LOOK_INTERVAL_S = 0.01


def _digits(text: object) -> object:
    if not (isinstance(text, str) and text.isascii() and text.isdigit()):
        raise PydanticCustomError("whole_number", "must be one whole number")
    return text


QueryId = Annotated[int, Field(ge=1, le=MAX_ID), BeforeValidator(_digits)]
Limit = Annotated[int, Field(ge=1, le=MAX_ROWS), BeforeValidator(_digits)]


class Page(BaseModel):
    """The query of a list; at most `MAX_ROWS` rows are answered. Subclasses add ``after``."""

    limit: Limit | None = Field(None, description="The maximum number of rows.")

    @property
    def fetch(self) -> int:
        """How many rows to fetch: one more than fit, to see whether there is a next page."""
        return (self.limit or MAX_ROWS) + 1

    def fitting(self, rows: list[dict[str, Any]]) -> int:
        """How many of these rows an answer holds."""
        return min(len(rows), self.limit or MAX_ROWS)

    def link(self, path: str, last_id: object) -> str:
        """The ``Link`` header to the next page."""
        position = self.model_dump(mode="json", exclude_none=True) | {"after": last_id}
        return f'<{path}?{urlencode(position)}>; rel="next"'


class IdPage(Page):
    """The query of a list in which ``after`` is a number."""

    after: QueryId | None = Field(None, description="The last id seen: the list goes on after it.")


def send_list(
    req: falcon.Request,
    resp: falcon.Response,
    query: Page,
    fetch: Callable[[], list[dict[str, Any]]],
    complete: Callable[[list[dict[str, Any]]], list[dict[str, Any]]] | None = None,
    private: bool = False,
) -> None:
    """Answer a list, with a link to the next page if there is one; ``private`` if it is one user's.

    ``fetch`` returns at most ``query.fetch`` rows, in which every change shows; ``complete`` adds
    the rest, for clients that do not have the list already.
    """
    rows = fetch()
    fitting = query.fitting(rows)
    link = query.link(req.path, rows[fitting - 1]["id"]) if fitting < len(rows) else ""
    if link:
        resp.set_header("Link", link)
    rows = rows[:fitting]
    plain = to_json(rows)
    etag = etag_of(link.encode() + plain)
    send(req, resp, etag, lambda: to_json(complete(rows)) if complete else plain, private)


class _Whole(NamedTuple):
    """A list as JSON, with the ids of its rows and where in it each begins."""

    body: bytes
    etag: str
    ids: "array[int]"
    starts: "array[int]"

    @classmethod
    def of(cls, rows: Iterable[dict[str, Any]]) -> "_Whole":
        ids, starts, parts = array("q"), array("q", [1]), []
        for row in rows:
            parts.append(to_json(row))
            ids.append(row["id"])
            starts.append(starts[-1] + len(parts[-1]) + 1)
        body = b"[" + b",".join(parts) + b"]"
        return cls(body, etag_of(body), ids, starts)

    def part(self, first: int, last: int) -> bytes:
        """The rows of these positions, the last one excluded."""
        if last - first == len(self.ids):
            return self.body
        return b"[" + self.body[self.starts[first] : self.starts[last] - 1] + b"]"


class KeptList:
    """A list that is kept whole, as JSON in memory, as long as its ``token`` stays the same.

    It asks for the token after each commit of this process, and at most every 10 ms for others'
    commits: even the shortest query costs more than the rest of an answer from memory.
    """

    def __init__(
        self,
        database: Database,
        token: Callable[[], object],
        fetch: Callable[[], list[dict[str, Any]]],
    ) -> None:
        self._token = token
        self._fetch = fetch
        self._kept: tuple[object, _Whole] = None, _Whole.of([])
        self._lock = threading.Lock()
        self._look_at = float("-inf")
        database.on_commit.append(self._look_again)

    def _look_again(self) -> None:
        self._look_at = float("-inf")

    def _current(self) -> _Whole:
        """The current list: if it is out of date, one thread makes a new one; others wait."""
        with self._lock:
            if (now := time.monotonic()) >= self._look_at:
                self._look_at = now + LOOK_INTERVAL_S  # before the look, since a commit resets it
                try:
                    token = self._token()
                    if self._kept[0] != token:
                        self._kept = token, _Whole.of(self._fetch())
                except BaseException:
                    self._look_again()
                    raise
            return self._kept[1]

    def send(self, req: falcon.Request, resp: falcon.Response, query: IdPage) -> None:
        """Answer the list, or a page of it with a link to the next one."""
        whole = self._current()
        first = bisect_right(whole.ids, query.after or 0)
        last = min(len(whole.ids), first + (query.limit or len(whole.ids)))
        if last < len(whole.ids):
            resp.set_header("Link", query.link(req.path, whole.ids[last - 1]))
        page = f"{whole.etag} {first} {last}".encode()
        send(req, resp, etag_of(page), partial(whole.part, first, last))
