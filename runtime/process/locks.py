"""Locks of a folder among processes."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from runtime.process.errors import NotYet

TIMEOUT_S = 1


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock a folder among processes, so that only one at a time makes files or tables there."""
    descriptor = os.open(folder, os.O_RDONLY)
    deadline = time.monotonic() + TIMEOUT_S
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise NotYet(f"another program has locked {folder} (see DATA_DIR)") from None
                time.sleep(0.01)
        yield
    finally:
        os.close(descriptor)
