"""``python -m messaging tail``: a stream as JSON lines, from the first event or live."""

import json
import os
import signal
import subprocess
import sys
from typing import Any

import pytest
from structlog.testing import capture_logs

from messaging import __main__ as command
from messaging.tail import tail
from messaging.transports.wire import Message, Place
from tests.conftest import eventually
from tests.messaging.conftest import EPOCH, NEWER
from tests.messaging.test_inheritance import Journal
from tests.processes import World


def told(world: World) -> list[dict[str, Any]]:
    """The events that were printed; a line that is not written to its end does not count."""
    return [json.loads(line) for line in world.output("tail").split("\n")[:-1]]


def test_a_stream_from_its_first_event_on_and_then_live(world: World) -> None:
    """It waits for the broker, says so once, and goes on whatever happens to that."""
    process = world.run("-m", "messaging", "tail", "items", "--from", "1", name="tail")
    eventually(lambda: "waiting for the broker" in world.output("tail", "stderr"))
    world.start("broker", "inventory")

    def add(number: int) -> None:
        new = {"item": {"name": "Honey", "price": number}}
        world.post("inventory", "/api/item", new, X_Request_ID=f"number-{number}")

    add(1)
    eventually(lambda: len(told(world)) == 1)
    world.kill("broker")
    add(2)
    world.start("broker")
    eventually(lambda: len(told(world)) == 2)
    add(3)
    eventually(lambda: len(told(world)) == 3)
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 0

    events = told(world)
    assert [event["data"]["price"] for event in events] == [1, 2, 3]
    assert [event["sequence"] for event in events] == ["1", "2", "3"]
    assert {event["type"] for event in events} == {"item.created"}
    assert [event["correlationid"] for event in events] == ["number-1", "number-2", "number-3"]
    assert world.output("tail", "stderr").count("\n") == 1


class Later(Journal):
    """A journal of some orders; after a while more are told, the last of which comes live."""

    def __init__(self, count: int, *told: Place) -> None:
        super().__init__(begun=None)
        self.polls = 0
        self._told = told
        for n in range(1, count + 1):
            self.tell("orders", Place(EPOCH, n), n)

    def poll(self, timeout_s: float) -> list[Message]:
        self.polls += 1
        if self.polls == 20:
            for n, place in enumerate(self._told, len(self.kept["orders"]) + 1):
                self.tell("orders", place, n)
            self.arrived.append(self.kept["orders"][-1])
        return super().poll(timeout_s)


@pytest.mark.parametrize(("first", "expected"), [(1, [1, 2, 3, 4, 5]), (4, [4, 5]), (None, [])])
def test_from_a_number_or_from_now_on(
    first: int | None,
    expected: list[int],
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What a new database tells follows in any case; nobody waits for a broker that is there."""
    monkeypatch.setattr("messaging.tail.PATIENCE_S", 0)
    journal = Later(5, Place(NEWER, 1))  # with which the shop has a new database
    with capture_logs() as lines:
        tail(journal, "orders", first, lambda _: journal.polls > 40)
    assert [line["event"] for line in lines] == ["a new epoch"]
    said, complaint = capfd.readouterr()
    printed = [json.loads(line) for line in said.splitlines()]
    assert [event["data"]["n"] for event in printed] == [*expected, 6]
    assert complaint == ""


@pytest.mark.parametrize(("first", "expected"), [(1, [1, 2, 3]), (3, [3]), (None, [1, 2, 3])])
def test_of_a_stream_that_has_not_begun(
    first: int | None,
    expected: list[int],
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("messaging.follower.WANT_INTERVAL_S", 0)
    journal = Later(0, *(Place(EPOCH, n) for n in (1, 2, 3)))
    tail(journal, "orders", first, lambda _: journal.polls > 40)
    printed = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert [event["data"]["n"] for event in printed] == expected


def test_it_ends_when_nobody_reads_any_more(world: World) -> None:
    """As in ``tail … | head -n 1``, though no further event comes."""
    process = subprocess.Popen(
        [sys.executable, "-m", "messaging", "tail", "items", "--from", "1"],
        env=world.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        assert process.stdout and process.stderr
        assert b"waiting for the broker" in process.stderr.readline()
        process.stdout.close()
        assert process.wait(5) == 0
        assert process.stderr.read() == b""
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


@pytest.mark.parametrize(
    "arguments", ["Orders/", "orders --from 0", f"orders --from {2**63}", "orders --from"]
)
def test_a_wrong_command_line(
    arguments: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["messaging", "tail", *arguments.split()])
    with pytest.raises(SystemExit, match="2"):
        command.main()
    printed = capfd.readouterr()
    assert printed.out == ""
    assert len(printed.err.splitlines()[-1]) > 20


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
