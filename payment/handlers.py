"""Events in: what the shop tells, what payment itself told before, and what becomes of it."""

from uuid import UUID

from pydantic import BaseModel

from messaging.event import Event
from messaging.inbox import Handlers
from payment.payments import Paid, Pay, Payments
from runtime.process.clock import timestamp
from runtime.process.fields import Id, Total


class OrderPlaced(BaseModel):
    """What ``order.placed`` tells, as far as payment needs it."""

    order_id: UUID
    user_id: Id
    price: Total


class PaymentSucceeded(BaseModel):
    """What ``payment.succeeded`` tells: all that a payment is, with the event's time."""

    payment_id: Id
    order_id: UUID | None
    user_id: Id
    price: Total


def handlers(payments: Payments) -> dict[str, Handlers]:
    """Each stream that is read, with its table of event type and function."""

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
    """The table for what earlier databases of the payment service have told."""

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
