"""The metrics of a service's messaging."""

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import suppress

from peewee import PeeweeException
from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from messaging.inbox import Reader, count_dead
from messaging.publisher import Publisher
from messaging.transports.forwarder import Transport
from runtime.storage.database import Database


def collect_stored(database: Database, publisher: Publisher) -> Iterator[Metric]:
    """The metrics from the database, in any process that has it; none while it cannot be read."""
    with suppress(PeeweeException, sqlite3.Error):
        waiting, oldest_s = publisher.waiting, publisher.oldest_age_s
        dead = count_dead(database)
        text = "Events that the journal has not acknowledged."
        yield GaugeMetricFamily("parrot_outbox_waiting_events", text, value=waiting)
        text = "How long the oldest of them has been waiting; 0 if there is none."
        yield GaugeMetricFamily("parrot_outbox_oldest_age_seconds", text, value=oldest_s)
        yield GaugeMetricFamily("parrot_dead_events", "Events that were set aside.", value=dead)


def collect_exchanged(
    publisher: Publisher, readers: Mapping[str, Reader], transport: Transport
) -> Iterator[Metric]:
    """The metrics of the process that exchanges the events; its counters begin when it leads."""
    up = "Whether the broker can be reached."
    yield GaugeMetricFamily("parrot_broker_up", up, value=transport.up)
    counts = {
        "published": (publisher.published, "Events sent, including those sent again."),
        "acked": (publisher.acked, "Events acknowledged by the journal."),
        "resent": (publisher.resent, "Events to be sent again, because no ack came."),
        "malformed": (transport.malformed, "Malformed messages dropped."),
    }
    for name, (count, text) in counts.items():
        yield CounterMetricFamily(f"parrot_events_{name}", text, value=count)

    behind = GaugeMetricFamily(
        "parrot_inbox_behind_events", "Events in the journal, not applied yet.", labels=["stream"]
    )
    text = "Age of the oldest event not applied; 0 if there is none."
    oldest = GaugeMetricFamily("parrot_inbox_oldest_age_seconds", text, labels=["stream"])
    applied, duplicates, gaps = (
        CounterMetricFamily(f"parrot_events_{name}", text, labels=["stream"])
        for name, text in (
            ("applied", "Events applied."),
            ("duplicate", "Events received again, and dropped."),
            ("gap", "Events received before an earlier one."),
        )
    )
    for stream, reader in readers.items():
        if reader.behind is not None:
            behind.add_metric([stream], reader.behind)
        if (age_s := reader.oldest_age_s) is not None:
            oldest.add_metric([stream], age_s)
        applied.add_metric([stream], reader.applied)
        duplicates.add_metric([stream], reader.duplicates)
        gaps.add_metric([stream], reader.gaps)
    yield from (behind, oldest, applied, duplicates, gaps)
