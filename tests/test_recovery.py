"""What must not go on in silence: it is said, nothing more is confirmed, and there is a way on."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from messaging.event import previous
from messaging.transports.wire import digest
from tests.conftest import eventually, free_port
from tests.pairs import on_files
from tests.processes import ALL, World
from tests.test_faults import back_up


def problem(world: World, name: str, words: str) -> str:
    """What a service says that it cannot do; waited for."""

    def found() -> str:
        state = world.state(name)
        told = str(state.get("problem", ""))
        return told if state["status"] == "unready" and words in told else ""

    return str(eventually(found))


def command(told: str, name: str) -> list[str]:
    """The command that a problem recommends, as arguments of Python."""
    found = re.search(rf"python (-m {name} [^;]*)", told)
    assert found, told
    return found[1].split()


def ready(world: World, *names: str) -> bool:
    return all(world.ask(name, "GET", "/readyz").status == 200 for name in names)


@on_files
def test_a_forked_shop_confirms_nothing_that_it_cannot_tell(world: World) -> None:
    """What it had confirmed before is paid after all, in a new epoch, and nothing is paid twice."""
    world.start(*ALL)
    basket = world.stock()
    before = world.checkout(basket)
    eventually(lambda: world.is_paid(before) and world.is_told("shop"))
    world.kill("shop", "broker")
    restore = back_up(world, "shop")
    world.start("broker", "shop")
    theirs = world.checkout(basket)
    eventually(lambda: world.is_paid(theirs) and world.is_told("shop"))
    world.kill("shop", "broker")
    restore()

    world.start("shop")
    ours = [world.checkout(basket) for _ in range(3)]
    world.start("broker")
    told = problem(world, "shop", "a copy of it is in use")
    eventually(lambda: world.output("shop", "stderr").count(told) == 1)
    refused = world.post("shop", "/api/checkout", basket)
    assert (refused.status, refused.json()["detail"]) == (503, told)
    assert refused.headers["Retry-After"]
    assert world.state("shop")["outbox_waiting"] == 3
    assert world.post("shop", "/api/user", {"name": "Gosha"}).status == 201
    assert len(world.get("shop", "/api/orders?user_id=1")) == 4

    begun = world.finish("-m", "shop", "new-epoch")
    assert (begun.returncode, "--yes" in begun.stderr) == (1, True)
    begun = world.finish("-m", "shop", "new-epoch", "--yes")
    assert (begun.returncode, begun.stderr) == (0, "")
    eventually(lambda: ready(world, "shop") and all(map(world.is_paid, [before, *ours])))
    later = world.checkout(basket)
    eventually(lambda: world.is_paid(later))
    paid = [payment["order_id"] for payment in world.get("payment", "/api/payments")]
    assert sorted(paid) == sorted([before, theirs, *ours, later])


@pytest.mark.parametrize(
    ("name", "method", "path", "body"),
    [
        ("inventory", "POST", "/api/item", {"item": {"name": "Honey", "price": 5}}),
        ("inventory", "PUT", "/api/items/1/toggle_status", None),
        ("payment", "POST", "/api/payment", {"user_id": 1, "price": 5}),
    ],
)
def test_no_service_confirms_what_it_cannot_tell(
    world: World, name: str, method: str, path: str, body: Any
) -> None:
    """It goes on reading, and changes nothing."""
    world.start("broker", "inventory", "payment")
    world.post("inventory", "/api/item", {"item": {"name": "Millet", "price": 4000}})
    world.post("payment", "/api/payment", {"user_id": 1, "price": 5})
    eventually(lambda: world.is_told("inventory", "payment"))
    spoil = "UPDATE entry SET body = CAST(replace(body, '\"specversion\"', '\"other\"') AS BLOB)"
    world.kill("broker", name)
    world.rows("broker", spoil)
    world.start("broker", name)
    told = problem(world, name, "the journal holds another event")
    shown = {"inventory": "/api/items", "payment": "/api/payments"}[name]
    before = world.get(name, shown)
    answer = world.ask(name, method, path, body)
    assert (answer.status, answer.json()["detail"]) == (503, told)
    assert world.get(name, shown) == before


def test_two_live_shops_on_copies_of_one_database_are_both_told(
    world: World, tmp_path: Path
) -> None:
    """One goes on; the other's event is refused, it says so, and so does the broker."""
    world.start(*ALL)
    basket = world.stock()
    before = world.checkout(basket)
    eventually(lambda: world.is_paid(before))
    world.kill("shop")
    folder = tmp_path / "elsewhere" / "data"
    folder.mkdir(parents=True)
    for path in world.files("shop"):
        shutil.copy(path, folder)
    shutil.copytree(world.settings.data_dir / "keys", folder / "keys")
    world.start("shop")
    copy = World(world.settings.model_copy(update={"data_dir": folder, "shop_port": free_port()}))
    try:
        copy.start("shop")
        eventually(lambda: ready(world, "shop") and ready(copy, "shop"))
        eventually(lambda: copy.state("shop")["broker"] == "up")
        ours = world.checkout(basket)
        eventually(lambda: world.is_paid(ours) and world.is_told("shop"))
        answer = copy.post("shop", "/api/checkout", basket)
        told = problem(copy, "shop", "a copy of it is in use")
        assert answer.status in (201, 503)
        assert copy.post("shop", "/api/checkout", basket).json()["detail"] == told
        eventually(lambda: ready(world, "shop"))
        later = world.checkout(basket)
        eventually(lambda: world.is_paid(later))
    finally:
        copy.end()


