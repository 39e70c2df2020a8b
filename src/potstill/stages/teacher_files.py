"""What the files of a teacher, or of a student that exists already, say of it, without its weights."""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from transformers import PretrainedConfig, PreTrainedTokenizerBase

from potstill.checkpoints import check_files, stated_family
from potstill.errors import ModelError, RecipeError
from potstill.loaded_as import HALF, IN_FLOAT32, LoadedAs
from potstill.locations import GGUF, resolve
from potstill.measure.weights import one_type
from potstill.models import FAMILIES, Size, family_of, most_tokens
from potstill.models.fitting import require_fitting
from potstill.recipe import Recipe
from potstill.records import WeightsRecord
from potstill.remembered_digests import remembered_digest
from potstill.run_dir import fingerprint
from potstill.runtimes.folder import model_digest
from potstill.stages.teacher_weights import stored_type, weights_of
from potstill.students import Pretrained
from potstill.tasks.classes import TEACHER
from potstill.tasks.weights import Filled, check_weights
from potstill.teachers import CheckpointTeacher, PretrainedTeacher

STUDENT = "student"
"""Where a recipe names a student that exists already."""


@dataclass(frozen=True)
class Files:
    """A model's own files, of which no weights were read."""

    location: str
    digest: str
    config: PretrainedConfig
    filled: Filled | None = None
    """How its checkpoint fills a model of the task; None where that is not known before it is loaded."""
    loaded_as: LoadedAs = IN_FLOAT32
    """How its weights are held while it answers."""
    weights: WeightsRecord | None = None
    """What is to be said of them, of a teacher."""

    @property
    def as_stored(self) -> LoadedAs:
        """In the type of the files, so that no weight is rounded, and none takes more memory than it must; in float32
        where some have another type than most."""
        path = Path(self.location)
        stored = self.weights and (one_type(path) if path.is_dir() else self.weights.stored)
        return next((LoadedAs(each) for each in HALF if each == stored), IN_FLOAT32)


def read_files(
    recipe: Recipe, teacher: PretrainedTeacher, base: Path, member: str | None = None
) -> tuple[Files, PreTrainedTokenizerBase]:
    """What a teacher's files say of it, without its weights; `member` is its name in an ensemble."""
    where = named_in(recipe, member)
    if isinstance(recipe.teacher, CheckpointTeacher) and not (base / teacher.model).is_dir():
        raise RecipeError(
            f"teacher.run: {base / teacher.model} is not there. Finish that run first, with --out "
            f"{base / recipe.teacher.run}; a snapshot must be asked for there with train.snapshots, and the "
            "training must not have stopped before it."
        )
    # Of an ensemble the student is cut from the lead, which is read first and without a name.
    cut = member is None and not isinstance(recipe.student, Pretrained)
    files, tokenizer = _read(
        recipe, teacher, resolve(_relative_to(base, teacher.model)), where, cut=cut, new_head=recipe.adapt is not None
    )
    _check_frozen_layers(recipe, files.config, where)
    loaded_as, weights = weights_of(recipe, teacher, stored_type(files.location, files.config), where)
    return replace(files, loaded_as=loaded_as, weights=weights), tokenizer


def read_student_files(recipe: Recipe, student: Pretrained, base: Path) -> tuple[Files, PreTrainedTokenizerBase]:
    """What the files of a student say of it that exists already; a head for classes that it lacks is drawn anew."""
    location = resolve(_relative_to(base, student.folder_of(base)))
    return _read(recipe, student, location, STUDENT, cut=False, new_head=True)


def _read(
    recipe: Recipe,
    source: PretrainedTeacher | Pretrained,
    location: str,
    named: str,
    *,
    cut: bool,
    new_head: bool,
) -> tuple[Files, PreTrainedTokenizerBase]:
    task = recipe.task
    if location.endswith(GGUF) and not task.reads_gguf:
        raise ModelError(
            f"{location}: GGUF files are read for task.kind: causal_lm alone. Name a folder of safetensors."
        )
    with_head = isinstance(recipe.student, Pretrained)
    fits = partial(require_fitting, task=task.kind, where=f"{named}.model", cut=cut, with_head=with_head)
    check_files(location)
    if (model_type := stated_family(location)) is not None:
        # Before transformers is asked for a family that it may not know either.
        fits(model_type)
    where = {"revision": source.revision, "trust_remote_code": source.trust_remote_code}
    config = task.load_config(location, **where)
    fits(config.model_type)
    tokenizer = task.load_tokenizer(location, **where)
    task.check_tokenizer(tokenizer, config, where=named)
    task.check_folder(location, config)
    _check_lengths(recipe, config, named)
    filled = check_weights(task.new_model, config, location, new_head=new_head and task.has_head)
    return Files(location, _digest(location, config), config, filled), tokenizer


def named_in(recipe: Recipe, member: str | None) -> str:
    """Where the recipe names a teacher; without a name it is the one, or the lead of an ensemble."""
    own = member or recipe.teacher.lead_member
    return TEACHER if own is None else f"{TEACHER}.of.{own}"


def _check_lengths(recipe: Recipe, config: PretrainedConfig, named: str) -> None:
    """Raises ModelError: the recipe reads or writes longer texts than the model has positions for."""
    whose = "" if named != STUDENT else f" ({named}.model)"
    most = most_tokens(config)
    for name, length in recipe.task.lengths.items():
        if most is not None and length > most:
            raise ModelError(
                f"task.{name}: {length} tokens, and this {config.model_type} model{whose} has positions for {most}. "
                "Lower it."
            )


def _check_frozen_layers(recipe: Recipe, config: PretrainedConfig, where: str) -> None:
    """Raises ModelError: no layer of the teacher would be adapted, or where its layers lie is not known."""
    frozen = recipe.adapt.frozen_layers if recipe.adapt else 0
    if not frozen:
        return
    if config.model_type not in FAMILIES:
        raise ModelError(
            f"adapt.frozen_layers: where the layers of {where} lie, of the family {config.model_type!r}, is not known "
            "here. Set it to 0."
        )
    layers = family_of(config).size(config, Size.LAYERS)
    if frozen >= layers:
        raise ModelError(
            f"adapt.frozen_layers: {where} has {layers} layers, and one must be trained. Set it below {layers}."
        )


def _relative_to(base: Path, model: str) -> str:
    """A folder or file beside the recipe goes before a hub id of the same name."""
    beside = base / model
    return str(beside) if not model.startswith("pkg:") and beside.exists() else model


def _digest(location: str, config: PretrainedConfig) -> str:
    path = Path(location)
    if path.is_dir():
        return model_digest(path, remembered_digest)
    if path.is_file():
        return remembered_digest(path)
    return fingerprint({"hub": location, "commit": getattr(config, "_commit_hash", None)})
