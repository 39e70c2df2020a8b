"""What is told of speed at other batch sizes and lengths: of each model, at each of them."""

from collections.abc import Iterator, Mapping, Sequence

from potstill.evaluation.wording import WORDING
from potstill.presentation.formats import times
from potstill.presentation.tables import Cell, Section, Table
from potstill.records import EvaluateRecord, ModelEvaluation, SpeedPoint

TITLE = "Speed at other batch sizes and lengths"


def speed_sections(evaluation: EvaluateRecord) -> Iterator[Section]:
    """All models at what the recipe names beside the test rows as they are."""
    teacher = evaluation.models["teacher"].speed_points
    table = points_table(evaluation, evaluation.models, about="Model", against=teacher)
    if table is None:
        return
    notes = [
        "Median latencies in float32, measured in the same processes as those above, after them. A batch is one query, "
        "and at each point the round with the lowest median counts. What ends in × is the speed-up over the teacher."
    ]
    if evaluation.measurement.queries_of_a_length is not None:
        notes.append(evaluation.measurement.queries_of_a_length)
    yield Section(TITLE, notes=notes, tables=[(None, table)])


def points_table(
    evaluation: EvaluateRecord,
    models: Mapping[str, ModelEvaluation],
    *,
    about: str,
    against: Sequence[SpeedPoint] = (),
) -> Table | None:
    """A row for each model and a column for each point, with the speed-up over what was timed in the same rounds; None
    where nothing was measured there."""
    measured = {name: model.speed_points for name, model in models.items() if model.speed_points}
    if not measured:
        return None
    points = next(iter(measured.values()))
    head = [Cell(about, "answer"), *(Cell(point_in_words(each.batch_size, each.length)) for each in points)]
    rows = [[Cell(name, "answer"), *_cells(evaluation, found, against)] for name, found in measured.items()]
    return Table(head, rows)


def point_in_words(batch_size: int, length: int | None) -> str:
    """Such as `32 tokens, batch of 8`."""
    together = "one by one" if batch_size == 1 else f"batch of {batch_size}"
    return together if length is None else f"{length} tokens, {together}"


def _cells(evaluation: EvaluateRecord, of: Sequence[SpeedPoint], against: Sequence[SpeedPoint]) -> Iterator[Cell]:
    """The median, and below it what else was measured, with the speed-up over another model."""
    per_s = WORDING[evaluation.answers].per_s
    others = {(each.batch_size, each.length): each for each in against}
    for each in of:
        low, high = each.latency_p50_range_ms
        further = [] if each.latency_p95_ms is None else [f"p95 {each.latency_p95_ms:,.2f}"]
        further.append(f"rounds {low:,.2f} to {high:,.2f}")
        if each.time_to_first_token_ms is not None:
            further.append(f"first token {each.time_to_first_token_ms:,.1f} ms")
        further.append(f"{each.throughput_per_s:,.0f} {per_s}/s")
        other = others.get((each.batch_size, each.length))
        if other is not None and other is not each:
            further.append(times(other.latency_p50_ms / each.latency_p50_ms))
        unit = "ms a token" if each.time_to_first_token_ms is not None else "ms"
        yield Cell(f"{each.latency_p50_ms:,.2f} {unit}", under="; ".join(further))
