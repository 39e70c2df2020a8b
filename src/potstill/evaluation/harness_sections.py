"""What models reach in tasks of lm-evaluation-harness, as a section of the page."""

from collections.abc import Iterator

from potstill.presentation.formats import number
from potstill.presentation.tables import Cell, Section, Table
from potstill.records import EvaluateRecord, HarnessValue


def harness_sections(evaluation: EvaluateRecord) -> Iterator[Section]:
    harness = evaluation.harness
    if harness is None:
        return
    head = [Cell("Task", ""), Cell("metric", ""), Cell("better", ""), Cell("documents"), *map(Cell, evaluation.models)]
    rows = [
        [
            Cell(score.task, "name"),
            Cell(score.metric, "name"),
            Cell(score.better or "–", ""),
            Cell(f"{score.documents:,}"),
            *(Cell(_shown(score.models.get(name))) for name in evaluation.models),
        ]
        for score in harness.scores
    ]
    shots = (
        "as many solved examples as each task says"
        if harness.few_shot is None
        else f"{harness.few_shot} solved examples"
    )
    limit = "" if harness.limit is None else f", the first {harness.limit:,} documents of each task"
    note = (
        f"Measured by lm-evaluation-harness {harness.version} with {shots}{limit}; behind each value its standard "
        "error. These tasks are none of the test rows."
    )
    yield Section("Tasks of lm-evaluation-harness", notes=[note], tables=[(None, Table(head, rows))])


def _shown(value: HarnessValue | None) -> str:
    if value is None:
        return "not measured"
    error = "" if value.standard_error is None else f" ± {number(value.standard_error)}"
    return f"{number(value.value)}{error}"
