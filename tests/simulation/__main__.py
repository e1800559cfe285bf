"""Run campaigns of the simulation, or play one history again."""

import argparse
import gc
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import count
from pathlib import Path

from tests.simulation.history import History
from tests.simulation.play import Outcome, history_of, play
from tests.simulation.regimes import LENGTH, REGIMES
from tests.simulation.shrink import shrink

EXAMPLES = """\
python -m tests.simulation --seconds 600
python -m tests.simulation --seconds 600 --regime restore --seed 1 --shrink
python -m tests.simulation --history broken-restore-17.json --trace"""
COLLECT_EVERY = 16  # histories


def main() -> None:
    """Exit code 1 if a promise was broken, or a regime has not reached what it is for."""
    parser = argparse.ArgumentParser(
        "python -m tests.simulation",
        description=__doc__,
        epilog=f"examples:\n{EXAMPLES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seconds", type=float, default=60, help="for how long, in all")
    parser.add_argument("--faults", type=int, help="instead: until there were so many in all")
    parser.add_argument("--regime", choices=REGIMES, action="append", help="not all of them")
    parser.add_argument("--seed", type=int, default=1, help="the first of each regime")
    parser.add_argument("--actions", type=int, default=LENGTH, help="of a history")
    parser.add_argument("--jobs", type=int, default=1, help="regimes side by side")
    parser.add_argument("--shrink", action="store_true", help="make what breaks a promise short")
    parser.add_argument("--history", type=Path, metavar="FILE", help="play this one instead")
    parser.add_argument("--trace", action="store_true", help="show what happens in it")
    parser.add_argument("--counts", action="store_true", help="show all counters")
    arguments = parser.parse_args()
    raise SystemExit(_replay(arguments) if arguments.history else _campaign(arguments))


def _replay(arguments: argparse.Namespace) -> int:
    outcome = play(History.load(arguments.history), print if arguments.trace else None)
    print(outcome.broken or f"passed, in {outcome.simulated_s:.1f} simulated seconds")
    return int(bool(outcome.broken))


def _campaign(arguments: argparse.Namespace) -> int:
    names = arguments.regime or [*REGIMES]
    run = partial(campaign, arguments=arguments, parts=len(names))
    print("regime    histories    faults  messages    actions  simulated s  CPU s  broken")
    with ProcessPoolExecutor(arguments.jobs) as pool:
        return int(any([*pool.map(run, names)]))


def campaign(name: str, arguments: argparse.Namespace, parts: int) -> bool:
    """Play one regime's histories, seed after seed; whether anything is wrong."""
    total: Counter[str] = Counter()
    broken = 0
    simulated_s = cpu_s = 0.0
    histories = 0
    ends_at = time.monotonic() + arguments.seconds * arguments.jobs / parts
    for seed in count(arguments.seed):
        enough = arguments.faults and sum(faults(total)) >= arguments.faults / parts
        if enough or (not arguments.faults and time.monotonic() >= ends_at):
            break
        outcome = play(history_of(name, seed, arguments.actions))
        histories += 1
        total += outcome.counts
        simulated_s, cpu_s = simulated_s + outcome.simulated_s, cpu_s + outcome.cpu_s
        if outcome.broken:
            broken += 1
            _tell(name, seed, outcome, arguments)
        if histories % COLLECT_EVERY == 0:
            gc.collect()
    ours, messages = faults(total)
    acted = histories * arguments.actions
    print(
        f"{name:10}{histories:9,}{ours:10,}{messages:10,}{acted:11,}"
        f"{simulated_s:13,.0f}{cpu_s:7,.0f}{broken:8}",
        flush=True,
    )
    missing = [what for what in REGIMES[name].reaches if not total[what]]
    if missing:
        print(f"{name} has never reached: {', '.join(missing)}", flush=True)
    if arguments.counts:
        print("\n".join(f"    {what}: {times:,}" for what, times in sorted(total.items())))
    return bool(broken or missing)


def faults(counts: Counter[str]) -> tuple[int, int]:
    """How many there were of processes, disks, files, clocks and handlers, and of messages."""
    found = {kind: times for kind, times in counts.items() if kind.startswith("fault: ")}
    messages = sum(times for kind, times in found.items() if kind.startswith("fault: message"))
    return sum(found.values()) - messages, messages


def _tell(name: str, seed: int, outcome: Outcome, arguments: argparse.Namespace) -> None:
    history = history_of(name, seed, arguments.actions)
    if arguments.shrink:
        history = shrink(history)
    path = Path(f"broken-{name}-{seed}.json")
    history.save(path)
    print(f"{name} {seed}: {outcome.broken}\n    {path} plays it again", flush=True)


if __name__ == "__main__":
    main()
