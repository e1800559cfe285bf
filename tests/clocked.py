"""Start a process under a wall clock that a test can move: ``python -m tests.clocked shop``.

The file that WALL_CLOCK names holds by how many seconds it differs from the real one.
"""

import os
import runpy
import sys
import time
from datetime import datetime, timedelta, tzinfo
from pathlib import Path

import runtime.process.clock

real_time, real_time_ns = time.time, time.time_ns


def offset_s() -> int:
    return int(Path(os.environ["WALL_CLOCK"]).read_text())


class MovedDatetime(datetime):
    @classmethod
    def now(cls, tz: tzinfo | None = None) -> datetime:
        return datetime.now(tz) + timedelta(seconds=offset_s())


time.time = lambda: real_time() + offset_s()
time.time_ns = lambda: real_time_ns() + offset_s() * 10**9
runtime.process.clock.datetime = MovedDatetime
del sys.argv[0]
runpy.run_module(sys.argv[0], run_name="__main__")
