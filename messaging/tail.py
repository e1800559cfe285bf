"""Tail: a stream as JSON lines, for ``jq``, and for whoever writes another service."""

import os
import select
import time
from collections.abc import Callable
from contextlib import suppress

import structlog
from pydantic_core import from_json, to_json

from messaging.follower import Follower
from messaging.transport import Transport
from messaging.wire import MAX_SEQUENCE, Event, Place, Replay
from runtime.output import STDERR, STDOUT, say

log = structlog.get_logger(__name__)

LAST = Place(b"\xff" * 16, MAX_SEQUENCE)  # nothing comes after it but the journal's head
POLL_S = 0.1
PATIENCE_S = 1.0  # before it says that it waits


def tail(way: Transport, stream: str, first: int | None, stopped: Callable[[float], bool]) -> None:
    """Print the events of a stream until it is stopped, or nobody reads them any more.

    From the next one on; or from sequence ``first`` on, of the newest epoch that the journal has.
    """
    begun, hinted = time.monotonic(), False
    follower = Follower(stream, LAST)
    while not stopped(0):
        follower.listen(way, POLL_S)
        if follower.place == LAST and (head := follower.head):
            sequence = head.sequence if first is None else first - 1
            follower.place = Place(head.epoch, sequence)
        for event in follower.take():
            if not _print(event, stopped):
                return
            follower.place = event.place
        if not way.up and not hinted and time.monotonic() - begun > PATIENCE_S:
            hinted = True
            say("waiting for the broker: is it running, with these keys?", STDERR)


def _print(event: Event | Replay, stopped: Callable[[float], bool]) -> bool:
    """Print it, however slowly it is read; False if it is not, to its end."""
    try:
        line = to_json(from_json(event.body)) + b"\n"  # whatever its writer took for white space
    except ValueError:
        log.warning("an event is not JSON", place=str(event.place))
        return True
    with suppress(OSError):  # nobody reads any more
        while line and not stopped(0):
            if select.select([], [STDOUT], [], POLL_S)[1]:
                line = line[os.write(STDOUT, line[: select.PIPE_BUF]) :]
    return not line
