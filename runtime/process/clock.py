"""Wall-clock times, for people and records; intervals are measured with `time.monotonic`."""

import time
from collections.abc import Callable
from datetime import UTC, datetime

COMPLAINT_INTERVAL_S = 60.0
MAX_COMPLAINTS = 100  # in this time, since strangers can cause any number


def timestamp(moment: datetime | None = None) -> str:
    """A moment, or now, as RFC 3339 in UTC to the millisecond: ``2026-11-23T10:00:00.123Z``.

    Such texts compare as the moments do.
    """
    moment = (moment or now()).astimezone(UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def now() -> datetime:
    """The time of the wall clock."""
    return datetime.now(UTC)


def age_s(moment: datetime) -> float:
    """How many seconds ago a moment was; 0 if it is still to come."""
    return max(0.0, (now() - moment).total_seconds())


class Complaints:
    """Lets through one complaint of each kind a minute, and a hundred of all kinds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._made_at: dict[str, float] = {}

    def are_due(self, kind: str) -> bool:
        """Whether to complain of this now."""
        now = self._clock()
        oldest = now - COMPLAINT_INTERVAL_S
        self._made_at = {each: at for each, at in self._made_at.items() if at > oldest}
        if kind in self._made_at or len(self._made_at) >= MAX_COMPLAINTS:
            return False
        self._made_at[kind] = now
        return True
