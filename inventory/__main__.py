"""Start the inventory: its HTTP interface, and the exchange of events with the broker."""

from inventory.app import Inventory, create_app
from runtime.lifecycle import start_service
from runtime.postgresql import migrate_to

if __name__ == "__main__":
    start_service("inventory", __doc__, Inventory, create_app, migrate_to.COMMAND)
