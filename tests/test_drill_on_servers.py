"""The drill of several copies of each service, on PostgreSQL and NATS servers of its own."""

import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.process.settings import SERVICES
from scenarios.servers import PostgresServer
from tests.conftest import eventually, free_port
from tests.drills import begin, left_behind, rows
from tests.pairs import require_servers
from tests.processes import World

SERVERS = ("postgresql", "nats")
UNITS = (*SERVERS, *SERVICES, *(f"{name}-2" for name in SERVICES))
# Of these nobody answers.
USERS = {"SHOP_DATABASE_URL": "postgresql://127.0.0.1:1/shop", "BROKER_URL": "nats://127.0.0.1:1"}


@pytest.fixture(autouse=True)
def _servers() -> None:
    require_servers()


@pytest.fixture
def drill_folder() -> Iterator[Path]:
    """Where drills make their folders; others than root can get into it, as PostgreSQL must."""
    folder = Path(tempfile.mkdtemp(prefix="drills-"))
    folder.chmod(0o711)
    yield folder
    for process in left_behind(folder):
        process.kill()
    shutil.rmtree(folder)


@pytest.mark.timeout(150)
def test_a_drill(world: World, drill_folder: Path) -> None:
    """Five faults of all kinds, where the environment names servers: those are not touched.

    Nothing is lost, exit code 0, and nothing is left behind.
    """
    process = begin(world, drill_folder, "--faults", "5", "--seed", "9022", **USERS)
    assert process.wait(120) == 0, world.output("drill")
    said = world.output("drill")
    assert said.startswith(
        "A drill on PostgreSQL and NATS servers of its own, since SHOP_DATABASE_URL is set, "
        "with seed 9022 in "
    )
    assert said.endswith("\npassed\n")
    for stream in ("items", "orders", "payments"):
        confirmed, _, _, *verdict, _ = rows(said)[stream]
        assert (int(confirmed) > 0, verdict) == (True, ["0", "0", "0"])
    hits = {name: [int(count) for count in rows(said)[name][:3]] for name in UNITS}
    assert hits == {
        "postgresql": [1, 0, 0],
        "nats": [1, 1, 0],
        "inventory": [1, 2, 0],
        "inventory-2": [0, 0, 1],
        "shop": [0, 1, 0],
        "shop-2": [1, 0, 0],
        "payment": [1, 0, 0],
        "payment-2": [0, 0, 0],
    }
    assert world.output("drill", "stderr") == ""
    assert (left_behind(drill_folder), list(drill_folder.iterdir())) == ([], [])
    assert list(world.settings.data_dir.iterdir()) == []


@pytest.mark.parametrize("signals", [1, 2])
@pytest.mark.timeout(150)
def test_a_signal_ends_it(world: World, drill_folder: Path, signals: int) -> None:
    """The first early, with all checked and told; the second at once, with no database left."""
    process = begin(world, drill_folder, "--scale", "--minutes", "9")
    eventually(lambda: len(left_behind(drill_folder)) == len(UNITS), timeout_s=60)
    process.send_signal(signal.SIGINT)
    if signals == 1:
        assert process.wait(90) == 0, world.output("drill")
        assert world.output("drill").endswith("\npassed\n")
        assert list(drill_folder.iterdir()) == []
    else:
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
