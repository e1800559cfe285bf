"""Replay: a stream from a place on, up to where the journal stands."""

import time
from collections.abc import Callable

from messaging.follower import Follower, Received
from messaging.transports.forwarder import Transport
from messaging.transports.wire import START, Place
from runtime.process.errors import StartError
from runtime.process.progress import Progress

POLL_S = 0.05
NO_PROGRESS_S = 10.0  # longer than a broker takes to start again


class Replayed(Follower):
    """A stream from its beginning on, or from the middle on where that was archived."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream, START)

    def skip(self, first: Place, last: Place) -> bool:
        """Begin in the middle of a stream only where nothing of it was applied yet."""
        if self._tip().sequence == 0:
            return super().skip(first, last)
        raise StartError(f"the journal has no events from {first} to {last}: restore it")


def catch_up(
    follower: Replayed,
    transport: Transport,
    at_least: Place,
    apply: Callable[[Received], None],
) -> None:
    """Apply the journal's events above the follower's place, through an open transport.

    It ends at the journal's head, but not before ``at_least``, since a lost journal may be filling
    up again. Raises `StartError` if there is no progress for 10 s.
    """
    follower.disconnect()
    applied = 0
    progress = Progress(lambda: f"{applied:,} events applied, {follower.behind or 0:,} to go")
    progress_at = time.monotonic()
    while follower.behind != 0 or follower.place < at_least:
        follower.listen(transport, POLL_S)
        for event in (taken := follower.take()):
            apply(event)
            follower.place = event.place
        applied += len(taken)
        progress.show()
        if taken:
            progress_at = time.monotonic()
        elif time.monotonic() - progress_at > NO_PROGRESS_S:
            raise StartError("the broker is down, or does not have all events yet: see its log")
    progress.clear()
