"""Events in: the shop's orders, and payments known from the events of earlier databases."""

from uuid import UUID

from pydantic import BaseModel

from messaging.event import Event
from messaging.inbox import Handlers
from payment.payments import Paid, Pay, Payments
from runtime.process.clock import timestamp
from runtime.process.fields import Id, Total


class OrderPlaced(BaseModel):
    """The data of ``order.placed``, as far as payment needs it."""

    order_id: UUID
    user_id: Id
    price: Total


class PaymentSucceeded(BaseModel):
    """The data of ``payment.succeeded``: with the event's time, all that a payment is."""

    payment_id: Id
    order_id: UUID | None
    user_id: Id
    price: Total


def handlers(payments: Payments) -> dict[str, Handlers]:
    """The streams that payment reads, each with its table of event type and function."""

    def order_placed(events: list[Event]) -> None:
        orders = [(OrderPlaced.model_validate(event.data), event) for event in events]
        payments.pay(
            [
                Pay(order.user_id, order.price, order.order_id, event.correlation_id)
                for order, event in orders
            ]
        )

    return {"orders": {"order.placed": order_placed}}


def inherited(payments: Payments) -> Handlers:
    """The table for the events of earlier databases of the payment service."""

    def payment_succeeded(events: list[Event]) -> None:
        paid = [(PaymentSucceeded.model_validate(event.data), event) for event in events]
        payments.take_over(
            [
                Paid(
                    each.payment_id, each.user_id, each.price, each.order_id, timestamp(event.time)
                )
                for each, event in paid
            ]
        )

    return {"payment.succeeded": payment_succeeded}
