"""Lines for standard output and standard error, written at once and whole.

They bypass Python's buffers: a failed write is not repeated at the end of the process, and a thread
that hangs on a console holds no lock that others need.
"""

import json
import os
import select
from collections.abc import Callable
from contextlib import suppress

from runtime.process.clock import timestamp

STDOUT, STDERR = 1, 2
POLL_MS = 100


def say(line: str, target: int = STDOUT) -> None:
    """Write a line, and wait for its reader; a failure is ignored."""
    rest = _encoded(line)
    with suppress(OSError):
        while rest:
            try:
                rest = rest[os.write(target, rest) :]
            except BlockingIOError:  # another process has made it non-blocking
                _is_ready(target, select.POLLOUT)


def deliver(line: str, stopped: Callable[[float], int] = lambda _: 0) -> None:
    """Write a line of a command's result to standard output, and wait for its reader.

    A failure ends the process: quietly if the reader is gone, and with one line and exit code 1 if,
    say, a disk is full. When it is ``stopped``, the unread rest is dropped.
    """
    rest = _encoded(line)
    try:
        while rest and not stopped(0):
            if _is_ready(STDOUT, select.POLLOUT):
                with suppress(BlockingIOError):
                    rest = rest[os.write(STDOUT, rest[: select.PIPE_BUF]) :]
    except BrokenPipeError:
        raise SystemExit(0) from None
    except OSError as error:
        complain(f"cannot write to standard output: {error.strerror}")
        raise SystemExit(1) from None


def has_reader() -> bool:
    """Whether the other end of standard output is open."""
    return not _is_ready(STDOUT, 0, timeout_ms=0)


def _encoded(line: str) -> bytes:
    return f"{line}\n".encode(errors="backslashreplace")


def _is_ready(descriptor: int, wanted: int, timeout_ms: int = POLL_MS) -> bool:
    """Wait until a descriptor is ready, or closed at the other end."""
    poller = select.poll()  # select() knows no descriptors above 1023
    poller.register(descriptor, wanted)
    return bool(poller.poll(timeout_ms))


def complain(text: str, **about: str) -> None:
    """Write a `complaint` to standard error."""
    say(complaint(text, **about), STDERR)


def complaint(text: str, **about: str) -> str:
    """A line for standard error; with ``LOG_FORMAT=json`` an object like those of the logs."""
    if not logs_json():
        return text
    return json.dumps({"event": text, "level": "error", "timestamp": timestamp(), **about})


def logs_json() -> bool:
    """Whether each line on standard error is to be a JSON object."""
    return os.environ.get("LOG_FORMAT") == "json"  # read here: settings errors use it, too


def reserve_standard_streams() -> None:
    """Open closed standard descriptors on /dev/null, so that no other file gets their numbers."""
    for descriptor in (0, STDOUT, STDERR):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDONLY)  # takes the lowest free one
