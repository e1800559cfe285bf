"""The payment service, assembled: its parts, and the map of its routes."""

from pathlib import Path

from messaging.service import Service
from payment.api import PaymentResource, api
from payment.console import Console
from payment.handlers import handlers
from payment.payments import Payments
from runtime.http import App, http_app, on_first_request
from runtime.settings import Settings, load_settings

HERE = Path(__file__).parent


class Payment(Service):
    """The parts of the service."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings, "payment", writes="payments")
        self.payments = Payments(self.database, self.outbox)
        self.exchanges(handlers(self.payments))
        self.tasks.insert(0, Console(self.database, self.payments))


def create_app(payment: Payment | None = None) -> App:
    """Make the WSGI app; without an argument, for the settings of the environment."""
    payment = payment or Payment(load_settings())
    app = http_app(payment.database, payment.exchange, api, HERE / "static")
    payments = PaymentResource(payment.payments)
    app.add_route("/api/payment", payments, suffix="new")
    app.add_route("/api/payments", payments)
    return app


app = on_first_request("payment", create_app)
