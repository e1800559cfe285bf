"""The shop, assembled: its parts, and the map of its routes."""

from pathlib import Path

from messaging.service import Service
from runtime.http import App, http_app, on_first_request
from runtime.settings import Settings, load_settings
from shop.api import ItemResource, OrderResource, UserResource, api
from shop.catalogue import Catalogue
from shop.handlers import handlers
from shop.orders import Orders
from shop.users import Users

HERE = Path(__file__).parent


class Shop(Service):
    """The parts of the service."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings, "shop", writes="orders")
        self.users = Users(self.database)
        self.catalogue = Catalogue(self.database)
        self.orders = Orders(self.database, self.outbox, self.catalogue)
        self.exchanges(handlers(self.catalogue, self.orders))


def create_app(shop: Shop | None = None) -> App:
    """Make the WSGI app; without an argument, for the settings of the environment."""
    shop = shop or Shop(load_settings())
    app = http_app(shop.database, shop.exchange, api, HERE / "static")
    users, orders = UserResource(shop.users), OrderResource(shop.orders)
    app.add_route("/api/user", users, suffix="new")
    app.add_route("/api/users", users)
    app.add_route("/api/items", ItemResource(shop.catalogue))
    app.add_route("/api/checkout", orders, suffix="checkout")
    app.add_route("/api/orders", orders)
    app.add_route("/api/orders/{order_id:uuid}", orders, suffix="one")
    return app


app = on_first_request("shop", create_app)
