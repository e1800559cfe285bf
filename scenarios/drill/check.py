"""The check: the answers that clients got, compared with what is in the four databases.

The verdicts are those of Jepsen's set checker, by the ids of requests, which events carry on.
"""

import re
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from scenarios.drill.load import Outcome, Request
from scenarios.invariants import READERS, RULES, WRITERS, WRONG, damages, opened, prepare


class Verdict(NamedTuple):
    """What became of the requests of one stream, by their ids."""

    confirmed: frozenset[str]
    refused: frozenset[str]
    unanswered: frozenset[str]
    lost: frozenset[str]  # confirmed, and missing somewhere
    duplicated: frozenset[str]  # somewhere more than once
    unexpected: frozenset[str]  # somewhere, but refused or never asked for
    recovered: frozenset[str]  # unanswered, and yet there: no fault

    @property
    def good(self) -> bool:
        """Whether nothing was lost, doubled or made up."""
        return not (self.lost or self.duplicated or self.unexpected)


def judge(outcomes: Mapping[str, Outcome], places: Sequence[Mapping[str, int]]) -> Verdict:
    """Compare outcomes with how often each request is in each place where it should be once."""
    confirmed, refused, unanswered = (
        frozenset(one for one, outcome in outcomes.items() if outcome is wanted)
        for wanted in (Outcome.CONFIRMED, Outcome.REFUSED, Outcome.UNANSWERED)
    )
    somewhere = frozenset[str]().union(*places)
    everywhere = somewhere.intersection(*places)
    return Verdict(
        confirmed,
        refused,
        unanswered,
        lost=confirmed - everywhere,
        duplicated=frozenset(one for place in places for one, n in place.items() if n > 1),
        unexpected=somewhere - confirmed - unanswered,
        recovered=somewhere & unanswered,
    )


class Findings(NamedTuple):
    """What a check has found; ``complaints`` has a line for each rule that is broken."""

    verdicts: dict[str, Verdict]
    complaints: list[str]
    payments: int = 0
    repeated_lines: int = 0


def check(folder: Path, requests: Sequence[Request], crashes: int) -> Findings:
    """Check the folder of a system whose processes have ended, after so many ``crashes`` that let
    payment repeat lines.
    """
    consoles = sorted(folder.glob("payment*.out"))
    printed = [console.read_text().splitlines() for console in consoles]
    try:
        with opened(folder / "data") as db:
            odd_rows = [*damages(db), *_broken_rules(db), *_missing_answers(db, requests)]
            wanted = _lines(db)
            odd_lines, repeated = compare_lines(printed, wanted, crashes)
            return Findings(_verdicts(db, requests), odd_rows + odd_lines, len(wanted), repeated)
    except sqlite3.Error as error:
        return Findings({}, [f"the databases cannot be read: {error}"])


def _verdicts(db: sqlite3.Connection, requests: Iterable[Request]) -> dict[str, Verdict]:
    outcomes: dict[str, dict[str, Outcome]] = {stream: {} for stream in WRITERS}
    for request in requests:
        outcomes[request.stream][request.id] = request.outcome
    verdicts = {}
    for stream, writer in WRITERS.items():
        places = [
            _count(db, f"SELECT body FROM broker.entry WHERE stream = '{stream}'"),
            _count(db, f"SELECT body FROM {writer}.outbox"),
            _count(db, f"SELECT body FROM {READERS[stream]}.inbox WHERE stream = '{stream}'"),
        ]
        if stream == "payments":
            places.append(_count(db, PAYMENT_ROWS))
        verdicts[stream] = judge(outcomes[stream], places)
        if stream == "orders":  # each of them is to be paid, under the same id
            outcomes["payments"] |= dict.fromkeys(places[0], Outcome.CONFIRMED)
    return verdicts


def _count(db: sqlite3.Connection, bodies: str) -> Counter[str]:
    query = f"SELECT json_extract(CAST(body AS TEXT), '$.correlationid') FROM ({bodies})"
    return Counter(str(request_id) for (request_id,) in db.execute(query))


