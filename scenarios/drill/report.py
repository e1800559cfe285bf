"""The report: what has happened, as aligned text."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from runtime.process.settings import NAMES
from scenarios.drill.check import Findings, Verdict
from scenarios.drill.faults import Done, outages

IDS_SHOWN = 3


@dataclass
class Story:
    """How a drill went; ``complaints`` are those of the running system, not of its files."""

    seed: int
    units: Sequence[str] = NAMES
    sellers: Collection[str] = ("shop",)  # without which there is no checkout
    done: Sequence[Done] = ()
    probes: Sequence[float] = ()
    elapsed_s: float = 0.0
    drained_s: float | None = None
    crashes: int = 0  # that let payment repeat lines
    complaints: list[str] = field(default_factory=list)


def passed(story: Story, findings: Findings) -> bool:
    """Whether all was as promised."""
    verdicts = findings.verdicts.values()
    return all(verdict.good for verdict in verdicts) and not all_complaints(story, findings)


def all_complaints(story: Story, findings: Findings) -> list[str]:
    """One line for each thing that was not as promised, the verdicts aside."""
    return [*story.complaints, *findings.complaints]


def report(story: Story, findings: Findings) -> str:
    """Print the report."""
    parts = [_headline(story), _verdicts(findings.verdicts), _processes(story)]
    parts += [_end(story, findings), _judgement(story, findings)]
    return "\n\n".join(parts)


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Align rows below their head: names to the left, all else to the right."""
    cells = [[f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(head, *cells, strict=True)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])])
        for row in ([*head], *cells)
    ]
    return "\n".join(lines)


def _headline(story: Story) -> str:
    kinds = [one.fault.kind for one in story.done]
    several = sum(len(one.fault.names) > 1 for one in story.done)
    return (
        f"seed {story.seed}, {len(kinds):,} faults in {story.elapsed_s:,.0f} s: "
        f"{kinds.count('kill'):,} killed, {kinds.count('stop'):,} stopped, "
        f"{kinds.count('restart'):,} restarted, {several:,} of them several processes at once"
    )


def _verdicts(verdicts: dict[str, Verdict]) -> str:
    rows = [[stream, *map(len, verdict)] for stream, verdict in verdicts.items()]
    return table(["stream", *Verdict._fields], rows)


def _processes(story: Story) -> str:
    longest = outages(story.done, story.probes, story.sellers)
    rows: list[list[object]] = []
    for name in story.units:
        hits = [one.fault.kind for one in story.done if name in one.fault.names]
        out = f"{max(longest[name]) * 1000:,.0f} ms" if longest[name] else "-"
        counts = [hits.count(kind) for kind in ("kill", "stop", "restart")]
        rows.append([name, *counts, len(longest[name]), out])
    head = [
        "process",
        "killed",
        "stopped",
        "restarted",
        "killed alone",
        "longest outage of checkout",
    ]
    return table(head, rows)


def _end(story: Story, findings: Findings) -> str:
    drained = "not drained" if story.drained_s is None else f"drained in {story.drained_s:.1f} s"
    return (
        f"{drained}; payment printed {findings.payments:,} payments, "
        f"and {findings.repeated_lines:,} lines again after {story.crashes:,} crashes"
    )


def _judgement(story: Story, findings: Findings) -> str:
    wrong = [
        f"{stream}, {kind}: {', '.join(sorted(ids)[:IDS_SHOWN])}{' …' * (len(ids) > IDS_SHOWN)}"
        for stream, verdict in findings.verdicts.items()
        for kind in ("lost", "duplicated", "unexpected")
        if (ids := getattr(verdict, kind))
    ]
    wrong += all_complaints(story, findings)
    return "\n".join(["FAILED", *wrong]) if wrong else "passed"
