"""What is told of the forms in which a student can be shipped: on the page and in the terminal."""

from collections.abc import Iterator

from potstill.evaluation.metrics import metric, name_in_words
from potstill.evaluation.speed_sections import TITLE, points_table
from potstill.evaluation.tables import shown
from potstill.presentation.formats import number, percent, points_span, size, times
from potstill.presentation.tables import Cell, Section, Table
from potstill.records import Artefact, EvaluateRecord, ExportRecord

KL = metric("kl_from_teacher")


def artefact_section(export: ExportRecord, evaluation: EvaluateRecord) -> Section:
    """All artefacts and their rivals: what they answer, cost, and whether they may be shipped."""
    if export.skipped:
        return Section("Export", "export", empty="Nothing was exported.")
    if not export.artefacts:
        return Section("Export", "export", empty="The recipe exports nothing.")
    notes = [
        "Each was judged on all test rows in its own runtime, in a fresh process, against the same requirements. The "
        "speed-up is over the teacher as it was, in PyTorch. Rows named teacher are of the teacher in the same form: "
        "what could be shipped without a student.",
        *best_lines(export),
    ]
    if export.not_worth is not None:
        notes.insert(0, export.not_worth)
    notes += [f"There is no teacher as {form}: {why}" for form, why in export.rivals_missing.items()]
    return Section("Export", "export", notes, [*_tables(export, evaluation), *_missed(export)])


def _tables(export: ExportRecord, evaluation: EvaluateRecord) -> Iterator[tuple[str | None, Table]]:
    """What decides about each form, and what else was measured of it."""
    forms = [*export.artefacts, *export.rivals]
    yield None, Table(deciding_head(evaluation), [deciding(each, evaluation) for each in forms])
    head = ["peak memory", "above its libraries", "loaded in, ms", "answers as its source", "largest difference"]
    yield (
        "What else was measured",
        Table(
            [Cell("Artefact", "answer"), Cell("folder", "answer"), *map(Cell, head)],
            [_further(each, evaluation) for each in forms],
        ),
    )
    models = {each.name or each.kind: each.model or evaluation.models["student"] for each in forms}
    if (points := points_table(evaluation, models, about="Artefact")) is not None:
        yield TITLE, points


def deciding_head(evaluation: EvaluateRecord) -> list[Cell]:
    """What stands above what decides about a form."""
    name = name_in_words(evaluation.primary_metric, evaluation.answers)
    kl = ["KL, nats"] if _of_tokens(evaluation) else []
    head = ["size", *kl, name, "drop, points", "p50, ms", "speed-up", "over the teacher so"]
    return [Cell("Artefact", "answer"), Cell("result", ""), *map(Cell, head)]


def _of_tokens(evaluation: EvaluateRecord) -> bool:
    """Whether what is judged is distributions of tokens, of which the likeliest alone says little."""
    return evaluation.models["student"].kl_mean is not None


def deciding(artefact: Artefact, evaluation: EvaluateRecord) -> list[Cell]:
    """What decides about a form."""
    model = artefact.model or evaluation.models["student"]
    primary = metric(evaluation.primary_metric)
    drop = artefact.drop_points or (None if artefact.model else evaluation.drop_points)
    speedup = artefact.speedup or (None if artefact.model else evaluation.speedup)
    word = "✓ passed" if artefact.passed else "✗ missed"
    return [
        Cell(artefact.name or artefact.kind, "answer"),
        Cell(word, "", met=artefact.passed, under=artefact.why),
        Cell(size(artefact.size_bytes)),
        *([Cell(shown(KL, model.kl_mean))] if _of_tokens(evaluation) else []),
        Cell(shown(primary, primary.of_model(model))),
        Cell(points_span(drop)),
        Cell(f"{model.latency_p50_ms:,.2f}"),
        Cell("–" if speedup is None else times(speedup)),
        Cell("–" if artefact.speedup_over_rival is None else times(artefact.speedup_over_rival)),
    ]


def _further(artefact: Artefact, evaluation: EvaluateRecord) -> list[Cell]:
    model = artefact.model or evaluation.models["student"]
    above = model.memory_above_floor_bytes
    return [
        Cell(artefact.name or artefact.kind, "answer"),
        Cell(artefact.folder, "answer"),
        Cell(size(model.peak_memory_bytes)),
        Cell("–" if above is None else size(above)),
        Cell("–" if model.load_ms is None else f"{model.load_ms:,.0f}"),
        Cell(percent(artefact.agreement_with_source if artefact.model else 1.0)),
        Cell(number(artefact.max_logit_difference)),
    ]


def _missed(export: ExportRecord) -> Iterator[tuple[str, Table]]:
    """What artefacts missed that did not pass."""
    rows = [
        [
            Cell(artefact.name, "name"),
            Cell(check.name.replace("_", " "), ""),
            Cell(check.required, ""),
            Cell("not measured" if check.measured is None else number(check.measured)),
        ]
        for artefact in export.artefacts
        for check in artefact.checks
        if not check.passed
    ]
    if rows:
        head = [*(Cell(text, "") for text in ("Artefact", "misses", "required")), Cell("measured")]
        yield "What was missed", Table(head, rows)


def best_lines(export: ExportRecord) -> Iterator[str]:
    """Which to ship."""
    by_name = {each.name: each for each in export.artefacts}
    if export.smallest is not None:
        best = by_name[export.smallest]
        yield f"The smallest that passed is {best.name}: {size(best.size_bytes)}, in {best.folder}."
    if export.fastest is not None:
        best = by_name[export.fastest]
        assert best.model is not None
        yield (
            f"The fastest that passed is {best.name}: {best.model.latency_p50_ms:,.2f} ms, "
            f"{times(best.speedup or 0.0)} the teacher as it was, in {best.folder}."
        )


def artefact_lines(export: ExportRecord, evaluation: EvaluateRecord) -> Iterator[str]:
    """The same in a line each, what matters most first."""
    if export.not_worth is not None:
        yield export.not_worth
    primary = metric(evaluation.primary_metric)
    for artefact in (*export.artefacts, *export.rivals):
        model = artefact.model or evaluation.models["student"]
        line = (
            f"  {'pass' if artefact.passed else 'FAIL'}  {artefact.name or artefact.kind}: "
            f"{size(artefact.size_bytes)}, {name_in_words(primary.name)} {shown(primary, primary.of_model(model))}, "
            f"p50 {model.latency_p50_ms:,.2f} ms"
        )
        if model.kl_mean is not None:
            line += f", KL {shown(KL, model.kl_mean)} nats"
        if artefact.speedup is not None:
            line += f", {times(artefact.speedup)} the teacher"
        missed = [check.name for check in artefact.checks if not check.passed]
        if missed:
            line += f"; misses {', '.join(missed)}"
        yield line + (f"; {artefact.why}" if artefact.why else "")
    yield from best_lines(export)
