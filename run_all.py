"""Start the whole parrot shop: broker, inventory, shop and payment, until Ctrl-C."""

import argparse
import signal
import time
from collections.abc import Callable
from urllib.parse import urlsplit

from runtime.process.children import Child, ending, held, listens
from runtime.process.commands import command_line, number
from runtime.process.output import complain, reserve_standard_streams, say
from runtime.process.settings import NAMES, Settings, authority, load_settings
from runtime.process.signals import stop_signals

EXAMPLES = """\
%(prog)s
%(prog)s --without payment
%(prog)s --demo                        a stocked shop that survives crashes
%(prog)s --audit                       are the databases in DATA_DIR right?
%(prog)s --drill --faults 1000         takes half an hour
%(prog)s --drill --minutes 5 --seed 42
%(prog)s --drill --scale               two copies of each, on PostgreSQL and NATS"""
SERVICES_TIMEOUT_S, BROKER_TIMEOUT_S = 4.0, 4.6  # of the 5 s that a stop may take


def addresses(settings: Settings, name: str) -> dict[str, tuple[str, int]]:
    """Host and port of what a process listens on, by the setting that names it."""
    port, setting = settings.http_port(name)
    found = {setting: (settings.host, port)}
    if name == "broker":
        publish, subscribe = settings.broker_publish_url, settings.broker_subscribe_url
        for variable, url in (("PUBLISH", publish), ("SUBSCRIBE", subscribe)):
            parts = urlsplit(url)
            found[f"BROKER_{variable}_URL"] = str(parts.hostname), int(parts.port or 0)
    return found


def names(text: str) -> list[str]:
    """Parse a comma-separated list of processes."""
    chosen = text.split(",")
    if unknown := set(chosen) - set(NAMES):
        raise argparse.ArgumentTypeError(f"{unknown.pop()!r} is not one of {', '.join(NAMES)}")
    return chosen


def parse() -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    """Read the command line; options that do not go together are refused."""
    parser = command_line(__doc__, EXAMPLES)
    add, length = parser.add_argument, parser.add_mutually_exclusive_group()
    mode = parser.add_mutually_exclusive_group().add_argument
    add("--only", type=names, metavar="shop,broker", help="start only these")
    add("--without", type=names, metavar="payment", help="start all but these")
    add("--abort-on-exit", action="store_true", help="when one process ends, stop all; exit code 1")
    mode("--demo", action="store_true", help="demonstrate a new shop, and leave it running")
    add("--exit", action="store_true", help="end when the demo is over")
    mode("--audit", action="store_true", help="check the databases, even of a running shop")
    mode("--drill", action="store_true", help="kill parts of a new shop at random, and check it")
    length.add_argument("--faults", type=number(int, 1), metavar="N", help="default: 20")
    length.add_argument("--minutes", type=number(float, 0.1), metavar="M", help="instead of N")
    add("--seed", type=number(int, 0), metavar="S", help="the same seed gives the same faults")
    scale_help = "two copies of each service, on PostgreSQL and NATS servers of its own"
    add("--scale", action="store_true", default=None, help=scale_help)
    given = parser.parse_args()
    options = ("faults", "minutes", "seed", "scale")
    of_drill = {f"--{name}": getattr(given, name) for name in options}
    of_shop = {
        "--only": given.only,
        "--without": given.without,
        "--abort-on-exit": given.abort_on_exit,
    }
    is_shop = not (given.drill or given.demo or given.audit)
    misplaced = [
        *(name for name, value in of_drill.items() if value is not None and not given.drill),
        *(name for name, value in of_shop.items() if value and not is_shop),
        *["--exit"] * (given.exit and not given.demo),
    ]
    if misplaced:
        parser.error(
            f"{misplaced[0]} is not allowed here: {', '.join(of_drill)} need --drill, "
            f"--exit needs --demo, and {', '.join(of_shop)} go with no other mode"
        )
    return parser, given


def supervise(
    children: list[Child],
    wanted: dict[str, dict[str, tuple[str, int]]],
    stopped: Callable[[float], int],
    together: bool,
) -> int:
    """Say when all are up, and when one has ended, until a signal comes or none is left.

    With ``together``, all end when one does. Returns the exit code.
    """
    announced = False
    while children and not stopped(0.1):
        for child in [child for child in children if child.process.poll() is not None]:
            children.remove(child)
            end = ending(child.process.returncode)
            if together:
                complain(f"{child.name} {end}: the others are stopped", service="run_all")
                return 1
            say(f"{child.name} {end}; start it again: python -m {child.name}")
        expected = [pair for child in children for pair in wanted[child.name].values()]
        if children and not announced and all(listens(*pair) for pair in expected):
            announced = True
            for child in children:
                if child.name != "broker":
                    ((host, port),) = wanted[child.name].values()
                    say(f"{child.name:9} http://{authority(host, port)}")
            say("Ctrl-C stops everything.")
    if not children:
        complain("nothing is running any more", service="run_all")
    return int(not children)


def stop(children: list[Child]) -> None:
    """Stop the services, and the broker after them."""
    begun = time.monotonic()
    for is_broker, timeout_s in ((False, SERVICES_TIMEOUT_S), (True, BROKER_TIMEOUT_S)):
        group = [child for child in children if (child.name == "broker") is is_broker]
        for child in group:
            child.signal(signal.SIGTERM)
        for child in group:
            child.stop(begun + timeout_s)


def main() -> None:
    """Run until a signal asks for the end, and leave no child behind."""
    parser, given = parse()
    reserve_standard_streams()
    if given.drill:
        from scenarios.drill.conduct import drill  # noqa: PLC0415  # the shop needs none of it

        raise SystemExit(drill(given.faults, given.minutes, given.seed, bool(given.scale)))
    settings = load_settings()
    if given.audit:
        from scenarios.audit import audit  # noqa: PLC0415  # likewise

        raise SystemExit(audit(settings))
    left_out = [*(given.without or []), *["broker"] * bool(settings.broker_url and not given.demo)]
    chosen = [n for n in given.only or NAMES if n not in left_out]
    if not chosen:
        why = ": the broker is NATS, at BROKER_URL" * bool(settings.broker_url)
        parser.error(f"this leaves nothing to start{why}")
    wanted = {name: addresses(settings, name) for name in chosen}
    if lines := [line for name in chosen for line in held(wanted[name])]:
        for line in lines:
            complain(line, service="run_all")
        raise SystemExit(1)
    if given.demo:
        from scenarios.demo import demo  # noqa: PLC0415  # likewise

        raise SystemExit(demo(settings, given.exit))
    with stop_signals() as stopped:
        children: list[Child] = []
        try:
            for name in chosen:
                children.append(Child(name, 32 + NAMES.index(name)))
            code = supervise(children, wanted, stopped, given.abort_on_exit)
        finally:
            stop(children)
    raise SystemExit(code)


if __name__ == "__main__":
    main()
