"""HTTP in: parse, call, answer."""

from functools import partial
from typing import Annotated, Literal
from uuid import UUID

from falcon import Request, Response
from pydantic import BaseModel, Field

from runtime.api import (
    Id,
    IdPage,
    Listings,
    Name,
    Page,
    QueryId,
    answers,
    created,
    documented,
    like,
    send_list,
)
from shop.catalogue import Catalogue
from shop.orders import Orders
from shop.users import Users

api = documented("Shop")


class NewUser(BaseModel):
    """Who wants to buy."""

    model_config = like(name="Kesha")

    name: Name


class User(NewUser):
    """A user."""

    model_config = like(id=1, name="Kesha")

    id: Id


class Item(BaseModel):
    """An item that is for sale."""

    model_config = like(id=1, name="Millet, 5 kg", price=4000, active=True)

    id: Id
    name: str
    price: int
    active: bool


class NewOrder(BaseModel):
    """What a user wants to buy; an id that is there twice means two of it."""

    model_config = like(user_id=1, item_ids=[1, 2, 2])

    user_id: Id
    item_ids: Annotated[list[Id], Field(min_length=1, max_length=1000)]


class Line(BaseModel):
    """So many of an item, at the price of one."""

    item_id: Id
    name: str
    price: int
    quantity: int


class Order(BaseModel):
    """An order; times are RFC 3339, prices in the smallest coin."""

    model_config = like(
        id="0b5e6f0a-3c1d-4a57-9a59-0c6b5c9a2f11",
        user_id=1,
        items=[{"item_id": 2, "name": "Cuttlebone", "price": 150, "quantity": 2}],
        price=300,
        status="placed",
        placed_at="2026-11-23T10:00:00.123Z",
        paid_at=None,
    )

    id: UUID
    user_id: Id
    items: list[Line]
    price: int
    status: Literal["placed", "paid"]
    placed_at: str
    paid_at: str | None


class OrderPage(Page):
    """The query of a user's orders; ``after`` is an order's id."""

    user_id: QueryId
    after: UUID | None = None


class UserResource:
    """The users."""

    def __init__(self, users: Users) -> None:
        self._users = users

    @api.validate(resp=answers(200, list[User]), tags=["users"])
    def on_get(self, req: Request, resp: Response, query: IdPage) -> None:
        """List all users, by id."""
        send_list(req, resp, query, partial(self._users.all, query.after, query.fetch))

    @api.validate(resp=answers(201, User, 400, 413, 415), tags=["users"])
    def on_post_new(self, req: Request, resp: Response, json: NewUser) -> None:
        """Create a user."""
        created(resp, self._users.create(json.name))


class ItemResource:
    """The items for sale."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._listings = Listings(catalogue.database, catalogue.version)

    @api.validate(resp=answers(200, list[Item]), tags=["items"])
    def on_get(self, req: Request, resp: Response, query: IdPage) -> None:
        """List the active items, by id."""
        rows = partial(self._catalogue.on_sale, query.after, query.fetch)
        send_list(req, resp, query, rows, self._listings)


class OrderResource:
    """The orders."""

    def __init__(self, orders: Orders) -> None:
        self._orders = orders

    @api.validate(resp=answers(201, Order, 400, 413, 415), tags=["orders"])
    def on_post_checkout(self, req: Request, resp: Response, json: NewOrder) -> None:
        """Place an order."""
        order = self._orders.checkout(json.user_id, json.item_ids)
        created(resp, order, location=f"/api/orders/{order['id']}")

    @api.validate(resp=answers(200, list[Order]), tags=["orders"])
    def on_get(self, req: Request, resp: Response, query: OrderPage) -> None:
        """List a user's orders, newest first."""
        rows = partial(self._orders.of_user, query.user_id, query.after, query.fetch)
        send_list(req, resp, query, rows)

    @api.validate(resp=answers(200, Order, 404), tags=["orders"])
    def on_get_one(self, req: Request, resp: Response, order_id: UUID) -> None:
        """Show one order."""
        resp.media = self._orders.get(order_id)
