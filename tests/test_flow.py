"""One checkout from HTTP to "paid", over real sockets, in one process."""

from falcon.testing import TestClient

from inventory.app import Inventory
from inventory.app import create_app as inventory_app
from payment.app import Payment
from payment.app import create_app as payment_app
from shop.app import Shop
from shop.app import create_app as shop_app
from tests.conftest import Broker, eventually


def test_an_order_is_paid(
    broker: Broker, inventory: Inventory, shop: Shop, payment: Payment
) -> None:
    """What the warehouse adds can be bought, and an order that was placed becomes paid."""
    for service in (inventory, shop, payment):
        service.exchange.start()
    warehouse, store, desk = (
        TestClient(inventory_app(inventory)),
        TestClient(shop_app(shop)),
        TestClient(payment_app(payment)),
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
