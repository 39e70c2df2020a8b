"""The report page and the model card, from the records of a run to finished text."""

import html
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup
from ruamel.yaml import YAML

from potstill.presentation import charts
from potstill.records import (
    QUERIES_OF_A_PERCENTILE,
    ClassRow,
    Comparison,
    Estimate,
    EvaluateRecord,
    FinishedRun,
    GateRecord,
    ShapeRecord,
    accuracy_name,
    metric_name,
)

TAILS: tuple[Literal[95, 99], ...] = (95, 99)
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
    environment: Mapping[str, str],
) -> str:
    """One whole HTML page without scripts. `metrics` holds the parsed lines of each metrics.jsonl."""
    return _render(
        _environment(autoescape=True).get_template("report.html.j2"),
        run,
        title=title,
        recipe_yaml=recipe_yaml,
        environment=environment,
        classes=by_drop(run.evaluation.classes),
        trade_off=Markup(charts.trade_off(run.evaluation.models, run.evaluation.floors, run.evaluation.primary_metric)),
        curves=[Markup(svg) for svg in _curves(metrics)],
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


def comparison_rows(evaluation: EvaluateRecord) -> list[tuple[str, list[str]]]:
    """The rows of the comparison table: the name of a quantity, and its value for each model in turn."""
    teacher = evaluation.models["teacher"]

    def row(name: str, values: Sequence[str]) -> tuple[str, list[str]]:
        return name, list(values)

    models = evaluation.models
    agreement = {"teacher": "–"} | {
        name: f"{percent(found.all_rows.value)} ({span(found.all_rows)})"
        for name, found in evaluation.agreement.items()
    }
    each = models.values()
    of = " of a token" if evaluation.test_tokens is not None else ""
    scores = [
        row(f"{sentence(metric_name(metric))} (95 % interval)", [share(m.score(metric)) for m in each])
        for metric in teacher.scores
    ]
    return [
        *scores,
        *_accuracy_row(evaluation),
        *_quality_rows(evaluation),
        *(
            [row("Agreement with the teacher", [agreement.get(name, "–") for name in models])]
            if evaluation.agreement
            else []
        ),
        row(f"Latency p50{of}, ms", [f"{m.latency_p50_ms:,.2f}" for m in each]),
        *(row(f"Latency p{share}{of}, ms", _tails(evaluation, share)) for share in TAILS),
        row("Speed-up at p50", [times(teacher.latency_p50_ms / m.latency_p50_ms) for m in each]),
        row(f"Throughput, {'tokens' if of else 'rows'}/s", [f"{m.throughput_per_s:,.0f}" for m in each]),
        row("Peak memory", [size(m.peak_memory_bytes) for m in each]),
        row("Size on disk", [size(m.size_bytes) for m in each]),
        row("Parameters", [f"{m.num_parameters:,}" for m in each]),
        row("… without embeddings", [f"{m.num_parameters_without_embeddings:,}" for m in each]),
        *_likelihood_rows(evaluation),
    ]


def _tails(evaluation: EvaluateRecord, percentile: Literal[95, 99]) -> list[str]:
    """A high percentile of each model's latency, or why none is shown."""
    values = [evaluation.tail_ms(name, percentile) for name in evaluation.models]
    missing = f"– (needs {QUERIES_OF_A_PERCENTILE[percentile]} queries)"
    return [missing if value is None else f"{value:,.2f}" for value in values]


def _accuracy_row(evaluation: EvaluateRecord) -> list[tuple[str, list[str]]]:
    intervals = [model.accuracy_interval for model in evaluation.models.values()]
    name = f"{sentence(accuracy_name(evaluation))} (95 % interval)"
    return [(name, [share(i) if i else "–" for i in intervals])] if any(intervals) else []


def _likelihood_rows(evaluation: EvaluateRecord) -> list[tuple[str, list[str]]]:
    """What is measured of the probabilities of answers, which numbers have none of."""
    by_label = " of a label" if evaluation.problem_type == "multi_label_classification" else ""
    each = evaluation.models.values()
    rows = {
        f"Calibration error (ECE){by_label}": [m.expected_calibration_error for m in each],
        f"Cross-entropy{by_label}, nats": [m.cross_entropy for m in each],
    }
    return [
        (name, ["–" if value is None else f"{value:.3f}" for value in values])
        for name, values in rows.items()
        if any(value is not None for value in values)
    ]


def _quality_rows(evaluation: EvaluateRecord) -> list[tuple[str, list[str]]]:
    """The rows that only classifiers have, or only language models."""
    each = list(evaluation.models.values())
    if evaluation.problem_type == "regression":
        return [
            ("RMSE (95 % interval)", [number_span(m.rmse) for m in each]),
            ("RMSE from the teacher (95 % interval)", [number_span(m.rmse_from_teacher) for m in each]),
        ]
    if evaluation.test_tokens is None:
        intervals = [m.macro_f1_interval for m in each]
        return [("Macro-F1 (95 % interval)", [share(i) if i else "–" for i in intervals])] if any(intervals) else []
    return [
        ("Perplexity of the true responses", [number(m.perplexity) for m in each]),
        ("KL from the teacher: mean, nats", [number(m.kl_mean) for m in each]),
        ("… median", [number(m.kl_median) for m in each]),
        ("… 99 % of tokens below", [number(m.kl_p99) for m in each]),
        ("RMS difference of the top probability", [percent(m.rms_probability_difference) for m in each]),
        ("Time to the first token, ms", [number(m.time_to_first_token_ms) for m in each]),
    ]


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


def percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f} %"


def points(value: float | None) -> str:
    """Percentage points with their sign."""
    return "–" if value is None else f"{value:+.1f}".replace("-", "−")


def span(estimate: Estimate) -> str:
    """The interval of a share, in per cent."""
    return f"{100 * estimate.low:.1f}–{100 * estimate.high:.1f}"


def share(estimate: Estimate) -> str:
    """A share in per cent with its interval."""
    return f"{percent(estimate.value)} ({span(estimate)})"


def points_span(estimate: Estimate | None) -> str:
    if estimate is None:
        return "–"
    return f"{points(estimate.value)} ({points(estimate.low)} to {points(estimate.high)})"


def times(ratio: float) -> str:
    return f"{ratio:.1f}×"


def size(count: int) -> str:
    """Bytes in decimal units, as disks are sold and clouds bill."""
    value = float(count)
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:,.1f} GB"


def number(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def number_span(estimate: Estimate | None) -> str:
    """A number with its interval."""
    return "–" if estimate is None else f"{number(estimate.value)} ({number(estimate.low)}–{number(estimate.high)})"


def p_value(comparison: Comparison) -> str:
    if comparison.mcnemar_p is None:
        return "–"
    return "p < 0.001" if comparison.mcnemar_p < 0.001 else f"p = {comparison.mcnemar_p:.3f}"


def layers_named(shape: ShapeRecord) -> str:
    """The layers of a model; of one with two stacks, those of each."""
    return str(shape.layers) if shape.decoder_layers is None else f"{shape.layers} + {shape.decoder_layers}"


def sentence(text: str) -> str:
    """The text with a capital letter at its beginning."""
    return text[:1].upper() + text[1:]


def readable(name: str) -> str:
    """A key of a record or recipe as words."""
    return name.replace("_", " ")


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
