"""What several stages need: the prepared data of a run, and its models by role."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from potstill.checkpoints import check_files, stated_family
from potstill.data.batches import batches_by_length
from potstill.data.dialogues import prompt_of
from potstill.data.encoded import BatchSource, Encoded, EncodedRows
from potstill.data.prepare import Split, prepare
from potstill.data.rows import DataRow, labelled_rows
from potstill.errors import DataError, ModelError, RecipeError
from potstill.families import WITHOUT_TOKEN_TYPES, most_tokens, require_fitting
from potstill.locations import GGUF, resolve
from potstill.losses import HardLabels, MixedLoss
from potstill.progress import Progress
from potstill.recipe import Recipe
from potstill.run_dir import file_digest, fingerprint
from potstill.runtimes.folder import model_digest
from potstill.schedules import Constant
from potstill.stages.student_search import chosen_student
from potstill.students import Shrunk, Trimmed, TrimmedVocabulary, student_config, trim
from potstill.tasks import CausalLM, Seq2Seq, TextClassification
from potstill.tasks.classes import TEACHER
from potstill.tasks.generative import check_generation_config
from potstill.tasks.loading import TOKEN_TYPES, tokenizer_fingerprint, without_token_types
from potstill.tasks.target_scaler import TargetScaler
from potstill.tasks.weights import Filled, check_weights
from potstill.teachers import CheckpointTeacher, Mixture, PretrainedTeacher, Routed, lead_name

COUNTED_ROWS = 256
"""Rows whose pieces are counted at a time."""


@dataclass(frozen=True)
class Files:
    """A teacher's own files, of which no weights were read."""

    location: str
    digest: str
    config: PretrainedConfig
    filled: Filled | None = None
    """How its checkpoint fills a model of the task; None where that is not known before it is loaded."""


@dataclass(frozen=True)
class Inputs:
    """What is known before any stage works: clean rows, classes in the order of the logits, the teacher's files."""

    splits: Mapping[str, Split]
    labels: list[str]
    lead: Files
    """Of the one teacher, or of the one of several from which the student is cut."""
    tokenizer: PreTrainedTokenizerBase
    tokenizer_digest: str
    student: Shrunk
    """The recipe's, or what was chosen within its budget."""
    members: Mapping[str, Files] = field(default_factory=dict)
    """Of all teachers by name, where there are ensemble."""
    vocabulary: Trimmed | None = None
    """The student's, where it is not the teacher's."""
    known: dict[object, tuple[Sequence[Any], Encoded]] = field(default_factory=dict, compare=False, repr=False)
    """Rows of which token ids were made, with these; in the order of rows, tokenizer and task."""

    def encoded(self, recipe: Recipe, rows: Sequence[Any]) -> Encoded:
        """Rows as token ids.

        Those of a split, of a task whose models write, become tokens once in a process: making them asks a chat
        template many times, and they lie on disk. All others are read each time, for memory would hold them.

        Raises:
            DataError, ModelError: as the task's `encode`.
        """
        if not recipe.task.generative or not any(rows is split.rows for split in self.splits.values()):
            return recipe.task.encode(rows, self.tokenizer, self.labels)
        # The rows are held with what they became, so that no others get their number.
        key = (id(rows), self.tokenizer_digest, recipe.task.model_dump_json())
        if key not in self.known:
            self.known[key] = (rows, recipe.task.encode(rows, self.tokenizer, self.labels))
        return self.known[key][1]

    def fingerprint_of(self, split: str) -> str:
        return self.splits[split].fingerprint

    @property
    def teachers_digest(self) -> str:
        """Of all files of all teachers."""
        if not self.members:
            return self.lead.digest
        return fingerprint({name: files.digest for name, files in self.members.items()})

    @property
    def student_config(self) -> PretrainedConfig:
        """The student's configuration, without the classes."""
        return student_config(self.lead.config, self.student, self.vocabulary)

    @cached_property
    def of_student(self) -> "Inputs":
        """The same with the student's tokenizer: for all models that read as the student does."""
        tokenizer = self.tokenizer if self.vocabulary is None else self.vocabulary.tokenizer
        if self.student_config.model_type in WITHOUT_TOKEN_TYPES and TOKEN_TYPES in tokenizer.model_input_names:
            tokenizer = without_token_types(tokenizer)
        if tokenizer is self.tokenizer:
            return self
        return replace(self, tokenizer=tokenizer, tokenizer_digest=tokenizer_fingerprint(tokenizer))


