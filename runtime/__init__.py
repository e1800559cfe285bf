"""What any service process needs: settings, database, logs, the HTTP shell and its lifecycle."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
VERSION: str = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
