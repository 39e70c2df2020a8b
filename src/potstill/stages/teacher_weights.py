"""How the weights of a teacher are held while it answers: in their own type, where nothing speaks against it."""

from pathlib import Path

import torch
from transformers import PretrainedConfig

from potstill.errors import RecipeError
from potstill.measure.weights import COMMON, saved_weights
from potstill.recipe import Recipe
from potstill.records import WeightsRecord
from potstill.teachers import PretrainedTeacher
from potstill.teachers.loaded_as import HALF, LoadedAs, computes_in


def stored_type(location: str, config: PretrainedConfig) -> str:
    """The type of a model's own files; of one on a hub as its configuration says. What a GGUF file holds is read into
    float32."""
    path = Path(location)
    if path.exists():
        return saved_weights(path).type if path.is_dir() else COMMON
    return str(getattr(config, "dtype", None) or COMMON).removeprefix("torch.")


def weights_of(
    recipe: Recipe, teacher: PretrainedTeacher, stored: str, where: str
) -> tuple[LoadedAs, WeightsRecord | None]:
    """How a teacher of this stored type is loaded to answer, with what is to be said of it: nothing of float32.

    Raises:
        RecipeError: it is asked for in half precision, and for arithmetic of another kind.
    """
    asked, precision = teacher.dtype, recipe.label.precision
    if asked in HALF and precision not in ("auto", asked):
        raise RecipeError(
            f"{where}.dtype: {asked}, and label.precision: {precision}. A teacher whose weights are {asked} computes "
            "in it. Leave one of the two out."
        )
    if stored not in HALF and asked in ("auto", COMMON):
        return LoadedAs(), None
    if asked != "auto":
        return LoadedAs(asked), WeightsRecord(stored=stored, answers=asked, why=f"as {where}.dtype says")
    own = next(each for each in HALF if each == stored)
    if precision not in ("auto", own):
        return LoadedAs(), WeightsRecord(stored=stored, answers=COMMON, why=f"as label.precision: {precision} asks")
    if not computes_in(own, device := "cuda" if torch.cuda.is_available() else "cpu"):
        why = (
            f"since this {'processor' if device == 'cpu' else 'device'} computes slowly in {own}; for half the memory "
        )
        return LoadedAs(), WeightsRecord(stored=stored, answers=COMMON, why=f"{why}set {where}.dtype: {own}")
    return LoadedAs(own), WeightsRecord(stored=stored, answers=own)
