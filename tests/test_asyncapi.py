"""What really travels is what the documents say: events by AsyncAPI, answers by OpenAPI."""

import json
from typing import Any

import pytest

from messaging.event import MAX_EVENT_BYTES
from runtime import ROOT, VERSION
from tests.conftest import eventually
from tests.processes import ALL, SERVICES, STREAMS, World

yaml = pytest.importorskip("yaml", reason="requirements-dev.txt has it")
jsonschema_rs = pytest.importorskip("jsonschema_rs", reason="requirements-dev.txt has it")


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "docs" / "asyncapi.yaml").read_text())
    return found


def check(instance: Any, schema: dict[str, Any], document: dict[str, Any]) -> None:
    """Fail unless it is as a schema of a document says."""
    whole = {**schema, "components": document["components"]}
    jsonschema_rs.validator_for(whole, validate_formats=True).validate(instance)


def test_the_document_is_asyncapi(document: dict[str, Any]) -> None:
    """Its references lead somewhere, and its channels are those that there are."""
    assert document["asyncapi"] == "3.0.0"
    assert document["info"]["version"] == VERSION
    assert {name: each["address"] for name, each in document["channels"].items()} == {
        **{stream: f"event/{stream}/" for stream in STREAMS.values()},
        **{f"{stream}OnJetStream": f"parrot.{stream}" for stream in STREAMS.values()},
    }
    actions = [
        (each["action"], each["channel"]["$ref"]) for each in document["operations"].values()
    ]
    assert sorted(actions) == sorted(
        (action, f"#/channels/{stream}")
        for stream in document["channels"]
        for action in ("send", "receive")
    )
    assert f"{MAX_EVENT_BYTES // 1024} KiB" in document["info"]["description"]
    for channel in document["channels"].values():
        for server in channel["servers"]:
            assert server["$ref"].removeprefix("#/servers/") in document["servers"]
        for name, message in channel["messages"].items():
            assert message["$ref"] == f"#/components/messages/{name}"
            assert document["components"]["messages"][name]["payload"]


def test_real_events_are_as_documented(world: World, document: dict[str, Any]) -> None:
    """Every type of event that there is, as others read it; and a changed one is not."""
    world.start(*ALL)
    basket = world.stock()
    order = world.checkout(basket, X_Request_ID="documented")
    eventually(lambda: world.is_paid(order))
    for _ in range(2):
        world.ask("inventory", "PUT", "/api/items/1/toggle_status")
    world.post("payment", "/api/payment", {"user_id": 7, "price": 0})
    seen = set()
    for stream, count in (("items", 3), ("orders", 1), ("payments", 2)):
        world.run("-m", "messaging", "tail", stream, "--from", "1", name=stream)
        eventually(lambda s=stream, n=count: world.output(s).count("\n") == n)
        for line in world.output(stream).splitlines():
            event = json.loads(line)
            reference = document["channels"][stream]["messages"][event["type"]]["$ref"]
            payload = document["components"]["messages"][reference.rpartition("/")[2]]["payload"]
            check(event, payload, document)
            with pytest.raises(jsonschema_rs.ValidationError):
                check({**event, "data": {**event["data"], "price": -1}}, payload, document)
            seen.add(event["type"])
    assert seen == set(document["components"]["messages"])


def test_real_answers_are_as_documented(world: World) -> None:
    """The examples of the OpenAPI documents, sent to real services, and what these answer."""
    world.start(*ALL)
    for name, price in (("Millet", 4000), ("Cuttlebone", 150)):
        world.post("inventory", "/api/item", {"item": {"name": name, "price": price}})
    eventually(lambda: len(world.get("shop", "/api/items")) == 2)
    documents = {name: world.get(name, "/openapi.json") for name in SERVICES}
    operations = [
        (method, name, path, operation)
        for name, document in documents.items()
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    known = {"item_id": 1, "order_id": ""}
    checked = 0
    in_order = ("post", "get", "put")
    for method, name, path, operation in sorted(operations, key=lambda o: in_order.index(o[0])):
        document = documents[name]
        (sent,) = operation.get("requestBody", {}).get("content", {"": {}}).values()
        if sent:
            check(sent["example"], sent["schema"], document)
        query = "?user_id=1" if path == "/api/orders" else ""
        asked = path.format(**known) + query
        answer = world.ask(name, method.upper(), asked, sent.get("example"))
        assert answer.status in {200, 201}, (asked, answer)
        if path == "/api/checkout":
            known["order_id"] = answer.json()["id"]
        told = operation["responses"][str(answer.status)]["content"]
        if "schema" in (media := told.get("application/json", {})):
            check(answer.json(), media["schema"], document)
            check(media["example"], media["schema"], document)
            checked += 1
    assert checked == 19
