"""A payment service whose database was lost: the journal knows what it has paid.

What it does where the journal cannot know is in ``messaging/test_inheritance.py``, and in
``test_operations.py`` what an operator then types.
"""

from itertools import pairwise

from tests.conftest import eventually
from tests.pairs import on_both_pairs
from tests.processes import ALL, World


@on_both_pairs
def test_a_lost_payment_comes_back_from_the_journal(world: World) -> None:
    """Ids, times and all; the console is silent about it, nothing is paid or told twice.

    What was placed while it was away is paid.
    """

    def printed() -> list[str]:
        return world.output("payment").splitlines()

    world.start(*ALL)
    basket = world.stock()
    orders = [world.checkout(basket) for _ in range(3)]
    eventually(lambda: all(map(world.is_paid, orders)))
    world.post("payment", "/api/payment", {"user_id": 1, "price": 7})
    eventually(lambda: world.is_drained() and len(printed()) == 4)
    ledger = world.get("payment", "/api/payments")[::-1]
    shown = world.get("shop", "/api/orders?user_id=1")[::-1]
    world.lose("payment")
    orders.append(world.checkout(basket))
    eventually(lambda: world.is_told("shop"))

    world.start("payment")
    eventually(lambda: world.is_paid(orders[-1]))
    orders.append(world.checkout(basket))
    eventually(lambda: world.is_paid(orders[-1]) and world.is_drained())
    now = world.get("payment", "/api/payments")[::-1]
    assert now[:4] == ledger
    assert [row["order_id"] for row in now[4:]] == orders[-2:]
    assert all(row["id"] < following["id"] for row, following in pairwise(now))
    eventually(lambda: len(printed()) == 6)
    assert len(set(printed())) == 6
    query = "SELECT count(*) FROM entry WHERE stream = 'payments' GROUP BY epoch ORDER BY epoch"
    assert world.rows("broker", query) == [(4,), (2,)]
    assert world.get("shop", "/api/orders?user_id=1")[::-1][:3] == shown
