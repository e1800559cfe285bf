"""Starts and stops the other processes of this project, and finds the holder of a port."""

import errno
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, ip_address
from operator import itemgetter
from typing import IO

import psutil
from pydantic_core import from_json

from runtime import ROOT
from runtime.process.output import STDERR, STDOUT, complaint, logs_json, say


def _is_object(line: str) -> bool:
    with suppress(ValueError):
        return isinstance(from_json(line), dict)
    return False


def spawn(
    name: str, settings: Mapping[str, str], stdout: IO[bytes] | int, stderr: IO[bytes] | int
) -> "subprocess.Popen[bytes]":
    """Start ``python -m NAME`` in a process group of its own; ``settings`` go before our own."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    ours = {"PYTHONPATH": path, "PYTHONSAFEPATH": "1"}  # import nothing from the current folder
    return subprocess.Popen(
        [sys.executable, "-m", name],
        env={**os.environ, **ours, **settings},
        stdout=stdout,
        stderr=stderr,
        start_new_session=True,
    )


class Child:
    """A ``python -m NAME`` in a process group of its own; each of its lines is shown with its name.

    ``color`` is an ANSI code, used on a terminal unless ``NO_COLOR`` is set.
    """

    def __init__(self, name: str, color: int) -> None:
        self.name = name
        self._color = color
        self.process = spawn(name, {}, subprocess.PIPE, subprocess.PIPE)
        self._pumps = [
            threading.Thread(target=self._pump, args=(source, target), daemon=True)
            for source, target in ((self.process.stdout, STDOUT), (self.process.stderr, STDERR))
        ]
        for pump in self._pumps:
            pump.start()

    def _pump(self, source: IO[bytes], target: int) -> None:
        prefix = f"{self.name:9} | "
        if os.isatty(target) and not os.environ.get("NO_COLOR"):
            prefix = f"\033[{self._color}m{prefix}\033[0m"
        bare = target == STDERR and logs_json()  # its lines name their service
        for raw in source:
            line = raw.decode(errors="replace").rstrip("\n")
            if not bare:
                say(prefix + line, target)
            else:
                say(line if _is_object(line) else complaint(line, service=self.name), target)

    def signal(self, number: int) -> None:
        """Send a signal to the whole group."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def stop(self, deadline: float) -> None:
        """Wait for the end after a signal, and force it at the deadline."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(max(0, deadline - time.monotonic()))
        self.signal(signal.SIGKILL)
        self.process.wait()
        for pump in self._pumps:
            pump.join(timeout=0.2)


def ending(code: int) -> str:
    """How a process ended, by its exit code."""
    return f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"


def listens(host: str, port: int) -> bool:
    """Whether a process listens on a port."""
    with suppress(OSError):
        socket.create_connection((host, port), timeout=1).close()
        return True
    return False


def held(wanted: dict[str, tuple[str, int]]) -> list[str]:
    """A line for each of these addresses that another process holds, naming it."""
    return [
        f"port {port} ({setting}) is held by {_holder(host, port)}"
        for setting, (host, port) in wanted.items()
        if _is_held(host, port)
    ]


def _is_held(host: str, port: int) -> bool:
    try:
        socket.create_server((host, port), family=_family(host)).close()
    except OSError as error:  # the process that will listen there reports other errors
        return error.errno == errno.EADDRINUSE
    return False


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _holder(host: str, port: int) -> str:
    """The process that holds an address, as far as the system shows it; of a family, the eldest."""
    resolved = socket.getaddrinfo(host, port, _family(host), socket.SOCK_STREAM)
    wanted = ip_address(resolved[0][4][0])
    found = []
    with suppress(psutil.AccessDenied):  # some systems show it to root alone
        for each in psutil.net_connections("tcp"):
            if each.status == psutil.CONN_LISTEN and each.laddr and each.laddr.port == port:
                theirs = ip_address(each.laddr.ip)
                with suppress(psutil.Error):
                    process = psutil.Process(each.pid) if each.pid else None
                    eldest = process.create_time() if process else 0.0
                    rank = theirs != wanted, theirs.version != wanted.version, eldest
                    found += [(rank, process)] * _collide(wanted, theirs)
    _, holder = min(found, default=(None, None), key=itemgetter(0))
    with suppress(psutil.Error):
        if holder:
            advice = f"; kill {holder.pid} ends it" if holder.pid > 1 else ""
            return f"process {holder.pid} ({' '.join(holder.cmdline())}){advice}"
    return "another process"


def _collide(one: IPv4Address | IPv6Address, other: IPv4Address | IPv6Address) -> bool:
    if one.version == other.version:
        return one == other or one.is_unspecified or other.is_unspecified
    return other == IPv6Address("::")  # which holds IPv4 as well, unless IPV6_V6ONLY is set
