"""How speed at other batch sizes and lengths is told: of models, and of artefacts beside their rivals."""

from typing import Any

from potstill.evaluation.artefact_sections import artefact_section
from potstill.evaluation.speed_sections import TITLE, speed_sections
from potstill.presentation.page import render_html
from potstill.records import EvaluateRecord, ExportRecord, ModelEvaluation, SpeedPoint
from tests.unit.finished_run import evaluation, inputs, sections
from tests.unit.test_shipping import form


def points(latency: float, *, first: float | None = None, p95: float | None = None) -> list[SpeedPoint]:
    return [
        SpeedPoint(
            batch_size=size, length=length, latency_p50_ms=latency * size, latency_p95_ms=p95,
            latency_p50_range_ms=(latency * size, 2 * latency * size), throughput_per_s=1000 / latency,
            time_to_first_token_ms=first,
        )
        for size, length in ((1, None), (8, 32))
    ]  # fmt: skip


def with_points(found: EvaluateRecord, **latencies: float) -> EvaluateRecord:
    models = {
        name: each.model_copy(update={"speed_points": points(latencies[name])} if name in latencies else {})
        for name, each in found.models.items()
    }
    measured = found.measurement.model_copy(update={"queries_of_a_length": "Rows, made <b>so</b>."})
    return found.model_copy(update={"models": models, "measurement": measured})


def shown(table: Any) -> list[list[tuple[str, str]]]:
    return [[(cell.text, cell.under) for cell in row] for row in table.rows]


def test_the_page_has_a_table_of_models_and_points() -> None:
    found = with_points(evaluation(with_baseline=True), teacher=4.0, student=0.5)
    (section,) = speed_sections(found)
    ((_, table),) = section.tables
    assert [cell.text for cell in table.head] == ["Model", "one by one", "32 tokens, batch of 8"]
    assert shown(table) == [
        [
            ("teacher", ""),
            ("4.00 ms", "rounds 4.00 to 8.00; 250 rows/s"),
            ("32.00 ms", "rounds 32.00 to 64.00; 250 rows/s"),
        ],
        [
            ("student", ""),
            ("0.50 ms", "rounds 0.50 to 1.00; 2,000 rows/s; 8.0×"),
            ("4.00 ms", "rounds 4.00 to 8.00; 2,000 rows/s; 8.0×"),
        ],
    ]
    assert section.notes[-1] == "Rows, made <b>so</b>."
    given = inputs()
    page = render_html(**given | sections(found, given["run"].export))
    assert TITLE in page and "32 tokens, batch of 8" in page and "made &lt;b&gt;so" in page
    assert list(speed_sections(evaluation(with_baseline=True))) == []


def test_of_prompts_it_tells_the_first_token_and_of_enough_queries_the_tail() -> None:
    found = evaluation(with_baseline=False)
    models = {
        name: each.model_copy(update={"speed_points": points(2.0, first=30.0, p95=5.0)})
        for name, each in found.models.items()
    }
    written = found.model_copy(update={"models": models, "primary_metric": "token_accuracy"})
    (section,) = speed_sections(written)
    first = shown(section.tables[0][1])[1][1]
    assert first == (
        "2.00 ms a token",
        "p95 5.00; rounds 2.00 to 4.00; first token 30.0 ms; 500 tokens/s; 1.0×",
    )


def test_artefacts_and_their_rivals_have_such_a_table_too() -> None:
    def shipped(name: str, latency: float) -> Any:
        made = form(name, score=0.8, ms=1.0, size=9)
        model: ModelEvaluation = made.model
        return made.model_copy(update={"model": model.model_copy(update={"speed_points": points(latency)})})

    export = ExportRecord(skipped=False, artefacts=[shipped("onnx", 1.0)], rivals=[shipped("teacher onnx", 3.0)])
    found = with_points(evaluation(with_baseline=True), teacher=4.0)
    tables = dict(artefact_section(export, found).tables)
    # Timed in other rounds than the teacher of the evaluation, so it is not compared with it.
    assert shown(tables[TITLE]) == [
        [
            ("onnx", ""),
            ("1.00 ms", "rounds 1.00 to 2.00; 1,000 rows/s"),
            ("8.00 ms", "rounds 8.00 to 16.00; 1,000 rows/s"),
        ],
        [
            ("teacher onnx", ""),
            ("3.00 ms", "rounds 3.00 to 6.00; 333 rows/s"),
            ("24.00 ms", "rounds 24.00 to 48.00; 333 rows/s"),
        ],
    ]
    without = ExportRecord(skipped=False, artefacts=[form("onnx", score=0.8, ms=1.0, size=9)])
    assert TITLE not in dict(artefact_section(without, evaluation(with_baseline=True)).tables)
