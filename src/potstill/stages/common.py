"""What several stages need: the prepared data of a run, and its models by role."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from potstill.data.dialogues import prompt_of
from potstill.data.prepare import Split, prepare
from potstill.data.rows import DataRow
from potstill.errors import DataError
from potstill.locations import local_folder, resolve
from potstill.losses import HardLabels, MixedLoss
from potstill.progress import Progress
from potstill.recipe import Recipe
from potstill.records import AdaptRecord
from potstill.run_dir import RunDir, atomic_folder, file_digest, fingerprint, folder_files
from potstill.schedules import Constant
from potstill.tasks.loading import tokenizer_fingerprint
from potstill.training.engine import Engine


@dataclass(frozen=True)
class Inputs:
    """What is known before any stage works: clean rows, classes in the order of the logits, the teacher's files."""

    splits: Mapping[str, Split]
    labels: list[str]
    teacher_location: str
    teacher_digest: str
    teacher_config: PretrainedConfig
    tokenizer: PreTrainedTokenizerBase
    tokenizer_digest: str

    def fingerprint_of(self, split: str) -> str:
        return self.splits[split].fingerprint


def read_inputs(recipe: Recipe, base: Path, progress: Progress | None = None) -> Inputs:
    """Read data and the teacher's configuration and tokenizer; reads no weights.

    Raises:
        DataError: rows that cannot be used.
        ModelError: no such teacher, or one whose classes are not those of the data.
    """
    asked = prompt_of if recipe.writes_responses else None
    splits = prepare(recipe.data, base, recipe.task.read, progress, prompt_of=asked)
    teacher = recipe.lead
    location = resolve(_relative_to(base, teacher.model))
    where = {"revision": teacher.revision, "trust_remote_code": teacher.trust_remote_code}
    config = recipe.task.load_config(location, **where)
    tokenizer = recipe.task.load_tokenizer(location, **where)
    recipe.task.check_tokenizer(tokenizer, config)
    said = {name: split.rows for name, split in splits.items()}
    if recipe.writes_responses:
        _check_adapt(recipe, said)
        del said["train"]
    labels = recipe.task.label_names(said)
    if recipe.adapt is None:
        labels = recipe.task.teacher_labels(config, labels)
    return Inputs(
        splits=splits,
        labels=labels,
        teacher_location=location,
        teacher_digest=_teacher_digest(location, config),
        teacher_config=config,
        tokenizer=tokenizer,
        tokenizer_digest=tokenizer_fingerprint(tokenizer),
    )


def _check_adapt(recipe: Recipe, splits: Mapping[str, Sequence[DataRow]]) -> None:
    if recipe.adapt and "adapt" not in splits and not any(row.labelled for row in splits["train"]):
        raise DataError(
            "adapt: no row of data.train has a response that the teacher could be adapted to. Give data.adapt, or "
            "leave adapt out."
        )


def load_teacher(recipe: Recipe, run: RunDir, adapted: AdaptRecord) -> PreTrainedModel:
    """The teacher that is distilled: the adapted one of this run, or the recipe's own."""
    return teacher_folder(recipe, run, adapted).load(recipe)


@dataclass(frozen=True)
class ModelFolder:
    """A saved model, and whether code that lies beside its weights may run."""

    path: Path
    trust_remote_code: bool = False

    def load(self, recipe: Recipe) -> PreTrainedModel:
        return recipe.task.load_model(str(self.path), trust_remote_code=self.trust_remote_code)


def teacher_folder(recipe: Recipe, run: RunDir, adapted: AdaptRecord) -> ModelFolder:
    """Where the teacher that is distilled lies; one of the hub is fetched as the recipe says."""
    if adapted.adapted or adapted.converted:
        return ModelFolder(run.path(adapted.location))
    teacher = recipe.lead
    trusted = teacher.trust_remote_code
    return ModelFolder(local_folder(adapted.location, revision=teacher.revision, trust_remote_code=trusted), trusted)


def save_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path, engine: Engine) -> None:
    """A folder that `from_pretrained` loads, whole when this returns in any process. All of them must call it."""
    if engine.is_main:
        write_model(model, tokenizer, folder)
    engine.barrier()


def write_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """A folder that `from_pretrained` loads, written by this process alone."""
    with atomic_folder(folder) as target:
        model.save_pretrained(target)
        tokenizer.save_pretrained(target)


def true_labels() -> MixedLoss:
    """Cross-entropy with the true labels alone."""
    return MixedLoss([HardLabels(weight=Constant(value=1.0)).build()])


def model_digest(folder: Path) -> str:
    """Digest of all files of a saved model: weights, configuration and tokenizer."""
    return fingerprint(folder_files(folder, relative_to=folder))


def _relative_to(base: Path, model: str) -> str:
    """A folder or file beside the recipe goes before a hub id of the same name."""
    beside = base / model
    return str(beside) if not model.startswith("pkg:") and beside.exists() else model


def _teacher_digest(location: str, config: PretrainedConfig) -> str:
    path = Path(location)
    if path.is_dir():
        return model_digest(path)
    if path.is_file():
        return file_digest(path)
    return fingerprint({"hub": location, "commit": getattr(config, "_commit_hash", None)})
