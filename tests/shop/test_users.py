"""The rules of users."""

from shop.app import Shop
from tests.contract import events


def test_users_come_by_id(shop: Shop) -> None:
    """Two may have the same name."""
    users = [shop.users.create(name) for name in "zyz"]
    assert users == [{"id": n, "name": name} for n, name in enumerate("zyz", 1)]
    assert shop.users.all() == users
    assert shop.users.all(after=1) == users[1:]
    assert shop.users.all(after=1, limit=1) == users[1:2]


def test_nobody_is_told_of_users(shop: Shop) -> None:
    shop.users.create("Kesha")
    assert events(shop) == []
