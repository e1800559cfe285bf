"""The inventory, assembled: its parts, and the map of its routes."""

from inventory.api import ItemResource, api
from inventory.items import Items
from service import Routes, Service


class Inventory(Service):
    """The items of the warehouse."""

    name, writes, api = "inventory", "items", api

    def rules(self) -> None:
        """Make what the routes call; there are no handlers, since it listens to nobody."""
        self.items = Items(self.database, self.outbox)

    def routes(self) -> Routes:
        """The paths, and the resources that answer there."""
        items = ItemResource(self.items)
        return {
            "/api/item": (items, "new"),
            "/api/items": (items, None),
            "/api/items/{item_id:id}": (items, "one"),
            "/api/items/{item_id:id}/status": (items, "status"),
            "/api/items/{item_id:id}/toggle_status": (items, "toggle"),
        }


app = Inventory.wsgi()
