"""How long to wait for an answer before asking again (RFC 6298)."""

MAX_BACKOFF = 8  # doubling stops at this multiple of the measured time
LONGEST_S = 10.0  # longer answers come from a process that stood still, not from the line


class Timeout:
    """A retransmission timeout, in seconds, from the times that answers took; silence doubles it.

    It follows RFC 6298, with other limits: it is never below ``least_s`` or above 10 s, and it
    doubles three times at most, since heartbeats notice a broken line. The answer to what was sent
    twice measures nothing (Karn's rule, section 3); but if it comes as soon as answers usually do,
    the line is as it was.
    """

    def __init__(self, least_s: float) -> None:
        self.seconds = self._least_s = least_s
        self._smoothed_s: float | None = None
        self._variation_s = 0.0

    @property
    def _usual_s(self) -> float:
        """The longest usual time of an answer; 0 before the first measurement."""
        return min((self._smoothed_s or 0) + 4 * self._variation_s, LONGEST_S)

    def answered(self, took_s: float, repeated: bool = False) -> None:
        """An answer came ``took_s`` after the last request, which may have been ``repeated``."""
        if not repeated:
            self._measure(took_s)
        if not repeated or took_s < self._usual_s:
            self.reset()

    def _measure(self, took_s: float) -> None:
        """Section 2, with its factors."""
        took_s = min(took_s, LONGEST_S)
        if self._smoothed_s is None:
            self._smoothed_s, self._variation_s = took_s, took_s / 2
        else:
            deviation_s = abs(self._smoothed_s - took_s)
            self._variation_s = 0.75 * self._variation_s + 0.25 * deviation_s
            self._smoothed_s = 0.875 * self._smoothed_s + 0.125 * took_s

    def expired(self) -> None:
        """No answer came in time (section 5.5)."""
        most_s = MAX_BACKOFF * max(self._least_s, self._usual_s)
        self.seconds = min(2 * self.seconds, most_s, LONGEST_S)

    def reset(self) -> None:
        """Undo the doubling: the line is a new one, or as it was."""
        self.seconds = max(self._least_s, self._usual_s)
