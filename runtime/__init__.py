"""The parts of any service process: settings, database, logs, HTTP and its life cycle."""

import sys
import tomllib
from pathlib import Path

# spectree would import offapi, and keep its three documentation sites in memory; we serve its files
# from the disk. Python treats a module that is None as missing.
sys.modules["offapi"] = None  # type: ignore[assignment]

ROOT = Path(__file__).parent.parent
VERSION: str = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
