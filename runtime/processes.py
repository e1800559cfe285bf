"""Starting and stopping the other processes of this project, and finding who holds a port."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import IO

import psutil

from runtime import ROOT
from runtime.output import STDERR, STDOUT, say


class Child:
    """A ``python -m NAME`` in a process group of its own; each of its lines is shown with its name.

    ``color`` is an ANSI code, used on a terminal unless ``NO_COLOR`` is set. ``settings`` go before
    those of this process. Lines of a ``stdout`` or ``stderr`` that is a file are in that file only.
    """

    def __init__(
        self,
        name: str,
        color: int,
        settings: Mapping[str, str] = MappingProxyType({}),
        stdout: IO[bytes] | int = subprocess.PIPE,
        stderr: IO[bytes] | int = subprocess.PIPE,
    ) -> None:
        self.name = name
        self._color = color
        path = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        self.process = subprocess.Popen(
            [sys.executable, "-m", name],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path), **settings},
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
        )
        self._pumps = [
            threading.Thread(target=self._pump, args=(source, target), daemon=True)
            for source, target in ((self.process.stdout, STDOUT), (self.process.stderr, STDERR))
            if source
        ]
        for pump in self._pumps:
            pump.start()

    def _pump(self, source: IO[bytes], target: int) -> None:
        prefix = f"{self.name:9} | "
        if os.isatty(target) and not os.environ.get("NO_COLOR"):
            prefix = f"\033[{self._color}m{prefix}\033[0m"
        for line in source:
            say(prefix + line.decode(errors="replace").rstrip("\n"), target)

    def signal(self, number: int) -> None:
        """Send a signal to the whole group."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def end(self) -> str:
        """How it ended."""
        code = self.process.returncode
        return f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"

    def stop(self, deadline: float) -> None:
        """Wait for the end that was asked for, and force it at the deadline."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(max(0, deadline - time.monotonic()))
        self.signal(signal.SIGKILL)
        self.process.wait()
        for pump in self._pumps:
            pump.join(timeout=0.2)


def listens(host: str, port: int) -> bool:
    """Whether somebody listens on a port."""
    with suppress(OSError):
        socket.create_connection((host, port), timeout=1).close()
        return True
    return False


def held(wanted: dict[str, tuple[str, int]]) -> list[str]:
    """One line for each of these addresses that somebody listens on already, with who it is."""
    holders: dict[int, int | None] = {}
    with suppress(psutil.AccessDenied):  # some systems tell it to root alone: then bind() will
        for connection in psutil.net_connections("tcp"):
            if connection.laddr and connection.status == psutil.CONN_LISTEN:
                holders[connection.laddr.port] = connection.pid
    lines = []
    for setting, (_, port) in wanted.items():
        if port in holders:
            who = "another process"
            with suppress(psutil.Error):
                command = " ".join(psutil.Process(holders[port] or 0).cmdline())
                who = f"process {holders[port]} ({command}); kill {holders[port]} ends it"
            lines.append(f"port {port} ({setting}) is held by {who}")
    return lines
