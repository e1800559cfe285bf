"""RabbitMQ: a quorum queue with publisher confirms, by pika's asynchronous connection."""
# Without this library, its names have no types.
# mypy: disable-error-code="import-not-found, import-untyped, no-untyped-call, misc"

from collections.abc import Callable
from typing import Any

import pika

from bench.contestants.client import IN_FLIGHT, Job, Tally, main, tell_moment, tell_ready

PERSISTENT = pika.BasicProperties(delivery_mode=2)
ACK_EVERY = IN_FLIGHT // 2
UNUSED_MS = 60_000  # after which a queue that was left behind goes away
QUORUM = {"x-queue-type": "quorum", "x-expires": UNUSED_MS}


class _Publisher:
    """Has at most 1,024 events on their way to the queue."""

    def __init__(self, job: Job, channel: Any) -> None:
        self._name, self._channel = job.name, channel
        self._bodies = job.bodies()
        self._sent = self._confirmed = 0
        channel.confirm_delivery(self._on_confirm, callback=self._begin)

    def _begin(self, _: object) -> None:
        tell_ready()
        tell_moment()
        self._send()

    def _send(self) -> None:
        up_to = min(len(self._bodies), self._confirmed + IN_FLIGHT)
        for body in self._bodies[self._sent : up_to]:
            self._channel.basic_publish("", self._name, body, PERSISTENT)
        self._sent = up_to

    def _on_confirm(self, frame: Any) -> None:
        if not isinstance(frame.method, pika.spec.Basic.Ack):
            raise SystemExit(f"not confirmed: {frame}")
        # Without ``multiple`` they come one by one, in any order: how many there were is enough.
        tag = frame.method.delivery_tag
        self._confirmed = tag if frame.method.multiple else self._confirmed + 1
        if self._confirmed == len(self._bodies):
            self._channel.connection.close()
        else:
            self._send()


class _Consumer:
    """Takes events, with at most 1,024 of them not acknowledged, from a queue of its own."""

    def __init__(self, job: Job, channel: Any) -> None:
        self._name, self._channel = job.name, channel
        self._tally = Tally(job)
        channel.queue_declare(job.name, durable=True, arguments=QUORUM, callback=self._limit)

    def _limit(self, _: object) -> None:
        self._channel.basic_qos(prefetch_count=IN_FLIGHT, callback=self._begin)

    def _begin(self, _: object) -> None:
        self._channel.basic_consume(self._name, self._on_event, callback=lambda _: tell_ready())

    def _on_event(self, channel: Any, method: Any, _: object, body: bytes) -> None:
        self._tally.add(body)
        if self._tally.complete or self._tally.received % ACK_EVERY == 0:
            channel.basic_ack(method.delivery_tag, multiple=True)
        if self._tally.complete:
            tell_moment()
            channel.queue_delete(self._name, callback=lambda _: channel.connection.close())


def _connected(make: Callable[[Job, Any], object]) -> Callable[[Job], None]:
    def run(job: Job) -> None:
        def opened(connection: Any) -> None:
            connection.channel(on_open_callback=lambda channel: make(job, channel))

        def closed(connection: Any, _: object) -> None:
            connection.ioloop.stop()

        connection = pika.SelectConnection(
            pika.URLParameters(job.url), on_open_callback=opened, on_close_callback=closed
        )
        connection.ioloop.start()

    return run


if __name__ == "__main__":
    main(_connected(_Publisher), _connected(_Consumer))