def archive(world: World) -> None:
    """What docs/operations.md says of the journal's orders and payments."""
    world.rows(
        "broker",
        "DELETE FROM entry WHERE stream IN ('orders', 'payments') AND (epoch, sequence) < ("
        "SELECT epoch, sequence FROM entry AS newest WHERE newest.stream = entry.stream "
        "ORDER BY epoch DESC, sequence DESC LIMIT 1)",
    )


def test_a_hole_in_a_stream_is_said_and_gone_on_behind_by_hand(world: World) -> None:
    """An older database of a reader, restored after the journal was archived."""
    world.start(*ALL)
    basket = world.stock()
    first = world.checkout(basket)
    eventually(lambda: world.is_paid(first))
    eventually(world.is_drained)
    world.kill("payment", "broker")
    restore = back_up(world, "shop")  # it has heard of the first payment alone
    world.start("broker", "payment")
    for _ in range(3):
        assert world.post("payment", "/api/payment", {"user_id": 1, "price": 5}).status == 201
    eventually(world.is_drained)
    world.kill("broker", "shop")
    archive(world)
    restore()
    world.start("broker", "shop")
    told = problem(world, "shop", "the journal has no events from")
    assert re.search(r"from [0-9a-f]{32}:2 to [0-9a-f]{32}:3:", told)
    eventually(lambda: world.output("shop", "stderr").count(told) == 1)
    order = world.checkout(basket)
    went_on = world.finish(*command(told, "shop"))
    assert went_on.returncode == 0, went_on.stderr
    eventually(lambda: ready(world, "shop") and world.is_paid(order))


def test_a_journal_lost_after_the_outbox_was_cut_begins_with_its_oldest_row(world: World) -> None:
    world.start(*ALL)
    basket = world.stock()
    for _ in range(3):
        order = world.checkout(basket)
    eventually(lambda: world.is_paid(order) and world.is_drained())
    world.kill("shop", "payment")
    world.rows("shop", "DELETE FROM outbox WHERE sequence < (SELECT max(sequence) FROM outbox)")
    world.lose("broker")
    world.start("shop")
    waiting = world.checkout(basket)
    world.start("broker", "payment")
    told = problem(world, "shop", "lacks the events before")
    assert world.post("shop", "/api/checkout", basket).json()["detail"] == told
    running = world.finish(*command(told, "broker"))
    assert (running.returncode, "stop it" in running.stderr) == (1, True)
    world.kill("broker")
    begun = world.finish(*command(told, "broker"))
    assert begun.returncode == 0, begun.stderr
    world.start("broker")
    eventually(lambda: ready(world, "shop") and world.is_paid(waiting))
    assert len(world.get("payment", "/api/payments")) == 4