def alone(recipe: Recipe, inputs: Inputs, name: str) -> tuple[Recipe, Inputs]:
    """Recipe and inputs as they are for one of several teachers, which is adapted on the rows of its domains."""
    assert recipe.ensemble is not None
    splits = dict(inputs.splits)
    if (domains := recipe.ensemble.domains.get(name)) is not None:
        source = splits.get("adapt", splits["train"])
        splits["adapt"] = _of_domains(source, domains)
        splits["validation"] = _of_domains(splits["validation"], domains)
        for split in ("adapt", "validation"):
            if not any(row.labelled for row in splits[split].rows):
                raise DataError(
                    f"teacher.domains.{name}: no labelled row of {split} is of {', '.join(domains)}. Add some, or "
                    "name other domains."
                )
    own = recipe.model_copy(update={"teacher": recipe.ensemble.of[name]})
    return own, replace(inputs, splits=splits, lead=inputs.members[name], members={})


def _of_domains(split: Split, domains: Sequence[str]) -> Split:
    return replace(split, rows=[row for row in split.rows if row.domain in domains])


def read_inputs(recipe: Recipe, base: Path, progress: Progress | None = None) -> Inputs:
    """Read data and the teacher's configuration and tokenizer; reads no weights.

    Raises:
        DataError: rows that cannot be used.
        ModelError: no such teacher, or one whose classes are not those of the data.
    """
    files = cache(partial(_read_files, recipe, recipe.lead, base))
    asked, refusal = prompt_of if recipe.generates_responses else None, None
    if recipe.data.on_error == "skip" and recipe.task.templated:
        refusal = recipe.task.refusals_of_rows(files()[1])
    splits = prepare(recipe.data, base, recipe.task.read, progress, prompt_of=asked, refusal=refusal)
    lead, tokenizer = files()
    rows = {name: split.rows for name, split in splits.items()}
    if recipe.generates_responses:
        _check_adapt(recipe, rows)
        del rows["train"]
    labels = _label_names(recipe, splits, rows)
    anew = recipe.adapt is not None
    labels = recipe.task.teacher_labels(
        lead.config, labels, recipe.lead.classes, new_head=anew, where=_named_in(recipe, None)
    )
    vocabulary = _vocabulary(recipe, rows, labels, lead, tokenizer)
    student = chosen_student(recipe, lead.config, labels, vocabulary)
    digest = tokenizer_fingerprint(tokenizer)
    inputs = Inputs(splits, labels, lead, tokenizer, digest, student, vocabulary=vocabulary)
    return inputs if recipe.ensemble is None else _with_ensemble(recipe, recipe.ensemble, inputs, base)


def _vocabulary(
    recipe: Recipe,
    splits: Mapping[str, Sequence[Any]],
    labels: list[str],
    lead: Files,
    tokenizer: PreTrainedTokenizerBase,
) -> Trimmed | None:
    """The student's vocabulary, where the recipe trims it to what the rows say."""
    settings = recipe.student.vocabulary
    if not isinstance(settings, TrimmedVocabulary):
        return None
    counts = torch.zeros((), dtype=torch.int64)
    for name in ("train", "adapt") if settings.rows == "train_and_adapt" else ("train",):
        counts = counts + piece_counts(recipe.task.encode(splits.get(name, []), tokenizer, labels), tokenizer)
    return trim(tokenizer, lead.config, counts, settings)


def piece_counts(encoded: BatchSource, tokenizer: PreTrainedTokenizerBase) -> Int64[Tensor, "pieces"]:
    """How often each piece of a tokenizer occurs in encoded rows."""
    pieces = 1 + max(tokenizer.get_vocab().values())
    counts = torch.zeros(pieces, dtype=torch.int64)
    for indices in batches_by_length(encoded.lengths, COUNTED_ROWS):
        inputs = encoded.collate(indices).inputs
        counts += torch.bincount(inputs["input_ids"][inputs["attention_mask"] > 0], minlength=pieces)
    return counts


def _read_files(
    recipe: Recipe, teacher: PretrainedTeacher, base: Path, member: str | None = None
) -> tuple[Files, PreTrainedTokenizerBase]:
    """What a teacher's files say of it, without its weights; `member` is its name among ensemble."""
    if isinstance(recipe.teacher, CheckpointTeacher) and not (base / teacher.model).is_dir():
        raise RecipeError(
            f"teacher.run: {base / teacher.model} is not there. Finish that run first, with --out "
            f"{base / recipe.teacher.run}; a snapshot must be asked for there with train.snapshots, and the "
            "training must not have stopped before it."
        )
    location = resolve(_relative_to(base, teacher.model))
    task = recipe.task
    if location.endswith(GGUF) and not isinstance(task, CausalLM):
        raise ModelError(
            f"{location}: GGUF files are read for task.kind: causal_lm alone. Name a folder of safetensors."
        )
    # Of several teachers the student is cut from the lead, which is read first and without a name.
    fits = partial(
        require_fitting,
        task=task.kind,
        where=f"{_named_in(recipe, member)}.model",
        cut=member is None,
    )
    check_files(location)
    if (model_type := stated_family(location)) is not None:
        # Before transformers is asked for a family that it may not know either.
        fits(model_type)
    where = {"revision": teacher.revision, "trust_remote_code": teacher.trust_remote_code}
    config = task.load_config(location, **where)
    fits(config.model_type)
    tokenizer = task.load_tokenizer(location, **where)
    task.check_tokenizer(tokenizer, config, where=_named_in(recipe, member))
    if task.generative:
        check_generation_config(location, config.get_text_config().vocab_size)
    _check_lengths(recipe, config)
    filled = check_weights(task.new_model, config, location, new_head=recipe.adapt is not None and not task.generative)
    return Files(location, _teacher_digest(location, config), config, filled), tokenizer


