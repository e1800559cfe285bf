"""Measure the shop against others that do the same work, in one run, and show how it compares."""

import argparse
import os
import platform
import signal
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from bench import chart, load, report
from bench.figures import FIGURES
from bench.findings import Result, Results, Run
from bench.processes import Processes
from bench.turns import Effort
from runtime import ROOT
from runtime.process.clock import timestamp
from runtime.process.commands import Parser, number
from runtime.process.output import deliver

RESULTS = ROOT / "bench" / "results.json"
CHART = ROOT / "docs" / "images" / "performance.png"
ROUNDS, SECONDS = 5, 5.0
QUICK_ROUNDS, QUICK_SECONDS = 2, 1.0
EXAMPLES = f"""examples:
  %(prog)s                          everything, in about an hour
  %(prog)s --quick                  a few seconds a figure, to see that all works
  %(prog)s --only checkout,events
  %(prog)s --only growth --rounds 9
  %(prog)s --show                   the kept table and chart once more
figures: {", ".join(FIGURES)}
What is measured anew replaces what is kept of it in bench/results.json and in the chart; --quick
keeps nothing, unless --output says where. docs/performance.md explains the figures."""


def figures(text: str) -> list[str]:
    """Parse a comma-separated list of figures."""
    chosen = text.split(",")
    if unknown := set(chosen) - set(FIGURES):
        raise argparse.ArgumentTypeError(f"{unknown.pop()!r} is not one of {', '.join(FIGURES)}")
    return chosen


def run_of(effort: Effort) -> Run:
    """The conditions of a run that begins now."""
    versions = f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}"
    return Run(
        at=timestamp(),
        system=f"{os.cpu_count()} cores, {platform.system()}, {versions}",
        load=f"{load.CONNECTIONS} connections of {load.GENERATOR}",
        **effort._asdict(),
    )


def measure(name: str, effort: Effort, run: Run) -> Result:
    """Measure one figure in a temporary folder; what goes wrong is its ``failure``."""
    with TemporaryDirectory(prefix="parrot-bench-") as folder:
        try:
            with Processes(Path(folder)) as processes:
                return Result(run=run, findings=FIGURES[name](processes, effort))
        except Exception as error:  # the other figures can be measured all the same
            deliver(f"{name} was not measured: {error!r}")
            return Result(run=run, findings=[], failure=str(error) or repr(error))


def main() -> int:
    """Measure, print the table, and keep it; the exit code tells whether all was measured."""
    parser = Parser(
        prog="python -m bench",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    add = parser.add_argument
    add("--only", type=figures, metavar="NAME,…", default=list(FIGURES), help="these figures")
    add("--quick", action="store_true", help="little of each, and numbers that mean little")
    add(
        "--rounds",
        type=number(int, 1),
        metavar="N",
        help="turns of each contestant; default: 5, quick: 2",
    )
    add("--output", type=Path, metavar="FILE", help="keep results there, and a chart beside them")
    add("--show", action="store_true", help="measure nothing, show and draw what is kept")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends all processes, as Ctrl-C does
    if arguments.show:
        return show(arguments.output or RESULTS)
    rounds = arguments.rounds or (QUICK_ROUNDS if arguments.quick else ROUNDS)
    seconds = QUICK_SECONDS if arguments.quick else SECONDS
    effort = Effort(rounds, seconds, arguments.quick)
    run = run_of(effort)
    results = {name: measure(name, effort, run) for name in arguments.only}
    deliver(f"\n{report.table(results)}")
    measured = {name: result for name, result in results.items() if not result.failure}
    if arguments.output or not arguments.quick:
        keep(arguments.output or RESULTS, measured)
    return 0 if len(measured) == len(results) else 1


def keep(path: Path, results: Mapping[str, Result]) -> None:
    """Keep results beside those that are there, and draw all of them."""
    kept = report.keep(path, results)
    deliver(f"\nkept in {path}")
    draw(path, kept)


def show(path: Path) -> int:
    """Print the table of a file, and draw its chart again."""
    kept = report.load(path)
    deliver(report.table(kept.figures))
    draw(path, kept)
    return 0


def draw(path: Path, results: Results) -> None:
    """Draw the chart that goes with a file of results."""
    deliver(chart.draw(results.figures, CHART if path == RESULTS else path.with_suffix(".png")))


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except KeyboardInterrupt:
        raise SystemExit(130) from None
