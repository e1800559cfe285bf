"""Start the broker: the forwarder that relays events, and the journal that keeps them."""

import structlog

from broker.forwarder import Forwarder
from broker.journal import Journal
from messaging.transport import Peer
from messaging.wire import Event, Want, topic
from runtime.commands import command_line
from runtime.errors import StartError
from runtime.http import probe_app
from runtime.lifecycle import Task, run
from runtime.server import HttpServer
from runtime.settings import Settings

log = structlog.get_logger("broker")

EXAMPLES = """\
%(prog)s
DATA_DIR=/srv/parrots LOG_FORMAT=json %(prog)s"""


def tasks(settings: Settings) -> list[Task]:
    """The threads of the broker, which starts with its journal at hand or not at all."""
    if settings.broker_url:
        raise StartError("BROKER_URL is set: NATS is the broker, and there is none to start")
    journal = Journal(settings.data_dir / "broker.db", Peer(settings, [topic(Event), topic(Want)]))
    journal.open()
    if not settings.keys:
        log.warning("BROKER_CURVE=off: anybody who reaches the broker can read and publish")
    forwarder = Forwarder(settings)
    app = probe_app(None, journal)
    server = HttpServer(app, settings.host, *settings.http_port("broker"))
    return [forwarder, journal, server]


if __name__ == "__main__":
    command_line(__doc__, EXAMPLES, "python -m broker").parse_args()
    run("broker", tasks)
