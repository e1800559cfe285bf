"""Start the broker: the forwarder that relays events, and the journal that keeps them."""

from broker.forwarder import Forwarder
from broker.journal import Journal
from messaging.transport import Peer
from messaging.wire import Event, Want, topic
from runtime.lifecycle import Task, command_line, run
from runtime.settings import Settings


def tasks(settings: Settings) -> list[Task]:
    """The two threads of the broker, which starts with its journal at hand or not at all."""
    urls = settings.broker_publish_url, settings.broker_subscribe_url
    journal = Journal(settings.data_dir / "broker.db", Peer(*urls, [topic(Event), topic(Want)]))
    journal.open()
    return [Forwarder(*urls), journal]


if __name__ == "__main__":
    command_line("broker", __doc__).parse_args()
    run("broker", tasks)
