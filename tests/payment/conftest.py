"""The service that these tests are about, and who asks it."""

import pytest
from falcon.testing import TestClient

from payment.app import Payment


@pytest.fixture
def service(payment: Payment) -> Payment:
    return payment


@pytest.fixture
def client(service: Payment) -> TestClient:
    return TestClient(service.app())
