"""Redis Streams: appended in pipelines, read as a group, acknowledged many at once."""
# Without this library its names have no types, and with it too many.
# mypy: disable-error-code="import-not-found, arg-type, index, str-unpack, union-attr"

import redis

from bench.contestants.client import IN_FLIGHT, Job, Tally, main, tell_moment, tell_ready

GROUP, CONSUMER = "readers", "reader"
BLOCK_MS = 1000


def publish(job: Job) -> None:
    """Append events, 1,024 in a pipeline, which ends when all of them are acknowledged."""
    client = redis.Redis.from_url(job.url)
    client.ping()
    bodies = job.bodies()
    tell_ready()
    tell_moment()
    for first in range(0, job.number, IN_FLIGHT):
        pipeline = client.pipeline(transaction=False)
        for body in bodies[first : first + IN_FLIGHT]:
            pipeline.xadd(job.name, {"body": body})
        pipeline.execute()


def consume(job: Job) -> None:
    """Read events, at most 1,024 at once, and acknowledge them."""
    client = redis.Redis.from_url(job.url)
    client.xgroup_create(job.name, GROUP, id="0", mkstream=True)
    tally = Tally(job)
    tell_ready()
    while not tally.complete:
        told = client.xreadgroup(GROUP, CONSUMER, {job.name: ">"}, count=IN_FLIGHT, block=BLOCK_MS)
        for _, entries in told:
            for _, fields in entries:
                tally.add(fields[b"body"])
            client.xack(job.name, GROUP, *(entry for entry, _ in entries))
    tell_moment()


if __name__ == "__main__":
    main(publish, consume)
