"""Sales: a checkout of three items, asked under load, with its rows counted afterwards."""

from pathlib import Path
from typing import NamedTuple

from pydantic_core import to_json

from bench.errors import Failed
from bench.filling import ITEMS_BOUGHT, USER_ID
from bench.load import CONNECTIONS, JSON, Load, Request, drive
from bench.system import System, row

BODY = to_json({"user_id": USER_ID, "item_ids": ITEMS_BOUGHT})
COUNTED = """SELECT (SELECT count(*) FROM "order"), (SELECT count(*) FROM order_line),
                    (SELECT count(*) FROM outbox), (SELECT sequence FROM head)"""


def checkout(url: str) -> Request:
    """The request that buys three items."""
    return Request("POST", f"{url}/api/checkout", BODY, JSON)


class Till(NamedTuple):
    """A server that sells, and the database in which its sales must be."""

    url: str
    database: Path

    @classmethod
    def of(cls, system: System) -> "Till":
        """The product's."""
        return cls(system.url("shop", ""), system.path("shop"))

    def sell(self, seconds: float, *, has_keys: bool = False) -> float:
        """Checkouts a second; `Failed` unless each has left its order, lines and event."""
        return self.load(seconds, CONNECTIONS, has_keys=has_keys).rate

    def load(self, seconds: float, connections: int, *, has_keys: bool = False) -> Load:
        """So many buyers at once; `Failed` unless each checkout has left what it should."""
        before = row(self.database, COUNTED)
        load = drive(checkout(self.url)._replace(has_keys=has_keys), seconds, connections)
        after = row(self.database, COUNTED)
        orders, lines, events, sequence = (b - a for a, b in zip(before, after, strict=True))
        answered = load.answered
        whole = lines == orders * len(ITEMS_BOUGHT) and events == sequence == orders
        if not whole or not answered <= orders <= answered + connections:
            told = f"{orders} orders, {lines} lines, {events} events"
            raise Failed(f"{answered} checkouts were confirmed, and there are {told}")
        return load
