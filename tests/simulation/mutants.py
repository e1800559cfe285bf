"""Mutants: the product with one guard taken out, which the simulation must find."""

import importlib
import inspect
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any, NamedTuple

from tests.simulation.play import history_of, play


class Mutant(NamedTuple):
    """A guard, where it is, and the text that takes its place; it must be there once.

    ``regimes`` are those in which it can be missed. One that another guard ``covers`` is not found.
    """

    guard: str
    target: str  # module:name, or module:Class.method
    old: str
    new: str
    regimes: tuple[str, ...]
    covered_by: str = ""


PUBLISHER, READER = "messaging.publisher:Publisher", "messaging.inbox:Reader"
JOURNAL, CATALOGUE = "broker.journal:Journal", "shop.catalogue:Catalogue"

MUTANTS = [
    Mutant(
        "the journal refuses an event that follows another than the one it holds",
        "broker.journal:_follows_another",
        "previous(bodies[0]) not in (None, held)",
        "False",
        ("fork",),
        covered_by="the digest in the ack, but for the history of the lost event of a copy",
    ),
    Mutant(
        "a place moves on only from where it was",
        "messaging.inbox:MOVE",
        "cursor.epoch = ? AND cursor.sequence = ?",
        "? IS NOT NULL AND ? IS NOT NULL",
        ("copies",),
    ),
    Mutant(
        "what is at or below the place is dropped when a run is tried again",
        f"{READER}._due",
        "return due if due and due[0].follows == self.place else []",
        "return run",
        ("copies", "disk"),
    ),
    Mutant(
        "the place is read again after an error",
        f"{READER}._commit",
        "self._is_stale = True",
        "pass",
        ("disk", "copies"),
    ),
    Mutant(
        "effects and place are of one transaction",
        f"{READER}._apply",
        "move(self._database, self.stream, self.place, events[-1].place)",
        "self._database.commit(); self._database.begin(); "
        "move(self._database, self.stream, self.place, events[-1].place)",
        ("crash", "disk"),
    ),
    Mutant(
        "a failed handler is undone",
        f"{READER}._apply",
        "with self._database.write():",
        "with self._database.write(), suppress(ValueError):",
        ("poison",),
    ),
    Mutant(
        "an event that fails is tried again before it is dead",
        f"{READER}._give_up",
        "self._tries >= MAX_TRIES",
        "self._tries >= 1",
        ("poison",),
    ),
    Mutant(
        "an event that fails eight times is dead",
        f"{READER}._give_up",
        "or self._tries >= MAX_TRIES",
        "",
        ("poison",),
    ),
    Mutant(
        "a dead event is set aside",
        f"{READER}._fail",
        "self._bury(event, error)",
        "move(self._database, self.stream, self.place, event.place); self._move_on(event.place)",
        ("poison",),
    ),
    Mutant(
        "an outage kills no event",
        f"{READER}._commit",
        "if is_outage(error):",
        "if False:",
        ("disk",),
    ),
    Mutant(
        "nothing is applied before the publisher has compared",
        "messaging.exchange:Exchange._listeners",
        "if self._publisher.ready:",
        "if True:",
        ("restore", "fork"),
        covered_by="readers compare the event at their place, and outboxes take none meanwhile",
    ),
    Mutant(
        "nothing is applied before the reader has compared",
        f"{READER}.receive",
        "if not self._is_compared and place.sequence and run.follows != before:",
        "if False:",
        ("restore", "fork"),
        covered_by="a reader compares what it hears again, as it does after each outage",
    ),
    Mutant(
        "a reader compares what it hears again",
        f"{READER}.compare",
        "if bytes(kept.get(place.sequence, body)) != body:",
        "if False:",
        ("restore", "fork"),
    ),
    Mutant(
        "a hole stops a stream",
        f"{READER}.skip",
        "if self._tip().sequence == 0:",
        "if True:",
        ("restore",),
    ),
    Mutant(
        "a journal that stays below the place stops a stream",
        f"{READER}.handle_end",
        "if not START < head < self.place:",
        "if True:",
        ("restore",),
    ),
    Mutant(
        "an event follows the one before it",
        "messaging.follower:Follower.receive",
        "if fresh and fresh[0].follows != tip:",
        "if False:",
        ("line",),
        covered_by="a hole stops a stream",
    ),
    Mutant(
        "what is at or below the place is dropped when it comes",
        "messaging.follower:Follower.receive",
        "if place <= tip:",
        "if False:",
        ("line",),
    ),
    Mutant(
        "a reader asks when it has heard nothing for a while",
        "messaging.follower:Follower.want",
        "waited = now - max(self._wanted_at, self._heard_at) >= interval_s",
        "waited = False",
        ("line",),
    ),
    Mutant(
        "a writer compares before it sends",
        f"{PUBLISHER}._begin",
        "self._compare_after(Place(epoch, max(acked - 1, 0)))",
        "self._comparing = False",
        ("restore", "fork"),
    ),
    Mutant(
        "a writer knows its own event by the digest in the ack",
        f"{PUBLISHER}.handle_ack",
        "or self._is_another(place, acked_digest)",
        "",
        ("fork",),
        covered_by="the journal refuses an event that follows another than the one it holds",
    ),
    Mutant(
        "an ack above what was sent is a reason to compare",
        f"{PUBLISHER}.handle_ack",
        "or acked > self._reached",
        "",
        ("fork",),
        covered_by="the digest in the ack",
    ),
    Mutant(
        "an ack above the outbox is a reason to compare",
        f"{PUBLISHER}.handle_ack",
        "if place > head or",
        "if",
        ("fork",),
        covered_by="an ack above what was sent is a reason to compare",
    ),
    Mutant(
        "a refusal is a reason to compare",
        f"{PUBLISHER}.handle_refuse",
        "self._compare_again()",
        "pass",
        ("fork",),
        covered_by="the digest in the ack",
    ),
    Mutant(
        "a journal that lacks what the outbox has no more stops the writer",
        f"{PUBLISHER}.handle_end",
        "elif kept < oldest - 1:",
        "elif False:",
        ("restore",),
    ),
    Mutant(
        "a writer goes back when no ack comes",
        f"{PUBLISHER}._send_window",
        "self._rewind(now, self._acked)",
        "pass",
        ("line",),
    ),
    Mutant(
        "a writer goes back when the journal has gone back",
        f"{PUBLISHER}.handle_ack",
        "self._rewind(now, acked)",
        "pass",
        ("loss",),
        covered_by="a writer goes back when no ack comes",
    ),
    Mutant(
        "a writer is at most a window ahead",
        f"{PUBLISHER}._send_window",
        "min(head.sequence, self._acked + self._window)",
        "head.sequence",
        ("line", "crash"),
    ),
    Mutant(
        "an idle writer probes",
        f"{PUBLISHER}._send_window",
        "elif self._acked == head.sequence and now - self._sent_at >= PROBE_INTERVAL_S:",
        "elif False:",
        ("restore", "loss"),
    ),
    Mutant(
        "an outbox takes nothing that cannot be told",
        "messaging.outbox:ADVANCE",
        "WHERE problem IS NULL",
        "",
        ("fork", "restore"),
    ),
    Mutant(
        "the journal refuses another event under a number",
        f"{JOURNAL}._append",
        "if place := self._other(run, known, stored):",
        "if False:",
        ("fork",),
        covered_by="the digest in the ack",
    ),
    Mutant(
        "the journal takes nothing more of one whom it has refused",
        f"{JOURNAL}._append",
        "if stream in refused:",
        "if False:",
        ("fork",),
        covered_by="the digest in the ack",
    ),
    Mutant(
        "the journal holds each stream in order",
        f"{JOURNAL}._append",
        "head.sequence + 1 - first.sequence",
        "max(0, head.sequence + 1 - first.sequence)",
        ("line",),
        covered_by="the journal refuses an event that follows another than the one it holds",
    ),
    Mutant(
        "the journal does not go back to an older epoch",
        f"{JOURNAL}._append",
        "first.sequence == 1 and first.epoch > head.epoch",
        "first.sequence == 1 and first.epoch != head.epoch",
        ("loss",),
        covered_by="a writer compares before it sends",
    ),
    Mutant(
        "the journal reads its heads again after an error",
        f"{JOURNAL}.step",
        "self._heads = {}",
        "pass",
        ("disk",),
    ),
    Mutant(
        "the journal acknowledges what is on disk",
        f"{JOURNAL}._append",
        "with self._database.write():",
        "with contextlib.suppress(Exception), self._database.write():",
        ("disk",),
    ),
    Mutant(
        "an unreadable journal is set aside",
        f"{JOURNAL}.step",
        "error if is_unreadable(error) else self._damage",
        "None",
        ("disk",),
    ),
    Mutant(
        "an older version does not replace a newer one",
        "shop.catalogue:UPDATE",
        "excluded.version > item.version",
        "excluded.version IS NOT NULL",
        ("poison",),
    ),
    Mutant(
        "an older epoch does not replace a newer one",
        f"{CATALOGUE}.update",
        "if epoch < ours:\n                return",
        "if False:\n                return",
        ("poison",),
    ),
    Mutant(
        "with a new warehouse the catalogue starts empty",
        f"{CATALOGUE}.update",
        "if epoch > ours:",
        "if False:",
        ("loss",),
    ),
    Mutant(
        "an answer is kept in the transaction of its effect",
        "runtime.web.once:_executed",
        "database.run_rows(KEEP, to_keep)",
        "database.commit(); database.begin(); database.run_rows(KEEP, to_keep)",
        ("crash", "disk"),
    ),
    Mutant(
        "a key is for one body",
        "runtime.web.once:_again",
        "if fingerprint != key.fingerprint:",
        "if False:",
        ("line",),
    ),
    Mutant(
        "what is refused after it has changed something is undone",
        "runtime.storage.writer:commit",
        "return work(database, commands)",
        "try:\n                return work(database, commands)\n"
        "            except Unavailable as caught:\n                return [caught]",
        ("fork", "restore"),
    ),
    Mutant(
        "a line on the console is marked after it was written",
        "payment.console:Console._announce",
        "if lines := [_line(row) for row in rows if row.id > self._shown]:\n"
        '                say("\\n".join(lines))\n'
        "            self._shown = rows[-1].id\n"
        "            self._payments.mark_announced(self._shown)",
        "self._payments.mark_announced(rows[-1].id)\n"
        "            if lines := [_line(row) for row in rows if row.id > self._shown]:\n"
        '                say("\\n".join(lines))\n'
        "            self._shown = rows[-1].id",
        ("disk", "crash"),
    ),
]


