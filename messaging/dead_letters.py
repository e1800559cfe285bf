"""Dead letters: events that `inbox.Reader` has set aside, until they are mended or discarded."""

import argparse
from pathlib import Path
from typing import Any

from messaging.event import Event
from messaging.inbox import Handlers, handle
from messaging.tables import DeadLetter
from messaging.transports.wire import Place
from runtime.process.clock import timestamp
from runtime.process.commands import Command, add_command, number
from runtime.process.errors import NotFound, StartError, reason
from runtime.process.output import deliver
from runtime.storage.database import Database, is_outage

ID = number(int, 1)
MAX_ERROR_CHARACTERS = 200  # of what is printed: some errors quote what they were given


class DeadLetters:
    """The dead letters of one service, whose ``handlers`` are by stream and event type."""

    def __init__(self, database: Database, handlers: dict[str, Handlers]) -> None:
        self._database = database
        self._handlers = handlers

    def all(self) -> list[dict[str, Any]]:
        """Rows by id: ``id, stream, epoch, sequence, body, error, died_at``."""
        return list(DeadLetter.select().order_by(DeadLetter.id).dicts().execute(self._database))

    def retry(self, letter_id: int, mended: bytes | None = None) -> Exception | None:
        """Apply a dead event after all; returns the error if it stays dead.

        Its handler gets the ``mended`` body, if there is one. The inbox notes the body that was
        received, since a reader stops where the journal holds another.
        One transaction deletes the letter and adds its effect. Raises `NotFound` if there is
        no such letter, and the database's error in an outage.
        """
        same = DeadLetter.id == letter_id
        try:
            with self._database.write():
                letter = self.discard(letter_id)
                place = Place(letter.epoch, letter.sequence)
                event = Event.parse(letter.stream, place, letter.body if mended is None else mended)
                handle(self._database, self._handlers[letter.stream], [event], [letter.body])
        except Exception as error:
            if is_outage(error):
                raise
            with self._database.write():
                self.get(letter_id)
                again = DeadLetter.update(error=repr(error), died_at=timestamp())
                again.where(same).execute(self._database)
            return error
        return None

    def get(self, letter_id: int) -> DeadLetter:
        """One of them; `NotFound` if there is no such letter."""
        same = DeadLetter.id == letter_id
        letter: DeadLetter | None = DeadLetter.select().where(same).first(self._database)
        if letter is None:
            raise NotFound(f"there is no dead letter {letter_id}")
        return letter

    def discard(self, letter_id: int) -> DeadLetter:
        """Delete an event that is dead, and return it; `NotFound` if there is no such letter."""
        with self._database.write():
            letter = self.get(letter_id)
            DeadLetter.delete().where(DeadLetter.id == letter_id).execute(self._database)
        return letter


def _arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", title="actions", metavar="ACTION")
    about = "apply them again, once the cause of the failure is fixed"
    retry = add_command(actions, "retry", about, "%(prog)s 3\n%(prog)s --all")
    chosen = retry.add_mutually_exclusive_group(required=True)
    chosen.add_argument("id", nargs="?", type=ID, metavar="ID", help="one, by its number")
    chosen.add_argument("--all", action="store_true", help="every one, the oldest first")
    mend = add_command(actions, "mend", "apply one with a corrected body", "%(prog)s 3 event.json")
    mend.add_argument("id", type=ID, metavar="ID", help="its number")
    mend.add_argument("file", type=Path, metavar="FILE", help="the output of `show`, corrected")
    show = add_command(actions, "show", "print one, as it was received", "%(prog)s 3")
    show.add_argument("id", type=ID, metavar="ID", help="its number")
    discard = add_command(actions, "discard", "give one up: print it and delete it", "%(prog)s 3")
    discard.add_argument("id", type=ID, metavar="ID", help="its number")


def _run(service: Any, arguments: argparse.Namespace) -> int:
    letters: DeadLetters = service.dead_letters
    if not arguments.action:
        rows = letters.all()
        for row in rows:
            place = Place(row["epoch"], row["sequence"])
            letter = f"{row['id']}  {row['died_at']}  {row['stream']} {place}"
            deliver(f"{letter}  {_line(row['error'])}")
        deliver(
            "retry applies them again; show, mend and discard take the number of one"
            if rows
            else "there are no dead letters"
        )
        return 0
    if arguments.action in ("show", "discard"):
        body = bytes(letters.get(arguments.id).body)
        deliver(body.decode(errors="backslashreplace"))  # before it is gone
        if arguments.action == "discard":
            letters.discard(arguments.id)
            deliver(f"{arguments.id}  was discarded")
        return 0
    mended = _read(arguments.file) if arguments.action == "mend" else None
    is_all = arguments.action == "retry" and arguments.all
    errors = []
    for letter_id in [row["id"] for row in letters.all()] if is_all else [arguments.id]:
        try:
            error = letters.retry(letter_id, mended)
        except NotFound:
            if is_all:
                continue  # another command has dealt with it meanwhile
            raise
        deliver(
            f"{letter_id}  {f'is still dead: {_line(repr(error))}' if error else 'was applied'}"
        )
        errors += [error] if error else []
    return 1 if errors else 0


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise StartError(f"cannot read {path}: {reason(error)}") from error


def _line(error: str) -> str:
    """The beginning of an error, in one line."""
    line = " ".join(error.split())
    return line if len(line) <= MAX_ERROR_CHARACTERS else f"{line[:MAX_ERROR_CHARACTERS]}…"


COMMAND = Command(
    name="dead-letters",
    about="list the events that could not be applied, retry or mend them, or give one up",
    examples="%(prog)s\n%(prog)s retry --all\n%(prog)s show 3\n%(prog)s discard 3",
    arguments=_arguments,
    run=_run,
)
