"""A process starts its tasks, ends them in the opposite order, and says why it cannot start."""

import signal
import threading
from typing import Any

import pytest

from runtime.process.errors import StartError
from runtime.process.lifecycle import run
from runtime.process.signals import SIGNALS

pytestmark = pytest.mark.usefixtures("own_logging")


class FakeTask:
    """A task that keeps a diary; at its start it sends this process's main thread a signal."""

    def __init__(self, diary: list[str], name: str, number: int = 0, alive: bool = True) -> None:
        self.diary, self.name, self.number, self.alive = diary, name, number, alive

    def start(self) -> None:
        self.diary.append(f"start {self.name}")
        if self.number:
            signal.pthread_kill(threading.main_thread().ident or 0, self.number)

    def is_alive(self) -> bool:
        return self.alive

    def stop(self) -> None:
        self.diary.append(f"stop {self.name}")


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_the_tasks_last_first(number: int) -> None:
    diary: list[str] = []
    run("shop", lambda _: [FakeTask(diary, "a", number), FakeTask(diary, "b")])
    assert diary == ["start a", "start b", "stop b", "stop a"]


def test_a_task_that_ends_by_itself_ends_the_process() -> None:
    diary: list[str] = []
    with pytest.raises(SystemExit) as ended:
        run("shop", lambda _: [FakeTask(diary, "a"), FakeTask(diary, "b", alive=False)])
    assert ended.value.code == 1
    assert diary[2:] == ["stop b", "stop a"]


def test_what_cannot_start_says_so_in_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    def make(_: Any) -> list[Any]:
        raise StartError("another process is running")

    with pytest.raises(SystemExit) as ended:
        run("shop", make)
    captured = capfd.readouterr()
    assert ended.value.code == 1
    said = [line for line in captured.err.splitlines() if "[info" not in line]  # of tests before
    assert (captured.out, said) == ("", ["shop: another process is running"])
