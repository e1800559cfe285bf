"""The chart: a panel for each finding, with ours in colour, and whiskers from lowest to highest."""
# Without this library, its names have no types.
# mypy: disable-error-code="import-not-found"

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bench.findings import Finding, Result
from bench.report import number

COLUMNS = 3
OURS, COUNTED, WEAKER = "#1b7f5c", "#8a94a6", "#d3d8e0"
GOOD, BAD = "#1b7f5c", "#b3392f"


def draw(results: Mapping[str, Result], path: Path) -> str:
    """Draw all findings; says where, or why there is no chart."""
    if find_spec("matplotlib") is None:
        return "no chart: matplotlib is not installed, see bench/requirements.txt"
    from matplotlib.figure import Figure  # noqa: PLC0415  # all else works without it

    groups: dict[str, list[Finding]] = {}
    for result in results.values():
        for finding in result.findings:
            groups.setdefault(finding.name, []).append(finding)
    lines = -(-len(groups) // COLUMNS)
    figure = Figure(figsize=(5 * COLUMNS, 1.9 * lines), layout="constrained", dpi=110)
    panels = list(figure.subplots(max(lines, 1), COLUMNS, squeeze=False).flat)
    for panel, group in zip(panels, groups.values(), strict=False):
        _panel(panel, group)
    for panel in panels[len(groups) :]:
        panel.set_axis_off()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return f"chart: {path}"


def _panel(panel: Any, group: list[Finding]) -> None:
    """Draw findings of one name: ours of each, then the others."""
    ours = [finding.ours for finding in group]
    others = {other.name: other for finding in group for other in finding.others}.values()
    everybody = [*ours, *others]
    medians = [series.median for series in everybody]
    below = [median - min(s.values) for s, median in zip(everybody, medians, strict=True)]
    above = [max(s.values) - median for s, median in zip(everybody, medians, strict=True)]
    colors = [OURS] * len(ours) + [COUNTED if other.counts else WEAKER for other in others]
    places = range(len(everybody))
    panel.barh(places, medians, color=colors, xerr=(below, above), ecolor="#333333", capsize=2)
    panel.set_yticks(places, [series.name for series in everybody], fontsize=7)
    panel.invert_yaxis()
    panel.tick_params(axis="x", labelsize=7)
    panel.spines[["top", "right"]].set_visible(False)
    panel.set_title(f"{group[0].name}, {group[0].unit}", fontsize=9, loc="left")
    goal, verdicts = group[0].goal, [each.verdict for each in group if each.verdict is not None]
    if goal and verdicts:
        worst = goal.worst(verdicts)
        told = f"ratio {number(worst)}, goal: {goal}"
        color = GOOD if goal.is_met(worst) else BAD
        panel.set_xlabel(told, fontsize=8, loc="right", color=color)
