"""What others make of the OpenAPI documents: two linters, and a client that a generator writes."""

import importlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from falcon.testing import TestClient

from tests.conftest import eventually
from tests.processes import ALL, SERVICES, World

LINTERS = {
    "redocly": ["lint", "--extends", "recommended"],
    "spectral": ["lint", "--ruleset", "rules.yaml", "--fail-severity", "error"],
}


@pytest.mark.parametrize("linter", LINTERS)
def test_the_documents_pass(linter: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """The rules that each recommends: there may be warnings, as that nobody names a license."""
    program = shutil.which(linter)
    if program is None:
        why = f"needs {linter}, of npm (.ci/run installs it)"
        pytest.fail(why) if os.environ.get("REQUIRE_LINTERS") else pytest.skip(why)
    (tmp_path / "rules.yaml").write_text('extends: ["spectral:oas"]\n')
    for name in SERVICES:
        client = TestClient(request.getfixturevalue(name).app())
        document = client.simulate_get("/openapi.json").content
        (tmp_path / f"{name}.json").write_bytes(document)
    ended = subprocess.run(
        [program, *LINTERS[linter], *(f"{name}.json" for name in SERVICES)],
        cwd=tmp_path,
        env={**os.environ, "REDOCLY_TELEMETRY": "off", "REDOCLY_SUPPRESS_UPDATE_NOTICE": "true"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr


class Generated:
    """The client of a service that openapi-python-client writes from its document."""

    def __init__(self, name: str, world: World, folder: Path) -> None:
        url = f"http://127.0.0.1:{world.settings.http_port(name)[0]}"
        self.package = f"generated_{name}"
        generate = ["-m", "openapi_python_client", "generate", "--meta", "none"]
        target = ["--url", f"{url}/openapi.json", "--output-path", str(folder / self.package)]
        (folder / "config.yaml").write_text("post_hooks: []\n")
        ended = subprocess.run(
            [sys.executable, *generate, *target, "--config", str(folder / "config.yaml")],
            capture_output=True,
            text=True,
            check=False,
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr
        assert "warning" not in (ended.stdout + ended.stderr).lower(), ended.stdout
        self.models = importlib.import_module(f"{self.package}.models")
        self.client = importlib.import_module(f"{self.package}.client").Client(base_url=url)

    def call(self, operation: str, *arguments: Any, **named: Any) -> Any:
        """What an operation answers, parsed; ``operation`` is its tag and its name."""
        module = importlib.import_module(f"{self.package}.api.{operation}")
        return module.sync(*arguments, client=self.client, **named)


@pytest.fixture
def clients(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[list[Generated]]:
    """One for each service; all processes run."""
    pytest.importorskip("openapi_python_client", reason="requirements-dev.txt has it")
    world.start(*ALL)
    monkeypatch.syspath_prepend(tmp_path)
    generated = [Generated(name, world, tmp_path) for name in SERVICES]
    with ExitStack() as stack:
        for each in generated:
            stack.enter_context(each.client)
        yield generated


def test_a_generated_client_buys(clients: list[Generated]) -> None:
    """It adds an item, signs up, buys, and sees the order paid, with nothing written by hand."""
    inventory, shop, payment = clients
    new = inventory.models.NewItem(name="Millet", price=4000)
    body = inventory.models.CreateItem(item=new)
    item = inventory.call("items.create_item", body=body, idempotency_key="once")
    assert inventory.call("items.get_item", item.id) == item
    again = inventory.call("items.create_item", body=body, idempotency_key='"once"')
    assert inventory.call("items.list_items") == [item] == [again]
    eventually(lambda: [each.name for each in shop.call("items.list_items")] == ["Millet"])

    user = shop.call("users.create_user", body=shop.models.NewUser(name="Kesha"))
    basket = shop.models.NewOrder(user_id=user.id, item_ids=[item.id] * 2)
    order = shop.call("orders.create_order", body=basket)
    assert (order.price, order.status.value, order.paid_at) == (8000, "placed", None)
    eventually(lambda: shop.call("orders.get_order", order.id).status.value == "paid")
    (paid,) = payment.call("payments.list_payments", user_id=user.id, limit=1)
    assert (paid.order_id, paid.price) == (order.id, 8000)

    assert inventory.call("items.toggle_item", item.id) == "ok"
    put_back = inventory.models.Status(active=True)
    assert inventory.call("items.set_item_status", item.id, body=put_back).active
    assert shop.call("health.get_readyz").status.value == "ready"
    refused = shop.call("orders.create_order", body=shop.models.NewOrder(9, [1]))
    assert [each.field for each in refused.errors] == ["user_id"]
