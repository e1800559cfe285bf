"""Answers that caches may keep, and must revalidate each time (RFC 9110, 13; RFC 9111)."""

import hashlib
from collections.abc import Callable

import falcon


def etag_of(content: bytes) -> str:
    """The entity tag of an answer's content."""
    return hashlib.sha256(content).hexdigest()[:32]


def send(
    req: falcon.Request,
    resp: falcon.Response,
    etag: str,
    make: Callable[[], bytes],
    private: bool = False,
) -> None:
    """Answer with content that caches may keep, but must revalidate each time.

    A client that has it already gets 304, and ``make`` is not called. A ``private`` answer is one
    user's, which no shared cache may keep (RFC 9111, 5.2.2.7).
    """
    resp.set_header("Cache-Control", "private, no-cache" if private else "no-cache")
    resp.etag = etag
    asked = req.get_header("If-None-Match", default="")
    if asked.strip() == "*" or etag in (req.if_none_match or ()):  # falcon takes "*" for *
        resp.status = falcon.HTTP_304
        resp.delete_header("Content-Type")
    else:
        resp.data = make()
