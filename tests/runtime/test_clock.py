"""Complaints, of which there are not more than anybody reads."""

from runtime.process.clock import Complaints


def test_each_kind_is_due_once_a_minute() -> None:
    now = 0.0
    complaints = Complaints(lambda: now)
    assert [complaints.are_due(kind) for kind in ("a", "b", "a")] == [True, True, False]
    now = 59.9
    assert not complaints.are_due("a")
    now = 60
    assert complaints.are_due("a")


def test_a_stranger_with_ever_new_keys_fills_no_disk() -> None:
    now = 0.0
    complaints = Complaints(lambda: now)
    assert sum(complaints.are_due(str(number)) for number in range(1000)) == 100
    now = 60
    assert complaints.are_due("another")
