"""Metrics of real processes: what an operator sees of a checkout, and of an outage."""

import re
import subprocess

from runtime import VERSION
from shop.app import Shop
from shop.orders import UNPAID
from tests.conftest import eventually
from tests.processes import ALL, World
from tests.programs import program


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
    assert shop["parrot_broker_up"] == 1
    assert shop["parrot_outbox_waiting_events"] == shop["parrot_outbox_oldest_age_seconds"] == 0
    assert shop["parrot_events_published_total"] == shop["parrot_events_acked_total"] == 1
    assert (
        shop["parrot_events_resent_total"]
        == shop["parrot_dead_events"]
        == shop["parrot_events_malformed_total"]
        == 0
    )
    for stream in ("items", "payments"):
        assert shop[f'parrot_events_applied_total{{stream="{stream}"}}'] == 1
        assert shop[f'parrot_inbox_behind_events{{stream="{stream}"}}'] == 0
        for name in ("parrot_events_duplicate_total", "parrot_events_gap_total"):
            assert f'{name}{{stream="{stream}"}}' in shop
    checkouts = '{method="POST",route="/api/checkout",status="201"}'
    assert shop[f"parrot_http_request_duration_seconds_count{checkouts}"] == 1
    assert metrics(world, "payment")['parrot_events_applied_total{stream="orders"}'] == 1

    broker = metrics(world, "broker")
    assert {
        broker[f'parrot_journal_head{{stream="{s}"}}'] for s in ("items", "orders", "payments")
    } == {1}
    assert broker["parrot_journal_stored_events_total"] == 3
    assert world.get("broker", "/readyz") == {
        "status": "ready",
        "database": "up",
        "journal": {"items": 1, "orders": 1, "payments": 1},
    }

    for name in ALL:  # one prefix; Prometheus' own linter has no word against the names
        text = world.ask(name, "GET", "/metrics").body
        families = re.findall(r"^# TYPE (\S+)", text.decode(), re.MULTILINE)
        assert {family.partition("_")[0] for family in families} == {"parrot", "process"}
        assert not [family for family in families if family.endswith("_created")]
        found = metrics(world, name)
        assert found[f'parrot_build_info{{version="{VERSION}"}}'] == found["parrot_ready"] == 1
        lint = [program("promtool"), "check", "metrics"]
        linted = subprocess.run(lint, input=text, capture_output=True, check=False)
        assert (linted.returncode, linted.stderr) == (0, b""), linted.stderr


def test_what_waits_shows(world: World) -> None:
    """Events without a broker and orders without payment: how many, and how long the oldest."""
    count, age = "parrot_orders_unpaid", "parrot_orders_unpaid_oldest_age_seconds"
    waiting, oldest = "parrot_outbox_waiting_events", "parrot_outbox_oldest_age_seconds"
    world.start("broker", "inventory", "shop")
    basket = world.stock()
    found = metrics(world, "shop")
    assert (found[count], found[age]) == (0, 0)
    world.kill("broker")
    eventually(lambda: metrics(world, "shop")["parrot_broker_up"] == 0)
    orders = [world.checkout(basket) for _ in range(3)]
    found = metrics(world, "shop")
    assert (found[waiting], found[count]) == (3, 3)
    assert 'parrot_inbox_behind_events{stream="items"}' not in found
    eventually(lambda: metrics(world, "shop")[oldest] > found[oldest] > 0)
    eventually(lambda: metrics(world, "shop")[age] > found[age] > 0)
    world.start("broker", "payment")
    eventually(lambda: all(map(world.is_paid, orders)) and world.is_drained())
    found = metrics(world, "shop")
    assert (found[waiting], found[oldest], found[count], found[age]) == (0, 0, 0, 0)


def test_orders_that_wait_for_a_full_disk_show(world: World) -> None:
    """How many, and for how long: while payment cannot write, and again nothing after it."""
    behind, age = (
        f'parrot_inbox_{each}{{stream="orders"}}'
        for each in ("behind_events", "oldest_age_seconds")
    )
    world.start(*ALL)
    basket = world.stock()
    world.checkout(basket)
    eventually(world.is_drained)
    found = metrics(world, "payment")
    assert (found[behind], found[age]) == (0, 0)
    with world.full_disk("payment"):
        orders = [world.checkout(basket) for _ in range(60)]
        eventually(lambda: metrics(world, "payment")[behind] > 5)

        def has_aged() -> bool:
            found = metrics(world, "payment")
            assert found[behind] > 0
            assert found[age] > 0
            assert world.state("payment")["inbox_behind"]["orders"] > 0
            return found[age] > 2

        eventually(has_aged)  # while it fails over and over
        eventually(lambda: metrics(world, "payment")["parrot_ready"] == 0)
    eventually(lambda: all(map(world.is_paid, orders)) and world.is_drained())
    found = metrics(world, "payment")
    assert (found[behind], found[age]) == (0, 0)


def test_what_is_paid_costs_the_metrics_nothing(shop: Shop) -> None:
    """They read an index of what is not paid, and nothing else."""
    ((*_, plan),) = shop.database.run(f"EXPLAIN QUERY PLAN {UNPAID}").fetchall()
    assert re.fullmatch(r"SEARCH order USING COVERING INDEX order_unpaid .*", plan)
