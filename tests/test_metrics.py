"""Metrics of real processes: what an operator sees of a checkout, and of an outage."""

import re

from tests.conftest import eventually
from tests.processes import ALL, World


def metrics(world: World, name: str) -> dict[str, float]:
    """Every sample of a process, by its name with its labels."""
    answer = world.ask(name, "GET", "/metrics")
    assert answer.status == 200
    lines = re.findall(r"^([^# ]+) (\S+)$", answer.body.decode(), re.MULTILINE)
    return {sample: float(value) for sample, value in lines}


def test_what_becomes_of_events_is_counted(world: World) -> None:
    world.start(*ALL)
    basket = world.stock()
    order = world.checkout(basket)
    eventually(lambda: world.is_paid(order) and world.is_drained())

    shop = metrics(world, "shop")
    assert shop["broker_up"] == 1
    assert shop["outbox_waiting_events"] == shop["outbox_oldest_age_seconds"] == 0
    assert shop["events_published_total"] == shop["events_acked_total"] == 1
    assert shop["events_resent_total"] == shop["events_dead"] == shop["events_malformed_total"] == 0
    for stream in ("items", "payments"):
        assert shop[f'events_applied_total{{stream="{stream}"}}'] == 1
        assert shop[f'inbox_behind_events{{stream="{stream}"}}'] == 0
        for name in ("events_duplicate_total", "events_gap_total"):
            assert f'{name}{{stream="{stream}"}}' in shop
    checkouts = '{method="POST",route="/api/checkout",status="201"}'
    assert shop[f"http_request_duration_seconds_count{checkouts}"] == 1
    assert metrics(world, "payment")['events_applied_total{stream="orders"}'] == 1

    broker = metrics(world, "broker")
    assert {broker[f'journal_head{{stream="{s}"}}'] for s in ("items", "orders", "payments")} == {1}
    assert broker["journal_stored_events_total"] == 3
    assert world.get("broker", "/readyz") == {
        "status": "ready",
        "database": "up",
        "journal": {"items": 1, "orders": 1, "payments": 1},
    }


def test_an_outage_of_the_broker_shows(world: World) -> None:
    """Events wait, the age of the oldest grows, and once they are sent it is nothing again."""
    world.start(*ALL)
    basket = world.stock()
    world.kill("broker")
    eventually(lambda: metrics(world, "shop")["broker_up"] == 0)
    for _ in range(3):
        world.checkout(basket)
    waiting = metrics(world, "shop")
    assert waiting["outbox_waiting_events"] == 3
    assert 'inbox_behind_events{stream="items"}' not in waiting
    eventually(
        lambda: (
            metrics(world, "shop")["outbox_oldest_age_seconds"]
            > waiting["outbox_oldest_age_seconds"]
            > 0
        )
    )
    world.start("broker")
    eventually(world.is_drained)
    later = metrics(world, "shop")
    assert later["outbox_waiting_events"] == later["outbox_oldest_age_seconds"] == 0


def test_a_journal_that_cannot_write_is_unready(world: World) -> None:
    world.start(*ALL)
    basket = world.stock()
    with world.full_disk("broker"):
        for _ in range(20):
            world.checkout(basket)
        eventually(lambda: world.ask("broker", "GET", "/readyz").status == 503)
        assert "Error" in world.get("broker", "/readyz")["problem"]
    eventually(lambda: world.ask("broker", "GET", "/readyz").status == 200)
    eventually(world.is_drained)
