"""Optional libraries: those of requirements-scale.txt, which a shop on one machine does without."""

from importlib import import_module
from typing import Any

from runtime.process.errors import StartError


def optional(module: str) -> Any:
    """Import a module of ours that needs them; `StartError` if they are not installed."""
    try:
        return import_module(module)
    except ImportError as error:
        raise StartError(f"{error}: pip install -r requirements-scale.txt") from error
