"""The shop under simulated clocks, networks, schedulers and disks: the promises hold."""

import gc
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.simulation.history import Action, History
from tests.simulation.mutants import MUTANTS, Mutant, hunt, mutated
from tests.simulation.play import history_of, play
from tests.simulation.regimes import REGIMES
from tests.simulation.shrink import shrink

HISTORIES = Path(__file__).parent / "simulation" / "histories"
SEEDS = range(1, 41)
ACTIONS = {"crash": 90, "poison": 80, "restore": 150}  # what they are for comes late
CPU_S = 90  # within which a mutant is found, all but one within 60
GUARDS = {  # without which each history breaks a promise, as it did before there was the guard
    "1_a_commit_answered_with_an_error": "dropped when a run is tried again",
    "1_a_leader_that_sleeps": "dropped when a run is tried again",
    "2_two_writers_of_one_epoch": "an outbox takes nothing that cannot be told",
    "3_a_hole_inside_an_epoch": "a hole stops a stream",
    "4_what_cannot_be_told": "an outbox takes nothing that cannot be told",
    "5_a_reader_ahead": "a journal that stays below the place stops a stream",
    "5_a_journal_lost_after_cuts": "lacks what the outbox has no more",
    "6_an_older_clock": "a journal that stays below the place stops a stream",
    "7_the_broker_goes_as_a_problem_is_found": "an outbox takes nothing that cannot be told",
    "8_a_lost_event_of_a_copy": "refuses an event that follows another",
}
QUICK = [  # found in one or two histories
    "a place moves on only from where it was",
    "a failed handler is undone",
    "a dead event is set aside",
    "the journal acknowledges what is on disk",
]
DIGEST = """
import hashlib
from tests.simulation.play import history_of, play
digest = hashlib.sha256()
for regime in ("line", "crash", "restore", "copies"):
    play(history_of(regime, 7, 60), lambda line: digest.update(line.encode()))
print(digest.hexdigest())
"""


def name_of(mutant: Mutant) -> str:
    return mutant.guard.replace(" ", "-")


def guarded(words: str) -> Mutant:
    """The one mutant whose guard is called so."""
    (found,) = [mutant for mutant in MUTANTS if words in mutant.guard]
    return found


@pytest.fixture(autouse=True)
def collected() -> None:
    """Histories collect no garbage while they are played."""
    gc.collect()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("regime", REGIMES)
def test_the_promises_hold(regime: str) -> None:
    """In none of these histories is one broken, and each thing that a regime is for happens."""
    reached: Counter[str] = Counter()
    for seed in SEEDS:
        outcome = play(history_of(regime, seed, ACTIONS.get(regime, 50)))
        assert not outcome.broken, f"seed {seed} of {regime}: {outcome.broken}"
        reached += outcome.counts
    assert not [what for what in REGIMES[regime].reaches if not reached[what]]


@pytest.mark.parametrize("name", GUARDS)
def test_a_history_that_broke_a_promise_breaks_it_no_more(name: str) -> None:
    """It still would, without the guard that there is now."""
    history = History.load(HISTORIES / f"{name}.json")
    assert not play(history).broken
    with mutated(guarded(GUARDS[name])):
        assert play(history).broken


def test_every_history_is_played() -> None:
    assert {path.stem for path in HISTORIES.glob("*.json")} == GUARDS.keys()


@pytest.mark.parametrize("mutant", MUTANTS, ids=name_of)
def test_each_guard_is_where_its_mutant_takes_it_out(mutant: Mutant) -> None:
    with mutated(mutant):
        pass


@pytest.mark.parametrize("words", QUICK)
def test_a_missing_guard_is_found(words: str) -> None:
    assert hunt(guarded(words), CPU_S)


@pytest.mark.chaos
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "mutant", [mutant for mutant in MUTANTS if not mutant.covered_by], ids=name_of
)
def test_every_missing_guard_is_found(mutant: Mutant) -> None:
    found = hunt(mutant, CPU_S)
    assert found
    print(f"{mutant.guard}: {found.cpu_s:.1f} s, {found.regime} {found.seed}: {found.broken:.80}")


def test_the_same_seed_gives_the_same_history() -> None:
    """Whatever the order of hashes is."""
    digests = {
        subprocess.run(
            [sys.executable, "-c", DIGEST],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(digests) == 1


def test_leaving_out_an_action_changes_no_others_dice() -> None:
    history = history_of("line", 1, 10)
    throws = [action.dice().random() for action in history.actions]
    shorter = history._replace(actions=history.actions[5:])
    assert [action.dice().random() for action in shorter.actions] == throws[5:]


def test_a_history_is_saved_and_loaded(tmp_path: Path) -> None:
    history = History("line", 3, [Action("wait", 5, {"for": 1.5}), Action("kill", 6)])
    history.save(tmp_path / "history.json")
    assert History.load(tmp_path / "history.json") == history


def test_a_history_that_breaks_a_promise_is_made_short() -> None:
    """Without the guard, what has no part in it is left out."""
    short = History.load(HISTORIES / "1_a_commit_answered_with_an_error.json")
    others = [Action("create_user", 100 + n) for n in range(8)]
    with mutated(guarded("dropped when a run is tried again")):
        found = shrink(short._replace(actions=[*others[:4], *short.actions, *others[4:]]))
        assert play(found).broken
    assert len(found.actions) <= len(short.actions)
