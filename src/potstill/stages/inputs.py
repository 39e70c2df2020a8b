"""What is known before any stage works: rows, classes, the files of the teachers, the tokenizer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any

from transformers import PretrainedConfig, PreTrainedTokenizerBase

from potstill.data.dialogues import prompt_of
from potstill.data.encoded import TOKEN_TYPES, Encoded
from potstill.data.prepare import Split, prepare
from potstill.data.rows import DataRow
from potstill.errors import DataError, ModelError
from potstill.evaluation.harness_tasks import HarnessTask, harness_tasks
from potstill.models import FAMILIES
from potstill.progress import Progress
from potstill.recipe import Recipe
from potstill.run_dir import fingerprint
from potstill.stages.out_of_domain import read_out_of_domain
from potstill.stages.own_student import OwnStudent, own_student
from potstill.stages.piece_counts import student_vocabulary
from potstill.stages.student_search import chosen_student
from potstill.stages.teacher_files import Files, named_in, read_files
from potstill.stages.unanswerable import read_unanswerable
from potstill.students import Pretrained, Shrunk, Trimmed, student_config
from potstill.tasks.classes import TEACHER
from potstill.tasks.loading import reads_alike, tokenizer_fingerprint, without_token_types


@dataclass(frozen=True)
class Inputs:
    """What is known before any stage works: clean rows, classes in the order of the logits, the teacher's files."""

    splits: Mapping[str, Split]
    labels: list[str]
    lead: Files
    """Of the one teacher, or of the lead of an ensemble, from which the student is cut."""
    tokenizer: PreTrainedTokenizerBase
    tokenizer_digest: str
    student: Shrunk | Pretrained
    """The recipe's, or what was chosen within its budget."""
    members: Mapping[str, Files] = field(default_factory=dict)
    """Of the members of an ensemble, by name."""
    vocabulary: Trimmed | None = None
    """The student's, where it has some of the teacher's pieces."""
    own: OwnStudent | None = None
    """Of a student that exists already."""
    out_of_domain: Sequence[Any] = ()
    """Rows of texts of another kind than those of the splits."""
    unanswerable: Sequence[Any] = ()
    """Queries that should be declined or are nonsense."""
    harness: Sequence[HarnessTask] = ()
    """Tasks of lm-evaluation-harness that the models are put to."""
    known: dict[object, tuple[Sequence[Any], Encoded]] = field(default_factory=dict, compare=False, repr=False)
    """Rows of which token ids were made, with these; in the order of rows, tokenizer and task."""

    def encoded(self, recipe: Recipe, rows: Sequence[Any]) -> Encoded:
        """Rows as token ids.

        Those of a split, of a task whose models write, become tokens once in a process: making them asks a chat
        template many times, and they lie on disk. All others are read each time, for memory would hold them.

        Raises:
            DataError, ModelError: as the task's `encode`.
        """
        if not recipe.task.rows_on_disk or not any(rows is split.rows for split in self.splits.values()):
            return recipe.task.encode(rows, self.tokenizer, self.labels)
        # The rows are held with what they became, so that no others get their number.
        key = (id(rows), self.tokenizer_digest, recipe.task.model_dump_json())
        if key not in self.known:
            self.known[key] = (rows, recipe.task.encode(rows, self.tokenizer, self.labels))
        return self.known[key][1]

    def fingerprint_of(self, split: str) -> str:
        return self.splits[split].fingerprint

    @property
    def teachers(self) -> Mapping[str, Files]:
        """Of all teachers, by name."""
        return self.members or {TEACHER: self.lead}

    @property
    def loaded_as(self) -> dict[str, str]:
        """How the weights of teachers are held while they answer, of those that are not in float32."""
        return {name: told for name, files in self.teachers.items() if (told := files.loaded_as.told)}

    @property
    def loaded_as_in_digests(self) -> dict[str, dict[str, str]]:
        """The same as a part of what a stage was made from, so that others go on as they did."""
        return {"weights": self.loaded_as} if self.loaded_as else {}

    @property
    def teachers_digest(self) -> str:
        """Of all files of all teachers."""
        if not self.members:
            return self.lead.digest
        return fingerprint({name: files.digest for name, files in self.members.items()})

    @property
    def student_config(self) -> PretrainedConfig:
        """The student's configuration, without the classes."""
        if self.own is not None:
            return self.own.files.config
        assert isinstance(self.student, Shrunk)
        return student_config(self.lead.config, self.student, self.vocabulary)

    @cached_property
    def of_student(self) -> "Inputs":
        """The same with the student's tokenizer: for all models that read as the student does."""
        if self.own is not None:
            tokenizer = self.own.tokenizer
        else:
            tokenizer = self.tokenizer if self.vocabulary is None else self.vocabulary.tokenizer
        family = FAMILIES.get(self.student_config.model_type)
        if family is not None and not family.takes_token_types and TOKEN_TYPES in tokenizer.model_input_names:
            tokenizer = without_token_types(tokenizer)
        if tokenizer is self.tokenizer:
            return self
        return replace(self, tokenizer=tokenizer, tokenizer_digest=tokenizer_fingerprint(tokenizer))

    @property
    def read_alike(self) -> bool:
        """Whether teacher and student are shown the same token ids of a text, but for the numbers of the pieces."""
        return self.own is None or self.own.reads_alike


