"""Following a stream from a place on: what comes next, what is missing, and when to ask for it."""

import time
from collections.abc import Callable
from typing import NamedTuple

import structlog

from messaging.event import previous
from messaging.timeout import Timeout
from messaging.transports.forwarder import Transport
from messaging.transports.wire import START, Place, Replay, Run, digest

log = structlog.get_logger(__name__)

EARLY_RUNS = 16  # as many as come, under full load, before the journal answers
WANT_INTERVAL_S = 0.5  # the very last event leaves no gap to notice, so a follower keeps asking


class Received(NamedTuple):
    """An event, as it came: live, or from the journal."""

    follows: Place
    place: Place
    body: bytes


class Follower:
    """Follows one stream from a place on: hears live events, and fetches missing ones.

    The caller takes the events, and moves the place on.
    """

    def __init__(
        self, stream: str, place: Place | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.stream = stream
        self._place = place
        self._is_stale = False  # the place may have moved: it is loaded again before its next use
        self.duplicates = self.gaps = 0
        self._clock = clock
        self._received: list[Received] = []  # in order, and not yet taken
        self._early: dict[Place, Run] = {}  # those that came after a gap, by their first place
        self.head: Place | None = None  # the journal's; None while it does not answer
        self._gap = False
        self._wanted: Place | None = None  # what the journal was asked for, and has not answered
        self._is_repeated = False  # it was asked for more than once
        self._timeout = Timeout(WANT_INTERVAL_S)
        self._wanted_at = self._heard_at = self._pause_until = float("-inf")

    @property
    def place(self) -> Place:
        """The place of the last event that was applied."""
        if self._place is None or self._is_stale:
            self._place, self._is_stale = self.load_place(), False
        return self._place

    @place.setter
    def place(self, place: Place) -> None:
        self._place, self._is_stale = place, False

    def load_place(self) -> Place:
        """Load the place when it is not known; here it is before the first event."""
        return START

    @property
    def behind(self) -> int | None:
        """How many events the journal holds above our place, in its epoch; None if unknown.

        The place is the last one known, since the database may be down when it may have moved.
        """
        head, place = self.head, self._place
        if head is None or place is None:
            return None
        if head <= place:
            return 0
        return head.sequence - (place.sequence if head.epoch == place.epoch else 0)

    def listen(self, transport: Transport, for_s: float) -> None:
        """Receive for up to ``for_s`` seconds, and ask for what is missing."""
        for message in transport.poll(for_s):
            match message:
                case Replay(_, Run(self.stream, bodies=[]) as end):
                    self.handle_end(end)
                case (Run(self.stream) as run) | Replay(_, Run(self.stream) as run):
                    self.receive(run)
        self.ask(transport)

    def ask(self, transport: Transport) -> None:
        """Ask for what is missing, if it is time."""
        if not transport.up:
            self.disconnect()
        elif (wanted := self.want()) is not None:
            transport.fetch(self.stream, wanted)

    def disconnect(self) -> None:
        """Forget what is only true while the journal answers."""
        self.head = self._wanted = None
        self._early = {}
        self._wanted_at = self._heard_at = float("-inf")
        self._timeout.reset()

    def receive(self, run: Run) -> None:
        """Keep events that follow the last one, and some that come after a gap; drop others.

        Without the early ones, a reader that missed a run under full load would get each later one
        twice: before the one that is sent again, and after it.
        """
        if self.is_paused:
            return
        tip, follows = self._tip(), run.follows
        known: list[tuple[Place, bytes]] = []
        fresh: list[Received] = []
        for place, body in run.events():
            if place <= tip:
                known.append((place, body))
            else:
                fresh.append(Received(follows, place, body))
            follows = place
        self.duplicates += len(known)
        if known and not self.compare(known):
            return
        if fresh and fresh[0].follows != tip:
            self.gaps += len(fresh)
            self._gap = True
            if fresh[0].follows > tip and len(self._early) < EARLY_RUNS:
                self._early[run.first] = run
        elif fresh and self._may_follow(tip, fresh[0].place):
            self._received += fresh
            self._heard_at = self._clock()
            self.head = self.head and max(self.head, fresh[-1].place)
            self._receive_early()

    def _receive_early(self) -> None:
        """Receive what came too early and is due now, unless it names another event before it.

        It may be of a writer that was restored meanwhile, or of a copy.
        """
        while self._early and self._early[first := min(self._early)].follows <= self._tip():
            run, (_, tip, body) = self._early.pop(first), self._received[-1]
            due = [own for place, own in run.events() if place > tip]
            if due and previous(due[0]) in (None, digest(body)):
                self.receive(run)
            self._gap = bool(self._early)

    def compare(self, known: list[tuple[Place, bytes]]) -> bool:
        """Whether events at known places are the ones received before; if not, stop."""
        return True

    def skip(self, first: Place, last: Place) -> bool:
        """Whether to go on although the journal lacks these events."""
        log.warning("events are missing", stream=self.stream, first=str(first), last=str(last))
        return True

    def _may_follow(self, tip: Place, place: Place) -> bool:
        if place.epoch != tip.epoch:
            if tip != START:  # its end may have been lost with its journal
                log.warning("a new epoch", stream=self.stream, after=str(tip), first=str(place))
            tip = Place(place.epoch, 0)
        missing = Place(tip.epoch, tip.sequence + 1), Place(tip.epoch, place.sequence - 1)
        return place.sequence == tip.sequence + 1 or self.skip(*missing)

    def handle_end(self, end: Run) -> None:
        """The end of the journal's answer; its ``first`` is the journal's head."""
        self.head = end.first
        if self.is_answered_by(end):
            self._wanted = None
            if end.first <= self._tip():  # the journal does not have what came between, either
                self._early = {}
            self._timeout.answered(self._clock() - self._wanted_at, self._is_repeated)

    def is_answered_by(self, end: Run) -> bool:
        """Whether this can be the end of the answer to the newest want.

        The answer to an earlier one may still arrive.
        """
        wanted = self._wanted
        if wanted is None or end.follows < wanted:
            return False
        return end.follows > wanted or end.first <= wanted

    def want(self) -> Place | None:
        """The place to ask the journal about, if it is time; at most one want is outstanding.

        It is the place of the last event received, so that the journal sends more while these are
        being applied. While events come, there is nothing to ask for.
        """
        if self.is_paused:
            return None
        now = self._clock()
        is_more = self._gap or (self.head is not None and self.head > self._tip())
        in_doubt = self._wanted is not None or self._is_repeated  # an answer may be under way
        interval_s = self._timeout.seconds if in_doubt else WANT_INTERVAL_S
        waited = now - max(self._wanted_at, self._heard_at) >= interval_s
        if not (waited or (is_more and not self._wanted and not self.problem)):
            return None
        if self._wanted:
            self._timeout.expired()
        self._is_repeated = self._wanted is not None
        self._wanted, self._wanted_at, self._gap = self._asked(), now, False
        return self._wanted

    def _asked(self) -> Place:
        """The place after which the journal is to send."""
        return self._tip()

    @property
    def problem(self) -> str | None:
        """Why this stream does not go on, and what to do about it."""
        return None

    def _tip(self) -> Place:
        return self._received[-1].place if self._received else self.place

    def take(self) -> list[Received]:
        """Take everything received since the last call, in order."""
        taken, self._received = self._received, []
        return taken

    @property
    def is_paused(self) -> bool:
        """Whether events are dropped for now."""
        return self._clock() < self._pause_until

    def pause(self, for_s: float) -> None:
        """Drop events for ``for_s`` seconds, and ask for them after that."""
        self._pause_until = self._clock() + for_s
        self._early, self._gap = {}, True
