"""A student that exists already: its files, how it reads, and which tokens it has in common with its teacher."""

from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from potstill.cross_tokenizer import Vocabularies
from potstill.errors import ModelError
from potstill.recipe import Recipe
from potstill.signals import Signal
from potstill.stages.other_tokens import vocabularies_of
from potstill.stages.teacher_files import STUDENT, Files, read_student_files
from potstill.students import Pretrained, SharedTokens, same_pieces, shared_tokens
from potstill.tasks.loading import reads_alike


@dataclass(frozen=True)
class OwnStudent:
    """What is known of a student that exists already, without its weights."""

    files: Files
    tokenizer: PreTrainedTokenizerBase
    """By which it reads: its own, or the teacher's where that makes the same token ids, or labels belong to tokens."""
    reads_alike: bool = True
    """Whether it is shown the same token ids as its teacher."""
    shared: SharedTokens | None = None
    """Where labels belong to tokens, and both have the same ones."""
    vocabularies: Vocabularies | None = None
    """Where labels belong to tokens, and theirs are different ones."""


def own_student(
    recipe: Recipe, base: Path, labels: list[str], lead: Files, of_teacher: PreTrainedTokenizerBase
) -> OwnStudent | None:
    """The recipe's student, where it exists already; `lead` are the files of the teacher with this tokenizer.

    Raises:
        ModelError: it cannot be read, or does not read as its teacher does where labels need that.
        RecipeError: it has other tokens, and the teacher's distributions are stored of some of its tokens alone.
    """
    student = recipe.student
    if not isinstance(student, Pretrained):
        return None
    files, tokenizer = read_student_files(recipe, student, base)
    # A head of other classes is replaced; names that fit neither are refused.
    recipe.task.teacher_labels(files.config, labels, student.classes, new_head=True, where=STUDENT)
    of_tokens = recipe.task.label_positions == "tokens"
    rows = lead.config.get_text_config().vocab_size, files.config.get_text_config().vocab_size
    if of_tokens and same_pieces(of_teacher, tokenizer):
        shared = shared_tokens(of_teacher, tokenizer, rows, adopt=student.adopt_tokens)
        # What is learnt are the teacher's token ids, in the form that its template gives to the rows.
        return OwnStudent(files, of_teacher, shared=shared)
    if not of_tokens and reads_alike(tokenizer, of_teacher):
        return OwnStudent(files, of_teacher)
    if compared := sorted({loss.kind for loss in recipe.losses if loss.reads() - {Signal.LOGITS}}):
        raise ModelError(
            f"student.model: its tokenizer is another one than its teacher's, and losses on features "
            f"({', '.join(compared)}) compare the models token by token. Leave these losses out, or take a student "
            "that reads as its teacher does."
        )
    if not of_tokens:
        return OwnStudent(files, tokenizer, reads_alike=False)
    if student.adopt_tokens:
        raise ModelError(
            "student.adopt_tokens: the student's tokenizer is another one than its teacher's, so it keeps its own "
            "special tokens and its chat template. Leave it out."
        )
    return OwnStudent(
        files, tokenizer, reads_alike=False, vocabularies=vocabularies_of(recipe, of_teacher, tokenizer, rows)
    )


def with_shared_tokens(recipe: Recipe, own: OwnStudent | None) -> Recipe:
    """The recipe with distributions over the tokens that teacher and student have in common, where these are not all
    rows of both their heads."""
    if own is None or own.shared is None or set(own.shared.rows) == {own.shared.count}:
        return recipe
    count = min(own.shared.count, recipe.task.shared_tokens or own.shared.count)
    return recipe.model_copy(update={"task": recipe.task.model_copy(update={"shared_tokens": count})})