# For each payment the event that asked for it, or, where none did, the one that announces it.
PAYMENT_ROWS = """
    WITH placed AS MATERIALIZED (
             SELECT body, json_extract(CAST(body AS TEXT), '$.data.order_id') AS order_id
             FROM broker.entry WHERE stream = 'orders'),
         paid AS MATERIALIZED (
             SELECT body,
                    CAST(json_extract(CAST(body AS TEXT), '$.data.payment_id') AS INTEGER) AS id
             FROM payment.outbox)
    SELECT coalesce(placed.body, paid.body, '{}') AS body FROM payment.payment AS row
    LEFT JOIN placed ON placed.order_id = dashed(row.order_id)
    LEFT JOIN paid ON paid.id = row.id"""


# Nothing is pruned in a drill.
APPLIED = {
    f"every event of {stream} was applied by {READERS[stream]}": f"""
        SELECT sequence, '{WRONG}' FROM {writer}.outbox WHERE sequence NOT IN (
            SELECT sequence FROM {READERS[stream]}.inbox WHERE stream = '{stream}')"""
    for stream, writer in WRITERS.items()
}


def _broken_rules(db: sqlite3.Connection) -> Iterator[str]:
    prepare(db)
    for rule, query in (RULES | APPLIED).items():
        if culprits := [culprit for culprit, *_ in db.execute(query)]:
            yield _complaint(rule, culprits)


def _complaint(rule: str, culprits: Sequence[object]) -> str:
    return f"{rule}: broken {len(culprits):,} times, first by {culprits[0]}"


# The members of an answer that never change, and the columns where they are stored.
ANSWERED = {
    "items": (("id", "name", "price"), "SELECT id, name, price FROM inventory.item"),
    "orders": (
        ("id", "user_id", "price", "placed_at"),
        'SELECT dashed(id), user_id, price, placed_at FROM shop."order"',
    ),
    "payments": (
        ("id", "user_id", "price", "paid_at"),
        "SELECT id, user_id, price, paid_at FROM payment.payment",
    ),
}


def _missing_answers(db: sqlite3.Connection, requests: Sequence[Request]) -> Iterator[str]:
    for stream, (names, query) in ANSWERED.items():
        rows = set(db.execute(query))
        missing = [
            request.id
            for request in requests
            if (request.stream, request.outcome) == (stream, Outcome.CONFIRMED)
            if (answer := request.answer) and tuple(answer[name] for name in names) not in rows
        ]
        if missing:
            yield _complaint(f"confirmed {stream} are in {WRITERS[stream]}.db", missing)


def _lines(db: sqlite3.Connection) -> list[str]:
    """What payment is to print."""
    query = """
        SELECT 'Payment ' || id || ' of ' || price || ' by user ' || user_id ||
               coalesce(' for order ' || dashed(order_id), '') || ' succeeded'
        FROM payment.payment"""
    return [line for (line,) in db.execute(query)]


def compare_lines(
    consoles: Sequence[Sequence[str]], wanted: Iterable[str], crashes: int
) -> tuple[list[str], int]:
    """Complaints about what copies of payment have printed, and how many lines came again.

    After a crash one may print again some of the last lines, but its numbers only go up until then.
    """
    printed = [line for console in consoles for line in console]
    rules = {
        "each payment is printed": set(wanted) - set(printed),
        "each printed line is a payment": set(printed) - set(wanted),
    }
    complaints = [_complaint(rule, sorted(odd)) for rule, odd in rules.items() if odd]
    steps_back = sum(
        after <= before for console in consoles for before, after in pairwise(_numbers(console))
    )
    if steps_back > crashes:
        complaints.append(
            f"payment's lines went back {steps_back} times, but there were {crashes} crashes"
        )
    return complaints, len(printed) - len(set(printed))


def _numbers(console: Iterable[str]) -> list[int]:
    return [int(found[1]) for line in console if (found := re.match(r"Payment (\d+) ", line))]
