"""What the messaging of a service tells Prometheus."""

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import suppress

from peewee import PeeweeException
from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from messaging.inbox import Reader, count_dead
from messaging.outbox import Publisher
from messaging.transport import Transport
from runtime.database import Database


def collect(
    database: Database, publisher: Publisher, readers: Mapping[str, Reader], transport: Transport
) -> Iterator[Metric]:
    """Counters since the start of the process, and how things stand now.

    What only the database knows is left out while it cannot be read.
    """
    up = "Whether the broker can be reached."
    yield GaugeMetricFamily("broker_up", up, value=transport.up)
    with suppress(PeeweeException, sqlite3.Error):
        waiting, oldest_s = publisher.waiting, publisher.oldest_age_s
        dead = count_dead(database)
        text = "Events that the journal has not acknowledged."
        yield GaugeMetricFamily("outbox_waiting_events", text, value=waiting)
        text = "How long the oldest of them has been waiting; 0 if there is none."
        yield GaugeMetricFamily("outbox_oldest_age_seconds", text, value=oldest_s)
        yield GaugeMetricFamily("events_dead", "Events that were set aside.", value=dead)
    counts = {
        "published": (publisher.published, "Events sent, those sent again included."),
        "acked": (publisher.acked, "Events acknowledged by the journal."),
        "resent": (publisher.resent, "Events to be sent again, because no ack came."),
        "malformed": (transport.malformed, "Messages that were none, and were dropped."),
    }
    for name, (count, text) in counts.items():
        yield CounterMetricFamily(f"events_{name}", text, value=count)

    behind = GaugeMetricFamily(
        "inbox_behind_events", "Events in the journal, not applied yet.", labels=["stream"]
    )
    applied, duplicates, gaps = (
        CounterMetricFamily(f"events_{name}", text, labels=["stream"])
        for name, text in (
            ("applied", "Events applied."),
            ("duplicate", "Events received again, and dropped."),
            ("gap", "Events received before an earlier one, and dropped."),
        )
    )
    for stream, reader in readers.items():
        if reader.behind is not None:
            behind.add_metric([stream], reader.behind)
        applied.add_metric([stream], reader.applied)
        duplicates.add_metric([stream], reader.duplicates)
        gaps.add_metric([stream], reader.gaps)
    yield from (behind, applied, duplicates, gaps)
