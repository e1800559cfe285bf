"""A replay ends at the journal's head, and not before what was applied here."""

import pytest

from messaging import replay
from messaging.replay import Replayed, catch_up
from messaging.transports.wire import START, Message, Place, Replay, Run
from runtime.process.errors import StartError
from tests.messaging.conftest import EPOCH


class EmptyJournal:
    """A transport whose journal has lost everything."""

    up = True

    def __init__(self) -> None:
        self.wanted: list[Place] = []

    def fetch(self, stream: str, after: Place) -> None:
        self.wanted.append(after)

    def poll(self, timeout_s: float) -> list[Message]:
        wanted, self.wanted = self.wanted, []
        return [Replay("reader", Run("items", after, START, [])) for after in wanted]


def test_a_journal_that_has_lost_its_events_is_not_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be filling up again: the replay waits for what was applied before it gives up."""
    monkeypatch.setattr(replay, "NO_PROGRESS_S", 0.1)
    with pytest.raises(StartError, match="does not have all events yet"):
        catch_up(Replayed("items"), EmptyJournal(), Place(EPOCH, 4), lambda _: None)
