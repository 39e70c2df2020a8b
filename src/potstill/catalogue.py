"""What a recipe can name, read off the unions themselves and the registry of metrics."""

import inspect
from collections.abc import Iterator, Mapping
from typing import Any, get_args

from potstill.divergences import AnyDivergence
from potstill.evaluation.metrics import EVERY, METRICS
from potstill.exporters import AnyExporter
from potstill.labels import AskedEncoding
from potstill.losses import AnyLoss
from potstill.recipe.writing_judges import AnyWritingJudge
from potstill.records import AnswerKind
from potstill.schedules import Schedule
from potstill.students import AnyStudent, AnyVocabulary
from potstill.tasks import AnyTask
from potstill.teachers import AnyTeacher

COMPONENTS: dict[str, Any] = {
    "tasks": AnyTask,
    "teachers": AnyTeacher,
    "students": AnyStudent,
    "vocabularies": AnyVocabulary,
    "losses": AnyLoss,
    "divergences": AnyDivergence,
    "schedules": Schedule,
    "encodings": AskedEncoding,
    "exporters": AnyExporter,
    "judges": AnyWritingJudge,
}
METRIC_NAMES = "metrics"
"""What a gate can require, which is in no union."""
LISTED = (*COMPONENTS, METRIC_NAMES)
_ANSWERS: Mapping[AnswerKind, str] = {
    "single_label": "one class",
    "multi_label": "several labels",
    "regression": "numbers",
    "tags": "tags",
    "text": "causal_lm",
    "target": "seq2seq",
}
"""What tasks answer with, as a list of metrics calls it."""


def describe(what: str) -> Iterator[tuple[str, str]]:
    """Kind and first line of the docstring of each component; the name of each metric, with its unit and direction."""
    if what == METRIC_NAMES:
        yield from _metrics()
        return
    for member in _members(COMPONENTS[what]):
        kind = member.model_fields["kind"].default
        yield kind, (inspect.getdoc(member) or "").splitlines()[0]


def _metrics() -> Iterator[tuple[str, str]]:
    for metric in METRICS:
        confident = ", takes (95%)" if metric.has_interval else ""
        of = "" if metric.of == EVERY else f"; of {', '.join(_ANSWERS[each] for each in _ANSWERS if each in metric.of)}"
        better = "neither direction" if metric.better is None else metric.better
        yield metric.name, f"{metric.words} ({metric.unit}): {better} is better{confident}{of}"


def _members(union: Any) -> Iterator[Any]:
    if inspect.isclass(union):
        yield union
        return
    for argument in get_args(union):
        if inspect.isclass(argument) and hasattr(argument, "model_fields"):
            yield argument
        elif get_args(argument):
            yield from _members(argument)
