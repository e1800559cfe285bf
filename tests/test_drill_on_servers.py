"""The drill of several copies of each service, on PostgreSQL and NATS servers of its own."""

import signal
from pathlib import Path

import pytest

from scenarios.servers import PostgresServer
from tests.conftest import eventually, free_port
from tests.drills import begin, check_a_drill, left_behind
from tests.pairs import require_servers
from tests.processes import World

# Of these nobody answers.
USERS = {"SHOP_DATABASE_URL": "postgresql://127.0.0.1:1/shop", "BROKER_URL": "nats://127.0.0.1:1"}
HITS = {
    "postgresql": "1 0 0",
    "nats": "1 1 0",
    "inventory": "1 2 0",
    "inventory-2": "0 0 1",
    "shop": "0 1 0",
    "shop-2": "1 0 0",
    "payment": "1 0 0",
    "payment-2": "0 0 0",
}


@pytest.fixture(autouse=True)
def _servers() -> None:
    require_servers()


@pytest.mark.timeout(150)
def test_a_drill(world: World, drill_folder: Path) -> None:
    """Five faults of all kinds, where the environment names servers: those are not touched."""
    process = begin(world, drill_folder, "--faults", "5", "--seed", "9022", **USERS)
    assert check_a_drill(world, drill_folder, process, HITS).startswith(
        "A drill on PostgreSQL and NATS servers of its own, since SHOP_DATABASE_URL is set, "
        "with seed 9022 in "
    )


@pytest.mark.timeout(150)
def test_a_second_signal_leaves_no_database(world: World, drill_folder: Path) -> None:
    process = begin(world, drill_folder, "--scale", "--minutes", "9")
    eventually(lambda: len(left_behind(drill_folder)) == len(HITS), timeout_s=60)
    process.send_signal(signal.SIGINT)
    eventually(lambda: world.output("drill").count("Ending early"), timeout_s=60)
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 1
    assert "not checked" in world.output("drill")
    assert [path.name[:13] for path in drill_folder.iterdir()] == ["parrot-drill-"]
    assert left_behind(drill_folder) == []


@pytest.mark.timeout(120)
def test_a_database_server(drill_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It stands still as a whole, goes on, crashes and comes back, and leaves nothing."""
    monkeypatch.setattr("tempfile.tempdir", str(drill_folder))
    server = PostgresServer(free_port(), ["parrots"], log := drill_folder / "log")
    try:
        server.start()
        server.create("more")
        server.freeze()
        assert not server.answers()
        server.thaw()
        assert server.answers()
        server.kill()
        assert server.ended() == "ended with exit code 0"
        server.start()
        assert "was not properly shut down" in log.read_text()
        server.freeze()
    finally:
        server.remove()
    assert (left_behind(drill_folder), list(drill_folder.iterdir())) == ([], [log])


@pytest.mark.chaos
@pytest.mark.timeout(900)
def test_a_long_drill(world: World, drill_folder: Path) -> None:
    """A hundred faults: nothing is lost, whatever the seed."""
    process = begin(world, drill_folder, "--scale", "--faults", "100")
    assert process.wait(850) == 0, world.output("drill")
    assert " 100 faults in " in world.output("drill")
