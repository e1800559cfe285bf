"""Real processes, killed: what was confirmed survives, and each order is paid once."""

from tests.conftest import eventually
from tests.processes import World


def test_an_order_is_paid_although_payment_was_killed(world: World) -> None:
    """Payment down: checkout answers 201; payment back: the order is paid."""
    world.start("broker", "inventory", "shop", "payment")
    item = world.post("inventory", "/api/item", {"item": {"name": "Millet", "price": 4000}}).json()
    user = world.post("shop", "/api/user", {"name": "Kesha"}).json()
    eventually(lambda: world.get("shop", "/api/items"))
    world.kill("payment")

    order = world.post("shop", "/api/checkout", {"user_id": user["id"], "item_ids": [item["id"]]})
    assert order.status == 201
    world.start("payment")

    path = order.headers["Location"]
    eventually(lambda: world.get("shop", path)["status"] == "paid")
    line = f"Payment 1 of 4000 by user 1 for order {order.json()['id']} succeeded\n"
    eventually(lambda: world.output("payment") == line)
