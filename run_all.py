"""Start the whole parrot shop: broker, inventory, shop and payment, until Ctrl-C."""

import argparse
import signal
import time
from contextlib import suppress

from runtime.processes import Child, held, listens
from runtime.settings import Settings, load_settings

NAMES = ("broker", "inventory", "shop", "payment")
SIGNALS = {signal.SIGINT, signal.SIGTERM}
STOP_TIMEOUT_S = 4.0  # of the 5 s that a stop may take


def ports(settings: Settings) -> dict[str, dict[str, int]]:
    """The ports of each process, by the setting that names them."""
    urls = {
        "BROKER_PUBLISH_URL": settings.broker_publish_url,
        "BROKER_SUBSCRIBE_URL": settings.broker_subscribe_url,
    }
    return {
        "broker": {setting: int(url.rpartition(":")[2]) for setting, url in urls.items()},
        "inventory": {"INVENTORY_PORT": settings.inventory_port},
        "shop": {"SHOP_PORT": settings.shop_port},
        "payment": {"PAYMENT_PORT": settings.payment_port},
    }


def say(line: str) -> None:
    """Tell whoever started us, if anybody still listens."""
    with suppress(OSError):
        print(line, flush=True)


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
    wanted = {name: port for name, port in ports(settings).items() if name in chosen}
    if lines := [line for group in wanted.values() for line in held(group)]:
        raise SystemExit("\n".join(lines))

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
        open_ports = [port for name in alive for port in wanted[name].values()]
        if not announced and all(listens(settings.host, port) for port in open_ports):
            announced = True
            for name in alive:
                if name != "broker":
                    say(f"{name:9} http://{settings.host}:{getattr(settings, f'{name}_port')}")
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
