"""The life of a process: it starts, or says in one line why not; SIGTERM or Ctrl-C ends it."""

import argparse
from collections.abc import Callable
from typing import Any, Protocol
from wsgiref.types import WSGIApplication

import structlog

from runtime.errors import StartError
from runtime.logs import configure_logs
from runtime.output import STDERR, say
from runtime.server import HttpServer
from runtime.settings import Settings, load_settings
from runtime.signals import stop_signals

log = structlog.get_logger(__name__)


class Task(Protocol):
    """A thread of the process, such as an exchange; it runs until it is stopped."""

    def start(self) -> None:
        """Start it."""

    def is_alive(self) -> bool:
        """Whether it runs."""

    def stop(self) -> None:
        """End it, and wait for its end."""


def start_service(
    name: str,
    about: str | None,
    make: Callable[[Settings], Any],
    create_app: Callable[[Any], WSGIApplication],
) -> None:
    """Run a service: ``python -m NAME``.

    ``make`` gives its parts: its ``database``, and its ``tasks`` in the order in which they start.
    """

    def tasks(settings: Settings, exchange_only: bool) -> list[Task]:
        service = make(settings)
        service.database.claim()
        service.database.open()
        if exchange_only:
            return [*service.tasks]
        port: int = getattr(settings, f"{name}_port")
        server = HttpServer(create_app(service), settings.host, port, f"{name.upper()}_PORT")
        return [*service.tasks, server]

    parser = command_line(name, about)
    parser.add_argument(
        "--exchange-only",
        action="store_true",
        help="serve no HTTP: exchange events for apps that run under another WSGI server",
    )
    arguments = parser.parse_args()
    run(name, lambda settings: tasks(settings, arguments.exchange_only))


def command_line(name: str, about: str | None) -> argparse.ArgumentParser:
    """The command line of ``python -m NAME``."""
    epilog = "Settings are environment variables: README.md lists them."
    return argparse.ArgumentParser(prog=f"python -m {name}", description=about, epilog=epilog)


def run(name: str, make_tasks: Callable[[Settings], list[Task]]) -> None:
    """Run tasks until a signal comes or one ends by itself; stop them in the opposite order.

    Exits with 2 for a wrong setting, and with 1 for a `StartError`, each in one line.
    """
    settings = load_settings()
    configure_logs(name, settings)
    with stop_signals() as stopped:
        try:
            tasks = make_tasks(settings)
        except StartError as error:
            say(f"{name}: {error}", STDERR)
            raise SystemExit(1) from None
        for task in tasks:
            task.start()
        log.info("started")
        healthy = True
        while healthy and not stopped(1):
            healthy = all(task.is_alive() for task in tasks)
        for task in reversed(tasks):
            task.stop()
    log.info("stopped")
    if not healthy:
        raise SystemExit(1)
