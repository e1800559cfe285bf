"""A forwarder on a bad line: it drops, doubles, reorders and delays what it relays."""

import heapq
import time
from collections import Counter
from contextlib import suppress
from random import Random
from typing import NamedTuple

import zmq

from broker.forwarder import Forwarder
from runtime.process.settings import Settings

END_FRAMES = 6  # topic, stream and two places
MAX_DELAY_S = 0.02


class Faults(NamedTuple):
    """How probable each fault is, for every message alike."""

    drop: float = 0
    double: float = 0
    reorder: float = 0
    delay: float = 0


class LossyForwarder(Forwarder):
    """Relays messages as the faults and the seed will have it, and subscriptions as they are.

    A message that is reordered comes after the next one, and a delayed one up to 20 ms later;
    ``seen`` counts those that came in, by kind; an ``end`` is a replay without an event.
    """

    def __init__(self, settings: Settings, context: zmq.Context, faults: Faults, seed: int) -> None:
        super().__init__(settings, context)
        self.seen: Counter[str] = Counter()
        self._faults = faults
        self._random = Random(seed)
        self._overtaken: list[list[bytes]] = []
        self._delayed: list[tuple[float, list[bytes]]] = []

    def run(self) -> None:
        """Relay until `stop`."""
        publishers, subscribers = self._sockets
        poller = zmq.Poller()
        for endpoint in self._sockets:
            poller.register(endpoint, zmq.POLLIN)
        try:
            with suppress(zmq.ContextTerminated):
                while True:
                    ready = dict(poller.poll(1 if self._delayed else None))
                    if subscribers in ready:
                        publishers.send_multipart(subscribers.recv_multipart())
                    if publishers in ready:
                        self._relay_some()
                    while self._delayed and self._delayed[0][0] <= time.monotonic():
                        subscribers.send_multipart(heapq.heappop(self._delayed)[-1])
        finally:
            for endpoint in self._sockets:
                endpoint.close()

    def _relay_some(self) -> None:
        with suppress(zmq.Again):
            for _ in range(100):
                self._relay(self._sockets[0].recv_multipart(zmq.NOBLOCK))

    def _relay(self, frames: list[bytes]) -> None:
        kind = frames[0].partition(b"/")[0].decode()
        is_end = kind == "replay" and len(frames) == END_FRAMES
        self.seen["end" if is_end else kind] += 1
        overtaken, self._overtaken = self._overtaken, []
        if not self._happens(self._faults.drop):
            for _ in range(1 + self._happens(self._faults.double)):
                self._pass_on(frames)
        for late in overtaken:
            self._sockets[1].send_multipart(late)

    def _pass_on(self, frames: list[bytes]) -> None:
        if self._happens(self._faults.delay):
            due = time.monotonic() + self._random.uniform(0, MAX_DELAY_S)
            heapq.heappush(self._delayed, (due, frames))
        elif self._happens(self._faults.reorder):
            self._overtaken.append(frames)
        else:
            self._sockets[1].send_multipart(frames)

    def _happens(self, probability: float) -> bool:
        return self._random.random() < probability
