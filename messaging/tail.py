"""Tail: a stream as JSON lines, for ``jq``, and for authors of other services."""

import time
from collections.abc import Callable

import structlog
from pydantic_core import from_json, to_json

from messaging.follower import Follower, Received
from messaging.transports.forwarder import Transport
from messaging.transports.wire import MAX_SEQUENCE, START, Place
from runtime.process.output import complain, deliver, has_reader

log = structlog.get_logger(__name__)

LAST = Place(b"\xff" * 16, MAX_SEQUENCE)  # nothing comes after it but the journal's head
POLL_S = 0.1
PATIENCE_S = 1.0  # before it says that it waits


def tail(
    transport: Transport, stream: str, first: int | None, stopped: Callable[[float], int]
) -> None:
    """Print the events of a stream until it is stopped, or its output has no reader any more.

    It begins with the next event, or with sequence ``first`` of the journal's newest epoch.
    """
    begun, hinted = time.monotonic(), False
    follower = Follower(stream, LAST)
    while has_reader() and not stopped(0):
        follower.listen(transport, POLL_S)
        head = follower.head
        if follower.place == LAST and head and (first is None or head > START):
            sequence = head.sequence if first is None else first - 1
            follower.place = Place(head.epoch, sequence)
        for event in follower.take():
            _print(event, stopped)
            follower.place = event.place
        if not transport.up and not hinted and time.monotonic() - begun > PATIENCE_S:
            hinted = True
            complain("waiting for the broker: is it running, with these keys?", service="messaging")


def _print(event: Received, stopped: Callable[[float], int]) -> None:
    try:
        line = to_json(from_json(event.body))  # without its writer's white space
    except ValueError:
        log.warning("an event is not JSON", place=str(event.place))
    else:
        deliver(line.decode(), stopped)
