"""Replay: a stream from a place on, up to where the journal stands."""

import time

from messaging.inbox import Reader
from messaging.transport import Transport
from messaging.wire import Place
from runtime.errors import StartError
from runtime.progress import Progress

POLL_S = 0.05
NO_PROGRESS_S = 10.0  # longer than any pause between two tries of an event


def catch_up(reader: Reader, transport: Transport, at_least: Place) -> None:
    """Apply what the journal holds above the reader's place, through an open transport.

    It ends at the journal's head, but not before ``at_least``: a lost journal is being filled
    again. Raises `StartError` if there is no progress for 10 s.
    """
    reader.disconnect()
    progress = Progress(lambda: f"{reader.applied:,} events applied, {reader.behind or 0:,} to go")
    place, progress_at = reader.place, time.monotonic()
    while reader.behind != 0 or reader.place < at_least:
        reader.listen(transport, POLL_S)
        reader.apply()
        progress.show()
        if reader.place != place:
            place, progress_at = reader.place, time.monotonic()
        elif time.monotonic() - progress_at > NO_PROGRESS_S:
            raise StartError("the broker is down or has not all events yet: see its log")
    progress.clear()
