"""The payment service, assembled: its parts, and the map of its routes."""

from pathlib import Path

from messaging.dead_letters import DeadLetters
from messaging.exchange import Exchange, transport
from messaging.outbox import Outbox
from messaging.retention import Retention
from payment.api import PaymentResource, api
from payment.console import Console
from payment.handlers import handlers
from payment.payments import Payments
from runtime.database import database_of
from runtime.http import App, http_app, on_first_request
from runtime.settings import Settings, load_settings

HERE = Path(__file__).parent


class Payment:
    """The parts of the service; nothing is opened or started yet."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.database = database_of(settings, "payment", "runtime", "messaging", "payment")
        outbox = Outbox(self.database, stream="payments", source="/payment")
        self.payments = Payments(self.database, outbox)
        reads = handlers(self.payments)
        self.dead_letters = DeadLetters(self.database, reads)
        broker = transport(settings, "payment", outbox.stream, reads)
        self.exchange = Exchange(self.database, outbox, reads, broker)
        console = Console(self.database, self.payments)
        self.tasks = [console, Retention(self.database, settings.retention_days), self.exchange]


def create_app(payment: Payment | None = None) -> App:
    """Make the WSGI app; without an argument, for the settings of the environment."""
    payment = payment or Payment(load_settings())
    app = http_app(payment.database, payment.exchange, api, HERE / "static")
    payments = PaymentResource(payment.payments)
    app.add_route("/api/payment", payments, suffix="new")
    app.add_route("/api/payments", payments)
    return app


app = on_first_request("payment", create_app)
