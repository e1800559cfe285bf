"""``python -m messaging tail``: a stream as JSON lines, from the first event or live."""

import json
import os
import signal
import subprocess
import sys
from typing import Any

import pytest

from tests.conftest import eventually
from tests.processes import ALL, World

FAR = ("0", "-1", str(2**63), "9" * 30)


def told(world: World, name: str = "tail") -> list[dict[str, Any]]:
    """The events that were printed; a line that is not written to its end does not count."""
    return [json.loads(line) for line in world.output(name).split("\n")[:-1]]


def tail(world: World, *arguments: str, name: str = "tail") -> subprocess.Popen[bytes]:
    return world.run("-m", "messaging", "tail", *arguments, name=name)


def test_a_stream_from_its_first_event_on_and_then_live(world: World) -> None:
    """More than the journal sends in one answer, and whatever happens to the broker."""
    world.start(*ALL)
    basket = world.stock()
    process = tail(world, "orders", "--from", "1")
    orders = [world.checkout(basket, X_Request_ID=f"number-{n}") for n in range(300)]
    eventually(lambda: len(told(world)) == 300)
    world.kill("broker")
    orders.append(world.checkout(basket))
    world.start("broker")
    eventually(lambda: len(told(world)) == 301)
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 0

    events = told(world)
    assert [event["data"]["order_id"] for event in events] == orders
    assert [event["sequence"] for event in events] == [str(n) for n in range(1, 302)]
    assert {event["type"] for event in events} == {"order.placed"}
    assert [event["correlationid"] for event in events[:300]] == [f"number-{n}" for n in range(300)]
    assert world.output("tail", "stderr").count("\n") <= 1  # that it waits for the broker


def test_from_a_number_or_from_now_on(world: World) -> None:
    world.start(*ALL)
    basket = world.stock()
    orders = [world.checkout(basket) for _ in range(5)]
    eventually(lambda: world.is_told("shop"))
    tail(world, "orders", "--from", "4")
    tail(world, "orders", name="live")
    eventually(lambda: len(told(world)) == 2)
    while not told(world, "live"):  # from when on it listens is its own affair
        orders.append(world.checkout(basket))
    eventually(lambda: len(told(world)) == len(orders) - 3)
    assert [event["data"]["order_id"] for event in told(world)] == orders[3:]
    first = told(world, "live")[0]["data"]["order_id"]
    assert first in orders[5:]


def test_a_new_database_begins_the_stream_anew(world: World) -> None:
    """The events of the old one have been told; those of the new one follow."""
    world.start(*ALL)
    world.checkout(world.stock())
    tail(world, "orders", "--from", "1")
    eventually(lambda: len(told(world)) == 1)
    world.kill("shop")
    for path in world.files("shop"):
        path.unlink()
    world.start("shop")
    user = world.post("shop", "/api/user", {"name": "Kesha"}).json()
    eventually(lambda: world.get("shop", "/api/items"))
    world.checkout({"user_id": user["id"], "item_ids": [1]})
    eventually(lambda: len(told(world)) == 2)
    ids = [event["id"].split(":") for event in told(world)]
    assert ids[0][0] != ids[1][0]
    assert [number for _, number in ids] == ["1", "1"]


def test_it_waits_for_the_broker_and_says_so(world: World) -> None:
    tail(world, "items", "--from", "1")
    eventually(lambda: "waiting for the broker" in world.output("tail", "stderr"))
    world.start("broker", "inventory", "shop")
    world.stock()
    eventually(lambda: len(told(world)) == 1)
    assert world.output("tail", "stderr").count("waiting") == 1


def test_it_ends_when_nobody_reads_any_more(world: World) -> None:
    """As in ``tail … | head -n 1``, though no further event comes."""
    world.start("broker", "inventory", "shop")
    world.stock()
    process = subprocess.Popen(
        [sys.executable, "-m", "messaging", "tail", "items", "--from", "1"],
        env=world.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        assert process.stdout and process.stderr
        assert json.loads(process.stdout.readline())["data"]["name"] == "Millet"
        process.stdout.close()
        assert process.wait(5) == 0
        assert process.stderr.read() == b""
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


@pytest.mark.parametrize(
    "arguments",
    [
        ["Orders/"],
        ["orders", "--from", "0"],
        ["orders", "--from", str(2**63)],
        ["orders", "--from"],
    ],
)
def test_a_wrong_command_line(world: World, arguments: list[str]) -> None:
    ended = world.finish("-m", "messaging", "tail", *arguments)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert len(ended.stderr.splitlines()[-1]) > 20


@pytest.mark.chaos
def test_it_ends_when_asked_while_its_reader_does_not_read(world: World) -> None:
    """And loses nothing before that: what is read later is whole."""
    world.start("broker", "inventory")
    for number in range(400):  # more than a pipe holds
        new = {"item": {"name": f"Item {number} {'x' * 180}", "price": number}}
        world.post("inventory", "/api/item", new)
    source, target = os.pipe()
    os.set_blocking(target, False)
    process = world.run(
        "-m", "messaging", "tail", "items", "--from", "1", name="tail", stdout=target
    )
    os.close(target)
    with os.fdopen(source, "rb") as reader:
        assert json.loads(reader.readline())["sequence"] == "1"
        eventually(lambda: len(reader.peek()) > 0)
        assert [json.loads(reader.readline())["sequence"] for _ in range(399)][-1] == "400"
        for number in range(400):
            world.ask("inventory", "PUT", f"/api/items/{1 + number}/toggle_status")
        eventually(lambda: world.is_told("inventory"))
        process.terminate()
        assert process.wait(10) == 0
