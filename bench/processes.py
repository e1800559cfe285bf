"""Processes: started in groups of their own, written to files, and none left behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Self

from bench.errors import Failed
from runtime import ROOT
from runtime.process.children import listens
from scenarios.servers import HOST
from scenarios.system import free_ports

STOP_TIMEOUT_S = 10.0
POLL_S = 0.005

Settings = Mapping[str, str]  # environment variables
NO_SETTINGS: Settings = MappingProxyType({})
KEEP_COMPILED = {"PYTHONDONTWRITEBYTECODE": ""}  # as Python does by default


def wait_until(condition: Callable[[], object], what: str, timeout_s: float = 60) -> None:
    """Wait until a condition is true; `Failed` if that takes too long."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() >= deadline:
            raise Failed(f"{what}: not within {timeout_s:.0f} s")
        time.sleep(POLL_S)


class Process:
    """A command in a group of its own, which writes to ``NAME.out`` and ``NAME.err``."""

    def __init__(self, folder: Path, name: str, command: Sequence[str], settings: Settings) -> None:
        self.name = name
        self._out, self._err = folder / f"{name}.out", folder / f"{name}.err"
        with self._out.open("ab") as out, self._err.open("ab") as err:
            self._popen = subprocess.Popen(
                command,
                cwd=ROOT,
                env={**os.environ, **KEEP_COMPILED, **settings},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """The number of the process."""
        return self._popen.pid

    def lines(self) -> list[str]:
        """The whole lines that it has written to its standard output."""
        return self._out.read_text().rpartition("\n")[0].splitlines()

    def check(self) -> None:
        """Raise `Failed`, with the last line that it wrote, if it has ended with an error."""
        if self._popen.poll():
            lines = self._err.read_text(errors="replace").splitlines()
            why = lines[-1] if lines else f"exit code {self._popen.returncode}"
            raise Failed(f"{self.name} has ended: {why}")

    def wait_until(self, condition: Callable[[], object], what: str, timeout_s: float = 60) -> None:
        """Wait until a condition is true; `Failed` if the process ends with an error instead."""

        def checked() -> object:
            self.check()
            return condition()

        wait_until(checked, f"{self.name} {what}", timeout_s)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the whole group."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def stop(self, deadline: float) -> None:
        """Wait for the end that was asked for, and force it at the deadline."""
        with suppress(subprocess.TimeoutExpired):
            self._popen.wait(max(0, deadline - time.monotonic()))
        self.signal(signal.SIGKILL)
        self._popen.wait()

    def finish(self, timeout_s: float) -> None:
        """Wait until it ends by itself; `Failed` if that is with an error."""
        self.wait_until(lambda: self._popen.poll() is not None, "ends", timeout_s)


class Processes:
    """What was started for one figure; it ends with the ``with`` block, whatever happens."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._running: list[Process] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: object, trace: TracebackType | None
    ) -> None:
        self.stop(*self._running)

    def start(self, name: str, *command: str, settings: Settings = NO_SETTINGS) -> Process:
        """Start a command; ``settings`` are environment variables beside those of this process."""
        process = Process(self.folder, name, command, settings)
        self._running.append(process)
        return process

    def python(
        self, name: str, module: str, *arguments: str, settings: Settings = NO_SETTINGS
    ) -> Process:
        """Start ``python -m MODULE``."""
        return self.start(name, sys.executable, "-m", module, *arguments, settings=settings)

    def serve(self, contestant: str, settings: Settings = NO_SETTINGS) -> tuple[str, Process]:
        """Start a contestant that serves HTTP on the port of its environment, and give its URL."""
        port = next(free_ports())
        module = f"bench.contestants.{contestant}"
        process = self.python(contestant, module, settings={"PORT": str(port), **settings})
        process.wait_until(lambda: listens(HOST, port), "listens")
        return f"http://{HOST}:{port}", process

    def stop(self, *processes: Process) -> None:
        """Ask processes to end, and wait; what takes too long is killed."""
        for process in processes:
            process.signal(signal.SIGTERM)
        deadline = time.monotonic() + STOP_TIMEOUT_S
        for process in processes:
            process.stop(deadline)
        self._running = [each for each in self._running if each not in processes]
