"""The report: one table of all findings, as aligned text, and the file that keeps them."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from bench.findings import Finding, Result, Results, Series

HEAD = (
    "figure",
    "contestant",
    "median",
    "lowest",
    "highest",
    "unit",
    "ratio",
    "goal",
    "durability",
)
LEFT = {"figure", "contestant", "unit", "goal", "durability"}


def table(results: Mapping[str, Result]) -> str:
    """Every contestant in a line, ours first; a ratio is ours divided by that one's."""
    rows = [row for result in results.values() for one in result.findings for row in _rows(one)]
    widths = [max(map(len, column)) for column in zip(HEAD, *rows, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if name in LEFT else cell.rjust(width)
            for name, cell, width in zip(HEAD, row, widths, strict=True)
        ).rstrip()
        for row in (HEAD, *rows)
    ]
    return "\n".join([*lines, *_notes(results)])


def _rows(finding: Finding) -> Iterator[tuple[str, ...]]:
    yield _row(finding.name, finding.ours, finding.unit, "", finding.outcome)
    for other in finding.others:
        counted = "" if other.counts else "does not count"
        yield _row("", other, finding.unit, number(finding.ratio(other)), counted)


def _row(figure: str, series: Series, unit: str, ratio: str, goal: str) -> tuple[str, ...]:
    values = map(number, (series.median, min(series.values), max(series.values)))
    return figure, series.name, *values, unit, ratio, goal, series.durability


def _notes(results: Mapping[str, Result]) -> Iterator[str]:
    yield ""
    for name, result in results.items():
        if result.failure:
            yield f"{name} was not measured: {result.failure}"
        for finding in result.findings:
            for contestant, reason in finding.left_out.items():
                yield f"{finding.name} without {contestant}: {reason}"
    yield from dict.fromkeys(str(result.run) for result in results.values())


def number(value: float) -> str:
    """Three digits that matter, and no more than all before the point."""
    digits = 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 3
    return f"{value:,.{digits}f}"


def load(path: Path) -> Results:
    """What was kept in a file; nothing if there is none."""
    return Results.model_validate_json(path.read_bytes()) if path.exists() else Results()


def keep(path: Path, results: Mapping[str, Result]) -> Results:
    """Keep results in a file, beside those of other figures that it has already."""
    kept = Results(figures={**load(path).figures, **results})
    path.write_text(kept.model_dump_json(indent=2) + "\n")
    return kept
