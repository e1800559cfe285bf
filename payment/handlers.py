"""Events in: what the shop tells, and what the payment service makes of it."""

from uuid import UUID

from pydantic import BaseModel

from messaging.event import Event
from messaging.inbox import Handlers
from payment.payments import Payments
from runtime.api import Id, Total


class OrderPlaced(BaseModel):
    """What ``order.placed`` tells, as far as payment needs it."""

    order_id: UUID
    user_id: Id
    price: Total


def handlers(payments: Payments) -> dict[str, Handlers]:
    """Each stream that is read, with its table of event type and function."""

    def order_placed(event: Event) -> None:
        order = OrderPlaced.model_validate(event.data)
        payments.pay(order.user_id, order.price, order.order_id)

    return {"orders": {"order.placed": order_placed}}
