"""One checkout from HTTP to "paid", over real sockets, in one process."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from falcon.testing import TestClient

from inventory.app import Inventory
from payment.app import Payment
from runtime.process.settings import Settings
from shop.app import Shop
from tests import pairs
from tests.conftest import Broker, eventually

Services = tuple[Inventory, Shop, Payment]


@pytest.fixture
def services(request: pytest.FixtureRequest, settings: Settings) -> Iterator[Services]:
    """The services, exchanging events, on such databases and with such a broker."""
    databases, broker = request.param
    changes: dict[str, str] = {}
    with ExitStack() as stack:
        if databases == "postgresql":
            cluster = request.getfixturevalue("cluster")
            changes |= stack.enter_context(pairs.new_databases(cluster))
        if broker == "jetstream":
            pairs.require_servers()
            nats = stack.enter_context(pairs.new_nats(settings))
            nats.start()
            changes["broker_url"] = nats.url
        else:
            stack.callback(Broker(settings).stop)
        settings = settings.model_copy(update=changes)
        services = Inventory(settings), Shop(settings), Payment(settings)
        for service in services:
            service.database.claim()
            service.database.open()
            stack.callback(service.database.close)
            service.exchange.start()
            stack.callback(service.exchange.stop)
        yield services


@pytest.mark.parametrize(
    "services",
    [("files", "forwarder"), ("files", "jetstream"), ("postgresql", "forwarder")],
    ids="-".join,
    indirect=True,
)
def test_an_order_is_paid(services: Services) -> None:
    """What the warehouse adds can be bought, and an order that was placed becomes paid.

    On files, and on the pairs of database and broker that no test of real processes has.
    """
    inventory, shop, payment = services
    warehouse, store, desk = (
        TestClient(inventory.app()),
        TestClient(shop.app()),
        TestClient(payment.app()),
    )
    item = warehouse.simulate_post("/api/item", json={"item": {"name": "Millet", "price": 4000}})
    user = store.simulate_post("/api/user", json={"name": "Kesha"})
    eventually(lambda: store.simulate_get("/api/items").json == [item.json])

    order = store.simulate_post(
        "/api/checkout", json={"user_id": user.json["id"], "item_ids": [item.json["id"]] * 2}
    )
    assert order.json["status"] == "placed"
    path = order.headers["Location"]
    eventually(lambda: store.simulate_get(path).json["status"] == "paid")

    (paid,) = desk.simulate_get("/api/payments").json
    assert (paid["order_id"], paid["price"]) == (order.json["id"], 8000)
    assert store.simulate_get(path).json["paid_at"] == paid["paid_at"]
