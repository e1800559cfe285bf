"""Wall-clock times, for people and records; intervals are measured with `time.monotonic`."""

from datetime import UTC, datetime, timedelta


def timestamp(moment: datetime | None = None) -> str:
    """A moment, or now, as RFC 3339 in UTC to the millisecond: ``2026-11-23T10:00:00.123Z``."""
    moment = (moment or datetime.now(UTC)).astimezone(UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def days_ago(days: int) -> str:
    """The time so many days ago, as `timestamp` writes it; such times compare as texts."""
    return timestamp(datetime.now(UTC) - timedelta(days=days))


def age_s(moment: datetime) -> float:
    """For how many seconds a moment has been over; 0 if it is still to come."""
    return max(0.0, (datetime.now(UTC) - moment).total_seconds())
