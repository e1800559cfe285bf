"""Start the payment: its HTTP interface, and the exchange of events with the broker."""

from messaging import dead_letters
from payment.app import Payment, create_app
from runtime.lifecycle import start_service
from runtime.postgresql import migrate_to

if __name__ == "__main__":
    start_service("payment", __doc__, Payment, create_app, dead_letters.COMMAND, migrate_to.COMMAND)
