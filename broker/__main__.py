"""Start the broker: the forwarder that relays events, and the journal that keeps them."""

import sqlite3

import structlog
import zmq
from peewee import PeeweeException

from broker.forwarder import INSIDE, Forwarder
from broker.journal import Journal
from messaging.arguments import place, stream
from messaging.transports.forwarder import Peer
from messaging.transports.keys import key_pair
from messaging.transports.wire import Place, Run, Want, topic
from runtime.process.commands import add_command, command_line
from runtime.process.errors import ShopError, StartError, one_line
from runtime.process.lifecycle import Task, run
from runtime.process.logs import configure_logs
from runtime.process.output import complain, deliver
from runtime.process.settings import Settings, load_settings
from runtime.web.server import HttpServer
from runtime.web.shell import probe_app

log = structlog.get_logger("broker")

EXAMPLES = """\
%(prog)s
DATA_DIR=/srv/parrots LOG_FORMAT=json %(prog)s"""
BEGIN_EXAMPLES = "%(prog)s orders 18b3f0c2a54d1c0f6e2a9b7c5d3e1f00:4000"


def begin_at(stream: str, first: Place) -> None:
    """Begin the journal in mid-stream, as the log of the writer advises."""
    settings = load_settings()
    configure_logs("broker", settings)
    journal = Journal(settings.data_dir / "broker.db", Peer(None, INSIDE, []))
    try:
        if settings.broker_url:
            raise StartError("BROKER_URL is set: NATS is the broker; see docs/operations.md")
        journal.open()
        journal.begin(stream, first)
    except (ShopError, PeeweeException, sqlite3.Error, OSError) as error:
        complain(f"broker: {one_line(error)}", service="broker")
        raise SystemExit(1) from None
    deliver(f"{stream}  begins at {first}")


def tasks(settings: Settings) -> list[Task]:
    """The threads of the broker, which does not start without its journal."""
    if settings.broker_url:
        raise StartError("BROKER_URL is set: NATS is the broker: there is nothing to start")
    if settings.keys:  # it may have to wait for the disk, while nothing is held yet
        for name in ("broker", "client"):
            key_pair(settings.keys, name)
    context = zmq.Context()
    peer = Peer(context, INSIDE, [topic(Run), topic(Want)])
    journal = Journal(settings.data_dir / "broker.db", peer)
    journal.open()
    if not settings.keys:
        log.warning("BROKER_CURVE=off: anybody who reaches the broker can read and publish")
    forwarder = Forwarder(settings, context)
    app = probe_app(None, journal)
    server = HttpServer(app, settings.host, *settings.http_port("broker"))
    return [forwarder, journal, server]


if __name__ == "__main__":
    parser = command_line(__doc__, EXAMPLES, "python -m broker")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    about = "begin a lost journal in the middle of a stream whose writer has no older events"
    begin = add_command(commands, "begin", about, BEGIN_EXAMPLES)
    begin.add_argument("stream", type=stream, metavar="STREAM")
    begin.add_argument("place", type=place, metavar="PLACE", help="of its first event")
    arguments = parser.parse_args()
    if "stream" in arguments:
        begin_at(arguments.stream, arguments.place)
    else:
        run("broker", tasks)
