"""The demo: it tells the promise step by step, and leaves nothing behind."""

import re
import signal
from pathlib import Path

import pytest

from tests.conftest import eventually
from tests.processes import ALL, RUN_ALL, SERVICES, World


def test_the_demo_plays_to_its_end(world: World, tmp_path: Path) -> None:
    """It sells while each process is down, everything is paid once, and its folder is gone.

    It is on a broker and files of its own, whatever servers the environment names.
    """
    servers = {"SHOP_DATABASE_URL": "postgresql://127.0.0.1:1/shop"}
    servers |= {"BROKER_URL": "nats://127.0.0.1:1", "TMPDIR": str(tmp_path)}
    ended = world.finish(RUN_ALL, "--demo", "--exit", **servers)
    assert (ended.returncode, ended.stderr) == (0, "")
    for name in SERVICES:
        port = world.settings.http_port(name)[0]
        assert re.search(rf"^{name} +http://127.0.0.1:{port}$", ended.stdout, re.MULTILINE)
    told = [
        "The warehouse is killed",
        "16 items for sale",
        "201, order",
        "Payment is killed",
        "is placed",
        "Payment is back",
        "is paid",
        "the shop is killed as well",
        "Payment 5 of",
        "The shop is back",
        "6 orders, 6 payments",
    ]
    rest = ended.stdout
    for each in told:
        assert each in rest, each
        rest = rest.partition(each)[2]
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("parrot-demo")]
    assert not list(world.settings.data_dir.iterdir())
    assert not any(world.alive(name) for name in ALL)


@pytest.mark.chaos
@pytest.mark.timeout(120)
def test_the_demo_runs_on_for_the_visitor(world: World) -> None:
    process = world.run(RUN_ALL, "--demo", name="demo")
    eventually(lambda: "keep running for you" in world.output("demo"), timeout_s=90)
    assert len(world.get("shop", "/api/items")) == 16
    assert len(world.get("payment", "/api/payments")) == 6
    assert world.get("broker", "/readyz")["status"] == "ready"
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 0
    assert not any(world.alive(name) for name in ALL)


def test_the_demo_can_be_ended_early(world: World) -> None:
    process = world.run(RUN_ALL, "--demo", name="demo")
    eventually(lambda: "1. " in world.output("demo"))
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 0
    assert not any(world.alive(name) for name in ALL)


def test_the_demo_takes_no_port_from_another(world: World) -> None:
    world.start("shop")
    ended = world.finish(RUN_ALL, "--demo", "--exit")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "SHOP_PORT" in ended.stderr
    assert world.alive("shop")
