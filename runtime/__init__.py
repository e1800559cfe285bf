"""What any service process needs: settings, database, logs, the HTTP shell and its lifecycle."""

import sys
import tomllib
from pathlib import Path

# The files of offapi are served from the disk. spectree, which is imported after this and by no
# service itself, would import it, too, and so keep three documentation sites in memory; Python
# takes a module that is None for one that is missing.
sys.modules["offapi"] = None  # type: ignore[assignment]

ROOT = Path(__file__).parent.parent
VERSION: str = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
