"""Where the time of a run went, stage by stage."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from potstill.presentation.formats import number, percent

RATES = {"rows_per_s": "rows a second", "tokens_per_s": "tokens a second"}


@dataclass(frozen=True)
class StageTime:
    """A line of the table: a stage, how long it took, and of a training how much it got through."""

    stage: str
    took: str
    share: str
    """Of the whole run."""
    width: str
    """Of its bar, in per cent of the longest."""
    throughput: str


def stage_times(
    seconds: Sequence[tuple[str, float]], metrics: Mapping[str, Sequence[Mapping[str, Any]]]
) -> list[StageTime]:
    """The lines for stages in their order. `metrics` holds the lines of metrics.jsonl of some of the trainings."""
    whole, longest = sum(taken for _, taken in seconds), max((taken for _, taken in seconds), default=0.0)
    return [
        StageTime(
            stage,
            took=duration(taken),
            share=percent(taken / whole if whole else None),
            width=f"{100 * taken / longest if longest else 0:.1f}",
            throughput=throughput(metrics.get(stage.removeprefix("train/"), ())),
        )
        for stage, taken in seconds
    ]


def throughput(lines: Sequence[Mapping[str, Any]]) -> str:
    """The median over the steps; those of earlier versions do not say."""
    for key, unit in RATES.items():
        if found := [float(line[key]) for line in lines if key in line]:
            return f"{number(median(found))} {unit}"
    return "–"


def duration(seconds: float) -> str:
    """Seconds in the units in which people wait."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"
