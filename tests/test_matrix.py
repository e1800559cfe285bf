"""Every process, ended, killed and stopped: what was confirmed is there, exactly once."""

import signal
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import pytest

from tests.conftest import eventually, own_settings
from tests.load import Load
from tests.pairs import EMBEDDED, SCALE, new_world
from tests.processes import ALL, World

EXIT_CODES = {signal.SIGTERM: 0, signal.SIGKILL: -signal.SIGKILL}
# What is struck on each pair: on the embedded one, the simulation does it far more often.
STRUCK = {EMBEDDED: ("broker", "shop"), SCALE: (*ALL, "database")}
FAULTS = [
    pytest.param(pair, name, number, id=f"{pair}-{name}-{number.name}")
    for pair, names in STRUCK.items()
    for name in names
    for number in (*EXIT_CODES, signal.SIGSTOP)
]


def processes_on(pair: str) -> Any:
    """A fixture: processes that run on between the tests."""

    @pytest.fixture(scope="module", name=pair)
    def processes(
        request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
    ) -> Iterator[World]:
        settings = own_settings(tmp_path_factory.mktemp("matrix"))
        with new_world(pair, settings, request) as running:
            yield running

    return processes


embedded, scale = processes_on(EMBEDDED), processes_on(SCALE)


@pytest.fixture
def running(request: pytest.FixtureRequest) -> World:
    """Everything on a pair up and quiet, whatever became of it in the test before."""
    shared: World = request.getfixturevalue(request.param)
    for name in (*shared.processes, *shared.servers):
        shared.signal(name, signal.SIGCONT)
    shared.start(*[name for name in shared.names if not shared.alive(name)])
    eventually(shared.is_drained)
    return shared


def strike(world: World, name: str, number: signal.Signals, stop_s: float) -> None:
    """Send a process a signal; then it goes on, or is started again."""
    if number == signal.SIGSTOP:
        world.pause(name, stop_s)
        return
    code = world.kill(name, number=number)
    assert name in world.servers or code == [EXIT_CODES[number]]
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


@pytest.mark.parametrize("running", [SCALE], indirect=True)
def test_a_fault_under_load(running: World) -> None:
    """One of those below; plain ``pytest`` leaves the others to the drills."""
    endure(running, "payment", signal.SIGKILL, stops_s=[0], loaded=True)


@pytest.mark.chaos
@pytest.mark.timeout(180)
@pytest.mark.parametrize(("running", "name", "number"), FAULTS, indirect=["running"])
@pytest.mark.parametrize("stops_s", [[5], [0.1, 0.5, 1, 2, 5]], ids=["once", "five times"])
@pytest.mark.parametrize("loaded", [False, True], ids=["idle", "under load"])
def test_any_faults(
    running: World, name: str, number: signal.Signals, stops_s: list[float], loaded: bool
) -> None:
    """One fault or five in a row, under load or not: nothing confirmed is lost, or there twice."""
    endure(running, name, number, stops_s, loaded)
