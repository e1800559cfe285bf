"""What the clients of a queue have in common: they publish or consume, and tell when.

``python -m bench.contestants.MODULE publish|consume URL NAME COUNT``: each writes ``ready`` once it
is connected, and last a line with a moment of the clock that all processes share: the publisher
that of its first event, the consumer that at which it had every event.
"""

import sys
import time
from collections.abc import Callable
from typing import NamedTuple

from runtime.process.output import say

IN_FLIGHT = 1024
BODY_BYTES = 500  # about what an order's event has


class Job(NamedTuple):
    """What a client is to do: so many events through a queue that is called so."""

    url: str
    name: str
    number: int

    def bodies(self) -> list[bytes]:
        """The events, each of which can be told from the others."""
        return [str(number).encode().ljust(BODY_BYTES) for number in range(self.number)]


class Tally:
    """What a consumer has received, which is complete when each event was there in its order."""

    def __init__(self, job: Job) -> None:
        self._count = job.number
        self.received = 0

    def add(self, body: bytes) -> None:
        """Count an event; one that comes again, or too early, ends the client with an error."""
        if int(body) != self.received:
            raise SystemExit(f"event {self.received} was expected, and {int(body)} came")
        self.received += 1

    @property
    def complete(self) -> bool:
        """Whether every event was there."""
        return self.received == self._count


def tell_ready() -> None:
    """Tell that this client is connected."""
    say("ready")


def tell_moment() -> None:
    """Tell the moment that is measured: now."""
    say(str(time.monotonic()))


def main(publish: Callable[[Job], None], consume: Callable[[Job], None]) -> None:
    """Do what the command line asks for."""
    role, url, name, count = sys.argv[1:]
    {"publish": publish, "consume": consume}[role](Job(url, name, int(count)))
