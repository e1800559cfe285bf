"""Waits for SIGTERM, Ctrl-C and all other signals that end a process, so that it ends in order."""

import select
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from runtime.process.output import complain

# Those that do not end a process, or report a fault of its own, or cannot be handled.
_OTHERS = "CHLD CONT INFO PIPE STOP TSTP TTIN TTOU URG WINCH XFSZ BUS FPE ILL SEGV SYS TRAP KILL"
_NUMBERS = {getattr(signal, f"SIG{name}", None) for name in _OTHERS.split()}
SIGNALS = tuple(sorted(signal.valid_signals() - _NUMBERS))
ASKING = (signal.SIGTERM, signal.SIGINT)  # handled even if they were ignored


@contextmanager
def stop_signals() -> Iterator[Callable[[float], int]]:
    """Handle the signals; return a function that waits for the next one, up to a number of seconds.

    It returns how many have come so far.
    """
    reader, writer = socket.socketpair()
    count = 0
    writer.setblocking(False)
    handlers = [(number, signal.signal(number, lambda *_: None)) for number in _wanted()]
    signal.set_wakeup_fd(writer.fileno())
    poller = select.poll()  # select() knows no descriptors above 1023
    poller.register(reader, select.POLLIN)

    def stopped(timeout_s: float) -> int:
        nonlocal count
        if poller.poll(timeout_s * 1000):
            count += len(reader.recv(64))
        return count

    try:
        yield stopped
    finally:
        signal.set_wakeup_fd(-1)
        for number, handler in handlers:
            signal.signal(number, handler)
        reader.close()
        writer.close()


@contextmanager
def ended_by_signals(name: str) -> Iterator[None]:
    """Let the first signal end a command at once, with one line and exit code 1.

    What the command has begun is undone.
    """

    def end(number: int, _: FrameType | None) -> None:
        for each in SIGNALS:
            signal.signal(each, signal.SIG_IGN)
        complain(f"{name}: ended by {_name(number)}", service=name)
        raise SystemExit(1)

    handlers = [(number, signal.signal(number, end)) for number in _wanted()]
    try:
        yield
    finally:
        for number, handler in handlers:
            signal.signal(number, handler)


def _wanted() -> set[signal.Signals]:
    """All signals but those ignored, as a hang-up is under ``nohup``."""
    ignored = {s for s in SIGNALS if signal.getsignal(s) in (signal.SIG_IGN, None)}
    return set(SIGNALS) - ignored.difference(ASKING)


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # real-time signals have no names
        return f"signal {number}"
