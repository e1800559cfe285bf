"""Dead letters: events that could not be applied, set aside with their errors, and retried."""

import argparse
from typing import Any

from messaging.event import Event
from messaging.inbox import Handlers, handle
from messaging.models import DeadLetter
from messaging.wire import Place
from runtime.clock import timestamp
from runtime.commands import Command, add_command
from runtime.database import Database, is_outage
from runtime.errors import NotFound
from runtime.output import say


class DeadLetters:
    """The dead letters of one service, whose ``handlers`` are by stream and event type."""

    def __init__(self, database: Database, handlers: dict[str, Handlers]) -> None:
        self._database = database
        self._handlers = handlers

    def all(self) -> list[dict[str, Any]]:
        """Rows by id: ``id, stream, epoch, sequence, body, error, died_at``."""
        return list(DeadLetter.select().order_by(DeadLetter.id).dicts().execute(self._database))

    def retry(self, letter_id: int) -> Exception | None:
        """Apply an event that is dead, late as it is; gives the error if it stays dead.

        The event and its effect change places in one transaction. Raises `NotFound` if there is
        no such letter, and the database's error in an outage.
        """
        same = DeadLetter.id == letter_id
        try:
            with self._database.write():
                letter = DeadLetter.select().where(same).first(self._database)
                if letter is None:
                    raise NotFound(f"there is no dead letter {letter_id}")
                DeadLetter.delete().where(same).execute(self._database)
                place = Place(letter.epoch, letter.sequence)
                event = Event.parse(letter.stream, place, letter.body)
                handle(self._database, self._handlers[letter.stream], event, letter.body)
        except Exception as error:
            if isinstance(error, NotFound) or is_outage(error):
                raise
            with self._database.write():
                again = DeadLetter.update(error=repr(error), died_at=timestamp())
                again.where(same).execute(self._database)
            return error
        return None


def _arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", title="actions", metavar="ACTION")
    about = "apply them after all, once what failed is mended"
    retry = add_command(actions, "retry", about, "%(prog)s 3\n%(prog)s --all")
    chosen = retry.add_mutually_exclusive_group(required=True)
    chosen.add_argument("id", nargs="?", type=int, metavar="ID", help="one, by its number")
    chosen.add_argument("--all", action="store_true", help="every one, the oldest first")


def _run(service: Any, arguments: argparse.Namespace) -> int:
    letters: DeadLetters = service.dead_letters
    if not arguments.action:
        rows = letters.all()
        for row in rows:
            place = Place(row["epoch"], row["sequence"])
            say(f"{row['id']}  {row['died_at']}  {row['stream']} {place}  {row['error']}")
        say("retry N, or retry --all, applies them after all" if rows else "no event is dead")
        return 0
    errors = []
    for letter_id in [row["id"] for row in letters.all()] if arguments.all else [arguments.id]:
        error = letters.retry(letter_id)
        say(f"{letter_id}  {f'is still dead: {error!r}' if error else 'was applied'}")
        errors += [error] if error else []
    return 1 if errors else 0


COMMAND = Command(
    name="dead-letters",
    about="list the events that could not be applied, or retry them",
    examples="%(prog)s\n%(prog)s retry 3\n%(prog)s retry --all",
    arguments=_arguments,
    run=_run,
)
