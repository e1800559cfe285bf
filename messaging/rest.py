"""Rests: a busy thread lets some events gather, and handles them as one list."""

import time

from messaging.transports.wire import RUN_EVENTS

REST_S = 0.01
FEW_EVENTS = 4  # a turn with fewer is not worth a rest: one buyer at a time waits for none


class Rest:
    """The rests of one thread.

    A turn costs a commit, a log line and some messages, however few events it handles: the journal
    takes 50 µs for an event in a list of eight, and 5 in a list of 256.
    """

    def __init__(self) -> None:
        self._handled = 0

    def after(self, handled: int) -> None:
        """Rest after a turn with some events, but no full run; ``handled`` counts all so far."""
        before, self._handled = self._handled, handled
        if FEW_EVENTS <= handled - before < RUN_EVENTS:
            time.sleep(REST_S)
