"""Findings: what was measured, how it compares, and whether that is the goal."""

from collections.abc import Sequence
from statistics import median
from typing import Literal

from pydantic import BaseModel


class Series(BaseModel):
    """What one contestant has reached, one value a round."""

    name: str
    durability: str
    values: list[float]
    counts: bool = True  # towards the goal: not where less is kept than the shop keeps

    @property
    def median(self) -> float:
        """The value in the middle."""
        return median(self.values)


class Goal(BaseModel):
    """A limit to the ratio of our value to another."""

    kind: Literal["at least", "at most"]
    limit: float

    def __str__(self) -> str:
        return f"{self.kind} {self.limit:g}"

    def is_met(self, ratio: float) -> bool:
        """Whether a ratio is within the limit."""
        return ratio >= self.limit if self.kind == "at least" else ratio <= self.limit

    def worst(self, ratios: Sequence[float]) -> float:
        """The ratio that is the hardest to be content with."""
        return min(ratios) if self.kind == "at least" else max(ratios)


class Finding(BaseModel):
    """One figure: ours beside the others', in one unit and from the same rounds."""

    name: str
    about: str
    unit: str
    ours: Series
    others: list[Series]
    goal: Goal | None = None
    left_out: dict[str, str] = {}  # contestants that could not take part, and why

    def ratio(self, other: Series) -> float:
        """Our value divided by another: the median of the ratios of each round.

        What slows a whole round down slows both, and their ratio stays.
        """
        return median(o / t for o, t in zip(self.ours.values, other.values, strict=True))

    @property
    def verdict(self) -> float | None:
        """The ratio that decides about the goal; None if there is nothing to decide."""
        ratios = [self.ratio(other) for other in self.others if other.counts]
        return self.goal.worst(ratios) if self.goal and ratios else None

    @property
    def outcome(self) -> str:
        """The goal and whether it is met, in words."""
        if self.goal is None:
            return "shown"
        if self.verdict is None:
            return f"{self.goal}: nobody to compare with"
        return f"{self.goal}: {'met' if self.goal.is_met(self.verdict) else 'MISSED'}"


class Run(BaseModel):
    """Under which conditions figures were measured."""

    at: str
    system: str
    load: str
    rounds: int
    seconds: float  # of load in one measurement
    quick: bool

    def __str__(self) -> str:
        quick = ", a quick run, which says little" if self.quick else ""
        return f"{self.at[:10]}, rounds: {self.rounds}; {self.system}; {self.load}{quick}"


class Result(BaseModel):
    """The findings of one figure, which are from one run."""

    run: Run
    findings: list[Finding]
    failure: str | None = None  # why there are no findings


class Results(BaseModel):
    """Every figure, by name, each from its latest run."""

    figures: dict[str, Result] = {}
