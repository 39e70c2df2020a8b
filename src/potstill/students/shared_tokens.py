"""Which tokens a language model that exists already has in common with its teacher."""

from collections.abc import Mapping
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class SharedTokens:
    """The ids below `count` stand for the same tokens in teacher and student, and both have rows for them.

    Matrices of embeddings are padded to round numbers, and not all to the same: Qwen 2.5 has 151,936 rows, and 152,064
    in its larger models, for 151,665 tokens. What lies beyond is left out of both distributions before the softmax: no
    text has it, and each such logit of zero would take mass from the others.
    """

    count: int
    rows: tuple[int, int]
    """Of the matrices of teacher and student."""
    adopted: tuple[str, ...] = ()
    """The teacher's tokens that the student learns anew under ids that stand for others, or none, in its tokenizer."""
    unknown: tuple[str, ...] = ()
    """The teacher's tokens that the student has not; a row that holds one is refused."""


def same_pieces(teacher: PreTrainedTokenizerBase, student: PreTrainedTokenizerBase) -> bool:
    """Whether two tokenizers are one, but for tokens that were added later: each id stands for the same piece."""
    theirs, own = _tokens(teacher), _tokens(student)
    added = set(teacher.added_tokens_decoder) | set(student.added_tokens_decoder)
    return all(number in added or theirs.get(number) == own.get(number) for number in {*theirs, *own})


def shared_tokens(
    teacher: PreTrainedTokenizerBase,
    student: PreTrainedTokenizerBase,
    rows: tuple[int, int],
    *,
    adopt: bool,
) -> SharedTokens:
    """Compare two tokenizers of the same pieces id by id; `rows` are those of the embedding matrices of teacher and
    student.

    Special tokens and others that were added later may differ: with `adopt` the student takes the teacher's, and else
    those from the first that differs on are not shared.
    """
    theirs, own = _tokens(teacher), _tokens(student)
    differing = sorted(number for number in {*theirs, *own} if theirs.get(number) != own.get(number))
    count = min(1 + max(theirs), *rows)
    others = [number for number in differing if number in theirs and number < count]
    if not adopt:
        count = min([count, *others])
    return SharedTokens(
        count,
        rows,
        adopted=tuple(theirs[number] for number in others) if adopt else (),
        unknown=tuple(theirs[number] for number in sorted(theirs) if number >= count),
    )


def _tokens(tokenizer: PreTrainedTokenizerBase) -> Mapping[int, str]:
    return {number: token for token, number in tokenizer.get_vocab().items()}
