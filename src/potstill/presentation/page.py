"""The report page and the model card, from the records of a run to finished text."""

import html
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup
from ruamel.yaml import YAML

from potstill.presentation import charts
from potstill.presentation.comparison import comparison_rows
from potstill.presentation.formats import (
    number,
    number_span,
    p_value,
    percent,
    points,
    points_span,
    readable,
    size,
    span,
    times,
)
from potstill.presentation.times import stage_times
from potstill.records import (
    ClassRow,
    EvaluateRecord,
    FinishedRun,
    GateRecord,
    ShapeRecord,
    accuracy_name,
    metric_name,
)

MAX_TEXT = 300
"""Characters of a sample text that the report shows."""

# Marks that turn the direction of what follows, so that a page shows something else than it says.
_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def render_html(
    run: FinishedRun,
    *,
    title: str,
    recipe_yaml: str,
    metrics: Mapping[str, Sequence[Mapping[str, Any]]],
    seconds: Sequence[tuple[str, float]],
    environment: Mapping[str, str],
) -> str:
    """One whole HTML page without scripts. `metrics` holds the parsed lines of each metrics.jsonl, `seconds` how long
    each stage took."""
    return _render(
        _environment(autoescape=True).get_template("report.html.j2"),
        run,
        title=title,
        recipe_yaml=recipe_yaml,
        environment=environment,
        classes=by_drop(run.evaluation.classes),
        trade_off=Markup(charts.trade_off(run.evaluation.models, run.evaluation.floors, run.evaluation.primary_metric)),
        curves=[Markup(svg) for svg in _curves(metrics)],
        times=stage_times(seconds, metrics),
    )


def render_model_card(run: FinishedRun, *, title: str, recipe_yaml: str, environment: Mapping[str, str]) -> str:
    """A Hugging Face model card in Markdown. The licence is left out, since nothing here knows it."""
    return _render(
        _environment(autoescape=False).get_template("model_card.md.j2"),
        run,
        title=title,
        recipe_yaml=recipe_yaml,
        environment=environment,
        recipe=YAML(typ="safe", pure=True).load(recipe_yaml),
    )


def _render(template: Template, run: FinishedRun, **more: Any) -> str:
    trainings = {**run.earlier, "student": run.student, "baseline": run.baseline}
    return template.render(
        **vars(run),
        trainings=[(name, trained) for name, trained in trainings.items() if trained is not None],
        verdict=verdict(run.evaluation, run.gate),
        metric=metric_name(run.evaluation.primary_metric),
        comparison=comparison_rows(run.evaluation),
        accuracy=accuracy_name(run.evaluation),
        numbers=run.evaluation.problem_type == "regression",
        several=run.evaluation.problem_type == "multi_label_classification",
        **more,
    )


def verdict(evaluation: EvaluateRecord, gate: GateRecord) -> str:
    """Whether the student passed, with the figures that say so; first of all that its teacher is weak, where it is."""
    metric = metric_name(evaluation.primary_metric)
    student, teacher = (evaluation.primary(name).value for name in ("student", "teacher"))
    weak = "" if gate.weak_teacher is None else f"{gate.weak_teacher} "
    kept = (
        f"{weak}The student keeps {percent(evaluation.retention.value)} of the teacher's {metric} "
        f"({percent(student)} against {percent(teacher)}) "
        f"and answers {evaluation.speedup:.1f} times as fast"
    )
    if gate.passed:
        met = "its one check is met" if len(gate.checks) == 1 else f"all {len(gate.checks)} checks are met"
        checks = met if gate.checks else "no threshold was set"
        return f"{kept}; {checks}."
    missed = [check for check in gate.checks if not check.passed]
    named = ", ".join(
        f"{readable(check.name)} (required {check.required}, measured {number(check.measured)})" for check in missed
    )
    return f"{kept}, but {len(missed)} of {len(gate.checks)} checks are missed: {named}."


def by_drop(classes: Sequence[ClassRow]) -> list[tuple[ClassRow, float | None]]:
    """Classes with the points that the student loses against the teacher, the largest loss first."""
    rows = [(row, _drop(row)) for row in classes]
    return sorted(rows, key=lambda pair: (pair[1] is None, -(pair[1] or 0.0), pair[0].label))


