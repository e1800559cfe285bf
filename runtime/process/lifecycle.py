"""The life cycle of a process: it starts, or says in one line why not; a signal ends it."""

import gc
import sys
from collections.abc import Callable
from typing import Protocol

import structlog

from runtime.process.errors import NotYet, StartError
from runtime.process.logs import configure_logs
from runtime.process.output import complain
from runtime.process.settings import Settings, load_settings
from runtime.process.signals import stop_signals

log = structlog.get_logger(__name__)

SWITCH_INTERVAL_S = 0.0005  # how long a thread that returns from a flush waits for its turn
NEW_OBJECTS = 10_000  # between two collections of garbage; a run makes thousands, none in a cycle
TICK_S = 1.0  # how soon the end of a task is noticed, and a start tried again


class Task(Protocol):
    """A thread of the process, such as an exchange; it runs until it is stopped."""

    def start(self) -> None:
        """Start it, or raise `StartError`."""

    def is_alive(self) -> bool:
        """Whether it runs."""

    def stop(self) -> None:
        """End it, and wait for its end."""


def tune_interpreter() -> None:
    """Adjust Python to a process of few threads that handles lists of small objects."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    gc.freeze()  # what was imported stays
    gc.set_threshold(NEW_OBJECTS, *gc.get_threshold()[1:])


def run(name: str, make_tasks: Callable[[Settings], list[Task]]) -> None:
    """Run tasks until a signal comes or one ends by itself; stop them in the opposite order.

    A task that cannot be made or started yet is tried again. A wrong setting ends the process with
    exit code 2, and any other `StartError` with 1, each with one line.
    """
    settings = load_settings()
    configure_logs(name, settings)
    tune_interpreter()
    tasks: list[Task] = []
    started: list[Task] = []
    healthy, pause_s, attempt = True, 0.0, _Attempt()
    with stop_signals() as stopped:
        while healthy and not stopped(pause_s):
            try:
                if not tasks:
                    attempt(lambda: tasks.extend(make_tasks(settings)))
                new = [task for task in tasks if task not in started and attempt(task.start)]
            except StartError as error:
                complain(f"{name}: {error}", service=name)
                raise SystemExit(1) from None
            started += new
            if new and len(started) == len(tasks):
                log.info("started")
            healthy = all(task.is_alive() for task in started)
            pause_s = TICK_S
        for task in reversed(tasks):
            if task in started:
                task.stop()
    log.info("stopped")
    if not healthy:
        raise SystemExit(1)


class _Attempt:
    """Runs a step that may have to wait, and logs each reason once."""

    def __init__(self) -> None:
        self._reason = ""

    def __call__(self, step: Callable[[], None]) -> bool:
        try:
            step()
        except NotYet as error:
            if str(error) != self._reason:
                self._reason = str(error)
                log.warning("waiting to start", error=self._reason)
            return False
        return True