def read_inputs(recipe: Recipe, base: Path, progress: Progress | None = None) -> Inputs:
    """Read data and the teacher's configuration and tokenizer; reads no weights.

    Raises:
        DataError: rows that cannot be used.
        ModelError: no such teacher, or one whose classes are not those of the data.
    """
    files = cache(partial(read_files, recipe, recipe.lead, base))
    asked, refusal = prompt_of if recipe.generates_responses else None, None
    if recipe.data.on_error == "skip" and recipe.task.templated:
        refusal = recipe.task.refusals_of_rows(files()[1])
    keep = recipe.evaluate.kept_fields
    splits = prepare(recipe.data, base, recipe.task.read, progress, prompt_of=asked, refusal=refusal, keep=keep)
    lead, tokenizer = files()
    rows = {name: split.rows for name, split in splits.items()}
    if recipe.generates_responses:
        _check_adapt(recipe, rows)
        del rows["train"]
    labels = _label_names(recipe, splits, rows)
    anew = recipe.adapt is not None
    labels = recipe.task.teacher_labels(
        lead.config, labels, recipe.lead.classes, new_head=anew, where=named_in(recipe, None)
    )
    vocabulary = student_vocabulary(recipe, rows, labels, lead, tokenizer)
    student = chosen_student(recipe, lead.config, labels, vocabulary)
    digest = tokenizer_fingerprint(tokenizer)
    own = own_student(recipe, base, labels, lead, tokenizer)
    inputs = Inputs(
        splits,
        labels,
        lead,
        tokenizer,
        digest,
        student,
        vocabulary=vocabulary,
        own=own,
        out_of_domain=read_out_of_domain(recipe, base, splits),
        unanswerable=read_unanswerable(recipe, base),
        harness=harness_tasks(recipe.evaluate.harness, base),
    )
    return _with_members(recipe, inputs, base)


def _with_members(recipe: Recipe, inputs: Inputs, base: Path) -> Inputs:
    """The inputs with the files of all members of an ensemble.

    Raises:
        ModelError: a teacher that reads texts as other tokens than the lead, or has other classes.
        DataError: a row of a domain that no teacher knows, where rows are routed by domain.
    """
    found = {}
    lead = recipe.teacher.lead_member
    for name, teacher in recipe.teacher.members.items():
        files, tokenizer = read_files(recipe, teacher, base, name)
        if not reads_alike(tokenizer, inputs.tokenizer):
            raise ModelError(
                f"teacher.of.{name}: its tokenizer is not that of {lead}, so the same ids would mean "
                "other texts. Teachers of one student must share their vocabulary; replace it, or distil from one."
            )
        sizes = files.config.get_text_config().vocab_size, inputs.lead.config.get_text_config().vocab_size
        if recipe.task.label_positions == "tokens" and sizes[0] != sizes[1]:
            raise ModelError(
                f"teacher.of.{name}: it has {sizes[0]} rows of embeddings and {lead} {sizes[1]}, though "
                "their tokenizers are equal. Resize them to one number (model.resize_token_embeddings) and save them."
            )
        # Refuses other classes. The same ones in another order are brought into that of the lead.
        anew, where = recipe.adapt is not None, named_in(recipe, name)
        recipe.task.teacher_labels(files.config, inputs.labels, teacher.classes, new_head=anew, where=where)
        found[name] = files
    for split in (*recipe.task.labelled_splits, "test"):
        recipe.teacher.require_routes(inputs.splits[split].rows)
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
