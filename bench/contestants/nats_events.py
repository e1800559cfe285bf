"""NATS JetStream: published without waiting for each ack, pulled and acknowledged in batches."""
# Without this library, its names have no types.
# mypy: disable-error-code="import-not-found"

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import nats
from nats.aio.client import Client
from nats.errors import TimeoutError as NothingCame
from nats.js.api import AckPolicy, ConsumerConfig, StorageType

from bench.contestants.client import IN_FLIGHT, Job, Tally, main, tell_moment, tell_ready

FETCH_TIMEOUT_S = 1


async def _publish(client: Client, job: Job) -> None:
    stream = client.jetstream(publish_async_max_pending=IN_FLIGHT)
    bodies = job.bodies()
    tell_ready()
    tell_moment()
    acks = [await stream.publish_async(job.name, body) for body in bodies]
    await stream.publish_async_completed()
    for ack in acks:
        ack.result()  # raises what went wrong


async def _consume(client: Client, job: Job) -> None:
    stream = client.jetstream()
    await stream.add_stream(name=job.name, subjects=[job.name], storage=StorageType.FILE)
    config = ConsumerConfig(ack_policy=AckPolicy.ALL, max_ack_pending=4 * IN_FLIGHT)
    subscription = await stream.pull_subscribe(job.name, durable="reader", config=config)
    tally = Tally(job)
    tell_ready()
    while not tally.complete:
        with suppress(NothingCame):
            messages = await subscription.fetch(IN_FLIGHT, timeout=FETCH_TIMEOUT_S)
            for message in messages:
                tally.add(message.data)
            await messages[-1].ack()
    await client.flush()
    tell_moment()


def _connected(work: Callable[[Client, Job], Awaitable[None]]) -> Callable[[Job], None]:
    async def run(job: Job) -> None:
        client = await nats.connect(job.url)
        try:
            await work(client, job)
        finally:
            await client.close()

    return lambda job: asyncio.run(run(job))


if __name__ == "__main__":
    main(_connected(_publish), _connected(_consume))
