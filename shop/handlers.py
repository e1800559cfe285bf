"""Events in: what the warehouse and the payment service tell, and what the shop makes of it."""

from uuid import UUID

from pydantic import BaseModel, StrictBool

from messaging.event import Event
from messaging.inbox import Handlers
from runtime.api import Id, Name, Price
from runtime.clock import timestamp
from shop.catalogue import Catalogue
from shop.orders import Orders


class ItemChanged(BaseModel):
    """What ``item.created`` and ``item.status_changed`` tell: the whole item."""

    id: Id
    name: Name
    price: Price
    active: StrictBool
    version: Id


class PaymentSucceeded(BaseModel):
    """What ``payment.succeeded`` tells, as far as the shop needs it."""

    order_id: UUID | None


def handlers(catalogue: Catalogue, orders: Orders) -> dict[str, Handlers]:
    """Each stream that is read, with its table of event type and function."""

    def item_changed(event: Event) -> None:
        item = ItemChanged.model_validate(event.data)
        catalogue.update(event.place.epoch, item.model_dump())

    def payment_succeeded(event: Event) -> None:
        payment = PaymentSucceeded.model_validate(event.data)
        if payment.order_id:  # direct payments are for no order
            orders.mark_paid(payment.order_id, paid_at=timestamp(event.time))

    return {
        "items": {"item.created": item_changed, "item.status_changed": item_changed},
        "payments": {"payment.succeeded": payment_succeeded},
    }
