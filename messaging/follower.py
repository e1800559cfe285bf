"""Following a stream from a place on: what comes next, what is missing, and when to ask for it."""

import time
from collections.abc import Callable

from messaging.transport import Transport
from messaging.wire import START, Event, Place, Replay

WANT_INTERVAL_S = 0.5  # the last event of all leaves no gap to see, so one keeps asking


class Follower:
    """One stream, as it is heard behind a place: live, and from the journal where that lacks.

    Whoever takes the events moves the place on.
    """

    def __init__(
        self, stream: str, place: Place | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.stream = stream
        self._place = place
        self.duplicates = self.gaps = 0
        self._clock = clock
        self._received: list[Event | Replay] = []  # in order, and not yet taken
        self.head: Place | None = None  # the journal's; None while it does not answer
        self._gap = self._outstanding = False
        self._wanted_at = self._pause_until = float("-inf")

    @property
    def place(self) -> Place:
        """The place of the last event that is done with."""
        if self._place is None:
            self._place = self.load_place()
        return self._place

    @place.setter
    def place(self, place: Place) -> None:
        self._place = place

    def load_place(self) -> Place:
        """Where the place is found if it is not known: here, before the first event."""
        return START

    @property
    def behind(self) -> int | None:
        """How many events the journal holds above our place, in its epoch; None if unknown."""
        head, place = self.head, self._place
        if head is None or place is None:
            return None
        if head <= place:
            return 0
        return head.sequence - (place.sequence if head.epoch == place.epoch else 0)

    def listen(self, way: Transport, for_s: float) -> None:
        """Hear what comes in so many seconds at most, and ask for what does not."""
        for message in way.poll(for_s):
            match message:
                case Replay(_, self.stream, _, head, b""):
                    self.handle_end(head)
                case Event(self.stream) | Replay(_, self.stream):
                    self.receive(message)
        if not way.up:
            self.disconnect()
        elif (wanted := self.want()) is not None:
            way.fetch(self.stream, wanted)

    def disconnect(self) -> None:
        """Forget what is only true while the journal answers."""
        self.head, self._outstanding = None, False

    def receive(self, message: Event | Replay) -> None:
        """Keep an event that follows what is here; drop duplicates, and what comes after a gap."""
        if self._clock() < self._pause_until:
            return
        tip = self._tip()
        next_live = Place(tip.epoch, tip.sequence + 1)
        if message.place <= tip:
            self.duplicates += 1
        elif message.follows == tip if isinstance(message, Replay) else message.place == next_live:
            self._received.append(message)
        else:
            self.gaps += 1
            self._gap = True

    def handle_end(self, head: Place) -> None:
        """An answer of the journal ends here, and it holds the stream up to ``head``."""
        self.head, self._outstanding = head, False

    def want(self) -> Place | None:
        """The place to ask the journal about, if it is time; one want at most is under way.

        It is behind what was received, so that the journal sends while that is being applied.
        """
        now = self._clock()
        if now < self._pause_until:
            return None
        tip = self._tip()
        more = self._gap or (self.head is not None and self.head > tip)
        waited = now - self._wanted_at >= WANT_INTERVAL_S
        if not (waited or (more and not self._outstanding)):
            return None
        self._wanted_at, self._outstanding, self._gap = now, True, False
        return tip

    def _tip(self) -> Place:
        return self._received[-1].place if self._received else self.place

    def take(self) -> list[Event | Replay]:
        """Everything that was received since, in order."""
        taken, self._received = self._received, []
        return taken

    def pause(self, for_s: float) -> None:
        """Drop what comes for a while, and want it again after that."""
        self._pause_until = self._clock() + for_s
        self._gap = True
