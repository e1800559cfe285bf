"""The life of a process: it starts, or says in one line why not; SIGTERM or Ctrl-C ends it."""

import argparse
import sqlite3
import sys
from collections.abc import Callable
from typing import Any, NoReturn, Protocol
from wsgiref.types import WSGIApplication

import structlog
from peewee import PeeweeException

from runtime.commands import Command, add_command, command_line
from runtime.errors import ShopError, StartError, one_line
from runtime.logs import configure_logs
from runtime.output import STDERR, say
from runtime.server import HttpServer
from runtime.settings import Settings, load_settings
from runtime.signals import stop_signals

log = structlog.get_logger(__name__)

SWITCH_INTERVAL_S = 0.0005  # a thread that comes back from a flush waits so long for its turn

EXAMPLES = """\
%(prog)s
DATA_DIR=/srv/parrots LOG_FORMAT=json %(prog)s
%(prog)s --exchange-only       beside the app under another WSGI server"""


class Task(Protocol):
    """A thread of the process, such as an exchange; it runs until it is stopped."""

    def start(self) -> None:
        """Start it, or raise `StartError`."""

    def is_alive(self) -> bool:
        """Whether it runs."""

    def stop(self) -> None:
        """End it, and wait for its end."""


def start_service(
    name: str,
    about: str | None,
    make: Callable[[Settings], Any],
    create_app: Callable[[Any], WSGIApplication],
    *commands: Command,
) -> None:
    """Run a service, ``python -m NAME``, or one of its commands.

    ``make`` gives its parts: its ``database``, and its ``tasks`` in the order in which they start.
    """

    def tasks(settings: Settings, exchange_only: bool) -> list[Task]:
        service = make(settings)
        service.database.claim()
        if exchange_only:
            return [*service.tasks]
        server = HttpServer(create_app(service), settings.host, *settings.http_port(name))
        return [*service.tasks, server]

    parser = command_line(about, EXAMPLES, f"python -m {name}")
    parser.add_argument(
        "--exchange-only",
        action="store_true",
        help="serve no HTTP: exchange events for apps that run under another WSGI server",
    )
    parser.set_defaults(run=None)
    choices = parser.add_subparsers(title="commands", metavar="COMMAND")
    for command in commands:
        choice = add_command(choices, command.name, command.about, command.examples)
        choice.set_defaults(run=command.run)
        command.arguments(choice)
    arguments = parser.parse_args()
    if arguments.run:
        _run_command(name, make, arguments)
    run(name, lambda settings: tasks(settings, arguments.exchange_only))


def _run_command(name: str, make: Any, arguments: argparse.Namespace) -> NoReturn:
    settings = load_settings()
    configure_logs(name, settings.model_copy(update={"log_level": "warning"}))
    try:
        service = make(settings)
        service.database.open(new=False)
        code = arguments.run(service, arguments)
        service.database.close()
    except (ShopError, PeeweeException, sqlite3.Error) as error:
        say(f"{name}: {one_line(error)}", STDERR)
        code = 1
    raise SystemExit(code)


def run(name: str, make_tasks: Callable[[Settings], list[Task]]) -> None:
    """Run tasks until a signal comes or one ends by itself; stop them in the opposite order.

    Exits with 2 for a wrong setting, and with 1 for a `StartError`, each in one line.
    """
    settings = load_settings()
    configure_logs(name, settings)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    with stop_signals() as stopped:
        try:
            tasks = make_tasks(settings)
            for task in tasks:
                task.start()
        except StartError as error:
            say(f"{name}: {error}", STDERR)
            raise SystemExit(1) from None
        log.info("started")
        healthy = True
        while healthy and not stopped(1):
            healthy = all(task.is_alive() for task in tasks)
        for task in reversed(tasks):
            task.stop()
    log.info("stopped")
    if not healthy:
        raise SystemExit(1)
