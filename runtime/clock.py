"""Wall-clock times, for people and records; intervals are measured with `time.monotonic`."""

from datetime import UTC, datetime


def timestamp(moment: datetime | None = None) -> str:
    """A moment, or now, as RFC 3339 in UTC to the millisecond: ``2026-11-23T10:00:00.123Z``."""
    moment = (moment or datetime.now(UTC)).astimezone(UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
