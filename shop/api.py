"""HTTP in: parse, call, answer."""

from functools import partial
from itertools import accumulate
from typing import Annotated, Any, Literal
from uuid import UUID

from falcon import Request, Response
from pydantic import BaseModel, Field

from runtime.process.fields import Id, Name
from runtime.web.lists import IdPage, KeptList, Page, QueryId, send_list
from runtime.web.once import Change, created
from runtime.web.openapi import answers, like, tag
from runtime.web.requests import documented, send_object
from shop.catalogue import Catalogue
from shop.orders import Checkout, Orders
from shop.users import Users

api = documented("Shop")
USERS = tag("users", "The buyers: a name with an id, and no login.")
ITEMS = tag("items", "The items for sale, as the warehouse announces them.")
MAX_LINES = 10_000  # in all orders of an answer, about a megabyte
ORDERS = tag("orders", "The purchases: placed at first, and paid a moment later.")


class NewUser(BaseModel):
    """A new user."""

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
    """The items that a user buys; an id that appears twice means two of the item."""

    model_config = like(user_id=1, item_ids=[1, 2, 2])

    user_id: Id
    item_ids: Annotated[list[Id], Field(min_length=1, max_length=1000)]


class Line(BaseModel):
    """An item with its quantity, and the price of one."""

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
    """The query of a user's orders; ``after`` is an order's id.

    A page holds fewer orders if they have many lines.
    """

    user_id: QueryId = Field(description="The user who placed the orders.")
    after: UUID | None = Field(None, description="The last id seen: the list goes on after it.")

    def fitting(self, rows: list[dict[str, Any]]) -> int:
        """How many of these rows an answer holds; at least one."""
        sums = accumulate(row["lines"] for row in rows)
        few_lines: int = sum(lines <= MAX_LINES for lines in sums)
        return min(super().fitting(rows), max(1, few_lines))


class UserPage(IdPage):
    """The query of the list of users."""

    name: Name | None = Field(None, description="Only names that contain this, ignoring case.")


class UserResource:
    """The users."""

    def __init__(self, users: Users) -> None:
        self._users = users

    @api.validate(resp=answers(200, list[User]), tags=[USERS], operation_id="listUsers")
    def on_get(self, req: Request, resp: Response, query: UserPage) -> None:
        """List users, by id.

        All users, or those whose name contains a text, page by page.
        """
        wanted = query.after, query.fetch, query.name
        send_list(req, resp, query, partial(self._users.all, *wanted))

    @api.validate(resp=answers(201, User, 400, 413, 415), tags=[USERS], operation_id="createUser")
    def on_post_new(self, req: Request, resp: Response, json: NewUser) -> Change:
        """Create a user.

        Names need not be unique; ids are.
        """
        return Change(self._users.create, json.name, created)


class ItemResource:
    """The items for sale."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._kept = KeptList(catalogue.database, catalogue.token, catalogue.on_sale)

    @api.validate(resp=answers(200, list[Item]), tags=[ITEMS], operation_id="listItems")
    def on_get(self, req: Request, resp: Response, query: IdPage) -> None:
        """List the active items, by id.

        All at once, or page by page.
        """
        self._kept.send(req, resp, query)


class OrderResource:
    """The orders."""

    def __init__(self, orders: Orders) -> None:
        self._orders = orders

    @api.validate(
        resp=answers(201, Order, 400, 413, 415), tags=[ORDERS], operation_id="createOrder"
    )
    def on_post_checkout(self, req: Request, resp: Response, json: NewOrder) -> Change:
        """Place an order.

        The payment service pays it a moment later, and its status changes to paid.
        """
        order = Checkout(json.user_id, json.item_ids, req.context.request_id)
        return Change(self._orders.checkout, order, partial(created, location="/api/orders/{id}"))

    @api.validate(resp=answers(200, list[Order]), tags=[ORDERS], operation_id="listOrders")
    def on_get(self, req: Request, resp: Response, query: OrderPage) -> None:
        """List a user's orders, newest first.

        Page by page.
        """
        rows = partial(self._orders.rows_of_user, query.user_id, query.after, query.fetch)
        send_list(req, resp, query, rows, self._orders.with_lines, private=True)

    @api.validate(resp=answers(200, Order, 404), tags=[ORDERS], operation_id="getOrder")
    def on_get_one(self, req: Request, resp: Response, order_id: UUID) -> None:
        """Show one order.

        With its items, at the prices of its purchase.
        """
        send_object(req, resp, self._orders.get(order_id), private=True)
