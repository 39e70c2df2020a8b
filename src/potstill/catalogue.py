"""What a recipe can name, read off the unions themselves."""

import inspect
from collections.abc import Iterator
from typing import Any, get_args

from potstill.exporters import AnyExporter
from potstill.labels import AskedEncoding
from potstill.losses import AnyLoss
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
    "schedules": Schedule,
    "encodings": AskedEncoding,
    "exporters": AnyExporter,
}


def describe(what: str) -> Iterator[tuple[str, str]]:
    """Kind and first line of the docstring of each component."""
    for member in _members(COMPONENTS[what]):
        kind = member.model_fields["kind"].default
        yield kind, (inspect.getdoc(member) or "").splitlines()[0]


def _members(union: Any) -> Iterator[Any]:
    if inspect.isclass(union):
        yield union
        return
    for argument in get_args(union):
        if inspect.isclass(argument) and hasattr(argument, "model_fields"):
            yield argument
        elif get_args(argument):
            yield from _members(argument)
