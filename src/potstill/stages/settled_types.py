"""The types in which teachers answer, where the machine decides: those of the machine that the run began on."""

from collections.abc import Callable
from dataclasses import replace

from potstill.errors import RecipeError
from potstill.loaded_as import TYPES
from potstill.recipe import Recipe
from potstill.stages.inputs import Inputs
from potstill.stages.teacher_files import Files
from potstill.stages.teacher_weights import own_type
from potstill.teachers import PretrainedTeacher


def in_settled_types(recipe: Recipe, inputs: Inputs, settled: Callable[[str, str], str]) -> Inputs:
    """The inputs with teachers that answer in the types of the whole run, on whatever machine it goes on.

    In another type they would say other things, and all that was learnt from them would be done again. `settled` is
    given a name and the type of this machine, and returns what is to count.

    Raises:
        RecipeError: what is settled is no type.
    """

    def of_run(teacher: PretrainedTeacher, files: Files) -> Files:
        if files.weights is None or own_type(recipe, teacher, files.weights.stored) is None:
            return files
        # By what the files hold, so that another teacher in the same run directory has a type of its own.
        name = f"teacher_type_{files.digest[:16]}.txt"
        found = settled(name, here := files.loaded_as.type)
        if found == here:
            return files
        answers = next((each for each in TYPES if each == found), None)
        if answers is None:
            raise RecipeError(
                f"{name}: {found[:40]!r} is none of {', '.join(TYPES)}. Set teacher.dtype to that of this run."
            )
        told = files.weights.model_copy(
            update={"answers": answers, "why": f"as where this run began; here it would be {here}"}
        )
        return replace(files, loaded_as=replace(files.loaded_as, type=answers), weights=told)

    members = {name: of_run(recipe.teacher.members[name], files) for name, files in inputs.members.items()}
    return replace(inputs, lead=of_run(recipe.lead, inputs.lead), members=members)
