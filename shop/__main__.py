"""Start the shop: its HTTP interface, and the exchange of events with the broker."""

from messaging import dead_letters
from runtime.lifecycle import start_service
from runtime.postgresql import migrate_to
from shop import replay
from shop.app import Shop, create_app

if __name__ == "__main__":
    start_service(
        "shop", __doc__, Shop, create_app, dead_letters.COMMAND, replay.COMMAND, migrate_to.COMMAND
    )
