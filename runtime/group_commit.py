"""Group commit: what waits to be written is written in one transaction, and shares its flush."""

import contextvars
import threading
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, TypeVar

from runtime.errors import ShopError

T = TypeVar("T")
Transaction = Callable[[], AbstractContextManager[None]]
MAX_GROUP = 64


class _Waiting:
    """What a thread wants done, and the lock that it waits on."""

    def __init__(self, action: Callable[[], Any]) -> None:
        self.error: BaseException | None = None
        self.is_done = False
        self.turn = threading.Lock()
        self.turn.acquire()
        self._action = action
        self._context = contextvars.copy_context()

    def run(self) -> None:
        """Do it, as if that thread did."""
        self.result = self._context.run(self._action)


class _Undo(Exception):
    """One of a group has failed, and something may have been changed."""


class GroupCommit:
    """Does what several threads want done in one ``transaction``.

    Whoever comes first leads: it does what has queued up behind it, commits, and wakes the others;
    what has come meanwhile is the next group, which its first member leads. ``changes`` counts
    the rows changed so far: if one is refused before it has changed any, the others need not
    notice. After any other failure all is undone, and done again one by one.
    """

    def __init__(self, transaction: Transaction, changes: Callable[[], int]) -> None:
        self._transaction = transaction
        self._changes = changes
        self._queue: deque[_Waiting] = deque()
        self._is_led = False
        self._guard = threading.Lock()

    def run(self, action: Callable[[], T]) -> T:
        """Do it, and give its result after the commit; raises what it raises, or the commit does.

        It may be done again, after all that it did was undone.
        """
        mine = _Waiting(action)
        with self._guard:
            self._queue.append(mine)
            leads, self._is_led = not self._is_led, True
        if not leads:
            mine.turn.acquire()  # until it is done, or has to lead
        if not mine.is_done:
            self._lead()
        if mine.error:
            raise mine.error
        result: T = mine.result
        return result

    def _lead(self) -> None:
        group: list[_Waiting] = []
        try:
            self._commit(group)
        finally:
            with self._guard:
                successor = self._queue[0] if self._queue else None
                self._is_led = successor is not None
            for each in group:
                each.is_done = True
                each.turn.release()
            if successor:
                successor.turn.release()

    def _commit(self, group: list[_Waiting]) -> None:
        try:
            with self._transaction():
                self._gather(group)  # now, as some may have come while it waited for its lock
                for each in group:
                    self._try(each)
        except _Undo:
            for each in group:
                self._commit_alone(each)
        except BaseException as error:  # nobody is left waiting
            if not group:
                self._gather(group)
            for each in group:
                each.error = error

    def _gather(self, group: list[_Waiting]) -> None:
        with self._guard:
            group += [self._queue.popleft() for _ in range(min(len(self._queue), MAX_GROUP))]

    def _try(self, one: _Waiting) -> None:
        before = self._changes()
        try:
            one.run()
        except ShopError as error:
            if self._changes() != before:
                raise _Undo from None
            one.error = error
        except Exception:
            raise _Undo from None

    def _commit_alone(self, one: _Waiting) -> None:
        one.error = None
        try:
            with self._transaction():
                one.run()
        except BaseException as error:
            one.error = error
