"""Idempotency keys: a POST sent again gives the first answer again, and no second effect."""

import hashlib
import json
import re
from collections.abc import Callable
from typing import Any

import falcon

from runtime.clock import timestamp
from runtime.database import Database
from runtime.errors import FieldError, Refused
from runtime.models import KeptAnswer

HEADER = "Idempotency-Key"
KEY = re.compile(r"[\x21-\x7e]{1,255}")


def once(
    database: Database,
    req: falcon.Request,
    resp: falcon.Response,
    body: Any,
    action: Callable[[], None],
) -> None:
    """Run ``action``, which fills ``resp``, unless this path has kept an answer under this key.

    The answer is kept in the transaction of the effect that it reports, so there is never one
    without the other; an action that raises keeps nothing. ``body`` is the parsed JSON body:
    the same document with other spacing is the same request. Raises `Refused` for a wrong key,
    and for one that was used with another body.
    """
    key = req.get_header(HEADER)
    if key is None:
        database.transact(action)
        return
    if not KEY.fullmatch(key):
        raise Refused(FieldError(HEADER, "must be 1 to 255 visible ASCII characters"))
    database.transact(lambda: _once(database, req, resp, key, body, action))


def _once(
    database: Database,
    req: falcon.Request,
    resp: falcon.Response,
    key: str,
    body: Any,
    action: Callable[[], None],
) -> None:
    resp.data = None  # what it was filled with may have been undone since
    resp.delete_header("Location")
    fingerprint = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).digest()
    same = (KeptAnswer.path == req.path) & (KeptAnswer.key == key)
    kept = KeptAnswer.select().where(same).first(database)
    if kept is None:
        action()
        KeptAnswer.insert(
            path=req.path,
            key=key,
            fingerprint=fingerprint,
            status=resp.status_code,
            location=resp.get_header("Location"),
            body=resp.render_body(),
            kept_at=timestamp(),
        ).execute(database)
    elif kept.fingerprint != fingerprint:
        raise Refused(FieldError(HEADER, "was used with another body: use a new key"))
    else:
        resp.status, resp.data = kept.status, kept.body
        if kept.location:
            resp.location = kept.location
