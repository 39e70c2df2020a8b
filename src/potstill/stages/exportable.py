"""Whether what a recipe exports can be exported, found out before anything is trained."""

from collections.abc import Iterator

from potstill.artefacts.reading import TOKENIZER
from potstill.errors import RecipeError
from potstill.exporters import AnyExporter
from potstill.exporters.exporter import GraphExporter
from potstill.recipe import Recipe
from potstill.stages.inputs import Inputs


def require_exportable(recipe: Recipe, inputs: Inputs) -> None:
    """That libraries are there, and that they can read the tokenizer and know the family of the student.

    Raises:
        RecipeError: names the extra to install, or the exporter that cannot be used.
    """
    problems = [
        problem
        for number, exporter in enumerate(recipe.export)
        for problem in _problems(f"export[{number}]", exporter, inputs)
    ]
    if problems:
        raise RecipeError("\n  ".join(problems))


def _problems(where: str, exporter: AnyExporter, inputs: Inputs) -> Iterator[str]:
    tokenizer = inputs.of_student.tokenizer
    if missing := exporter.missing():
        yield (
            f"{where}: {exporter.kind} needs {', '.join(missing)}, which "
            f"{'is' if len(missing) == 1 else 'are'} not installed. Run: pip install 'potstill[{exporter.extra}]'"
        )
    if isinstance(exporter, GraphExporter) and not tokenizer.is_fast:
        yield (
            f"{where}: {exporter.kind} is shipped with {TOKENIZER}, which a tokenizer that runs in Python "
            f"({type(tokenizer).__name__}) does not have. Export {{kind: safetensors}}."
        )
    if not missing:
        yield from exporter.unready(where, inputs.student_config, tokenizer)
