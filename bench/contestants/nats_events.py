"""NATS JetStream: published in atomic batches where it has them (2.12), pulled in batches, too."""
# Without this library, its names have no types.
# mypy: disable-error-code="import-not-found"

import asyncio
import json
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from secrets import token_hex

import nats
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import TimeoutError as NothingCame
from nats.js.api import AckPolicy, ConsumerConfig, StorageType, StreamConfig

from bench.contestants.client import IN_FLIGHT, Job, Tally, main, tell_moment, tell_ready

FETCH_TIMEOUT_S = 1


async def _publish(client: Client, job: Job) -> None:
    if client.connected_server_version.minor >= 12 or client.connected_server_version.major > 2:
        await _publish_batches(client, job)
    else:
        await _publish_one_by_one(client, job)


async def _publish_batches(client: Client, job: Job) -> None:
    """As many events as may be in flight in a batch, of which two are on their way."""
    bodies = job.bodies()
    tell_ready()
    tell_moment()
    commits: deque[asyncio.Task[Msg]] = deque()
    for first in range(0, job.number, IN_FLIGHT // 2):
        *batch, last = bodies[first : first + IN_FLIGHT // 2]
        headers = {"Nats-Batch-Id": token_hex(16)}
        for number, body in enumerate(batch, 1):
            headers["Nats-Batch-Sequence"] = str(number)
            await client.publish(job.name, body, headers=headers)
        headers |= {"Nats-Batch-Sequence": str(len(batch) + 1), "Nats-Batch-Commit": "1"}
        request = client.request(job.name, last, timeout=30, headers=headers)
        commits.append(asyncio.create_task(request))
        await asyncio.sleep(0)  # it is sent
        if len(commits) == 2:
            _check(await commits.popleft())
    for commit in commits:
        _check(await commit)


def _check(answer: Msg) -> None:
    if told := json.loads(answer.data).get("error"):
        raise SystemExit(f"a batch was refused: {told}")


async def _publish_one_by_one(client: Client, job: Job) -> None:
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
    made = StreamConfig(name=job.name, subjects=[job.name], storage=StorageType.FILE)
    if client.connected_server_version.minor >= 12:
        made = made.evolve(allow_atomic=True)
    await stream.add_stream(made)
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
