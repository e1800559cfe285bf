from argparse import Namespace

import pytest
from peewee import OperationalError

from messaging.dead_letters import COMMAND, DeadLetters
from messaging.event import Event
from messaging.inbox import Reader, count_dead
from messaging.recovery import set_place
from messaging.tables import DeadLetter, Inbox
from messaging.transports.wire import START, Place
from runtime.process.errors import NotFound
from runtime.storage.sqlite import SqliteFile
from tests.messaging.conftest import EPOCH, effects, live


class Morgue:
    """A service with one dead event, the second of three."""

    def __init__(self, database: SqliteFile) -> None:
        self.database = database
        self.broken: Exception | None = None
        handlers = {"counted": self._handle}
        self.letters = DeadLetters(database, {"numbers": handlers})
        reader = Reader(database, "numbers", handlers)
        reader.receive(live(1)._replace(follows=START))
        reader.receive(live(2, body=live(2).bodies[0].replace(b'"time":"', b'"time":"never')))
        reader.receive(live(3))
        reader.apply()
        (self.letter,) = self.letters.all()

    def _handle(self, events: list[Event]) -> None:
        for event in events:
            self.database.execute_sql("INSERT INTO effect VALUES (?)", (event.data["n"],))
        if self.broken:
            raise self.broken

    def mend(self) -> None:
        DeadLetter.update(body=live(2).bodies[0]).execute(self.database)

    @property
    def inbox(self) -> list[int]:
        return [
            row.sequence for row in Inbox.select().order_by(Inbox.sequence).execute(self.database)
        ]


@pytest.fixture
def morgue(database: SqliteFile) -> Morgue:
    return Morgue(database)


def test_a_dead_letter_is_listed_with_its_error_and_time(morgue: Morgue) -> None:
    """And the stream has gone on without it."""
    assert effects(morgue.database) == [1, 3]
    letter = morgue.letter
    assert (letter["stream"], letter["epoch"], letter["sequence"]) == ("numbers", EPOCH, 2)
    assert "time" in letter["error"]
    assert letter["died_at"].endswith("Z")


def test_a_letter_that_is_applied_is_no_longer_dead(morgue: Morgue) -> None:
    """It is one or the other at any moment, never both or neither."""
    seen: list[tuple[list[int], int]] = []
    morgue.mend()
    morgue.database.on_commit.append(
        lambda: seen.append((effects(morgue.database), count_dead(morgue.database)))
    )
    assert morgue.letters.retry(morgue.letter["id"]) is None
    assert seen == [([1, 3, 2], 0)]
    assert morgue.inbox == [1, 2, 3]
    assert morgue.letters.all() == []
    with pytest.raises(NotFound):
        morgue.letters.retry(morgue.letter["id"])
    assert effects(morgue.database) == [1, 3, 2]


def test_a_letter_that_fails_again_stays_with_its_new_error(morgue: Morgue) -> None:
    morgue.mend()
    morgue.broken = ValueError("not yet")
    error = morgue.letters.retry(morgue.letter["id"])
    assert error is morgue.broken
    (letter,) = morgue.letters.all()
    assert (letter["id"], letter["error"]) == (morgue.letter["id"], "ValueError('not yet')")
    assert effects(morgue.database) == [1, 3]
    assert morgue.inbox == [1, 3]


def test_a_mended_letter_is_applied_and_noted_as_it_was_received(morgue: Morgue) -> None:
    """Else the reader would stop when the journal sends it again."""
    received = bytes(morgue.letter["body"])
    assert morgue.letters.retry(morgue.letter["id"], live(2).bodies[0]) is None
    assert effects(morgue.database) == [1, 3, 2]
    (noted,) = Inbox.select().where(Inbox.sequence == 2).execute(morgue.database)
    assert bytes(noted.body) == received != live(2).bodies[0]


def test_a_letter_that_does_not_validate_stays_as_it_was(morgue: Morgue) -> None:
    """As it is, or as it was mended."""
    assert morgue.letters.retry(morgue.letter["id"]) is not None
    assert morgue.letters.retry(morgue.letter["id"], b"no event") is not None
    morgue.mend()
    assert morgue.letters.retry(morgue.letter["id"], b"") is not None
    (letter,) = morgue.letters.all()
    assert bytes(letter["body"]) == live(2).bodies[0]


def test_going_back_leaves_no_letter_of_what_is_applied_again(morgue: Morgue) -> None:
    """Else a retry would apply it once more, and readers would compare with it."""
    for sequence, dead in ((2, 1), (1, 0)):
        set_place(morgue.database, "numbers", Place(EPOCH, sequence), back=True)
        assert count_dead(morgue.database) == dead


def test_an_outage_is_no_try(morgue: Morgue) -> None:
    morgue.mend()
    morgue.broken = OperationalError("disk is full")
    with pytest.raises(OperationalError):
        morgue.letters.retry(morgue.letter["id"])
    (letter,) = morgue.letters.all()
    assert letter["error"] == morgue.letter["error"]
    assert effects(morgue.database) == [1, 3]


def test_what_a_handler_does_not_find_leaves_the_letter_dead(morgue: Morgue) -> None:
    morgue.mend()
    morgue.broken = NotFound("there is no such number")
    assert morgue.letters.retry(morgue.letter["id"]) is morgue.broken
    assert [letter["error"] for letter in morgue.letters.all()] == [repr(morgue.broken)]


def test_a_letter_that_is_discarded_meanwhile_stops_no_other(
    morgue: Morgue, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    morgue.mend()
    listed = [{"id": morgue.letter["id"] + 1}, morgue.letter]
    monkeypatch.setattr(morgue.letters, "all", lambda: listed)
    service = Namespace(dead_letters=morgue.letters)
    assert COMMAND.run(service, Namespace(action="retry", all=True)) == 0
    assert capfd.readouterr().out == f"{morgue.letter['id']}  was applied\n"
