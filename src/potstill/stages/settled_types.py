"""The types in which teachers answer, where the machine decides: those of the machine that asked them first."""

from collections.abc import Callable, Iterator
from dataclasses import replace

from potstill.errors import RecipeError
from potstill.loaded_as import TYPES
from potstill.recipe import Recipe
from potstill.stages.inputs import Inputs
from potstill.stages.teacher_files import Files
from potstill.stages.teacher_weights import own_type
from potstill.teachers import PretrainedTeacher


def in_settled_types(recipe: Recipe, inputs: Inputs, known: Callable[[str], str | None]) -> Inputs:
    """The inputs with teachers that answer in the types of the whole run, on whatever machine it goes on.

    In another type they would say other things, and all that was learnt from them would be done again. `known` is
    given a name and returns the type that is settled under it, if one is.

    Raises:
        RecipeError: what is settled is no type.
    """

    def of_run(teacher: PretrainedTeacher, files: Files) -> Files:
        name, here = _name_of(files), files.loaded_as.type
        found = known(name) if _machine_decides(recipe, teacher, files) else None
        if found is None or found == here:
            return files
        answers = next((each for each in TYPES if each == found), None)
        if answers is None:
            raise RecipeError(
                f"{name}: {found[:40]!r} is none of {', '.join(TYPES)}. Set teacher.dtype to that of this run."
            )
        assert files.weights is not None
        told = files.weights.model_copy(
            update={"answers": answers, "why": f"as where it was asked first; here it would be {here}"}
        )
        return replace(files, loaded_as=replace(files.loaded_as, type=answers), weights=told)

    members = {name: of_run(recipe.teacher.members[name], files) for name, files in inputs.members.items()}
    return replace(inputs, lead=of_run(recipe.lead, inputs.lead), members=members)


def settle_types(recipe: Recipe, inputs: Inputs, settled: Callable[[str, str], str]) -> None:
    """Keep the types of these teachers for the whole run, before they are asked anything.

    Not before that: a run is often planned on a machine that is not the one which works on it.
    """
    for teacher, files in _teachers(recipe, inputs):
        if _machine_decides(recipe, teacher, files):
            settled(_name_of(files), files.loaded_as.type)


def _teachers(recipe: Recipe, inputs: Inputs) -> Iterator[tuple[PretrainedTeacher, Files]]:
    yield recipe.lead, inputs.lead
    for name, files in inputs.members.items():
        yield recipe.teacher.members[name], files


def _machine_decides(recipe: Recipe, teacher: PretrainedTeacher, files: Files) -> bool:
    return files.weights is not None and own_type(recipe, teacher, files.weights.stored) is not None


def _name_of(files: Files) -> str:
    """By what the files hold, so that another teacher in the same run directory has a type of its own."""
    return f"teacher_type_{files.digest[:16]}.txt"
