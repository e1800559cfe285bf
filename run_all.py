"""Start the whole parrot shop: broker, inventory, shop and payment, until Ctrl-C."""

import argparse
import signal
import time
from urllib.parse import urlsplit

from runtime.output import reserve_standard_streams, say
from runtime.processes import Child, held, listens
from runtime.settings import Settings, load_settings

NAMES = ("broker", "inventory", "shop", "payment")
SIGNALS = {signal.SIGINT, signal.SIGTERM}
STOP_TIMEOUT_S = 4.0  # of the 5 s that a stop may take


def addresses(settings: Settings) -> dict[str, dict[str, tuple[str, int]]]:
    """Host and port of what each process listens on, by the setting that names it."""

    def endpoint(url: str) -> tuple[str, int]:
        parts = urlsplit(url)
        return str(parts.hostname), int(parts.port or 0)

    return {
        "broker": {
            "BROKER_PUBLISH_URL": endpoint(settings.broker_publish_url),
            "BROKER_SUBSCRIBE_URL": endpoint(settings.broker_subscribe_url),
        },
        "inventory": {"INVENTORY_PORT": (settings.host, settings.inventory_port)},
        "shop": {"SHOP_PORT": (settings.host, settings.shop_port)},
        "payment": {"PAYMENT_PORT": (settings.host, settings.payment_port)},
    }


def names(text: str) -> list[str]:
    """Parse a comma-separated list of processes."""
    chosen = text.split(",")
    if unknown := set(chosen) - set(NAMES):
        raise argparse.ArgumentTypeError(f"{unknown.pop()!r} is none of {', '.join(NAMES)}")
    return chosen


def main() -> None:
    """Run until Ctrl-C or SIGTERM, then stop the services, and the broker after them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", type=names, default=list(NAMES), metavar="shop,broker")
    parser.add_argument("--without", type=names, default=[], metavar="payment")
    arguments = parser.parse_args()
    chosen = [name for name in NAMES if name in arguments.only and name not in arguments.without]
    if not chosen:
        parser.error("this leaves nothing to start")
    settings = load_settings()
    wanted = {name: pairs for name, pairs in addresses(settings).items() if name in chosen}
    if lines := [line for pairs in wanted.values() for line in held(pairs)]:
        raise SystemExit("\n".join(lines))

    reserve_standard_streams()
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # they wait for sigtimedwait below
    children = [Child(name, 32 + NAMES.index(name)) for name in chosen]
    running, announced = list(children), False
    while signal.sigtimedwait(SIGNALS, 0.1) is None:
        for child in [child for child in running if child.process.poll() is not None]:
            running.remove(child)
            say(
                f"{child.name} {child.end()}; the others keep running. "
                f"Start it again: python -m {child.name}"
            )
        if not running:
            raise SystemExit("nothing is running any more")
        alive = [child.name for child in running]
        expected = [pair for name in alive for pair in wanted[name].values()]
        if not announced and all(listens(*pair) for pair in expected):
            announced = True
            for name in alive:
                if name != "broker":
                    ((host, port),) = wanted[name].values()
                    say(f"{name:9} http://{host}:{port}")
            say("Ctrl-C stops everything.")
    deadline = time.monotonic() + STOP_TIMEOUT_S
    for is_broker in (False, True):
        group = [child for child in children if (child.name == "broker") is is_broker]
        for child in group:
            child.signal(signal.SIGTERM)
        for child in group:
            child.stop(deadline)


if __name__ == "__main__":
    main()
