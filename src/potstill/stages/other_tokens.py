"""A language model's student that has other tokens than its teacher: the two vocabularies, and the rows in both."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedTokenizerBase

from potstill.cross_tokenizer import AlignedRows, TokenTexts, Vocabularies
from potstill.data.dialogues import Conversation, PlainText
from potstill.data.token_rows import TokenRows
from potstill.data.turns import Message
from potstill.errors import DataError, ModelError, RecipeError
from potstill.recipe import Recipe
from potstill.records import OtherTokensRecord
from potstill.tasks.generative import generative

if TYPE_CHECKING:
    from potstill.stages.inputs import Inputs

FEWEST_ANSWERED = 0.95
"""The share of learnt tokens with an answer of the teacher, below which the plan warns: as of unknown tokens."""
ASKED = Conversation("a question", (Message("user", "Hello"),))
"""A chat, to ask a template which token ends a response."""


def vocabularies_of(
    recipe: Recipe, teacher: PreTrainedTokenizerBase, student: PreTrainedTokenizerBase, rows: tuple[int, int]
) -> Vocabularies:
    """The vocabularies of two models with so many rows of embeddings.

    Raises:
        ModelError: a task or a tokenizer that cannot be compared so.
        RecipeError: the teacher's distributions are stored of some of its tokens alone.
    """
    if not recipe.task.compares_texts:
        raise ModelError(
            f"student.model: its tokenizer is another one than its teacher's, and in {recipe.task.kind} distributions "
            "are compared token by token. Take a student with the teacher's tokens, or cut one from the teacher "
            "(student.kind: shrunk)."
        )
    stored = recipe.reads_distributions and recipe.label.mode == "stored"
    if stored and not recipe.encoding.whole:
        raise RecipeError(
            f"label.encoding: {recipe.encoding.kind} keeps some of the teacher's tokens, and the student's tokenizer "
            "is another one, in whose tokens all of the teacher's distribution must be told. Use low_rank or hidden."
        )
    texts = [
        TokenTexts.of(tokenizer, count, where)
        for tokenizer, count, where in zip((teacher, student), rows, ("teacher", "student.model"), strict=True)
    ]
    return Vocabularies(texts[0], texts[1], list(_ends(recipe, teacher, student)))


def _ends(
    recipe: Recipe, teacher: PreTrainedTokenizerBase, student: PreTrainedTokenizerBase
) -> Iterator[tuple[int, int]]:
    """The tokens that end a text, and those that end a response by the chat template."""
    if teacher.eos_token_id is not None and student.eos_token_id is not None:
        yield teacher.eos_token_id, student.eos_token_id
    if not (teacher.chat_template and student.chat_template):
        return
    try:
        theirs, own = (generative(recipe.task).prompts(each).end_of(ASKED) for each in (teacher, student))
    except (DataError, ModelError):
        # A template that refuses the chat, or ends no response; rows that it refuses are named where they are read.
        return
    yield theirs, own


def doubts_about_answers(other: OtherTokensRecord | None) -> list[str]:
    """A sentence for the plan, where the teacher says nothing of many tokens.

    Raises:
        ModelError: it says nothing of any.
    """
    if other is None or other.answered >= FEWEST_ANSWERED:
        return []
    if other.answered == 0:
        raise ModelError(
            "student.model: its tokenizer writes no text of data.validation as its teacher's does, byte by byte, so "
            "nothing of the teacher's distributions can be told in its tokens. Take another student."
        )
    return [
        f"validation: of {1 - other.answered:.0%} of the student's tokens the teacher says nothing, since the two "
        "tokenizers or chat templates write the text there in different ways. They are learnt from hard labels alone, "
        "and left out of the evaluation."
    ]


def aligned_rows(recipe: Recipe, inputs: "Inputs", split: str) -> AlignedRows:
    """The rows of a split in the tokens of both."""
    return rows_in_both(recipe, inputs, inputs.splits[split].rows)


def rows_in_both(recipe: Recipe, inputs: "Inputs", rows: Sequence[Any]) -> AlignedRows:
    """Rows in the tokens of both."""
    assert inputs.own is not None and inputs.own.vocabularies is not None
    theirs, own = inputs.encoded(recipe, rows), inputs.of_student.encoded(recipe, rows)
    assert isinstance(theirs, TokenRows) and isinstance(own, TokenRows)
    windows = frozenset(row.id for row in rows if isinstance(row, PlainText))
    return AlignedRows(inputs.own.vocabularies, theirs, own, windows)
