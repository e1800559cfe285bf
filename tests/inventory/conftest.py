"""The service that these tests are about, and who asks it."""

import pytest
from falcon.testing import TestClient

from inventory.app import Inventory


@pytest.fixture
def service(inventory: Inventory) -> Inventory:
    return inventory


@pytest.fixture
def client(service: Inventory) -> TestClient:
    return TestClient(service.app())
