"""The built-in projects: a recipe and real data that a newcomer can run as they are."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from potstill.progress import Progress
from potstill.projects import (
    license_clauses,
    license_coverage,
    license_names,
    license_notices,
    license_sets,
    python_code,
    support_chat,
)

__all__ = ["PROJECTS", "Project"]


@dataclass(frozen=True)
class Project:
    """A project that `potstill init` can write. `write` fills a folder and returns what it did, in lines."""

    name: str
    summary: str
    write: Callable[[Path, Progress], list[str]]


PROJECTS: dict[str, Project] = {
    project.name: project
    for project in (
        Project(
            name="license-notices",
            summary="Which of 45 licences a notice grants: 11,475 real notices, and more without a label.",
            write=license_notices.write,
        ),
        Project(
            name="license-clauses",
            summary="Where a document names a licence, and of what kind: 3,100 documents of real notices, tagged.",
            write=license_clauses.write,
        ),
        Project(
            name="license-sets",
            summary="Which of 51 licences a notice names, alone or several together: any number of labels a text.",
            write=license_sets.write,
        ),
        Project(
            name="license-coverage",
            summary="A number for each text: which share of a licence rule must be found for it to count.",
            write=license_coverage.write,
        ),
        Project(
            name="license-names",
            summary="The same notices for an encoder-decoder, a small T5 from scratch: it writes the licence's name.",
            write=license_names.write,
        ),
        Project(
            name="support-chat",
            summary="A chat model of 135 M parameters teaches one of a third of its layers; real dialogues.",
            write=support_chat.write,
        ),
        Project(
            name="python-code",
            summary="The same teacher and student for code: functions of the standard library from their docstrings.",
            write=python_code.write,
        ),
    )
}
