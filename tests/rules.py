"""The rules as tests call them: with a list of one, whose refusal is raised."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from inventory.app import Inventory
from inventory.items import NewStatus, ToCreate
from payment.app import Payment
from payment.payments import Paid, Pay
from shop.app import Shop
from shop.orders import Checkout, PaidOrder


def only(outcomes: Sequence[Any]) -> Any:
    """The outcome of the only command."""
    (outcome,) = outcomes
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def create_user(shop: Shop, name: str) -> dict[str, Any]:
    return dict(only(shop.users.create([name])))


def checkout(shop: Shop, user_id: int, item_ids: list[int]) -> dict[str, Any]:
    return dict(only(shop.orders.checkout([Checkout(user_id, item_ids)])))


def mark_paid(shop: Shop, order_id: UUID, paid_at: str) -> None:
    shop.orders.mark_paid([PaidOrder(order_id, paid_at)])


def orders_of(
    shop: Shop, user_id: int, after: UUID | None = None, limit: int | None = None
) -> list[dict[str, Any]]:
    return shop.orders.with_lines(shop.orders.rows_of_user(user_id, after, limit))


def create_item(inventory: Inventory, name: str, price: int) -> dict[str, Any]:
    return dict(only(inventory.items.create([ToCreate(name, price)])))


def toggle(inventory: Inventory, item_id: int) -> dict[str, Any]:
    return dict(only(inventory.items.change([NewStatus(item_id)])))


def pay(payment: Payment, user_id: int, price: int, order_id: UUID | None = None) -> dict[str, Any]:
    return dict(only(payment.payments.pay([Pay(user_id, price, order_id)])))


def take_over(
    payment: Payment, number: int, user_id: int, price: int, order_id: UUID | None, paid_at: str
) -> None:
    payment.payments.take_over([Paid(number, user_id, price, order_id, paid_at)])
