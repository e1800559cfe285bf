"""Start the whole parrot shop: broker, inventory, shop and payment, until Ctrl-C."""

import argparse
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from urllib.parse import urlsplit

from runtime.output import reserve_standard_streams, say
from runtime.processes import Child, held, listens
from runtime.settings import Settings, load_settings
from runtime.signals import stop_signals

NAMES = ("broker", "inventory", "shop", "payment")
EXAMPLES = """examples:
  %(prog)s --without payment
  %(prog)s --drill --faults 1000         takes half an hour
  %(prog)s --drill --minutes 5 --seed 42
Settings are environment variables: README.md lists them."""
SERVICES_TIMEOUT_S, BROKER_TIMEOUT_S = 4.0, 4.6  # of the 5 s that a stop may take


def addresses(settings: Settings) -> dict[str, dict[str, tuple[str, int]]]:
    """Host and port of what each process listens on, by the setting that names it."""

    def endpoint(url: str) -> tuple[str, int]:
        parts = urlsplit(url)
        return str(parts.hostname), int(parts.port or 0)

    return {
        "broker": {
            "BROKER_PUBLISH_URL": endpoint(settings.broker_publish_url),
            "BROKER_SUBSCRIBE_URL": endpoint(settings.broker_subscribe_url),
            "BROKER_HTTP_PORT": (settings.host, settings.broker_http_port),
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


def number(kind: type[int] | type[float], least: float, text: str) -> float:
    """Parse a finite number."""
    with suppress(ValueError):
        if least <= (value := kind(text)) < float("inf"):
            return value
    whole = "whole " * (kind is int)
    raise argparse.ArgumentTypeError(f"{text!r} is no {whole}number from {least} on")


def supervise(
    children: list[Child],
    wanted: dict[str, dict[str, tuple[str, int]]],
    stopped: Callable[[float], bool],
) -> None:
    """Say when all are up, and when one has ended, until a signal comes or none is left."""
    announced = False
    while children and not stopped(0.1):
        for child in [child for child in children if child.process.poll() is not None]:
            children.remove(child)
            say(f"{child.name} {child.end()}; start it again: python -m {child.name}")
        expected = [pair for child in children for pair in wanted[child.name].values()]
        if children and not announced and all(listens(*pair) for pair in expected):
            announced = True
            for child in children:
                if child.name != "broker":
                    ((host, port),) = wanted[child.name].values()
                    say(f"{child.name:9} http://{host}:{port}")
            say("Ctrl-C stops everything.")


def main() -> None:
    """Run until Ctrl-C or SIGTERM, then stop the services, and the broker after them."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawTextHelpFormatter
    )
    add, length = parser.add_argument, parser.add_mutually_exclusive_group()
    add("--only", type=names, metavar="shop,broker", help="start these alone")
    add("--without", type=names, metavar="payment", help="start all but these")
    add("--drill", action="store_true", help="kill a shop of its own at random, and check it")
    length.add_argument("--faults", type=partial(number, int, 1), metavar="N", help="default: 20")
    length.add_argument("--minutes", type=partial(number, float, 0.1), metavar="M")
    add("--seed", type=partial(number, int, 0), metavar="S", help="the same seed, the same faults")
    arguments = parser.parse_args()
    play = arguments.faults, arguments.minutes, arguments.seed
    misplaced = (arguments.only, arguments.without) if arguments.drill else play
    if any(value is not None for value in misplaced):
        parser.error("--faults, --minutes and --seed go with --drill, --only and --without do not")
    reserve_standard_streams()
    if arguments.drill:
        from scenarios.drill.conduct import drill  # noqa: PLC0415  # the shop needs none of it

        raise SystemExit(drill(*play))
    chosen = [n for n in arguments.only or NAMES if n not in (arguments.without or [])]
    if not chosen:
        parser.error("this leaves nothing to start")
    wanted = addresses(load_settings())
    if lines := [line for name in chosen for line in held(wanted[name])]:
        raise SystemExit("\n".join(lines))
    with stop_signals() as stopped:
        children = [Child(name, 32 + NAMES.index(name)) for name in chosen]
        supervise(children, wanted, stopped)
        begun = time.monotonic()
        for is_broker, timeout_s in ((False, SERVICES_TIMEOUT_S), (True, BROKER_TIMEOUT_S)):
            group = [child for child in children if (child.name == "broker") is is_broker]
            for child in group:
                child.signal(signal.SIGTERM)
            for child in group:
                child.stop(begun + timeout_s)
    if not children:
        raise SystemExit("nothing is running any more")


if __name__ == "__main__":
    main()
