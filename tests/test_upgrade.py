"""Databases that an earlier version has written, in ``tests/earlier``, are opened by this one."""

import sqlite3
from contextlib import closing
from pathlib import Path

from tests.conftest import eventually
from tests.processes import ALL, World

EARLIER = Path(__file__).parent / "earlier"
BASKET = {"user_id": 1, "item_ids": [1]}


def test_what_an_earlier_version_has_written_is_gone_on_with(world: World) -> None:
    """One order is paid, and one waits for its payment; both had a key or an event of their time.

    Their documents name no event before them, and their migrations end earlier.
    """
    world.settings.data_dir.mkdir(parents=True, exist_ok=True)
    for name in ALL:
        path = world.settings.data_dir / f"{name}.db"
        with closing(sqlite3.connect(path)) as database:
            database.executescript((EARLIER / f"{name}.sql").read_text())
            database.execute("PRAGMA journal_mode = wal")
    world.start("shop")
    waiting, paid = world.get("shop", "/api/orders?user_id=1")
    assert (waiting["status"], paid["status"]) == ("placed", "paid")
    world.start(*(name for name in ALL if name != "shop"))
    eventually(lambda: world.is_paid(waiting["id"]))

    again = world.post("shop", "/api/checkout", BASKET, Idempotency_Key="old-key")
    assert again.json()["id"] == waiting["id"]
    order = world.checkout(BASKET)
    eventually(lambda: world.is_paid(order) and world.is_drained())
    assert world.get("payment", "/api/payments/totals")["count"] == 3
    assert len(world.get("shop", "/api/users?name=KESHA")) == 1
    item = world.post("inventory", "/api/item", {"item": {"name": "Honey", "price": 5}}).json()
    eventually(lambda: item in world.get("shop", "/api/items"))
    for name in ALL:
        assert "problem" not in world.state(name)
