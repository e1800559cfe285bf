"""The chart: a panel for each finding, with ours in colour, and whiskers from lowest to highest."""
# Without this library, its names have no types.
# mypy: disable-error-code="import-not-found"

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bench.findings import Finding, Result
from bench.report import number

COLUMNS = 2
OURS, COUNTED, WEAKER = "#1b7f5c", "#8a94a6", "#d3d8e0"
GOOD, BAD = "#1b7f5c", "#b3392f"


def draw(results: Mapping[str, Result], path: Path) -> str:
    """Draw all findings; says where, or why there is no chart."""
    if find_spec("matplotlib") is None:
        return "no chart: matplotlib is not installed, see bench/requirements.txt"
    from matplotlib.figure import Figure  # noqa: PLC0415  # all else works without it

    findings = [finding for result in results.values() for finding in result.findings]
    lines = -(-len(findings) // COLUMNS)
    figure = Figure(figsize=(6.5 * COLUMNS, 2.1 * lines), layout="constrained", dpi=110)
    panels = figure.subplots(lines, COLUMNS, squeeze=False).flat
    for panel, finding in zip(panels, findings, strict=False):
        _panel(panel, finding)
    for panel in list(panels)[len(findings) :]:
        panel.set_axis_off()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return f"chart: {path}"


def _panel(panel: Any, finding: Finding) -> None:
    everybody = [finding.ours, *finding.others]
    medians = [series.median for series in everybody]
    below = [median - min(s.values) for s, median in zip(everybody, medians, strict=True)]
    above = [max(s.values) - median for s, median in zip(everybody, medians, strict=True)]
    colors = [OURS, *(COUNTED if other.counts else WEAKER for other in finding.others)]
    places = range(len(everybody))
    panel.barh(places, medians, color=colors, xerr=(below, above), ecolor="#333333", capsize=2)
    panel.set_yticks(places, [series.name for series in everybody], fontsize=8)
    panel.invert_yaxis()
    panel.tick_params(axis="x", labelsize=8)
    panel.spines[["top", "right"]].set_visible(False)
    panel.set_title(f"{finding.about}, {finding.unit}", fontsize=9, loc="left")
    if finding.goal and finding.verdict is not None:
        color = GOOD if finding.goal.is_met(finding.verdict) else BAD
        told = f"ratio {number(finding.verdict)}, goal {finding.goal}"
        panel.set_xlabel(told, fontsize=8, loc="right", color=color)