def _named_in(recipe: Recipe, member: str | None) -> str:
    """Where the recipe names a teacher; without a name it is the one, or the lead of ensemble."""
    return TEACHER if recipe.ensemble is None else f"{TEACHER}.of.{member or lead_name(recipe.ensemble)}"


def _check_lengths(recipe: Recipe, config: PretrainedConfig) -> None:
    """Raises ModelError: the recipe reads or writes longer texts than the model has positions for."""
    task, most = recipe.task, most_tokens(config)
    asked = {"max_length": task.max_length}
    if isinstance(task, Seq2Seq):
        asked["max_target_length"] = task.max_target_length
    for name, length in asked.items():
        if most is not None and length > most:
            raise ModelError(
                f"task.{name}: {length} tokens, and this {config.model_type} model has positions for {most}. Lower it."
            )


def _with_ensemble(recipe: Recipe, ensemble: Mixture | Routed, inputs: Inputs, base: Path) -> Inputs:
    """The inputs with the files of all teachers.

    Raises:
        ModelError: a teacher that reads texts as other tokens than the lead, or has other classes.
        DataError: a row of a domain that no teacher knows, where rows are routed by domain.
    """
    found = {}
    for name, teacher in ensemble.of.items():
        files, tokenizer = _read_files(recipe, teacher, base, name)
        if tokenizer_fingerprint(tokenizer) != inputs.tokenizer_digest:
            raise ModelError(
                f"teacher.of.{name}: its tokenizer is not that of {lead_name(ensemble)}, so the same ids would mean "
                "other texts. Teachers of one student must share their vocabulary; replace it, or distil from one."
            )
        sizes = files.config.get_text_config().vocab_size, inputs.lead.config.get_text_config().vocab_size
        if recipe.task.generative and sizes[0] != sizes[1]:
            raise ModelError(
                f"teacher.of.{name}: it has {sizes[0]} rows of embeddings and {lead_name(ensemble)} {sizes[1]}, though "
                "their tokenizers are equal. Resize them to one number (model.resize_token_embeddings) and save them."
            )
        # Refuses other classes. The same ones in another order are brought into that of the lead.
        anew, where = recipe.adapt is not None, _named_in(recipe, name)
        recipe.task.teacher_labels(files.config, inputs.labels, teacher.classes, new_head=anew, where=where)
        found[name] = files
    if isinstance(ensemble, Routed) and ensemble.by == "domain":
        for split in ("train", "validation", "test") if recipe.task.generative else ("train", "test"):
            for row in inputs.splits[split].rows:
                ensemble.member_for(row.domain, row.id)
    return replace(inputs, members=found)


def _label_names(recipe: Recipe, splits: Mapping[str, Split], read: Mapping[str, Sequence[Any]]) -> list[str]:
    """The classes of these rows.

    Raises:
        DataError: the rows do not fit the task; says so where copies under another label were left out of them.
    """
    try:
        return recipe.task.label_names(read)
    except DataError as error:
        dropped = sum(split.other_label_dropped for split in splits.values())
        if not dropped:
            raise
        raise DataError(
            f"{error} {dropped:,} rows were left out, since they copy a row with another label; mend their labels, or "
            "keep them with data.deduplicate: false, data.near_copies: null and an id for each row."
        ) from None


def _check_adapt(recipe: Recipe, splits: Mapping[str, Sequence[DataRow]]) -> None:
    if recipe.adapt and "adapt" not in splits and not any(row.labelled for row in splits["train"]):
        raise DataError(
            "adapt: no row of data.train has a response that the teacher could be adapted to. Give data.adapt, or "
            "leave adapt out."
        )


def target_scaler_of(recipe: Recipe, rows: Sequence[Any]) -> TargetScaler | None:
    """The units of the labels of these rows, where they are numbers."""
    task = recipe.task
    numbers = isinstance(task, TextClassification) and task.problem_type == "regression"
    return TargetScaler.of(labelled_rows(rows)) if numbers else None


def with_scaled_targets(recipe: Recipe, inputs: Inputs, rows: Sequence[Any], scaler: TargetScaler | None) -> Encoded:
    """The rows as they are trained on: labels that are numbers in standard units."""
    encoded = inputs.encoded(recipe, rows)
    return scaler.of_rows(encoded) if scaler is not None and isinstance(encoded, EncodedRows) else encoded


def true_labels() -> MixedLoss:
    """Cross-entropy with the true labels alone."""
    return MixedLoss([HardLabels(weight=Constant(value=1.0)).build()])


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