@contextmanager
def mutated(mutant: Mutant) -> Iterator[None]:
    """The product without a guard, as long as it lasts."""
    module_name, _, path = mutant.target.partition(":")
    module = importlib.import_module(module_name)
    *owners, name = path.split(".")
    owner: Any = module
    for each in owners:
        owner = getattr(owner, each)
    before = vars(owner)[name]
    if isinstance(before, str):
        changed: Any = _replaced(mutant, before)
    else:
        function = before.fget if isinstance(before, property) else inspect.unwrap(before)
        source = _replaced(mutant, textwrap.dedent(inspect.getsource(function)), indent=not owners)
        changed = _compiled(source, name, module, owner)
    setattr(owner, name, changed)
    try:
        yield
    finally:
        setattr(owner, name, before)


def _replaced(mutant: Mutant, text: str, indent: bool = False) -> str:
    for old, new in ((mutant.old, mutant.new), _dedented(mutant)):
        if text.count(old) == 1:
            return text.replace(old, new)
    raise AssertionError(f"{mutant.target} has changed: it has {mutant.old!r} no more, or twice")


def _dedented(mutant: Mutant) -> tuple[str, str]:
    """As it stands in a method whose source was dedented."""
    return mutant.old.replace("\n    ", "\n"), mutant.new.replace("\n    ", "\n")


def _compiled(source: str, name: str, module: Any, owner: Any) -> Any:
    """Compile a function where its globals, and its class for `super`, are."""
    factory = f"def factory(__class__):\n{textwrap.indent(source, '    ')}\n    return {name}"
    names: dict[str, Any] = {}
    exec(compile(factory, f"<mutant of {name}>", "exec"), module.__dict__, names)
    return names["factory"](owner)


class Found(NamedTuple):
    """How a mutant was found: what broke, in which history, after how many CPU seconds."""

    broken: str
    regime: str
    seed: int
    cpu_s: float


def hunt(mutant: Mutant, cpu_s: float, first_seed: int = 1) -> Found | None:
    """Play histories of its regimes in turn until one breaks, for at most so long."""
    began = time.process_time()
    for seed in count(first_seed):
        for regime in mutant.regimes:
            spent = time.process_time() - began
            if spent >= cpu_s:
                return None
            history = history_of(regime, seed)
            with mutated(mutant):
                broken = play(history).broken
            if broken and not play(history).broken:
                return Found(broken, regime, seed, spent)
    return None
