"""SIGTERM and Ctrl-C, waited for like any input: no handler runs in the middle of something."""

import select
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def stop_signals() -> Iterator[Callable[[float], bool]]:
    """Take both signals; gives a function that waits for one, for at most so many seconds."""
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    handlers = [(number, signal.signal(number, lambda *_: None)) for number in SIGNALS]
    signal.set_wakeup_fd(writer.fileno())
    try:
        yield lambda timeout_s: bool(select.select([reader], [], [], timeout_s)[0])
    finally:
        signal.set_wakeup_fd(-1)
        for number, handler in handlers:
            signal.signal(number, handler)
        reader.close()
        writer.close()
