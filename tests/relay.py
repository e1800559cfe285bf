"""A relay of TCP connections, as a line that is thin, long, lossy or silent."""

import asyncio
import contextlib
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from random import Random

SEGMENT_BYTES = 1400
RETRANSMISSION_S = 0.2  # what a lost segment costs at least: TCP's own least time-out in Linux
HEARD_BYTES = 100_000
BUFFER_S = 0.5  # of the line: who sends more has to wait


class Line(threading.Thread):
    """Carries what comes to its port to another one, and back, as slowly as it is told to.

    ``bytes_per_s`` and ``delay_s`` are those of each direction, for all connections together;
    ``loss`` is the part of the segments that TCP has to send again. While it is ``silent``, nothing
    is carried, and no connection is closed. ``carried`` counts bytes, and ``heard`` has the first
    of them.
    """

    def __init__(self, target: str) -> None:
        super().__init__(daemon=True)
        host, _, port = target.removeprefix("tcp://").rpartition(":")
        self._target = host, int(port)
        self.bytes_per_s = float("inf")
        self.delay_s = self.loss = 0.0
        self.silent = False
        self.carried = 0
        self.heard = b""
        self._random = Random(1)
        self._free_at = [0.0, 0.0]  # when a direction has carried what it was given
        self._loop = asyncio.new_event_loop()
        self._server: asyncio.Server | None = None
        self._ready = threading.Event()
        self.port = 0

    @property
    def url(self) -> str:
        """What connects to it."""
        return f"tcp://127.0.0.1:{self.port}"

    def run(self) -> None:
        """Carry until `stop`."""
        asyncio.set_event_loop(self._loop)
        self._server = self._loop.run_until_complete(
            asyncio.start_server(self._accept, "127.0.0.1", 0)
        )
        self.port = self._server.sockets[0].getsockname()[1]
        self._ready.set()
        self._loop.run_forever()
        self._server.close()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.close()

    def stop(self) -> None:
        """Close every connection."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self.join()

    async def _accept(self, near: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.CancelledError), contextlib.closing(back):
            far, there = await asyncio.open_connection(*self._target)
            with contextlib.closing(there):
                directions = (self._carry(near, there, 0), self._carry(far, back, 1))
                carrying = [asyncio.ensure_future(each) for each in directions]
                await asyncio.wait(carrying, return_when="FIRST_COMPLETED")
                for each in carrying:
                    each.cancel()

    async def _carry(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, direction: int
    ) -> None:
        under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        arriving = asyncio.ensure_future(self._arrive(under_way, sink))
        try:
            with contextlib.suppress(OSError):
                while data := await source.read(SEGMENT_BYTES):
                    begins = max(time.monotonic(), self._free_at[direction])
                    self._free_at[direction] = begins + len(data) / self.bytes_per_s
                    if self._random.random() < self.loss:
                        self._free_at[direction] += RETRANSMISSION_S
                    under_way.put_nowait((self._free_at[direction] + self.delay_s, data))
                    await asyncio.sleep(self._free_at[direction] - time.monotonic() - BUFFER_S)
        finally:
            arriving.cancel()

    async def _arrive(
        self, under_way: asyncio.Queue[tuple[float, bytes]], sink: asyncio.StreamWriter
    ) -> None:
        while True:
            due, data = await under_way.get()
            await asyncio.sleep(due - time.monotonic())
            while self.silent:
                await asyncio.sleep(0.01)
            sink.write(data)
            self.carried += len(data)
            if len(self.heard) < HEARD_BYTES:
                self.heard += data
            with contextlib.suppress(OSError):
                await sink.drain()


@contextlib.contextmanager
def line(target: str) -> Iterator[Line]:
    """A line to an endpoint, as good as loopback at first."""
    relay = Line(target)
    relay.start()
    relay._ready.wait()
    try:
        yield relay
    finally:
        relay.stop()


class Hole:
    """A silence around ports of this machine: packets to and from them are dropped, SYNs, too.

    Of ``sides``, one alone makes it deaf in one direction. It takes root and iptables; `needed`
    says what is lacking.
    """

    def __init__(self, *ports: int, sides: Sequence[str] = ("--dport", "--sport")) -> None:
        self._rules = [
            ["INPUT", "-i", "lo", "-p", "tcp", side, str(port), "-j", "DROP"]
            for port in ports
            for side in sides
        ]

    @staticmethod
    def needed() -> str | None:
        """Why there can be no hole; None if there can."""
        if os.geteuid() != 0 or not (iptables := shutil.which("iptables")):
            return "it takes root and iptables to drop packets"
        tried = subprocess.run([iptables, "-n", "-L", "INPUT"], capture_output=True, check=False)
        return None if tried.returncode == 0 else "iptables does not work here"

    def __enter__(self) -> "Hole":
        for rule in self._rules:
            subprocess.run(["iptables", "-w", "-I", *rule], check=True)
        return self

    def __exit__(self, *_: object) -> None:
        for rule in self._rules:
            subprocess.run(["iptables", "-w", "-D", *rule], check=True)
