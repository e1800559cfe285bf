"""A service: rules, routes and streams, run as one process by one call."""

import argparse
import sqlite3
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar
from wsgiref.types import WSGIApplication

from peewee import PeeweeException
from prometheus_client import Metric

from messaging import dead_letters, recovery
from messaging.event import Event
from messaging.exchange import Exchange, transport
from messaging.inbox import Handlers
from messaging.outbox import Outbox
from messaging.retention import Retention
from runtime import ROOT
from runtime.process.commands import Command, add_command, command_line
from runtime.process.errors import ShopError, one_line
from runtime.process.lifecycle import Task, run
from runtime.process.logs import configure_logs
from runtime.process.output import complain
from runtime.process.settings import Settings, load_settings
from runtime.process.signals import ended_by_signals
from runtime.storage import migrate_to
from runtime.storage.factory import database_of
from runtime.web.server import HttpServer
from runtime.web.shell import App, http_app, on_first_request, probe_app

if TYPE_CHECKING:
    from spectree import SpecTree  # a service without routes does without it

__all__ = ["Event", "Handlers", "Routes", "Service"]  # what a service needs

EXAMPLES = """\
%(prog)s
DATA_DIR=/srv/parrots LOG_FORMAT=json %(prog)s
%(prog)s --exchange-only       for an app under another WSGI server"""

# A path, the resource that answers there, and the suffix of its responders.
Routes = Mapping[str, tuple[object, str | None]]


class Service:
    """A service that writes one stream of events; nothing is opened or started before `main`.

    A subclass makes its `rules`, and says which `handlers` and `routes` call them.
    """

    name: ClassVar[str]  # of the package, if it has one, and of the database
    writes: ClassVar[str]
    api: ClassVar["SpecTree | None"] = None  # documents the routes; without it, there is no HTTP
    commands: ClassVar[Sequence[Command]] = (
        dead_letters.COMMAND,
        *recovery.COMMANDS,
        migrate_to.COMMAND,
    )

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.database = database_of(settings, self.name, "runtime", "messaging", self.name)
        self.database.prepare = self.prepare
        self.outbox = Outbox(self.database, stream=self.writes, source=f"/{self.name}")
        self.tasks: list[Task] = [Retention(self.database, settings.retention_days)]
        self.rules()
        reads, inherits = {**self.handlers()}, self.inherited()
        self.streams = (*reads, self.writes) if inherits else tuple(reads)
        self.dead_letters = dead_letters.DeadLetters(self.database, reads)
        broker = transport(settings, self.name, self.writes, reads)
        self.exchange = Exchange(self.database, self.outbox, reads, broker, inherits=inherits)
        self.tasks.append(self.exchange)

    def rules(self) -> None:
        """Make the rules that handlers and routes call, and add the ``tasks`` that they need."""

    def prepare(self) -> None:
        """Make what its database needs, after the migrations, each time it is opened."""

    def handlers(self) -> Mapping[str, Handlers]:
        """The streams that it reads: each with its table of event type and function of a list."""
        return {}

    def inherited(self) -> Handlers | None:
        """The handlers by which a new database takes over earlier events, or None."""
        return None

    def routes(self) -> Routes:
        """The paths, and the resources that answer there."""
        return {}

    def status(self) -> dict[str, Any]:
        """The state that ``/readyz`` shows, besides its database's."""
        return self.exchange.status()

    def collect(self) -> Iterator[Metric]:
        """The metrics that ``/metrics`` shows."""
        return self.exchange.collect()

    def app(self) -> App:
        """Its WSGI app: the routes, the page, probes and metrics."""
        assert self.api
        page = ROOT / self.name / "static"
        app = http_app(self.database, self, self.api, page, self.settings.for_pages())
        for path, (resource, suffix) in self.routes().items():
            app.add_route(path, resource, suffix=suffix)
        return app

    @classmethod
    def wsgi(cls) -> WSGIApplication:
        """The app for other WSGI servers, made by its first request."""
        return on_first_request(cls.name, lambda settings: cls(settings).app())

    @classmethod
    def main(cls) -> None:
        """Run it, ``python -m NAME``, or one of its commands."""
        spec = sys.modules["__main__"].__spec__
        module = spec.name.removesuffix(".__main__") if spec else cls.name
        about = f"Start the service {cls.name}, or one of its commands."
        parser = command_line(about, EXAMPLES if cls.api else "%(prog)s", f"python -m {module}")
        if cls.api:
            parser.add_argument(
                "--exchange-only",
                action="store_true",
                help="exchange events for apps that run under another WSGI server, and serve "
                f"nothing but probes and metrics, on {cls.name.upper()}_EXCHANGE_PORT",
            )
        parser.set_defaults(run=None, exchange_only=False)
        choices = parser.add_subparsers(title="commands", metavar="COMMAND")
        for command in cls.commands:
            choice = add_command(choices, command.name, command.about, command.examples)
            choice.set_defaults(run=command.run)
            command.arguments(choice)
        arguments = parser.parse_args()
        if arguments.run:
            raise SystemExit(cls._run_command(arguments))
        run(cls.name, lambda settings: cls(settings)._threads(arguments.exchange_only))

    def _threads(self, exchange_only: bool) -> list[Task]:
        self.database.claim()
        if not self.api:
            return self.tasks
        if exchange_only:
            app: WSGIApplication = probe_app(self.database, self)
            port = self.settings.http_port(f"{self.name}_exchange")
        else:
            app, port = self.app(), self.settings.http_port(self.name)
        return [*self.tasks, HttpServer(app, self.settings.host, *port)]

    @classmethod
    def _run_command(cls, arguments: argparse.Namespace) -> int:
        settings = load_settings()
        configure_logs(cls.name, settings.model_copy(update={"log_level": "warning"}))
        try:
            with ended_by_signals(cls.name):
                service = cls(settings)
                service.database.open(new=False)
                code: int = arguments.run(service, arguments)
                service.database.close()
        except (ShopError, PeeweeException, sqlite3.Error, OSError) as error:
            complain(f"{cls.name}: {one_line(error)}", service=cls.name)
            code = 1
        return code
