"""Start the broker: the forwarder that relays events, and the journal that keeps them."""

import argparse

from broker.forwarder import Forwarder
from broker.journal import Journal
from messaging.transport import Peer
from messaging.wire import Event, Want, topic
from runtime.lifecycle import Task, run
from runtime.logs import configure_logs
from runtime.settings import load_settings


def main() -> None:
    """Run until SIGTERM or Ctrl-C; exit code 0."""
    parser = argparse.ArgumentParser(
        prog="python -m broker",
        description=__doc__,
        epilog="Settings are environment variables: README.md lists them.",
    )
    parser.parse_args()
    settings = load_settings()
    configure_logs("broker", settings)
    urls = settings.broker_publish_url, settings.broker_subscribe_url

    def tasks() -> list[Task]:
        journal = Journal(settings.data_dir / "broker.db", Peer(*urls, [topic(Event), topic(Want)]))
        journal.open()
        return [Forwarder(*urls), journal]

    run("broker", tasks)


if __name__ == "__main__":
    main()
