"""What compose.yaml and the Dockerfile say, held against the real commands and settings."""

import re
import signal
import tomllib
from typing import Any

import pytest

from runtime import ROOT
from runtime.process.settings import Settings
from tests.processes import ALL, World

yaml = pytest.importorskip("yaml", reason="requirements-dev.txt has it")
VARIABLES = {name.upper() for name in Settings.model_fields}


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
    return found


def dockerfile() -> list[tuple[str, str]]:
    """Instruction and arguments of each line."""
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    return [(line.split(" ", 1)[0], line.split(" ", 1)[1]) for line in lines if line[:1].isupper()]


def test_compose_starts_what_there_is(compose: dict[str, Any]) -> None:
    """Each process by its command, on the port that is its default, with settings that it takes."""
    assert set(compose["services"]) == set(ALL)
    built = dict(assignment.split("=") for assignment in dict(dockerfile())["ENV"].split())
    for name, service in compose["services"].items():
        assert service["command"] == f"python -m {name}"
        assert service["healthcheck"]["test"] == f"python -m runtime.health {name}"
        assert service["restart"] == "unless-stopped"
        settings = Settings(**built, **service["environment"])
        assert set(service["environment"]) <= VARIABLES
        assert settings.host == "0.0.0.0"
        port = settings.http_port(name)[0]
        assert service["ports"] == [f"127.0.0.1:{port}:{port}"]
        host = "0.0.0.0" if name == "broker" else "broker"
        assert settings.broker_publish_url == f"tcp://{host}:5559"
        assert settings.broker_subscribe_url == f"tcp://{host}:5560"
        (volume,) = service["volumes"]
        assert volume.split(":") == ["data", built["DATA_DIR"]]
        assert "data" in compose["volumes"]
        assert service["build"] == "."


def test_the_image_has_what_it_needs() -> None:
    """A Python that is new enough, files that are there, and a command that runs."""
    instructions = dockerfile()
    (base,) = (arguments for instruction, arguments in instructions if instruction == "FROM")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    version = re.fullmatch(r"python:3\.(\d+)-slim", base)
    least = re.fullmatch(r">=3\.(\d+)", project["requires-python"])
    assert version and least
    assert int(version[1]) >= int(least[1])
    for instruction, arguments in instructions:
        if instruction == "COPY":
            assert (ROOT / arguments.split()[0]).exists()
    assert dict(instructions)["CMD"] == '["python", "run_all.py", "--abort-on-exit"]'
    assert dict(instructions)["HEALTHCHECK"].endswith(' CMD ["python", "-m", "runtime.health"]')
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert {".git", "data"} <= set(ignored)
    assert not {"shop", "runtime", "requirements.txt"} & set(ignored)


def test_the_health_check_of_a_container(world: World) -> None:
    """It asks what is named, or what listens; one that hangs, is gone or is not there is none."""

    def health(*names: str) -> tuple[int, str]:
        ended = world.finish("-m", "runtime.health", *names)
        return ended.returncode, ended.stderr

    assert health() == (1, "health: nothing listens here\n")
    world.start("shop")
    assert health() == health("shop") == (0, "")
    assert health("shop", "payment") == (1, "health: no answer from payment\n")
    world.signal("shop", signal.SIGSTOP)
    assert health() == (1, "health: no answer from shop\n")
    assert health("chop")[0] == 2
