"""Rests: when a busy thread lets events gather."""

import pytest

from messaging import rest
from messaging.transports.wire import RUN_EVENTS


@pytest.mark.parametrize(
    ("handled", "rests"),
    [(0, False), (1, False), (3, False), (4, True), (RUN_EVENTS - 1, True), (RUN_EVENTS, False)],
)
def test_rests_after_some_events_and_no_full_run(
    monkeypatch: pytest.MonkeyPatch, handled: int, rests: bool
) -> None:
    slept: list[float] = []
    monkeypatch.setattr(rest.time, "sleep", slept.append)
    tired = rest.Rest()
    tired.after(1000)
    tired.after(1000 + handled)
    assert slept == [rest.REST_S] * rests


def test_counts_that_begin_again_are_no_reason_to_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(rest.time, "sleep", slept.append)
    tired = rest.Rest()
    tired.after(1000)
    tired.after(0)
    assert not slept
