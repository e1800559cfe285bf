"""Drills as processes, for tests: begin one, read its tables, see what it leaves behind."""

import subprocess
from contextlib import suppress
from pathlib import Path

import psutil

from tests.processes import ROOT, World

RUN_ALL = str(ROOT / "run_all.py")


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


def rows(said: str) -> dict[str, list[str]]:
    """The lines of the tables, by their first word."""
    return {line.split()[0]: line.split()[1:] for line in said.splitlines() if line}
