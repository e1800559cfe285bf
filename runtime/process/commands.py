"""Command lines: their common parts, and the commands of services."""

import argparse
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple, NoReturn

from runtime.process.output import (
    STDERR,
    complain,
    deliver,
    logs_json,
    reserve_standard_streams,
    say,
)

MAX_NUMBER = 2**63 - 1  # the largest that a database takes


class Command(NamedTuple):
    """Another thing to do with a service's database: ``python -m SERVICE NAME``.

    ``run`` takes the service's parts and the arguments, and returns the exit code. In ``examples``
    ``%(prog)s`` stands for the command itself.
    """

    name: str
    about: str
    examples: str
    run: Callable[[Any, argparse.Namespace], int]
    arguments: Callable[[argparse.ArgumentParser], None] = lambda _: None


class Parser(argparse.ArgumentParser):
    """A parser that fails if it cannot write its help, as other output does."""

    def _print_message(self, message: str, file: Any = None) -> None:
        write = deliver if file is sys.stdout else partial(say, target=STDERR)
        write(message.removesuffix("\n"))

    def error(self, message: str) -> NoReturn:
        """Exit with 2 after the usage and this message, or after one JSON object with it."""
        if logs_json():
            complain(f"{self.prog}: {message}")
            raise SystemExit(2)
        super().error(message)


def command_line(about: str | None, examples: str, prog: str | None = None) -> Any:
    """Make a parser whose help ends with examples, before the process opens any file."""
    reserve_standard_streams()
    return Parser(prog=prog, description=about, **_ending(examples))


def add_command(commands: Any, name: str, about: str, examples: str) -> argparse.ArgumentParser:
    """Add a command to the result of a parser's ``add_subparsers``."""
    made: argparse.ArgumentParser = commands.add_parser(
        name, help=about, description=about, **_ending(examples)
    )
    return made


def number(kind: type[int] | type[float], least: float) -> Callable[[str], float]:
    """The ``type`` of an argument that is a number from ``least`` to `MAX_NUMBER`."""
    return partial(_number, kind, least)


def _number(kind: type[int] | type[float], least: float, text: str) -> float:
    with suppress(ValueError):
        value = kind(text)
        if MAX_NUMBER < value < float("inf"):
            raise argparse.ArgumentTypeError(f"{text} is more than {MAX_NUMBER}")
        if least <= value < float("inf"):
            return value
    whole = "whole " * (kind is int)
    raise argparse.ArgumentTypeError(f"{text!r} is not a {whole}number of at least {least}")


def _ending(examples: str) -> dict[str, Any]:
    lines = "\n".join(f"  {line}" for line in examples.splitlines())
    return {
        "epilog": f"examples:\n{lines}\n"
        "Settings are environment variables: docs/settings.md lists them.",
        "formatter_class": argparse.RawDescriptionHelpFormatter,
    }
