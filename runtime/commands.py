"""Command lines: what all of them have in common, and what a service can do besides running."""

import argparse
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple


class Command(NamedTuple):
    """Something else to do with a service's database: ``python -m SERVICE NAME``.

    ``run`` takes the service's parts and the arguments, and gives the exit code. In ``examples``
    ``%(prog)s`` stands for the command itself.
    """

    name: str
    about: str
    examples: str
    arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[Any, argparse.Namespace], int]


def command_line(about: str | None, examples: str, prog: str | None = None) -> Any:
    """A parser whose help ends with examples."""
    return argparse.ArgumentParser(prog=prog, description=about, **_ending(examples))


def add_command(commands: Any, name: str, about: str, examples: str) -> argparse.ArgumentParser:
    """Add a command to what a parser's ``add_subparsers`` gave."""
    made: argparse.ArgumentParser = commands.add_parser(
        name, help=about, description=about, **_ending(examples)
    )
    return made


def number(kind: type[int] | type[float], least: float) -> Callable[[str], float]:
    """The ``type`` of an argument that is a finite number, and not less than ``least``."""
    return partial(_number, kind, least)


def _number(kind: type[int] | type[float], least: float, text: str) -> float:
    with suppress(ValueError):
        if least <= (value := kind(text)) < float("inf"):
            return value
    whole = "whole " * (kind is int)
    raise argparse.ArgumentTypeError(f"{text!r} is no {whole}number from {least} on")


def _ending(examples: str) -> dict[str, Any]:
    lines = "\n".join(f"  {line}" for line in examples.splitlines())
    return {
        "epilog": f"examples:\n{lines}\nSettings are environment variables: README.md lists them.",
        "formatter_class": argparse.RawDescriptionHelpFormatter,
    }
