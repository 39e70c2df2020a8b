"""How the weights of a teacher are held while it answers: in their own type, where nothing speaks against it."""

from pathlib import Path

import torch
from transformers import PretrainedConfig

from potstill.errors import RecipeError
from potstill.loaded_as import HALF, IN_FLOAT32, LoadedAs, WeightsType, computes_in
from potstill.measure.weights import COMMON, saved_weights
from potstill.recipe import Recipe
from potstill.records import WeightsRecord
from potstill.teachers import PretrainedTeacher
from potstill.training.engine import process_count


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
        ModelError: a package that it takes is not installed.
        RecipeError: it is asked for in half precision, and for arithmetic of another kind; or it is to be held in few
            bits or on several devices, and to be trained, or there are other processes.
    """
    _require_alone(recipe, teacher, where)
    answers, why = _type_of(recipe, teacher, stored, where)
    loaded_as = LoadedAs(answers, teacher.quantization, spread=teacher.device_map is not None)
    loaded_as.require_packages()
    if loaded_as == IN_FLOAT32 and stored not in HALF:
        return loaded_as, None
    told = WeightsRecord(
        stored=stored, answers=answers, why=why, quantization=loaded_as.quantization, spread=loaded_as.spread
    )
    return loaded_as, told


def _type_of(recipe: Recipe, teacher: PretrainedTeacher, stored: str, where: str) -> tuple[WeightsType, str]:
    """The type in which a teacher answers, and why it is not simply the stored one."""
    asked, precision = teacher.dtype, recipe.label.precision
    if asked in HALF and precision not in ("auto", asked):
        raise RecipeError(
            f"{where}.dtype: {asked}, and label.precision: {precision}. A teacher whose weights are {asked} computes "
            "in it. Leave one of the two out."
        )
    if asked != "auto":
        return asked, f"as {where}.dtype says"
    own = own_type(recipe, teacher, stored)
    if own is None:
        return IN_FLOAT32.type, f"as label.precision: {precision} asks" if stored in HALF else ""
    if not computes_in(own, device := "cuda" if torch.cuda.is_available() else "cpu"):
        slow = f"since this {'processor' if device == 'cpu' else 'device'} computes slowly in {own}"
        return IN_FLOAT32.type, f"{slow}; for half the memory set {where}.dtype: {own}"
    return own, ""


def own_type(recipe: Recipe, teacher: PretrainedTeacher, stored: str) -> WeightsType | None:
    """The type in which a teacher answers where the device computes in it; None where that does not depend on the
    device."""
    own = next((each for each in HALF if each == stored), None)
    return own if teacher.dtype == "auto" and recipe.label.precision in ("auto", own) else None


def _require_alone(recipe: Recipe, teacher: PretrainedTeacher, where: str) -> None:
    """Raises RecipeError: weights in few bits cannot be trained, nor those on several devices; and processes that share
    the work have a device each."""
    for key, given in (("quantization", teacher.quantization), ("device_map", teacher.device_map)):
        if given is not None and recipe.adapt is not None:
            raise RecipeError(
                f"{where}.{key}: {given}, and adapt trains all weights of the teacher in float32, on one device. Leave "
                "one of the two out, or name a teacher that was adapted before."
            )
    if teacher.device_map is not None and (count := process_count()) > 1:
        raise RecipeError(
            f"{where}.device_map: {teacher.device_map}, and torchrun started {count} processes, each with a device of "
            "its own. Start potstill without torchrun, or leave it out."
        )
