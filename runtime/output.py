"""Lines for standard output and standard error, written at once and whole.

They bypass Python's buffers: what could not be written is not tried again at the end of the
process, and a thread that hangs on a console holds no lock that others need.
"""

import os
import select
from contextlib import suppress

STDOUT, STDERR = 1, 2


def say(line: str, target: int = STDOUT) -> None:
    """Write a line, and wait for its reader; if that is gone, that is ignored."""
    rest = f"{line}\n".encode(errors="backslashreplace")
    with suppress(OSError):
        while rest:
            try:
                rest = rest[os.write(target, rest) :]
            except BlockingIOError:  # somebody else has made it so
                select.select([], [target], [])


def reserve_standard_streams() -> None:
    """Point the standard descriptors that are closed to nowhere, so that no file gets theirs."""
    for descriptor in (0, STDOUT, STDERR):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest that is free
