"""SIGTERM, Ctrl-C and hang-up, waited for: no handler runs in the middle of something."""

import select
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)  # the last when a terminal is closed


@contextmanager
def stop_signals() -> Iterator[Callable[[float], bool]]:
    """Take the signals; gives a function that waits for one, for at most so many seconds."""
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    wanted = [s for s in SIGNALS if s != signal.SIGHUP or signal.getsignal(s) != signal.SIG_IGN]
    handlers = [(number, signal.signal(number, lambda *_: None)) for number in wanted]
    signal.set_wakeup_fd(writer.fileno())
    try:
        yield lambda timeout_s: bool(select.select([reader], [], [], timeout_s)[0])
    finally:
        signal.set_wakeup_fd(-1)
        for number, handler in handlers:
            signal.signal(number, handler)
        reader.close()
        writer.close()
