"""Drills as processes, for tests: begin one, read its tables, see what it leaves behind."""

import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.processes import RUN_ALL, World


@pytest.fixture
def drill_folder() -> Iterator[Path]:
    """Where drills make their folders; no process of theirs outlives the test.

    Others than root can get into it, as PostgreSQL must.
    """
    folder = Path(tempfile.mkdtemp(prefix="drills-"))
    folder.chmod(0o711)
    yield folder
    for process in left_behind(folder):
        process.kill()
    shutil.rmtree(folder)


def left_behind(folder: Path) -> list[psutil.Process]:
    """The processes of drills in this folder, and their servers."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if str(folder) in " ".join(process.cmdline()) or process.environ().get(
                "DATA_DIR", ""
            ).startswith(str(folder)):
                found.append(process)
    return found


def begin(world: World, folder: Path, *arguments: str, **changes: str) -> subprocess.Popen[bytes]:
    """Start a drill; ``world`` is what it must not touch."""
    return world.run(RUN_ALL, "--drill", *arguments, name="drill", TMPDIR=str(folder), **changes)


def check_a_drill(
    world: World, folder: Path, process: subprocess.Popen[bytes], hits: Mapping[str, str]
) -> str:
    """Nothing is lost, exit code 0, and nothing is left behind; gives what it has said.

    ``hits`` has, by units, how often each was killed, stopped and restarted.
    """
    assert process.wait(120) == 0, world.output("drill")
    said = world.output("drill")
    rows = {line.split()[0]: line.split()[1:] for line in said.splitlines() if line}
    assert said.endswith("\npassed\n")
    for stream in ("items", "orders", "payments"):
        confirmed, _, _, *verdict, _ = rows[stream]
        assert (int(confirmed) > 0, verdict) == (True, ["0", "0", "0"])
    assert {name: " ".join(rows[name][:3]) for name in hits} == hits
    assert world.output("drill", "stderr") == ""
    assert (left_behind(folder), list(folder.iterdir())) == ([], [])
    assert list(world.settings.data_dir.iterdir()) == []
    return said
