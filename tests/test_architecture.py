"""Dependencies point one way: services above `service.py`, that above messaging and the web."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SERVICES = ("inventory", "shop", "payment")
# What each part may import of ours, besides itself; those that are not here, everything.
BELOW = {
    "runtime.process": {"runtime"},
    "runtime.storage": {"runtime", "runtime.process"},
    "runtime.web": {"runtime", "runtime.process", "runtime.storage"},
    "messaging": {"runtime", "runtime.process", "runtime.storage"},
    "broker": {"messaging", "runtime", "runtime.process", "runtime.storage", "runtime.web"},
    "service": {"messaging", "runtime", "runtime.process", "runtime.storage", "runtime.web"},
    **{
        name: {
            "service",
            "messaging",
            "runtime",
            "runtime.process",
            "runtime.storage",
            "runtime.web",
        }
        for name in SERVICES
    },
}


def part(module: str) -> str:
    """The part of the project that a module belongs to."""
    first, *rest = module.split(".")
    if first == "runtime" and rest and rest[0] in ("process", "storage", "web"):
        return f"{first}.{rest[0]}"
    return first


def imported(path: Path) -> Iterator[str]:
    """The modules that a file imports, where it is for types only, too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{name.name}" for name in node.names)
        elif isinstance(node, ast.Import):
            yield from (name.name for name in node.names)


@pytest.mark.parametrize("name", BELOW)
def test_it_imports_only_what_is_below_it(name: str) -> None:
    folder = ROOT / name.replace(".", "/")
    files = [*folder.rglob("*.py")] if folder.is_dir() else [folder.with_suffix(".py")]
    assert files
    ours = {"runtime", "messaging", "broker", "service", "scenarios", *SERVICES}
    for path in files:
        known = {part(each) for each in imported(path) if each.split(".")[0] in ours}
        assert known <= BELOW[name] | {name}, path


@pytest.mark.parametrize("name", SERVICES)
def test_what_handles_events_knows_nothing_of_http(name: str) -> None:
    for path in (ROOT / name).glob("*.py"):
        if path.name not in ("api.py", "app.py", "__main__.py"):
            assert not [each for each in imported(path) if part(each) == "runtime.web"], path
            assert "falcon" not in imported(path), path
