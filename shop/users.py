"""Users: whoever buys. There is no login; a user is a name with an id."""

from typing import Any

from runtime.database import Database
from shop.models import User


class Users:
    """The users of one database. Rows are dicts: ``id, name``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def all(self, after: int | None = None, limit: int | None = None) -> list[dict[str, Any]]:
        """Users by id, from the one behind ``after`` on, at most ``limit``."""
        query = User.select().where(User.id > (after or 0)).order_by(User.id).limit(limit)
        return list(query.dicts().execute(self._database))

    def create(self, name: str) -> dict[str, Any]:
        """Add a user; names need not be unique, ids are."""
        with self._database.write():
            return {"id": User.insert(name=name).execute(self._database), "name": name}
