"""The publisher: sends the events of an outbox until the journal has them."""

import time
from collections.abc import Callable

import structlog

from messaging.event import Event
from messaging.outbox import Outbox
from messaging.timeout import Timeout
from messaging.transports.forwarder import Transport
from messaging.transports.wire import RUN_EVENTS, START, Place, Run, digest, runs
from runtime.process.clock import age_s

log = structlog.get_logger(__name__)

WINDOW_EVENTS = 4 * RUN_EVENTS  # sent ahead of the last ack, at most
FIRST_WINDOW_EVENTS = RUN_EVENTS  # at the start, and
SMALL_WINDOW_EVENTS = 16  # after a rewind; it grows by what is acknowledged
ACK_TIMEOUT_S = 0.25  # the least; far longer than a flush
PROBE_INTERVAL_S = 2.0  # how soon an idle writer finds that the journal was lost, or mended
NOTE_INTERVAL_S = 1.0  # how often the acked sequence is noted in the database


class Publisher:
    """Sends an outbox in order, going back to the first unacknowledged event where it must.

    Go-back-N with cumulative acks: a send is never taken for a delivery. How long it waits for an
    ack is measured, and how much it sends ahead grows with what is acknowledged, so that a thin or
    long line carries each event once (RFC 6298; slow start as in RFC 5681). Before it sends,
    it compares the journal's events with its own: a restored backup, or a copy of a database that
    is still in use, must not publish other events under numbers that are taken. It compares again
    when it hears of an event that is not its own. As long as the journal contradicts the outbox,
    there is a `problem`: nothing is sent, and the outbox takes no events.
    """

    def __init__(
        self,
        outbox: Outbox,
        transport: Transport,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.problem: str | None = None
        self.published = self.resent = self.acked = 0  # since it began
        self._outbox = outbox
        self._transport = transport
        self._clock = clock
        self._epoch: bytes | None = None  # None until the outbox was looked at
        self._noted_at = float("-inf")
        self._timeout = Timeout(ACK_TIMEOUT_S)
        self._was_up = False

    def _begin(self, epoch: bytes, acked: int) -> None:
        """Forget everything but what was noted."""
        self.problem = None
        self._epoch = epoch
        self._acked = acked
        self._sent = self._reached = 0  # newest sent since rewind, and ever
        self._window = FIRST_WINDOW_EVENTS
        self._timed: tuple[int, float] | None = None  # an event whose ack is timed, and since when
        self._sent_at = self._progress_at = self._rewound_at = float("-inf")
        self._asked_at = self._suspected_at = float("-inf")
        self._compared: Place | None = None  # up to here the journal's events are known to be ours
        self._after = START  # the place that the journal was asked about
        self._compare_after(Place(epoch, max(acked - 1, 0)))

    @property
    def waiting(self) -> int:
        """How many events the journal has not acknowledged, as far as this process knows."""
        head, acked, _ = self._outbox.head()
        return head.sequence - (self._acked if self._epoch == head.epoch else acked)

    @property
    def oldest_age_s(self) -> float:
        """The age of the oldest event that waits, in seconds by the wall clock."""
        head = self._outbox.head().place
        acked = head.sequence - self.waiting
        for _, body in self._outbox.rows(acked, acked + 1):
            return age_s(Event.parse(self._outbox.stream, head, body).time)
        return 0.0

    @property
    def ready(self) -> bool:
        """Whether the journal was compared, and does not contradict this database."""
        return self._epoch is not None and not self._comparing

    def step(self, up: bool = True) -> None:
        """Send what may be sent now, or ask for what is to be compared, if the broker is ``up``."""
        head, acked, problem = self._outbox.head()
        if head.epoch != self._epoch:
            self._begin(head.epoch, acked)
        now = self._clock()
        if up and not self._was_up:
            self._reconnect(now)
        self._was_up = up
        if not up:
            pass  # but a problem found is noted
        elif self._comparing:
            self._ask(now)
        else:
            self._send_window(head, now)
        is_due = self._acked != acked and now - self._noted_at >= NOTE_INTERVAL_S
        if is_due or self.problem != problem:
            self.note()

    def note(self) -> None:
        """Note in the database how far the journal has come, if that is known, and any problem."""
        if self.ready or self.problem:
            self._noted_at = self._clock()
            self._outbox.note(self._acked, self.problem)

    def _reconnect(self, now: float) -> None:
        """Whatever was in flight went with the connection: send, or ask, again at once."""
        self._timeout.reset()
        self._asked_at = float("-inf")
        if not self._comparing:
            self._rewind(now, self._acked)
            self._window = FIRST_WINDOW_EVENTS

    def _ask(self, now: float) -> None:
        if now - self._asked_at >= (PROBE_INTERVAL_S if self.problem else self._timeout.seconds):
            if self._asked_at > float("-inf") and not self.problem:
                self._timeout.expired()
            self._asked_at = now
            self._transport.fetch(self._outbox.stream, self._after)

    def _send_window(self, head: Place, now: float) -> None:
        if self._sent > self._acked and now - self._progress_at >= self._timeout.seconds:
            self._timeout.expired()
            self._rewind(now, self._acked)
        if self._sent == self._acked:
            self._progress_at = now
        up_to = min(head.sequence, self._acked + self._window)
        if self._sent < up_to:
            self._send(self._sent, up_to)
            self.published += up_to - self._sent
            if not self._timed and up_to > self._reached:  # the first that was never sent before
                self._timed = max(self._sent, self._reached) + 1, now
            self._sent = up_to
            self._reached = max(self._reached, up_to)
        elif self._acked == head.sequence and now - self._sent_at >= PROBE_INTERVAL_S:
            self._send(head.sequence - 1, head.sequence)

    def _send(self, after: int, up_to: int) -> None:
        assert self._epoch
        for begin in range(after, up_to, RUN_EVENTS):
            rows = self._outbox.rows(begin, min(begin + RUN_EVENTS, up_to))
            events = ((Place(self._epoch, sequence), body) for sequence, body in rows)
            for run in runs(self._outbox.stream, Place(self._epoch, begin), events):
                self._transport.publish(run)
        self._sent_at = self._clock()

    def _rewind(self, now: float, acked: int) -> None:
        self.resent += max(0, self._sent - acked)
        self._sent, self._rewound_at, self._progress_at = acked, now, now
        self._window, self._timed = SMALL_WINDOW_EVENTS, None

    # Comparing: the publisher asks for the journal's events after those known to be its own, and
    # compares each of them with the outbox, up to the journal's newest.

    def _compare_after(self, place: Place) -> None:
        if place != self._after:
            self._asked_at = float("-inf")
        self._comparing, self._after = True, place

    def receive(self, run: Run) -> None:
        """Events of this stream, as the journal holds them."""
        if self._epoch is None or not self._comparing or run.follows != self._after:
            return
        if run.first.epoch == self._epoch:
            own = dict(self._outbox.rows(run.first.sequence - 1, run.last.sequence))
            for place, body in run.events():
                if own.get(place.sequence, body) != body:
                    self._acked = place.sequence - 1
                    self._contradict(f"the journal holds another event under {place}")
                    return
            self._after = self._compared = run.last
            self._acked = max(self._acked, run.last.sequence)
            self._asked_at = float("-inf")

    def handle_end(self, end: Run) -> None:
        """The end of the journal's answer; its ``first`` is the journal's head."""
        head, journal = self._outbox.head().place, end.first
        if self._epoch != head.epoch or not self._comparing:
            return
        kept = journal.sequence if journal.epoch == head.epoch else 0
        oldest = self._outbox.oldest()
        if journal > head:
            self._contradict(
                f"the journal holds events up to {journal}, this database up to {head}"
            )
        elif kept < oldest - 1:
            first = Place(head.epoch, oldest)
            self._stop(
                f"the journal lacks the events before {first}, which this database no longer has: "
                f"restore the journal, or stop the broker and let the journal begin there: "
                f"python -m broker begin {self._outbox.stream} {first}"
            )
        elif journal == self._compared or kept == oldest - 1:
            self._resume(kept)
        elif not (self.problem and self._after < journal):
            self._compare_after(min(self._after, Place(journal.epoch, journal.sequence - 1)))

    def _resume(self, acked: int) -> None:
        if self.problem:
            log.info("publishing goes on", stream=self._outbox.stream)
        self.problem = None
        self._acked = self._sent = self._reached = acked
        self._comparing, self._sent_at = False, self._clock()

    def _contradict(self, reason: str) -> None:
        self._stop(
            f"{reason}: this database is older than the events that it has published, or a copy of "
            "it is in use; docs/operations.md says how to go on"
        )

    def _stop(self, reason: str) -> None:
        problem = f"publishing stopped, {reason}"
        if problem != self.problem:
            self.problem = problem
            log.error(problem, stream=self._outbox.stream)

    def handle_ack(self, place: Place, acked_digest: bytes) -> None:
        """The journal has everything up to ``place`` on disk; the event there has this digest."""
        head = self._outbox.head().place
        if self._epoch != head.epoch or self._comparing:
            return  # it may be late, for the process that ran here before
        acked = place.sequence if place.epoch == head.epoch else 0
        if place > head or acked > self._reached or self._is_another(place, acked_digest):
            self._compare_again()
            return
        now = self._clock()
        if acked > self._acked:
            self.acked += acked - self._acked
            self._progress_at = now
            self._window = min(self._window + acked - self._acked, WINDOW_EVENTS)
            if not self._timed:
                self._timeout.answered(now - self._rewound_at, repeated=True)
            elif acked >= self._timed[0]:
                self._timeout.answered(now - self._timed[1])
                self._timed = None
            self._sent = max(self._sent, acked)
        elif acked < self._acked and acked < self._outbox.oldest() - 1:
            self._compare_after(Place(head.epoch, acked))
            return
        elif acked < self._acked and now - self._rewound_at >= self._timeout.seconds:
            self._rewind(now, acked)
        self._acked = acked

    def handle_refuse(self, place: Place) -> None:
        """The journal was sent an event that differs from the one that it holds at this place."""
        if place.epoch == self._epoch and not self._comparing:
            log.warning("is a copy of this database in use?", refused=str(place))
            self._compare_again()

    def _compare_again(self) -> None:
        """Compare everything that has come since the last comparison."""
        assert self._epoch
        before = self._compared.sequence - 1 if self._compared else 0
        self._compared = None
        self._compare_after(Place(self._epoch, before))
        now = self._clock()
        if now - self._suspected_at < ACK_TIMEOUT_S:
            self._asked_at = now  # not at once, lest two writers keep each other busy
        self._suspected_at = now

    def _is_another(self, place: Place, acked_digest: bytes) -> bool:
        """Whether the outbox's event at this place has another digest."""
        if place.epoch != self._epoch or not any(acked_digest):
            return False
        rows = self._outbox.rows(place.sequence - 1, place.sequence)
        return any(digest(body) != acked_digest for _, body in rows)
