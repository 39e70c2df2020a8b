"""Several runs side by side, as sections of a page: verdicts, models, artefacts, recipes."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from potstill.comparison.row_changes import FIRST_MODELS, Against, change_section
from potstill.comparison.runs import ComparedRun
from potstill.evaluation.artefact_sections import deciding, deciding_head
from potstill.evaluation.metrics import metric, name_in_words
from potstill.evaluation.tables import quantities, shown
from potstill.presentation.formats import cut, percent, size, times
from potstill.presentation.tables import Cell, Section, Table

_NONE = "–"


def sections(runs: Sequence[ComparedRun], changes: Sequence[Against]) -> list[Section]:
    """The whole page."""
    return [
        _overview(runs),
        *(change_section(runs[0], each, number) for number, each in enumerate(changes, 1)),
        _models_section(runs),
        _artefacts(runs),
        _recipes(runs),
    ]


def overview(runs: Sequence[ComparedRun]) -> Table:
    """A line for each run: the verdict, and the figures of its student that decide."""
    evaluation = runs[0].evaluation
    primary = metric(evaluation.primary_metric)
    name = name_in_words(primary.name, evaluation.answers)
    head = [Cell("Run", ""), Cell("verdict", ""), *map(Cell, (name, "retention", "p50, ms", "speed-up", "size"))]
    rows = []
    for run in runs:
        student = run.evaluation.models["student"]
        rows.append(
            [
                Cell(run.name, "name answer"),
                _verdict(run),
                Cell(shown(primary, primary.of_model(student))),
                Cell(percent(run.evaluation.retention.value)),
                Cell(f"{student.latency_p50_ms:,.2f}"),
                Cell(times(run.evaluation.speedup)),
                Cell(size(student.size_bytes)),
            ]
        )
    return Table(head, rows)


def _verdict(run: ComparedRun) -> Cell:
    if run.gate is None:
        return Cell("not judged", "answer")
    missed = [check.name.replace("_", " ") for check in run.gate.checks if not check.passed]
    under = f"misses {', '.join(missed)}" if missed else ""
    return Cell("✓ passed" if run.gate.passed else "✗ failed", "answer", met=run.gate.passed, under=under)


def _overview(runs: Sequence[ComparedRun]) -> Section:
    rows = len(runs[0].rows.ids)
    notes = [
        f"All were evaluated on the same {rows:,} test rows. Figures are of the student of each run, with 95 % "
        "bootstrap intervals over the test rows.",
        *_cautions(runs),
    ]
    return Section("Runs", "runs", notes, [(None, overview(runs))])


def _cautions(runs: Sequence[ComparedRun]) -> Iterator[str]:
    """What stands in the way of a comparison, though the rows are the same."""
    if len(runs) > 2:
        yield "Of many differences, some are there by chance: one in twenty of those that are none."
    places = {(run.processor, run.evaluation.measurement.device, run.evaluation.measurement.threads) for run in runs}
    if len(places) > 1:
        yield (
            "Latencies were measured in unlike places, so they do not compare: "
            + "; ".join(
                f"{run.name} on {run.processor or 'an unknown processor'}, device {run.evaluation.measurement.device}, "
                f"{run.evaluation.measurement.threads} thread(s)"
                for run in runs
            )
            + "."
        )
    else:
        yield "Each run measured its latencies by itself; what else the machine did then is in them."
    if len({run.teacher for run in runs}) > 1:
        yield (
            "The teachers are not the same: agreement, retention and KL are of each run's own teacher, and do not say "
            "which student is better."
        )
    if runs[0].rows.kind in ("text", "target"):
        counts = {tuple(run.rows.models["student"].numbers["tokens"].tolist()) for run in runs}
        if len(counts) > 1:
            yield (
                "The runs read other tokens of the same rows, by another tokenizer or task.max_length: what is a mean "
                "over tokens is of each run's own."
            )


def _models_section(runs: Sequence[ComparedRun]) -> Section:
    """All that was measured of each model, the runs side by side."""
    there = dict.fromkeys(name for run in runs for name in run.evaluation.models)
    names = [name for name in dict.fromkeys((*FIRST_MODELS, *there)) if name in there]
    tables = [(name, _of_model(runs, name)) for name in names]
    return Section("Models", "models", ["As each run's own report has it."], tables)


def _of_model(runs: Sequence[ComparedRun], model: str) -> Table:
    values: dict[str, dict[str, str]] = {}
    for run in runs:
        if model in run.evaluation.models:
            place = list(run.evaluation.models).index(model)
            for each in quantities(run.evaluation):
                values.setdefault(each.name, {})[run.name] = each.values[place]
    head = [Cell("", ""), *(Cell(run.name) for run in runs)]
    rows = [
        [Cell(name, "answer"), *(Cell(found.get(run.name, _NONE)) for run in runs)] for name, found in values.items()
    ]
    return Table(head, rows)


def _artefacts(runs: Sequence[ComparedRun]) -> Section:
    """The forms that were exported, and those of the teachers beside them."""
    rows, notes = [], []
    for run in runs:
        if run.export is None or not run.export.artefacts:
            notes.append(f"{run.name}: nothing was exported.")
            continue
        for form in (*run.export.artefacts, *run.export.rivals):
            rows.append([Cell(run.name, "name answer"), *deciding(form, run.evaluation)])
    head = [Cell("Run", ""), *deciding_head(runs[0].evaluation)]
    return Section("Artefacts", "artefacts", notes, [(None, Table(head, rows))] if rows else [])


def _recipes(runs: Sequence[ComparedRun]) -> Section:
    """The keys of the recipes that are not the same."""
    found = recipe_differences([run.recipe for run in runs])
    head = [Cell("Key", ""), *(Cell(run.name, "") for run in runs)]
    rows = [
        [Cell(key, "name answer"), *(Cell(cut(value), "name answer") for value in values)]
        for key, values in found.items()
    ]
    tables: list[tuple[str | None, Table]] = [(None, Table(head, rows))] if rows else []
    notes = ["Every default is written out. Files are compared by their names here, test rows by what they hold."]
    return Section("Recipes", "recipes", notes, tables, tall=True, empty="The recipes are the same.")


def recipe_differences(recipes: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """The value of each key in each recipe, of the keys that are not the same in all, in the order of the first."""
    each = [dict(_leaves(recipe)) for recipe in recipes]
    keys = dict.fromkeys(key for leaves in each for key in leaves)
    values = {key: [leaves.get(key, _NONE) for leaves in each] for key in keys}
    return {key: found for key, found in values.items() if len(set(found)) > 1}


def _leaves(value: Any, where: str = "") -> Iterator[tuple[str, str]]:
    """Every value by its key, as `losses[1].weight`; what is empty is a value."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _leaves(inner, f"{where}.{key}" if where else str(key))
    elif isinstance(value, list) and value:
        for place, inner in enumerate(value):
            yield from _leaves(inner, f"{where}[{place}]")
    else:
        yield where, json.dumps(value, ensure_ascii=False, default=str)
