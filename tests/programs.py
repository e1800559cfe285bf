"""Programs that operators have and tests need: Prometheus, nginx, systemd's tools, Node."""

import os
import shutil

import pytest

OPTIONAL = {"systemd-analyze", "node", "npm"}  # .ci/run does not install them


def program(name: str) -> str:
    """Where a program is; where it is not, skip the test, or fail it with REQUIRE_SERVERS=1."""
    found = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")
    if found:
        return found
    if os.environ.get("REQUIRE_SERVERS") and name not in OPTIONAL:
        pytest.fail(f"{name} is not installed")
    pytest.skip(f"{name} is not installed")
