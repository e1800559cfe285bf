"""Events in: the warehouse's items and the payments, and what the shop does with them."""

from itertools import groupby
from uuid import UUID

from pydantic import BaseModel, StrictBool

from messaging.event import Event
from messaging.inbox import Handlers
from runtime.process.clock import timestamp
from runtime.process.fields import Id, Name, Price
from shop.catalogue import Catalogue
from shop.orders import Orders, PaidOrder


class ItemChanged(BaseModel):
    """The data of ``item.created`` and ``item.status_changed``: the whole item."""

    id: Id
    name: Name
    price: Price
    active: StrictBool
    version: Id


class PaymentSucceeded(BaseModel):
    """The data of ``payment.succeeded``, as far as the shop needs it."""

    order_id: UUID | None


def handlers(catalogue: Catalogue, orders: Orders) -> dict[str, Handlers]:
    """The streams that the shop reads, each with its table of event type and function."""

    def item_changed(events: list[Event]) -> None:
        for epoch, some in groupby(events, lambda event: event.place.epoch):
            items = [ItemChanged.model_validate(event.data).model_dump() for event in some]
            catalogue.update(epoch, items)

    def payment_succeeded(events: list[Event]) -> None:
        payments = [(PaymentSucceeded.model_validate(event.data), event) for event in events]
        orders.mark_paid(
            [
                PaidOrder(paid.order_id, timestamp(event.time), event.correlation_id)
                for paid, event in payments
                if paid.order_id  # direct payments are for no order
            ]
        )

    return {
        "items": {"item.created": item_changed, "item.status_changed": item_changed},
        "payments": {"payment.succeeded": payment_succeeded},
    }
