"""The inventory, assembled: its parts, and the map of its routes."""

from pathlib import Path

from inventory.api import ItemResource, api
from inventory.handlers import handlers
from inventory.items import Items
from messaging.service import Service
from runtime.http import App, http_app, on_first_request
from runtime.settings import Settings, load_settings

HERE = Path(__file__).parent


class Inventory(Service):
    """The parts of the service."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings, "inventory", writes="items")
        self.items = Items(self.database, self.outbox)
        self.exchanges(handlers())


def create_app(inventory: Inventory | None = None) -> App:
    """Make the WSGI app; without an argument, for the settings of the environment."""
    inventory = inventory or Inventory(load_settings())
    app = http_app(inventory.database, inventory.exchange, api, HERE / "static")
    items = ItemResource(inventory.items)
    app.add_route("/api/items", items)
    app.add_route("/api/items/{item_id:id}", items, suffix="one")
    app.add_route("/api/items/{item_id:id}/toggle_status", items, suffix="toggle")
    app.add_route("/api/item", items, suffix="new")
    return app


app = on_first_request("inventory", create_app)
