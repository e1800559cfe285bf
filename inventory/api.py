"""HTTP in: parse, call, answer."""

from functools import partial

from falcon import MEDIA_TEXT, Request, Response
from pydantic import BaseModel

from inventory.items import Items
from runtime.api import (
    Id,
    IdPage,
    Name,
    Price,
    answers,
    created,
    documented,
    like,
    send_list,
)

api = documented("Inventory")


class NewItem(BaseModel):
    """What is to be kept: a name, and a price in the smallest coin."""

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


class ItemResource:
    """The items of the warehouse."""

    def __init__(self, items: Items) -> None:
        self._items = items

    @api.validate(resp=answers(200, list[Item]), tags=["items"])
    def on_get(self, req: Request, resp: Response, query: IdPage) -> None:
        """List all items, by id."""
        send_list(req, resp, query, partial(self._items.all, query.after, query.fetch))

    @api.validate(resp=answers(200, Item, 404), tags=["items"])
    def on_get_one(self, req: Request, resp: Response, item_id: int) -> None:
        """Show one item."""
        resp.media = self._items.get(item_id)

    @api.validate(resp=answers(201, Item, 400, 413, 415), tags=["items"])
    def on_post_new(self, req: Request, resp: Response, json: CreateItem) -> None:
        """Create an item, active."""
        item = self._items.create(json.item.name, json.item.price)
        created(resp, item, location=f"/api/items/{item['id']}")

    @api.validate(resp=answers(200, None, 404), tags=["items"])
    def on_put_toggle(self, req: Request, resp: Response, item_id: int) -> None:
        """Toggle an item between active and inactive."""
        self._items.toggle(item_id)
        resp.content_type = MEDIA_TEXT
        resp.text = "ok"
