"""The commands of the README and its first pages do what they say, as they are printed there."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from runtime.process.settings import Settings
from tests.conftest import eventually, free_port
from tests.pairs import SCALE, administer, ground
from tests.processes import ALL, ROOT, SERVICES, World

README = (ROOT / "README.md").read_text()
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = README + "".join(
    (ROOT / "docs" / f"{name}.md").read_text() for name in ("services", "settings", "scaling")
)


def block(language: str, containing: str) -> str:
    """The one block of code in which this stands."""
    blocks = re.findall(rf"```{language}\n(.*?)```", PAGES, re.DOTALL)
    (found,) = (each for each in blocks if containing in each)
    return str(found)


def shell(world: World, script: str, cwd: Path = ROOT) -> str:
    """Run a script of the README on this system's ports, with this Python."""
    for name, port in zip(SERVICES, (8001, 8002, 8003), strict=True):
        script = script.replace(
            f"localhost:{port}", f"127.0.0.1:{world.settings.http_port(name)[0]}"
        )
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    ended = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=cwd,
        env=world.environment(PATH=path, PYTHONPATH=str(ROOT)),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_buying_and_following_what_was_bought(world: World, tmp_path: Path) -> None:
    """The purchase ends in "paid"; the grep finds the request in every process it went through.

    Each line of a log is an object; standard output is for payments alone.
    """
    world.start(*ALL, LOG_FORMAT="json")
    bought = shell(world, block("sh", "post localhost:8002/api/checkout")).splitlines()
    assert '"status":"paid"' in bought[-1]
    assert "Payment 1 of 4300 by user 1 for order" in world.output("payment")

    script = block("sh", "my-order")
    assert "LOG_FORMAT=json python run_all.py 2> shop.log" in block("sh", "2> shop.log")
    shell(world, script.partition("grep")[0], tmp_path)
    logs = {name: world.output(name, "stderr") for name in ALL}
    for name, log in logs.items():
        assert {json.loads(line)["service"] for line in log.splitlines()} == {name}
    assert [name for name in ALL if world.output(name)] == ["payment"]
    (tmp_path / "shop.log").write_text("".join(logs.values()))
    found = shell(world, "grep" + script.partition("grep")[2], tmp_path)
    said = [json.loads(line) for line in found.splitlines()]
    assert sorted((line["event"], line["service"]) for line in said) == [
        ("applied", "payment"),
        ("applied", "shop"),
        ("request", "shop"),
        ("stored", "broker"),
        ("stored", "broker"),
    ]


def test_the_service_that_one_writes_oneself(world: World) -> None:
    """It counts what was paid before it was there, is killed, and misses and doubles nothing."""
    world.start(*ALL)
    basket = world.stock()
    for _ in range(3):
        world.checkout(basket)
    eventually(world.is_drained)

    def loyal() -> list[tuple[int, int]]:
        found: list[tuple[int, int]] = world.rows("loyalty", "SELECT * FROM loyalty")
        return found

    def start() -> "subprocess.Popen[bytes]":
        return world.run("-m", "examples.loyalty", name="loyalty")

    process = start()
    eventually((world.settings.data_dir / "loyalty.db").exists)
    eventually(lambda: "started" in world.output("loyalty", "stderr"))
    eventually(lambda: loyal() == [(1, 12000)])
    process.kill()
    process.wait()
    world.post("payment", "/api/payment", {"user_id": 2, "price": 5})
    world.checkout(basket)
    process = start()
    eventually(lambda: loyal() == [(1, 16000), (2, 5)])
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 0

    for arguments, told in (
        (["--help"], "usage: python -m examples.loyalty "),
        (["place"], "payments  "),
        (["migrate-to", "postgresql://x@localhost/y"], "there is no setting LOYALTY_DATABASE_URL"),
    ):
        ended = world.finish("-m", "examples.loyalty", *arguments)
        assert told in ended.stdout + ended.stderr

    command, shown = block("sh", "examples.loyalty").splitlines()
    assert command.startswith("python -m examples.loyalty ")
    assert "16000" in shell(world, shown, world.settings.data_dir.parent)


def anchor(heading: str) -> str:
    """The fragment that leads to a heading, as GitHub makes it."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("path", ["README.md", *(f"docs/{p.name}" for p in DOCS)])
def test_every_link_leads_somewhere(path: str) -> None:
    page = ROOT / path
    links = re.findall(r"\]\((?!http)([^)#]*)(?:#([^)]*))?\)", page.read_text())
    for name, fragment in links:
        target = page.parent / name if name else page
        assert target.exists(), name
        if fragment:
            headings = re.findall(r"^#+ (.*)$", target.read_text(), re.M)
            assert fragment in map(anchor, headings), f"{name}#{fragment}"


def test_the_readme_names_what_there_is() -> None:
    """Every command and option that it shows."""
    modules = set(re.findall(r"python -m (\w+)", README))
    assert modules <= {*ALL, "messaging", "runtime", "bench", "examples"}
    assert not any("pip install" in line and "==" in line for line in README.splitlines())


@pytest.mark.timeout(120)
def test_scale_as_the_readme_says(
    world: World, settings: Settings, request: pytest.FixtureRequest
) -> None:
    """Moved to PostgreSQL and JetStream by its commands, the shop goes on; a copy stands by."""
    world.start(*ALL)
    basket = world.stock()
    world.kill("payment")
    waiting = world.checkout(basket)
    world.kill("broker", "inventory", "shop")
    with ground(SCALE, settings, request) as given:
        cluster, nats = given.servers["database"], given.servers["broker"]
        nats.start()
        ours = {
            "-h localhost -p 5432": f"-h 127.0.0.1 -p {cluster.port}",
            "localhost:5432": f"127.0.0.1:{cluster.port}",
            "localhost:4222": f"127.0.0.1:{nats.port}",
        }

        def printed(containing: str) -> str:
            script = block("sh", containing)
            for theirs, our in ours.items():
                script = script.replace(theirs, our)
            return script

        try:
            shell(world, printed("createdb"))
            told = shell(world, printed("migrate-to"))
            assert re.findall(r"^(\w+) has moved", told, re.M) == list(SERVICES)
            names = dict(re.findall(r"export (\w+)=(\S+)", printed("BROKER_URL")))
            assert printed("BROKER_URL").splitlines()[-1] == "python run_all.py"
            world.run("run_all.py", **names)
            for name in SERVICES:
                world.wait_until_up(name)
            eventually(lambda: world.is_paid(waiting))
            order = world.checkout(basket)
            eventually(lambda: world.is_paid(order))

            assert block("sh", "SHOP_PORT=8012") == "SHOP_PORT=8012 python -m shop\n"
            copy = World(settings.model_copy(update={"shop_port": free_port()}))
            try:
                copy.start("shop", **names)
                assert copy.get("shop", "/readyz")["standby"] is True
                order = copy.checkout(basket)
                eventually(lambda: copy.is_paid(order))
            finally:
                copy.end()
        finally:
            world.end()
            dropped = [f"DROP DATABASE IF EXISTS {name} WITH (FORCE)" for name in SERVICES]
            administer(cluster.url("postgres"), *dropped)
