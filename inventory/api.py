"""HTTP in: parse, call, answer."""

from functools import partial

from falcon import Request, Response
from pydantic import BaseModel, StrictBool

from inventory.items import Items, NewStatus, ToCreate
from runtime.process.fields import Id, Name, Price
from runtime.web.lists import IdPage, KeptList
from runtime.web.once import Answer, Change, changed, created
from runtime.web.openapi import answers, like, tag
from runtime.web.requests import documented, send_object

api = documented("Inventory")
ITEMS = tag("items", "The items of the warehouse.")


class NewItem(BaseModel):
    """A new item: a name, and a price in the smallest coin."""

    name: Name
    price: Price


class CreateItem(BaseModel):
    """The body of an item's creation."""

    model_config = like(item={"name": "Millet, 5 kg", "price": 4000})

    item: NewItem


class Item(NewItem):
    """An item of the warehouse."""

    model_config = like(id=1, name="Millet, 5 kg", price=4000, active=True)

    id: Id
    active: bool


class Status(BaseModel):
    """Whether an item is for sale."""

    model_config = like(active=False)

    active: StrictBool


class ItemResource:
    """The items of the warehouse."""

    def __init__(self, items: Items) -> None:
        self._items = items
        self._kept = KeptList(items.database, items.token, items.all)

    @api.validate(resp=answers(200, list[Item]), tags=[ITEMS], operation_id="listItems")
    def on_get(self, req: Request, resp: Response, query: IdPage) -> None:
        """List all items, by id.

        All at once, or page by page.
        """
        self._kept.send(req, resp, query)

    @api.validate(resp=answers(200, Item, 404), tags=[ITEMS], operation_id="getItem")
    def on_get_one(self, req: Request, resp: Response, item_id: int) -> None:
        """Show one item.

        As it is now.
        """
        send_object(req, resp, self._items.get(item_id))

    @api.validate(resp=answers(201, Item, 400, 413, 415), tags=[ITEMS], operation_id="createItem")
    def on_post_new(self, req: Request, resp: Response, json: CreateItem) -> Change:
        """Create an active item.

        The shop sells it a moment later.
        """
        item = ToCreate(json.item.name, json.item.price, req.context.request_id)
        return Change(self._items.create, item, partial(created, location="/api/items/{id}"))

    @api.validate(
        resp=answers(200, Item, 400, 404, 413, 415), tags=[ITEMS], operation_id="setItemStatus"
    )
    def on_put_status(self, req: Request, resp: Response, item_id: int, json: Status) -> Change:
        """Put an item on sale, or take it off sale.

        It may be sent again: an item that has this status already does not change.
        """
        status = NewStatus(item_id, json.active, req.context.request_id)
        return Change(self._items.change, status, changed)

    @api.validate(resp=answers(200, None, 404, 422), tags=[ITEMS], operation_id="toggleItem")
    def on_put_toggle(self, req: Request, resp: Response, item_id: int) -> Change:
        """Toggle an item between active and inactive.

        A second request without an Idempotency-Key toggles it back.
        """
        toggled = NewStatus(item_id, correlation_id=req.context.request_id)
        return Change(self._items.change, toggled, lambda _: Answer(200, b"ok"))