@pytest.mark.chaos
def test_a_reader_ahead_of_a_restored_writer_and_journal_is_told(world: World) -> None:
    """New orders under numbers that it has passed are no repetitions."""
    world.start(*ALL)
    basket = world.stock()
    first = world.checkout(basket)
    eventually(lambda: world.is_paid(first) and world.is_drained())
    world.kill("shop", "broker")
    restore = [back_up(world, name) for name in ("shop", "broker")]
    world.start("broker", "shop")
    for _ in range(3):
        order = world.checkout(basket)
    eventually(lambda: world.is_paid(order) and world.is_drained())
    world.kill("shop", "broker")
    for put_back in restore:
        put_back()
    world.start("broker", "shop")
    problem(world, "payment", "was applied")
    world.checkout(basket)
    told = problem(world, "payment", "another event than the one applied")
    eventually(lambda: world.output("payment", "stderr").count(told.partition("; ")[0]))


@pytest.mark.chaos
def test_a_database_made_under_an_older_clock_is_told_and_gets_a_new_epoch(world: World) -> None:
    world.start("broker", "inventory", "shop")
    world.stock()
    eventually(lambda: world.state("shop")["inbox_behind"]["items"] == 0)
    world.lose("broker")
    world.lose("inventory")
    world.start("inventory")
    world.rows("inventory", "UPDATE head SET epoch = x'00000000000000010000000000000001'")
    world.post("inventory", "/api/item", {"item": {"name": "Honey", "price": 5}})
    world.start("broker")
    problem(world, "shop", "older clock")
    assert world.finish("-m", "inventory", "new-epoch", "--yes").returncode == 0
    eventually(lambda: ready(world, "shop"))
    eventually(lambda: [i["name"] for i in world.get("shop", "/api/items")] == ["Honey"])


def test_places_are_listed_and_moved(world: World) -> None:
    world.start("broker", "inventory", "shop")
    world.stock()
    world.kill("broker", "inventory", "shop")
    listed = world.finish("-m", "shop", "place")
    items, payments = listed.stdout.splitlines()
    place = items.split()[1]
    assert (items.split()[0], payments) == ("items", f"payments  {'0' * 32}:0")
    back = f"{place.partition(':')[0]}:0"
    refused = world.finish("-m", "shop", "place", "items", back)
    assert (refused.returncode, "--back" in refused.stderr) == (1, True)
    moved = world.finish("-m", "shop", "place", "items", back, "--back")
    assert (moved.returncode, moved.stdout) == (0, f"items  {back}, it was {place}\n")
    unknown = world.finish("-m", "shop", "place", "orders", back)
    assert (unknown.returncode, "items, payments" in unknown.stderr) == (1, True)
    wrong = world.finish("-m", "shop", "place", "items", "7")
    assert (wrong.returncode, "is not a place" in wrong.stderr) == (2, True)


def test_a_new_epoch_renumbers_what_the_outbox_has(world: World) -> None:
    """Bodies carry their places: each is the same document under its new one."""
    world.start("inventory")
    for price in (1, 2, 3):
        world.post("inventory", "/api/item", {"item": {"name": "Honey", "price": price}})
    world.kill("inventory")
    world.rows("inventory", "DELETE FROM outbox WHERE sequence < 2")
    before = [json.loads(body) for _, body in world.rows("inventory", "SELECT * FROM outbox")]
    assert world.finish("-m", "inventory", "new-epoch", "--yes").returncode == 0
    ((epoch, sequence),) = world.rows("inventory", "SELECT epoch, sequence FROM head")
    after = world.rows("inventory", "SELECT sequence, body FROM outbox ORDER BY sequence")
    assert (sequence, [number for number, _ in after]) == (2, [1, 2])
    told = None
    for number, body in after:
        new = {"id": f"{epoch.hex()}:{number}", "sequence": str(number)}
        chained = {"previous": digest(told).hex()} if told else {}
        del before[number - 1]["previous"]
        assert json.loads(body) == before[number - 1] | new | chained
        assert previous(body) == (told and digest(told))
        told = body
