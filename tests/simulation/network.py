"""The network: a forwarder that drops, doubles, delays and so reorders, and may be cut off."""

import heapq
from collections.abc import Sequence
from itertools import count
from typing import TYPE_CHECKING, NamedTuple

from messaging.transports.wire import Ack, Message, Place, Replay, Run, Want, pack, unpack

if TYPE_CHECKING:
    from tests.simulation.process import Process
    from tests.simulation.world import World

LATENCY_S = 0.0005
MAX_FRAMES = 20_000  # in one history, of which most send less than 4,000
NOTICED_S = 1.0  # after which a connection that is cut is found to be (heartbeats)


class Line(NamedTuple):
    """How probable each fault is, for every message and each of its receivers."""

    drop: float = 0.0
    double: float = 0.0
    delay: float = 0.0
    max_delay_s: float = 0.0


GOOD = Line()


class Network:
    """What is sent reaches every endpoint that subscribes to it, as far as the line lets it."""

    def __init__(self, world: "World") -> None:
        self.world = world
        self.line = GOOD
        self.endpoints: list[Endpoint] = []
        self.frames = 0
        self._order = count()

    def send(self, sender: "Endpoint", message: Message) -> None:
        """Carry a message to whoever hears its topic."""
        broker = self.world.broker
        if not broker.up or sender.cut(outwards=True):
            return
        self.frames += 1
        if self.frames > MAX_FRAMES:
            self.world.broken("no livelock: there is no end to what is sent")
        frames = pack(message)
        at = max(self.world.now, broker.stopped_until) + LATENCY_S
        for endpoint in self.endpoints:
            if frames[0].startswith(endpoint.topics):
                self._carry(endpoint, at, frames)

    def hurry(self) -> None:
        """Let what was held up arrive: nobody stands still any more."""
        soon = self.world.now + LATENCY_S
        for endpoint in self.endpoints:
            endpoint.waiting = [(min(at, soon), *rest) for at, *rest in endpoint.waiting]
            heapq.heapify(endpoint.waiting)

    def _carry(self, endpoint: "Endpoint", at: float, frames: list[bytes]) -> None:
        line, world = self.line, self.world
        if endpoint.cut(outwards=False):
            world.fault("message", "cut off")
            return
        if line is not GOOD:
            throw = world.dice.random()
            if throw < line.drop:
                world.fault("message", "dropped")
                return
            if throw < line.drop + line.double:
                world.fault("message", "doubled")
                again = at + world.dice.random() * line.max_delay_s
                heapq.heappush(endpoint.waiting, (again, next(self._order), frames))
            elif throw < line.drop + line.double + line.delay:
                world.fault("message", "delayed")
                at += world.dice.random() * line.max_delay_s
        heapq.heappush(endpoint.waiting, (at, next(self._order), frames))


class Endpoint:
    """A process's connection: the product's `Transport`, and the journal's `Peer`."""

    malformed = 0
    address = "tcp://broker:5559"

    def __init__(
        self, network: Network, process: "Process", reader: str, topics: Sequence[bytes]
    ) -> None:
        self.topics = tuple(topics)
        self.waiting: list[tuple[float, int, list[bytes]]] = []
        self._network = network
        self._process = process
        self._reader = reader

    def cut(self, outwards: bool) -> bool:
        """Whether nothing gets through now, in that direction."""
        process = self._process
        if self._network.world.now >= process.cut_until:
            return False
        return process.cut_ways in ("both", "out" if outwards else "in")

    @property
    def up(self) -> bool:
        """Whether the broker can be reached, as far as was noticed."""
        world, process = self._network.world, self._process
        cut = process.cut_ways == "both" and world.now < process.cut_until
        return world.broker.up and not (cut and world.now >= process.cut_at + NOTICED_S)

    def open(self) -> None:
        """Connect."""
        self._network.endpoints.append(self)
        self._process.endpoints.append(self)

    def publish(self, run: Run) -> None:
        """Send a run, which is at most a window ahead of what was ever acknowledged."""
        world, (epoch, sequence) = self._network.world, run.last
        acked = world.acked.get((run.stream, epoch), 0)
        if sequence > acked + world.knobs["window_events"]:
            world.broken(f"a writer is at most a window ahead: {run.last}, and {acked} is acked")
        self.send(run)

    def fetch(self, stream: str, after: Place) -> None:
        """Ask the journal."""
        self.send(Want(stream, self._reader, after))

    def send(self, message: Message) -> None:
        """Send anything; the process may crash before."""
        match message:
            case Ack(stream, place) | Replay(_, Run(stream, _, place, [])):
                self._note_held(stream, place)
            case Replay(_, run):
                self._note_held(run.stream, run.last)
        if not self._process.calm:
            self._process.at_point("SEND")
        self._network.send(self, message)

    def _note_held(self, stream: str, place: Place) -> None:
        acked = self._network.world.acked
        acked[stream, place.epoch] = max(acked.get((stream, place.epoch), 0), place.sequence)

    def poll(self, timeout_s: float) -> list[Message]:
        """What has arrived; waiting is the scheduler's, except for a command that polls itself."""
        if self._process.waits_itself:
            self._network.world.run(timeout_s)
        now, messages = self._network.world.now, []
        while self.waiting and self.waiting[0][0] <= now:
            messages.append(unpack(heapq.heappop(self.waiting)[2]))
        self._process.heard(len(messages))
        return messages

    def wake(self) -> None:
        """Let the scheduler step the process soon."""
        self._process.wake()

    def close(self) -> None:
        """Disconnect; what was under way to it is lost."""
        if self in self._network.endpoints:
            self._network.endpoints.remove(self)
            self._process.endpoints.remove(self)
