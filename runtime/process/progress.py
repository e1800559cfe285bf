"""Progress of what takes long: a line over itself on a terminal, else now and then below."""

import os
import time
from collections.abc import Callable
from contextlib import suppress

from runtime.process.output import STDOUT, deliver

LINE_INTERVAL_S = 10.0
TERMINAL_INTERVAL_S = 0.2


class Progress:
    """Shows what ``tell`` returns, with the time since the beginning."""

    def __init__(self, tell: Callable[[], str]) -> None:
        self._tell = tell
        self._on_terminal = os.isatty(STDOUT)
        self._begun = self._told_at = time.monotonic()

    def show(self) -> None:
        """Tell it, if it is time."""
        now = time.monotonic()
        if now - self._told_at < (TERMINAL_INTERVAL_S if self._on_terminal else LINE_INTERVAL_S):
            return
        self._told_at = now
        minutes, seconds = divmod(int(now - self._begun), 60)
        line = f"{minutes}:{seconds:02}  {self._tell()}"
        if self._on_terminal:
            _write(f"\r{line}\033[K")
        else:
            deliver(line)

    def clear(self) -> None:
        """Make room for what comes after it."""
        if self._on_terminal:
            _write("\r\033[K")


def _write(text: str) -> None:
    with suppress(OSError):
        os.write(STDOUT, text.encode())
