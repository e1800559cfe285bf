"""The shop, assembled: its parts, and the map of its routes."""

from collections.abc import Iterator, Mapping

from prometheus_client import Metric

from service import Handlers, Routes, Service
from shop import replay
from shop.api import ItemResource, OrderResource, UserResource, api
from shop.catalogue import Catalogue
from shop.handlers import handlers
from shop.orders import Orders
from shop.users import Users


class Shop(Service):
    """Users, the items active at the warehouse, and orders."""

    name, writes, api = "shop", "orders", api
    commands = (*Service.commands, replay.COMMAND)

    def rules(self) -> None:
        """Make what the handlers and routes call."""
        self.users = Users(self.database)
        self.catalogue = Catalogue(self.database)
        self.orders = Orders(self.database, self.outbox, self.catalogue)

    def handlers(self) -> Mapping[str, Handlers]:
        """The streams that it reads, and their handlers."""
        return handlers(self.catalogue, self.orders)

    def routes(self) -> Routes:
        """The paths, and the resources that answer there."""
        users, orders = UserResource(self.users), OrderResource(self.orders)
        return {
            "/api/user": (users, "new"),
            "/api/users": (users, None),
            "/api/items": (ItemResource(self.catalogue), None),
            "/api/checkout": (orders, "checkout"),
            "/api/orders": (orders, None),
            "/api/orders/{order_id:uuid}": (orders, "one"),
        }

    def collect(self) -> Iterator[Metric]:
        """The metrics that ``/metrics`` shows."""
        yield from super().collect()
        yield from self.orders.collect()


app = Shop.wsgi()
