"""Wall-clock times, for people and records; intervals are measured with `time.monotonic`."""

from datetime import UTC, datetime, timedelta


def timestamp(moment: datetime | None = None) -> str:
    """A moment, or now, as RFC 3339 in UTC to the millisecond: ``2026-11-23T10:00:00.123Z``."""
    moment = (moment or datetime.now(UTC)).astimezone(UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def days_ago(days: int) -> str:
    """The time so many days ago, as `timestamp` writes it; such times compare as texts."""
    return timestamp(datetime.now(UTC) - timedelta(days=days))
