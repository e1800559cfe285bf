"""Readers of others, as examples/ has them, beside a shop that is killed and sells."""

import json
import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from examples.loyalty import Loyalty
from runtime import ROOT
from runtime.process.locks import locked
from runtime.process.settings import Settings
from tests.conftest import eventually
from tests.processes import ALL, World
from tests.programs import program


def packages() -> Path:
    """The folder with npm's zeromq: that of a program of npm's in the PATH."""
    for folder in map(Path, os.environ["PATH"].split(os.pathsep)):
        if folder.name == ".bin" and (folder.parent / "zeromq").is_dir():
            return folder.parent
    pytest.skip("npm's zeromq is not installed")


def test_a_reader_in_node(world: World, tmp_path: Path) -> None:
    """It has every event once and in order: those before it, those live, and those of an outage."""
    node, modules = program("node"), packages()
    shutil.copy(ROOT / "examples" / "reader.mjs", tmp_path)
    (tmp_path / "node_modules").symlink_to(modules)
    world.start(*ALL)
    basket = world.stock()
    with ThreadPoolExecutor(8) as buyers:  # more than one answer of the journal has
        orders = list(buyers.map(world.checkout, [basket] * 270))
    eventually(lambda: world.is_told("shop"))
    heard = tmp_path / "heard"
    with heard.open("wb") as output:
        reading = subprocess.Popen(
            [node, "reader.mjs", "orders"], cwd=tmp_path, env=world.environment(), stdout=output
        )

    def read() -> list[dict[str, Any]]:
        return [json.loads(line) for line in heard.read_text().rpartition("\n")[0].splitlines()]

    try:
        eventually(lambda: len(read()) >= len(orders), timeout_s=30)
        orders += [world.checkout(basket) for _ in range(3)]
        eventually(lambda: len(read()) >= len(orders))
        world.kill("broker")
        orders += [world.checkout(basket) for _ in range(3)]
        world.start("broker")
        eventually(lambda: len(read()) >= len(orders), timeout_s=30)
    finally:
        reading.kill()
        reading.wait()
    assert [int(event["sequence"]) for event in read()] == list(range(1, len(orders) + 1))
    assert {event["data"]["order_id"] for event in read()} == set(orders)


def test_what_a_service_makes_itself_waits_for_its_database(settings: Settings) -> None:
    """Such as a full or locked disk at its start: it serves, and makes its table later."""
    settings.data_dir.mkdir(parents=True)
    loyalty = Loyalty(settings)
    with locked(settings.data_dir):
        loyalty._threads(exchange_only=False)
        assert not (settings.data_dir / "loyalty.db").exists()
    eventually(lambda: loyalty.database.leads)
    assert loyalty.database.execute_sql("SELECT * FROM loyalty").fetchall() == []
    loyalty.database.close()
