"""The events that the inventory reads."""

from inventory.handlers import handlers


def test_listens_to_nobody() -> None:
    assert handlers() == {}
