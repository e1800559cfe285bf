"""The payment service, assembled: its parts, and the map of its routes."""

from collections.abc import Mapping

from payment.api import PaymentResource, api
from payment.console import Console
from payment.handlers import handlers, inherited
from payment.payments import Payments
from service import Handlers, Routes, Service


class Payment(Service):
    """Payments, each announced on the console."""

    name, writes, api = "payment", "payments", api

    def rules(self) -> None:
        """Make what the handlers and routes call, and the console."""
        self.payments = Payments(self.database, self.outbox)
        self.tasks.append(Console(self.database, self.payments))

    def handlers(self) -> Mapping[str, Handlers]:
        """The streams that it reads, and their handlers."""
        return handlers(self.payments)

    def inherited(self) -> Handlers:
        """How a new database takes over the payments in the events of earlier ones."""
        return inherited(self.payments)

    def routes(self) -> Routes:
        """The paths, and the resources that answer there."""
        payments = PaymentResource(self.payments)
        return {
            "/api/payment": (payments, "new"),
            "/api/payments": (payments, None),
            "/api/payments/totals": (payments, "totals"),
        }


app = Payment.wsgi()
