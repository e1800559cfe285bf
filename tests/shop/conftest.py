"""The service that these tests are about, who asks it, and what there is to buy."""

from typing import Any

import pytest
from falcon.testing import TestClient

from shop.app import Shop
from tests.contract import EPOCH
from tests.rules import create_user


def item(id: int, **changes: Any) -> dict[str, Any]:
    """An item as the warehouse tells of it."""
    known = {"name": f"Item {id}", "price": id * 100, "active": True, "version": 1}
    return {"id": id, **known, **changes}


@pytest.fixture
def service(shop: Shop) -> Shop:
    return shop


@pytest.fixture
def client(service: Shop) -> TestClient:
    return TestClient(service.app())


@pytest.fixture
def stocked(shop: Shop) -> Shop:
    """A shop with the users 1 and 2, the items 1 to 3, and item 4 out of sale."""
    for name in ("Kesha", "Gosha"):
        create_user(shop, name)
    for item_id in (1, 2, 3):
        shop.catalogue.update(EPOCH, [item(item_id)])
    shop.catalogue.update(EPOCH, [item(4, active=False)])
    return shop
