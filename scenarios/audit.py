"""The audit: one moment of a shop, which may be selling, checked by the rules of the drill."""

import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from runtime.backup import left_out, nobody_commits
from runtime.process.output import complain, deliver
from runtime.process.progress import Progress
from runtime.process.settings import NAMES, Settings
from runtime.process.signals import stop_signals
from scenarios.drill.report import table
from scenarios.invariants import COMING, RULES, WRONG, damages, opened, prepare
from scenarios.system import named_servers

STEPS = 100_000  # of SQLite's machine, between two looks at the clock and for signals
COUNTED = {"items": "inventory.item", "orders": 'shop."order"', "payments": "payment.payment"}
Row = tuple[str, int, int, str]  # rule, how often something is on its way, or wrong; the first


def audit(settings: Settings) -> int:
    """Print what was found in ``DATA_DIR``; returns 1 if anything is wrong, else 0."""
    if named := named_servers(settings):
        complain(f"audit: it reads only SQLite files, but {named[0]} is set", service="audit")
        return 1
    step, rows = "taking the snapshot", list[Row]()
    progress = Progress(lambda: step)
    with stop_signals() as stopped:

        def look() -> bool:
            progress.show()
            return bool(stopped(0))  # which ends the query with an error

        try:
            with one_moment(settings.data_dir) as db:
                db.set_progress_handler(look, STEPS)
                counts = [
                    f"{db.execute(f'SELECT count(*) FROM {source}').fetchone()[0]:,} {name}"
                    for name, source in COUNTED.items()
                ]
                step = "checking the files"
                damaged = list(damages(db))
                rows.append(("the files are whole", 0, len(damaged), "; ".join(damaged)))
                prepare(db)
                for step, query in RULES.items():
                    rows.append(apply(db, step, query))
        except (OSError, sqlite3.Error) as error:
            progress.clear()
            complain(f"audit: {'ended by a signal' if stopped(0) else error}", service="audit")
            return 1
    progress.clear()
    deliver(table(("rule", "on its way", "wrong", "the first"), rows))
    broken = sum(bool(wrong) for _, _, wrong, _ in rows)
    verdict = f"{broken} of {len(rows)} rules are broken" if broken else "nothing is wrong"
    deliver(f"\n{', '.join(counts)}: {verdict}")
    return int(bool(broken))


@contextmanager
def one_moment(folder: Path) -> Iterator[sqlite3.Connection]:
    """The four databases as they are now, for as long as this is open."""
    paths = [folder / f"{name}.db" for name in NAMES]
    for path in paths:
        if not path.exists():
            raise FileNotFoundError(f"there is no {path}: is DATA_DIR right?")
        if reason := left_out(path):
            raise FileNotFoundError(f"{path} {reason}")
    with opened(folder) as db:
        with nobody_commits(paths):
            db.execute("BEGIN")
            for name in NAMES:  # the snapshots begin
                db.execute(f"SELECT count(*) FROM {name}.sqlite_master").fetchone()
        yield db
        db.execute("ROLLBACK")


def apply(db: sqlite3.Connection, rule: str, query: str) -> Row:
    """Count what contradicts a rule."""
    found, first = Counter[str](), ""
    for culprit, kind in db.execute(query):
        found[kind] += 1
        if kind == WRONG:
            first = first or str(culprit)
    return rule, found[COMING], found[WRONG], first
