"""Progress of long work: one line that changes on a terminal, or a line now and then."""

import os
import time
from collections.abc import Callable
from contextlib import suppress

from runtime.process.output import STDOUT, deliver

LINE_INTERVAL_S = 10.0
TERMINAL_INTERVAL_S = 0.2


class Progress:
    """Shows the text that ``describe`` returns, with the time since the beginning."""

    def __init__(self, describe: Callable[[], str]) -> None:
        self._describe = describe
        self._on_terminal = os.isatty(STDOUT)
        self._begun = self._shown_at = time.monotonic()

    def show(self) -> None:
        """Show it, if it is time."""
        now = time.monotonic()
        if now - self._shown_at < (TERMINAL_INTERVAL_S if self._on_terminal else LINE_INTERVAL_S):
            return
        self._shown_at = now
        minutes, seconds = divmod(int(now - self._begun), 60)
        line = f"{minutes}:{seconds:02}  {self._describe()}"
        if self._on_terminal:
            _write(f"\r{line}\033[K")
        else:
            deliver(line)

    def clear(self) -> None:
        """Clear the line for further output."""
        if self._on_terminal:
            _write("\r\033[K")


def _write(text: str) -> None:
    with suppress(OSError):
        os.write(STDOUT, text.encode())
