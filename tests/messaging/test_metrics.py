"""The metrics of a service's messaging."""

import sqlite3
from unittest.mock import Mock, PropertyMock

from messaging.metrics import collect_stored
from messaging.publisher import Publisher


def test_a_damaged_file_leaves_out_what_it_does_not_hold() -> None:
    """SQLite's own errors come while rows are read: peewee does not wrap these."""
    publisher = Mock(Publisher)
    damage = sqlite3.DatabaseError("database disk image is malformed")
    type(publisher).waiting = PropertyMock(side_effect=damage)
    assert not list(collect_stored(Mock(), publisher))
