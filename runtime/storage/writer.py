"""The writer: one thread that executes the commands of requests, in lists with one commit each."""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import structlog
from greenlet import getcurrent, greenlet

from runtime.process.errors import Unavailable
from runtime.storage.database import Database, is_outage

C = TypeVar("C")
T = TypeVar("T")
# Takes the open database and commands, and returns the outcome of each: a value, or an error. An
# error that it raises undoes all of them.
Work = Callable[[Database, Sequence[C]], Sequence[T | Exception]]
MAX_LIST = 64
log = structlog.get_logger(__name__)


def commit(database: Database, work: Work[C, T], commands: Sequence[C]) -> Sequence[T | Exception]:
    """Execute a list of commands in one transaction; return their outcomes.

    If that fails, each is executed alone, and gets its own error; in an outage, they share one.
    """
    try:
        with database.write():
            return work(database, commands)
    except Exception as error:
        shared = is_outage(error) and not isinstance(error, Unavailable)
        if shared or len(commands) == 1:
            return [error] * len(commands)
        return [commit(database, work, [each])[0] for each in commands]


def hand_in(database: Database, work: Work[C, T], command: C) -> T:
    """Submit a command to the writer, and return its outcome after the commit; raises its error.

    In the writer's thread it joins those of other requests; elsewhere it is a list of one.
    """
    request = getcurrent()
    if isinstance(request, _Request):
        # Back to `_serve`, which collects the commands, and resumes us with the outcome.
        outcome = request.parent.switch((database, work), command)
    else:
        (outcome,) = commit(database, work, [command])
    if isinstance(outcome, Exception):
        raise outcome
    return outcome  # type: ignore[no-any-return]


class _Request(greenlet):  # type: ignore[misc]  # it has no type hints
    """A request in the writer's thread."""

    def run(self, task: Any) -> None:
        """Serve it up to its command, and after the commit to its answer."""
        try:
            task.service()
        except BaseException:
            log.exception("a request could not be served")


class Writer:
    """Serves requests in one thread: a dispatcher of waitress, as far as its server uses one.

    It takes all waiting requests, runs each in a greenlet up to its command, executes the commands
    as lists, and lets each request finish. Then it calls ``answered``.
    """

    def __init__(self, answered: Callable[[], None]) -> None:
        self._answered = answered
        self._queue: deque[Any] = deque()
        self._has_come = threading.Condition()
        self._is_stopping = False
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)
        self._thread.start()

    def add_task(self, task: Any) -> None:
        """Take a task, and serve it after `wake`."""
        self._queue.append(task)

    def wake(self) -> None:
        """Serve the waiting tasks: those that came together become one list."""
        if self._queue:
            with self._has_come:
                self._has_come.notify()

    def is_current(self) -> bool:
        """Whether this is the writer's thread."""
        return threading.current_thread() is self._thread

    def shutdown(self, timeout: float) -> None:
        """End after the current list, and cancel the remaining tasks."""
        self._is_stopping = True
        with self._has_come:
            self._has_come.notify()
        self._thread.join(timeout)
        while self._queue:
            self._queue.popleft().cancel()

    def _run(self) -> None:
        while not self._is_stopping:
            with self._has_come:
                self._has_come.wait_for(lambda: self._queue or self._is_stopping)
            self._serve()
            self._answered()

    def _serve(self) -> None:
        lists: dict[Any, list[tuple[Any, Any]]] = {}
        for _ in range(MAX_LIST):
            if not self._queue:
                break
            request = _Request()
            if handed_in := request.switch(self._queue.popleft()):
                where, command = handed_in
                lists.setdefault(where, []).append((request, command))
        for (database, work), some in lists.items():
            outcomes = commit(database, work, [command for _, command in some])
            for (request, _), outcome in zip(some, outcomes, strict=True):
                request.switch(outcome)
