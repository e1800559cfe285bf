"""Start the payment: its HTTP interface, and the exchange of events with the broker."""

from messaging import dead_letters
from payment.app import Payment, create_app
from runtime import migrate_to
from runtime.lifecycle import start_service

if __name__ == "__main__":
    start_service("payment", __doc__, Payment, create_app, dead_letters.COMMAND, migrate_to.COMMAND)