def _drop(row: ClassRow) -> float | None:
    if row.teacher_accuracy is None or row.student_accuracy is None:
        return None
    return 100 * (row.teacher_accuracy - row.student_accuracy)


def _curves(metrics: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """The charts of training that there are points for."""

    def points(model: str, key: str) -> list[tuple[float, float]]:
        found = [(line.get("step"), line.get(key)) for line in metrics.get(model, ())]
        return [
            (float(step), float(value))
            for step, value in found
            if isinstance(step, int | float) and isinstance(value, int | float) and math.isfinite(value)
        ]

    def both(key: str) -> dict[str, list[tuple[float, float]]]:
        return {model: points(model, key) for model in metrics}

    weights = sorted({key for line in metrics.get("student", ()) for key in line if key.endswith(".weight")})
    temperatures = sorted({key for line in metrics.get("student", ()) for key in line if key.endswith(".temperature")})
    wanted: list[tuple[str, dict[str, list[tuple[float, float]]], bool]] = [
        (
            "Training loss, smoothed",
            {name: charts.smoothed(found) for name, found in both("loss").items()},
            True,
        ),
        ("Validation loss", both("validation_loss"), False),
        ("Validation accuracy", both("validation_accuracy"), False),
        ("Temperature", {readable(key.rsplit(".", 1)[0]): points("student", key) for key in temperatures}, False),
        (
            "Weights of the losses (alpha)",
            {readable(key.rsplit(".", 1)[0]): points("student", key) for key in weights},
            False,
        ),
        ("Learning rate", both("learning_rate"), False),
    ]
    drawn = []
    for title, series, logarithmic in wanted:
        if present := {name: found for name, found in series.items() if found}:
            drawn.append(charts.curves(present, title=title, logarithmic=logarithmic))
    return drawn


def teacher_named(teacher: Mapping[str, Any]) -> str:
    """Who taught, from the recipe."""
    match teacher.get("kind", "pretrained"):
        case "checkpoint":
            return f"the {teacher.get('member', 'student')} of the run {teacher['run']}"
        case "generation":
            return f"{teacher['start']['model']}, through {teacher['generations']} generations of students"
        case "ema":
            return f"{teacher['start']['model']}, and the moving average of the student itself"
        case "mixture" | "routed":
            return ", ".join(f"{name} ({member['model']})" for name, member in teacher["of"].items())
        case _:
            return str(teacher["model"])


def layers_named(shape: ShapeRecord) -> str:
    """The layers of a model; of one with two stacks, those of each."""
    return str(shape.layers) if shape.decoder_layers is None else f"{shape.layers} + {shape.decoder_layers}"


def cut(text: str) -> str:
    """The beginning of a text in one line, with how much is missing."""
    flat = " ".join(text.split())
    return flat if len(flat) <= MAX_TEXT else f"{flat[:MAX_TEXT]} … ({len(flat) - MAX_TEXT:,} more characters)"


def visible(value: Any) -> Any:
    """Text with control and direction characters written out; what is not text, unchanged."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return "".join(f"[U+{ord(char):04X}]" if _hidden(char) else char for char in value)


def _hidden(char: str) -> bool:
    code = ord(char)
    control = (code < 0x20 and char not in "\n\t") or 0x7F <= code < 0xA0 or 0xD800 <= code < 0xE000
    return control or char in _BIDI


def in_cell(text: str) -> str:
    """Text that stays text inside a line or table cell of Markdown."""
    flat = html.escape(" ".join(text.split()), quote=False)
    return re.sub(r"([\\`*_\[\]#|~])", r"\\\1", flat)


def fenced(text: str, language: str) -> str:
    """A code block whose fence is longer than any run of backticks inside."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


def _environment(*, autoescape: bool) -> Environment:
    environment = Environment(
        loader=PackageLoader("potstill.presentation", ""),
        autoescape=autoescape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        # Every value that a template prints goes through here, so that none is forgotten.
        finalize=visible,
    )
    for function in (
        percent,
        points,
        span,
        points_span,
        times,
        size,
        number,
        number_span,
        p_value,
        readable,
        metric_name,
        layers_named,
        cut,
        in_cell,
        teacher_named,
        fenced,
    ):
        environment.filters[function.__name__] = function
    environment.filters["json_text"] = lambda text: json.dumps(text, ensure_ascii=False)
    return environment
