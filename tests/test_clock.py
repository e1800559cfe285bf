"""Wall clocks that jump: they date what happens, and nobody waits by them."""

import re
import signal
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from tests.conftest import eventually
from tests.load import Load
from tests.processes import ALL, ROOT, World

DAY_S = 24 * 60 * 60


@pytest.mark.parametrize("jump_s", [DAY_S, -DAY_S])
def test_the_wall_clock_jumps(world: World, tmp_path: Path, jump_s: int) -> None:
    """By a day, while orders flow and full disks are waited for: all goes on at its pace."""
    clock, moved = tmp_path / "clock", tmp_path / "moved"
    clock.write_text("0")
    moved.write_text(str(jump_s))
    for name in ALL:
        started = world.run("-m", "tests.clocked", name, WALL_CLOCK=str(clock))
        world.processes[name] = started
    for name in ALL:
        world.wait_until_up(name)
    load = Load(world)
    first = load.buy()
    with load.running():
        load.advance()
        with world.full_disk("payment"):
            eventually(lambda: "events wait" in world.output("payment", "stderr"))
            with world.full_disk("broker"):
                eventually(lambda: "waits for its disk" in world.output("broker", "stderr"))
                moved.rename(clock)
        load.advance()
    last = load.buy()
    load.check(within_s=10)

    orders = world.get("shop", "/api/orders?user_id=1")
    assert (orders[0]["id"], orders[-1]["id"]) == (last, first)
    times = [datetime.fromisoformat(order["placed_at"]) for order in (orders[-1], orders[0])]
    assert abs(times[1] - times[0] - timedelta(seconds=jump_s)) < timedelta(minutes=1)
    assert world.kill(*ALL, number=signal.SIGTERM) == [0, 0, 0, 0]


@pytest.mark.chaos
def test_a_jump_takes_no_key_away(world: World, tmp_path: Path) -> None:
    """By more than keys are kept, while the shop runs and before its next start: it is told."""
    clock = tmp_path / "clock"
    clock.write_text("0")

    def start() -> None:
        started = world.run("-m", "tests.clocked", "shop", WALL_CLOCK=str(clock))
        world.processes["shop"] = started
        world.wait_until_up("shop")

    start()
    first = world.post("shop", "/api/user", {"name": "Kesha"}, Idempotency_Key="once")
    moved = tmp_path / "moved"
    moved.write_text(str(40 * DAY_S))
    moved.rename(clock)
    told = "the clock is ahead"
    eventually(lambda: told in world.output("shop", "stderr"), timeout_s=15)
    world.kill("shop")
    start()
    eventually(lambda: world.output("shop", "stderr").count(told) == 2)
    again = world.post("shop", "/api/user", {"name": "Kesha"}, Idempotency_Key="once")
    assert (again.status, again.body) == (201, first.body)
    assert world.rows("shop", "SELECT count(*) FROM kept_answer") == [(1,)]


def test_only_dates_come_from_the_wall_clock() -> None:
    """Times that people read, epochs, and the name of a file that was set aside; no interval."""
    reads = re.compile(r"\btime\.time|\bdatetime\.(now|utcnow|today)|from time import")
    folders = ("runtime", "messaging", *ALL)
    paths = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    readers = {path for path in (*paths, ROOT / "run_all.py") if reads.search(path.read_text())}
    assert {str(path.relative_to(ROOT)) for path in readers} == {
        "runtime/process/clock.py",
        "runtime/process/logs.py",
        "messaging/migrations/0001_outbox_and_inbox.py",
        "messaging/recovery.py",
        "broker/journal.py",
    }
