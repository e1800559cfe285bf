"""Every process, ended, killed and stopped: what was confirmed is there, exactly once."""

import signal
from collections.abc import Iterator
from contextlib import nullcontext

import pytest

from tests.conftest import eventually, own_settings
from tests.load import Load
from tests.processes import ALL, World

EXIT_CODES = {signal.SIGTERM: 0, signal.SIGKILL: -signal.SIGKILL}
every_process = pytest.mark.parametrize("name", ALL)
every_signal = pytest.mark.parametrize(
    "number", [*EXIT_CODES, signal.SIGSTOP], ids=lambda s: s.name
)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Processes that run on between the tests."""
    processes = World(own_settings(tmp_path_factory.mktemp("matrix")))
    yield processes
    processes.end()


@pytest.fixture
def running(shared: World) -> World:
    """Everything up and quiet, whatever became of it in the test before."""
    for process in shared.processes.values():
        process.send_signal(signal.SIGCONT)
    down = [name for name in ALL if name not in shared.processes or not shared.alive(name)]
    shared.start(*down)
    eventually(shared.is_drained)
    return shared


def strike(world: World, name: str, number: signal.Signals, stop_s: float) -> None:
    """Send a process a signal; then it goes on, or is started again."""
    if number == signal.SIGSTOP:
        world.pause(name, stop_s)
    else:
        assert world.kill(name, number=number) == [EXIT_CODES[number]]
        world.start(name)


def endure(
    world: World, name: str, number: signal.Signals, stops_s: list[float], loaded: bool
) -> None:
    """Strike a process once for each of these times, under load or between requests; check all."""
    load = Load(world)
    load.act()
    with load.running() if loaded else nullcontext():
        for stop_s in stops_s:
            if loaded:
                load.advance()
            strike(world, name, number, stop_s)
    load.act()
    load.check()


@every_process
@every_signal
def test_a_fault_under_load(running: World, name: str, number: signal.Signals) -> None:
    """One fault of one process while others buy: nothing confirmed is lost, or there twice."""
    endure(running, name, number, stops_s=[0.3], loaded=True)


@pytest.mark.chaos
@pytest.mark.timeout(180)
@every_process
@every_signal
@pytest.mark.parametrize("stops_s", [[5], [0.1, 0.5, 1, 2, 5]], ids=["once", "five times"])
@pytest.mark.parametrize("loaded", [False, True], ids=["idle", "under load"])
def test_any_faults(
    running: World, name: str, number: signal.Signals, stops_s: list[float], loaded: bool
) -> None:
    """One fault or five in a row, under load or not: nothing confirmed is lost, or there twice."""
    endure(running, name, number, stops_s, loaded)
