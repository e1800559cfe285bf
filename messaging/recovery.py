"""Recovery by hand: decisions that only an operator may take."""

import argparse
import os
import time
from typing import Any

from messaging.arguments import place
from messaging.event import renumbered
from messaging.inbox import move, place_of
from messaging.outbox import Outbox
from messaging.transports.wire import Place, digest
from runtime.process.commands import Command
from runtime.process.errors import StartError
from runtime.process.output import deliver
from runtime.storage.database import Database

STEP_ROWS = 1000
REVIVE = "DELETE FROM dead_letter WHERE stream = ? AND (epoch, sequence) > (?, ?)"
RENUMBER = "UPDATE outbox SET sequence = ?, body = ? WHERE sequence = ?"
BEGIN = "UPDATE head SET epoch = ?, sequence = ?, acked = 0, problem = NULL"


def set_place(database: Database, stream: str, new: Place, back: bool) -> Place:
    """Move a reader's place in a stream, and return the old one.

    A place below the old one is a `StartError`, unless it may go ``back``: then events that were
    applied are applied again, and those set aside are tried again.
    """
    with database.write():
        old = place_of(database, stream)
        if new < old and not back:
            raise StartError(
                f"{stream} is at {old}, which is after {new}: with --back, "
                "what the journal has between them is applied again"
            )
        move(database, stream, old, new)
        database.run(REVIVE, stream, *new)
    return old


def begin_epoch(database: Database, outbox: Outbox) -> tuple[Place, Place]:
    """Give an outbox a new epoch, in which all its events are published again, numbered from 1.

    Returns the newest place before and after; `StartError` if the clock is behind the epoch.
    """
    epoch = time.time_ns().to_bytes(8, "big") + os.urandom(8)
    with database.write():
        old, count = outbox.head().place, 0
        previous: bytes | None = None
        if epoch <= old.epoch:
            raise StartError("the clock is behind this database's creation time")
        for after in range(outbox.oldest() - 1, old.sequence, STEP_ROWS):
            for sequence, body in outbox.rows(after, after + STEP_ROWS):
                count += 1
                renewed = renumbered(body, Place(epoch, count), previous)
                database.run(RENUMBER, count, renewed, sequence)
                previous = digest(renewed)
        database.run(BEGIN, epoch, count)
    return old, Place(epoch, count)


def _place_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("stream", nargs="?", metavar="STREAM", help="without it, all are listed")
    parser.add_argument(
        "place", nargs="?", type=place, metavar="PLACE", help="as log lines name it"
    )
    parser.add_argument(
        "--back", action="store_true", help="allow going back: later events are applied again"
    )


def _place(service: Any, arguments: argparse.Namespace) -> int:
    database: Database = service.database
    chosen = [arguments.stream] if arguments.stream else sorted(service.streams)
    for stream in chosen:
        if stream not in service.streams:
            known = ", ".join(sorted(service.streams)) or "none"
            raise StartError(f"this service does not read {stream!r}; it reads: {known}")
        if not arguments.place:
            deliver(f"{stream}  {place_of(database, stream)}")
            continue
        old = set_place(database, stream, arguments.place, arguments.back)
        deliver(f"{stream}  {arguments.place}, it was {old}")
    return 0


def _new_epoch_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--yes", action="store_true", help="I have read docs/operations.md")


def _new_epoch(service: Any, arguments: argparse.Namespace) -> int:
    if not arguments.yes:
        raise StartError(
            "readers will receive all of this service's events again: "
            "read docs/operations.md, then add --yes"
        )
    old, new = begin_epoch(service.database, service.outbox)
    deliver(f"{service.outbox.stream}  {new}, it was {old}")
    return 0


PLACE = Command(
    name="place",
    about="show or move the place up to which streams were applied",
    examples="%(prog)s\n%(prog)s STREAM 00000000000000000000000000000000:0 --back",
    arguments=_place_arguments,
    run=_place,
)
NEW_EPOCH = Command(
    name="new-epoch",
    about="publish all events again, in a new epoch that closes the one before",
    examples="%(prog)s --yes",
    arguments=_new_epoch_arguments,
    run=_new_epoch,
)
COMMANDS = (PLACE, NEW_EPOCH)
