"""The report page and the model card, from the records of a run to finished text."""

import html
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup
from ruamel.yaml import YAML

from potstill.presentation import charts, section_charts
from potstill.presentation.card import Card
from potstill.presentation.formats import (
    lora_words,
    measured,
    number,
    percent,
    readable,
    sentence,
    size,
    weights_lines,
)
from potstill.presentation.tables import Section
from potstill.presentation.times import stage_times
from potstill.records import Check, EvaluateRecord, ExportRecord, FinishedRun, GateRecord, ShapeRecord

# Marks that turn the direction of what follows, so that a page shows something else than it says.
_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


@dataclass(frozen=True)
class PageWords:
    """What the page calls what depends on the models' answers."""

    metric: str
    """That models are judged by."""
    accuracy: str
    truncated: str
    """What the plan counts of rows that are not read whole."""
    labelled: str
    """What labels are of."""
    positions: str


def render_html(
    run: FinishedRun,
    *,
    title: str,
    recipe_yaml: str,
    words: PageWords,
    comparison: Sequence[Section],
    artefacts: Section,
    details: Sequence[Section],
    metrics: Mapping[str, Sequence[Mapping[str, Any]]],
    seconds: Sequence[tuple[str, float]],
    environment: Mapping[str, str],
) -> str:
    """One whole HTML page without scripts. `metrics` holds the parsed lines of each metrics.jsonl, `seconds` how long
    each stage took."""
    evaluation = run.evaluation
    forms = {each.name: each.model for each in (*run.export.artefacts, *run.export.rivals) if each.model}
    models = {**evaluation.models, **forms}
    trade_off = charts.trade_off(models, evaluation.floors, evaluation.primary_metric, words.metric)
    return _render(
        _html_template("report.html.j2"),
        run,
        words,
        title=title,
        recipe_yaml=recipe_yaml,
        environment=environment,
        comparison=comparison,
        artefacts=artefacts,
        details=details,
        trade_off=Markup(trade_off),
        curves=[Markup(svg) for svg in _curves(metrics)],
        times=stage_times(seconds, metrics),
    )


def render_comparison(title: str, sections: Sequence[Section]) -> str:
    """The page of several runs, in the look of that of one."""
    return _html_template("comparison.html.j2").render(title=title, sections=sections)


def render_model_card(
    run: FinishedRun, *, title: str, recipe_yaml: str, words: PageWords, card: Card, environment: Mapping[str, str]
) -> str:
    """A Hugging Face model card in Markdown. The licence is left out, since nothing here knows it."""
    return _render(
        markdown_template("model_card.md.j2"),
        run,
        words,
        title=title,
        recipe_yaml=recipe_yaml,
        environment=environment,
        card=card,
        recipe=YAML(typ="safe", pure=True).load(recipe_yaml),
    )


def _html_template(name: str) -> Template:
    return _environment(autoescape=True).get_template(name)


def markdown_template(name: str) -> Template:
    """A template of Markdown, whose values its filters make safe where they stand."""
    return _environment(autoescape=False).get_template(name)


def _render(template: Template, run: FinishedRun, words: PageWords, **more: Any) -> str:
    trainings = {**run.earlier, "student": run.student, "baseline": run.baseline}
    return template.render(
        **vars(run),
        trainings=[(name, trained) for name, trained in trainings.items() if trained is not None],
        verdict=verdict(run.evaluation, run.gate, words.metric, run.export),
        passed=run.gate.passed and not run.export.none_passed,
        words=words,
        weights=[sentence(line) for line in weights_lines(run.plan.weights)],
        **more,
    )


def verdict(evaluation: EvaluateRecord, gate: GateRecord, metric: str, export: ExportRecord) -> str:
    """Whether the student passed, with the figures that say so; first of all that its teacher is weak, its own writing
    degenerate, its training not worth it or no form of it to be shipped, and last the warnings of thresholds."""
    student, teacher = (evaluation.primary(name).value for name in ("student", "teacher"))
    forms = len(export.artefacts)
    unshipped = f"None of its {forms} exported forms meets the same requirements." if export.none_passed else None
    said_first = (gate.weak_teacher, gate.degenerate, export.not_worth, unshipped)
    first = "".join(f"{said} " for said in said_first if said is not None)
    warned = "".join(f" Warning: {each}" for each in gate.warnings)
    kept = (
        f"{first}The student keeps {percent(evaluation.retention.value)} of the teacher's {metric} "
        f"({percent(student)} against {percent(teacher)}) "
        f"and answers {evaluation.speedup:.1f} times as fast"
    )
    if gate.passed:
        met = "its one check is met" if len(gate.checks) == 1 else f"all {len(gate.checks)} checks are met"
        checks = met if gate.checks else "no threshold was set"
        return f"{kept}; {checks}.{warned}"
    missed = [check for check in gate.checks if not check.passed]
    named = ", ".join(f"{readable(check.name)} (required {check.required}, {_found(check)})" for check in missed)
    return f"{kept}, but {len(missed)} of {len(gate.checks)} checks are missed: {named}.{warned}"


def _found(check: Check) -> str:
    return measured(check) if check.measured is None else f"measured {measured(check)}"


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


def layers_named(shape: ShapeRecord) -> str:
    """The layers of a model; of one with two stacks, those of each."""
    return str(shape.layers) if shape.decoder_layers is None else f"{shape.layers} + {shape.decoder_layers}"


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


def templates_of(package: str, *, autoescape: bool = True) -> Environment:
    """The templates in the folder of a package, in which text stays text."""
    return Environment(
        loader=PackageLoader(package, ""),
        autoescape=autoescape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        # Every value that a template prints goes through here, so that none is forgotten.
        finalize=visible,
    )


def _environment(*, autoescape: bool) -> Environment:
    environment = templates_of("potstill.presentation", autoescape=autoescape)
    for function in (percent, size, number, readable, measured, lora_words, layers_named, in_cell, fenced):
        environment.filters[function.__name__] = function
    environment.filters["drawn"] = lambda chart: Markup(section_charts.drawn(chart))
    environment.filters["json_text"] = lambda text: json.dumps(text, ensure_ascii=False)
    return environment
