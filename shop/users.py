"""Users: the people who buy. There is no login; a user is a name with an id."""

import re
from collections.abc import Sequence
from typing import Any
from unicodedata import normalize

from peewee import SQL, NodeList, fn

from runtime.storage.database import Database
from shop.tables import User

CREATE = 'INSERT INTO "user" (name, folded_name) VALUES {}'


def folded(text: str) -> str:
    """A text without case, and with composed accents, so that equal-looking texts are equal.

    It is Unicode's compatibility caseless matching (the standard, 3.13, D146).
    """
    once = normalize("NFKD", normalize("NFD", text).casefold()).casefold()
    return normalize("NFKC", once)


class Users:
    """The users of one database. Rows are dicts: ``id, name``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def all(
        self, after: int | None = None, limit: int | None = None, name: str | None = None
    ) -> list[dict[str, Any]]:
        """Users after ``after``, by id, at most ``limit``.

        With ``name``, only users whose name contains it, ignoring case and accent composition.
        """
        wanted = User.id > (after or 0)
        if name:
            text = re.sub(r"([!%_])", r"!\1", folded(name))
            # Written as SQL, since peewee's LIKE is GLOB in SQLite, and ILIKE in PostgreSQL.
            known = fn.COALESCE(User.folded_name, fn.LOWER(User.name))  # of an older copy, the name
            like = (known, SQL("LIKE"), f"%{text}%", SQL("ESCAPE '!'"))
            wanted &= NodeList(like)
        found = User.select(User.id, User.name).where(wanted).order_by(User.id).limit(limit)
        return list(found.dicts().execute(self._database))

    def create(self, names: Sequence[str]) -> list[dict[str, Any]]:
        """Add users; names need not be unique, ids are."""
        with self._database.write():
            ids = self._database.add(CREATE, [(name, folded(name)) for name in names])
        return [{"id": user_id, "name": name} for user_id, name in zip(ids, names, strict=True)]
