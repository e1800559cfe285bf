"""A broker on another machine, behind a line that is thin, long, lossy or silent."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import pytest

from tests.conftest import eventually, own_settings
from tests.pairs import on_servers
from tests.processes import ROOT, World
from tests.relay import Hole, Line, line

MEGABIT = 125_000  # bytes a second
REACHED, LOST = "the broker is reached", "the broker is lost"


class Lines(list[Line]):
    """The two lines of a process to the forwarder: to publish, and to hear."""

    def set(self, **qualities: Any) -> None:
        for each in self:
            for name, value in qualities.items():
                setattr(each, name, value)

    @property
    def urls(self) -> dict[str, str]:
        publish, subscribe = (each.url for each in self)
        return {"BROKER_PUBLISH_URL": publish, "BROKER_SUBSCRIBE_URL": subscribe}

    def hole(self, *sides: str) -> Hole:
        return Hole(*(each.port for each in self), sides=sides or ("--dport", "--sport"))


@pytest.fixture
def lines(world: World) -> Iterator[Lines]:
    with ExitStack() as stack:
        urls = world.settings.broker_publish_url, world.settings.broker_subscribe_url
        yield Lines(stack.enter_context(line(url)) for url in urls)


needs_holes = pytest.mark.skipif(bool(Hole.needed()), reason=Hole.needed() or "")


def metric(world: World, name: str, metric: str) -> float:
    text = world.ask(name, "GET", "/metrics").body.decode()
    values = [line.split()[-1] for line in text.splitlines() if line.startswith(metric)]
    return sum(map(float, values))


def seconds(until: Callable[[], Any], within_s: float = 30) -> float:
    """How long it takes until something is true."""
    began = time.monotonic()
    eventually(until, within_s)
    return time.monotonic() - began


def paid_once(world: World, orders: list[str], within_s: float) -> float:
    """How long it takes until each order is paid; none is paid twice."""
    took_s = seconds(lambda: all(map(world.is_paid, orders)), within_s)
    counts = "SELECT count(*), count(DISTINCT order_id) FROM payment"
    ((payments, paid),) = world.rows("payment", counts)
    assert payments == paid >= len(orders)
    return took_s


def lines_of(world: World, name: str, text: str) -> int:
    """How often a process has logged it."""
    return world.output(name, "stderr").count(text)


POOR: dict[str, dict[str, float]] = {
    "thin": {"bytes_per_s": MEGABIT},
    "300 ms": {"delay_s": 0.15},
    "600 ms": {"delay_s": 0.3},
    "5 % loss": {"delay_s": 0.02, "loss": 0.05},
    "20 % loss": {"delay_s": 0.02, "loss": 0.2},
}


@pytest.mark.timeout(700)
@pytest.mark.parametrize(
    ("kind", "count"),
    [("600 ms", 300), *(pytest.param(kind, 5000, marks=pytest.mark.chaos) for kind in POOR)],
)
def test_a_poor_line_carries_each_event_about_once(
    world: World, lines: Lines, kind: str, count: int
) -> None:
    """Payment starts behind it, with so many orders to pay."""
    world.start("broker", "inventory", "shop")
    lines.set(**POOR[kind])
    basket = world.stock()
    for _ in range(count):
        world.checkout(basket)
    eventually(lambda: world.state("shop")["outbox_waiting"] == 0)
    replayed = metric(world, "broker", "parrot_journal_replayed_events_total")
    world.start("payment", **lines.urls)
    paid, within_s = "SELECT count(*) FROM payment", 60 + count / 10
    took_s = seconds(lambda: world.rows("payment", paid) == [(count,)], within_s)
    took_s += seconds(lambda: world.state("payment")["outbox_waiting"] == 0, within_s)
    published = metric(world, "payment", "parrot_events_published_total") / count
    replayed = metric(world, "broker", "parrot_journal_replayed_events_total") - replayed
    down = lines_of(world, "payment", LOST)
    print(
        f"{count / took_s:.0f} orders/s, {lines[1].carried / took_s / 1000:.0f} kB/s heard, "
        f"published {published:.2f} times, replayed {replayed / count:.2f} times, {down} x lost"
    )
    assert published <= 1.5
    assert replayed <= 1.2 * count + 3 * 256  # the first answers are asked for twice
    assert down == 0


def test_a_line_that_is_silent_for_a_while_loses_nothing(world: World, lines: Lines) -> None:
    """Nothing is closed: only the missing answers tell. What happens is said once."""
    world.start("broker", "inventory", "shop")
    basket = world.stock()
    world.start("payment", **lines.urls)
    eventually(lambda: world.state("payment")["broker"] == "up")
    lines.set(silent=True)
    orders = [world.checkout(basket) for _ in range(20)]
    noticed_s = seconds(lambda: world.state("payment")["broker"] == "down")
    lines.set(silent=False)
    back_s = paid_once(world, orders, 30)
    print(f"noticed after {noticed_s:.1f} s, in order {back_s:.1f} s after its end")
    assert lines_of(world, "payment", LOST) == 1
    assert lines_of(world, "payment", REACHED) == 2


@pytest.mark.chaos
@needs_holes
@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("for_s", "sides"),
    [
        *((for_s, ()) for for_s in (5, 30, 72, 120)),
        (72, ("--dport",)),  # what payment says is not heard
        (72, ("--sport",)),  # it hears nothing
    ],
)
def test_a_cut_of_the_network_is_over_seconds_after_it(
    world: World, lines: Lines, for_s: float, sides: tuple[str, ...]
) -> None:
    """Also connections that are made meanwhile are silent, as the kernel has it."""
    world.start("broker", "inventory", "shop")
    basket = world.stock()
    world.start("payment", **lines.urls)
    eventually(lambda: world.state("payment")["broker"] == "up")
    with lines.hole(*sides):
        ends_at = time.monotonic() + for_s
        orders = [world.checkout(basket) for _ in range(20)]
        time.sleep(max(0, ends_at - time.monotonic()))
    back_s = paid_once(world, orders, 200)
    print(f"cut for {for_s} s {sides}: in order {back_s:.1f} s after its end")
    assert lines_of(world, "payment", LOST) <= 1


def test_a_broker_that_is_not_there_is_told_once(world: World) -> None:
    world.start("shop")
    eventually(lambda: lines_of(world, "shop", "the broker cannot be reached"))
    assert world.settings.broker_publish_url in world.output("shop", "stderr")
    world.start("broker")
    eventually(lambda: lines_of(world, "shop", REACHED) == 1)
    world.kill("broker")
    eventually(lambda: lines_of(world, "shop", LOST) == 1)
    assert lines_of(world, "shop", "the broker cannot be reached") == 1


@pytest.mark.parametrize("at_broker", ["on", "off"])
def test_encryption_at_one_side_alone_is_named(world: World, at_broker: str) -> None:
    world.start("broker", BROKER_CURVE=at_broker)
    world.start("shop", BROKER_CURVE={"on": "off", "off": "on"}[at_broker])
    eventually(lambda: lines_of(world, "shop", "BROKER_CURVE"), 30)


def test_a_peer_with_another_key_is_named_by_both_sides(world: World) -> None:
    world.start("broker")
    folder = world.settings.data_dir / "elsewhere"
    (folder / "keys").mkdir(parents=True)
    own = world.settings.data_dir / "keys" / "broker.key"
    (folder / "keys" / "broker.key").write_bytes(own.read_bytes())
    world.start("shop", DATA_DIR=str(folder))
    eventually(lambda: lines_of(world, "shop", "the broker does not know our key"))
    eventually(lambda: lines_of(world, "broker", "a peer was refused"))
    key = (folder / "keys" / "client.key").read_text().split('"')[1]
    assert key in world.output("broker", "stderr")


@pytest.mark.chaos
@needs_holes
@on_servers
def test_a_silent_postgresql_is_refused_at_once(world: World) -> None:
    """Packets are dropped, and no port is closed; one thread at a time waits for it."""
    world.start("shop")
    eventually(lambda: world.state("shop"))
    port = int(world.settings.shop_database_url.rpartition(":")[2].partition("/")[0])  # type: ignore[union-attr]
    took: dict[str, list[float]] = {"/livez": [], "/readyz": [], "/api/items": []}
    with Hole(port):
        ends_at = time.monotonic() + 8
        while time.monotonic() < ends_at:
            for path, times in took.items():
                times.append(seconds(lambda path=path: world.ask("shop", "GET", path)))
    print({path: f"{max(times):.2f} s" for path, times in took.items()})
    back_s = seconds(lambda: world.ask("shop", "GET", "/api/items").status == 200)
    print(f"back {back_s:.1f} s after its end")


@pytest.mark.chaos
@needs_holes
@on_servers
def test_a_silent_nats_is_found_to_be_away(world: World) -> None:
    world.start(*world.names)
    basket = world.stock()
    eventually(lambda: world.state("payment")["broker"] == "up")
    port = int(str(world.settings.broker_url).rpartition(":")[2])
    with Hole(port):
        orders = [world.checkout(basket) for _ in range(20)]
        noticed_s = seconds(lambda: world.state("payment")["broker"] == "down")
        resent = metric(world, "shop", "parrot_events_resent_total")
    back_s = paid_once(world, orders, 60)
    print(f"noticed after {noticed_s:.1f} s, {resent:.0f} resent, in order {back_s:.1f} s after")
    assert resent <= 6 * len(orders)
    assert lines_of(world, "payment", LOST) == 1


def elsewhere(world: World, *names: str) -> World:
    """Another machine: a data folder and HTTP ports of its own, the same broker and servers."""
    own = own_settings(world.settings.data_dir.parent / "elsewhere")
    kept = {name: getattr(own, name) for name in ("data_dir", *(f"{each}_port" for each in names))}
    return World(world.settings.model_copy(update=kept), world.servers)


@pytest.mark.chaos
@on_servers
def test_a_leader_whose_line_to_postgresql_is_silent_leads_no_more(world: World) -> None:
    """It stands where it is; a copy on another machine pays instead, and nothing is paid twice."""
    world.start("broker", "inventory", "shop")
    basket = world.stock()
    url = urlsplit(str(world.settings.payment_database_url))
    with line(f"tcp://{url.hostname}:{url.port}") as relay:
        netloc = url.netloc.rpartition(":")[0] + f":{relay.port}"
        world.start("payment", PAYMENT_DATABASE_URL=url._replace(netloc=netloc).geturl())
        first = world.checkout(basket)
        eventually(lambda: world.is_paid(first))
        other = elsewhere(world, "payment")
        try:
            other.start("payment")
            eventually(lambda: other.state("payment").get("standby"))
            relay.silent = True
            orders = [world.checkout(basket) for _ in range(20)]
            took_s = seconds(lambda: all(map(world.is_paid, orders)), 60)
            relay.silent = False
            counts = "SELECT count(*), count(DISTINCT order_id) FROM payment"
            assert world.rows("payment", counts) == [(21, 21)]
            print(f"paid by the other {took_s:.1f} s after the cut began")
            eventually(lambda: world.state("payment").get("standby"))
            eventually(lambda: world.state("payment")["outbox_waiting"] == 0)  # once it is noted
        finally:
            other.end()


@pytest.mark.chaos
def test_a_second_shop_on_a_copied_folder_is_refused(world: World) -> None:
    """On another machine, while the first one sells: it says so, and buyers there get 503."""
    world.start("broker", "inventory", "shop", "payment")
    basket = world.stock()
    orders = [world.checkout(basket) for _ in range(5)]
    eventually(lambda: world.is_told("shop"))
    world.kill("shop", number=signal.SIGTERM)
    other = elsewhere(world, "shop")
    shutil.copytree(world.settings.data_dir, other.settings.data_dir, dirs_exist_ok=True)
    world.start("shop")
    orders += [world.checkout(basket) for _ in range(5)]
    eventually(lambda: world.is_told("shop"))
    try:
        other.run("-m", "shop")
        noticed_s = seconds(lambda: lines_of(other, "shop", "a copy of it is in use"))
        assert other.post("shop", "/api/checkout", basket).status == 503
        print(f"said {noticed_s:.1f} s after its start")
        orders += [world.checkout(basket) for _ in range(5)]
        paid_once(world, orders, 30)
        assert other.post("shop", "/api/checkout", basket).status == 503
    finally:
        other.end()


@pytest.fixture
def namespace() -> Iterator[list[str]]:
    """A command that starts others where there is a name server, and no answer from it."""
    name = f"parrot-{uuid4().hex[:8]}"
    files = Path("/etc/netns") / name
    inside = ["ip", "netns", "exec", name]
    made = os.geteuid() == 0 and shutil.which("ip") and shutil.which("iptables")
    if not made or subprocess.run(["ip", "netns", "add", name], check=False).returncode:
        pytest.skip("it takes root, iproute2 and iptables to make a network namespace")
    try:
        files.mkdir(parents=True)
        (files / "resolv.conf").write_text("nameserver 127.0.0.9\n")
        for command in (
            ["ip", "link", "set", "lo", "up"],
            ["iptables", "-A", "INPUT", "-p", "udp", "--dport", "53", "-j", "DROP"],
        ):
            subprocess.run([*inside, *command], check=True)
        yield inside
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=True)
        shutil.rmtree(files, ignore_errors=True)


@pytest.mark.chaos
def test_a_broker_that_moves_is_found_by_its_name(world: World, namespace: list[str]) -> None:
    """Payment is on another host; the old address is silent, and the name has a new one."""
    name = namespace[-1]
    near, far = f"v{uuid4().hex[:8]}", f"w{uuid4().hex[:8]}"
    hosts = Path("/etc/netns") / name / "hosts"
    known = world.settings.broker_publish_url, world.settings.broker_subscribe_url
    ports = [url.rpartition(":")[2] for url in known]

    def urls(host: str) -> dict[str, str]:
        return {
            "BROKER_PUBLISH_URL": f"tcp://{host}:{ports[0]}",
            "BROKER_SUBSCRIBE_URL": f"tcp://{host}:{ports[1]}",
        }

    for command in (
        ["ip", "link", "add", near, "type", "veth", "peer", "name", far, "netns", name],
        ["ip", "address", "add", "10.213.77.1/24", "dev", near],
        ["ip", "address", "add", "10.213.78.1/24", "dev", near],
        ["ip", "link", "set", near, "up"],
        [*namespace, "ip", "address", "add", "10.213.77.3/24", "dev", far],
        [*namespace, "ip", "address", "add", "10.213.78.3/24", "dev", far],
        [*namespace, "ip", "link", "set", far, "up"],
    ):
        subprocess.run(command, check=True)
    hosts.write_text("10.213.77.1 broker\n")
    world.start("broker", **urls("10.213.77.1"))
    world.start("inventory", "shop", **urls("10.213.77.1"))
    basket = world.stock()
    payment = subprocess.Popen(
        [*namespace, sys.executable, "-m", "payment"],
        cwd=ROOT,
        env=world.environment(**urls("broker")),
        stdout=subprocess.DEVNULL,
    )
    try:
        first = world.checkout(basket)
        eventually(lambda: world.is_paid(first))
        world.kill("broker", "shop")
        subprocess.run(["ip", "address", "del", "10.213.77.1/24", "dev", near], check=True)
        world.start("shop", **urls("10.213.78.1"))
        orders = [world.checkout(basket) for _ in range(20)]
        hosts.write_text("10.213.78.1 broker\n")
        time.sleep(10)  # the connects that began before that are in the kernel's hands
        world.start("broker", **urls("10.213.78.1"))
        back_s = paid_once(world, orders, 200)
        print(f"in order {back_s:.1f} s after the move")
    finally:
        payment.kill()
        payment.wait()


def test_a_stop_does_not_wait_for_a_silent_name_server(
    world: World, namespace: list[str], tmp_path: Path
) -> None:
    urls = {
        "BROKER_PUBLISH_URL": "tcp://broker.example:5559",
        "BROKER_SUBSCRIBE_URL": "tcp://broker.example:5560",
    }
    log = tmp_path / "stderr"
    with log.open("wb") as stderr:
        shop = subprocess.Popen(
            [*namespace, sys.executable, "-m", "shop"],
            cwd=ROOT,
            env=world.environment(**urls),
            stderr=stderr,
        )
    try:
        eventually(lambda: "started" in log.read_text())
        shop.send_signal(signal.SIGTERM)
        took_s = seconds(lambda: shop.poll() is not None)
        print(f"ended after {took_s:.1f} s")
        assert shop.wait() == 0
    finally:
        shop.kill()
        shop.wait()
    assert "Traceback" not in log.read_text()
