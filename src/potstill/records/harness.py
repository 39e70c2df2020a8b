"""What models reach in tasks of lm-evaluation-harness."""

from typing import Literal

from pydantic import Field

from potstill.records.parts import Part
from potstill.run_dir import Record


class HarnessValue(Part):
    value: float
    standard_error: float | None = None
    """As the harness gives it; None of metrics for which it has none."""


class HarnessScore(Part):
    """One metric of one task, of each model."""

    task: str
    metric: str
    documents: int
    """That were asked about."""
    better: Literal["higher", "lower"] | None = None
    models: dict[str, HarnessValue] = Field(default_factory=dict)


class HarnessRecord(Record):
    version: str
    """Of the package."""
    few_shot: int | None
    """None where it is as each task says."""
    limit: int | None
    scores: list[HarnessScore]
