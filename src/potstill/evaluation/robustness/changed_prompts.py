"""Rows whose prompts are changed and whose responses are not, and what models make of these responses."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedTokenizerBase

from potstill.cross_tokenizer import AlignedRows
from potstill.data.dialogues import Completion, Conversation, PlainText
from potstill.data.pairs import Pair
from potstill.data.splits import stable_order
from potstill.data.token_rows import TokenRows
from potstill.errors import DataError
from potstill.evaluation.case import Case
from potstill.evaluation.generative import tokens_on
from potstill.evaluation.robustness.measured import SALT, ways
from potstill.measure.language import TokenMeasures, TokensOfRows
from potstill.perturbations import Severity, perturbed
from potstill.runtimes.predictor import Advance, Predictor

LOOKED_AT = 8
"""Rows that are looked at together: few more than are taken."""
Sums = npt.NDArray[np.float64]
"""One for each row."""
Way = tuple[str, Severity]


@dataclass(frozen=True)
class TokenSums:
    """One model at the learnt tokens of some rows: sums over those of each row."""

    loss: Sums
    kl: Sums
    agrees: Sums
    tokens: Sums
    """How many there are."""


@dataclass(frozen=True)
class PromptSample:
    """The rows whose prompts are changed."""

    rows: Sequence[Any]
    left_out: int
    """Rows that come before the last of them in the order, and whose response does not stay as it is."""


def with_changed_prompt(row: Any, name: str, severity: Severity) -> Any:
    """The row with another prompt and the response that it had.

    Of a conversation all turns of the user are changed, each in its way; of a plain text, which asks nothing, the text.
    """

    def changed(text: str, place: int = 0) -> str:
        return perturbed(text, name, severity, f"{row.id}\0{place}")

    match row:
        case Conversation(messages=messages):
            turns = (
                replace(turn, content=changed(turn.content, place)) if turn.role == "user" else turn
                for place, turn in enumerate(messages)
            )
            return replace(row, messages=tuple(turns))
        case Completion():
            return replace(row, prompt=changed(row.prompt))
        case Pair():
            return replace(row, source=changed(row.source))
    assert isinstance(row, PlainText)
    return replace(row, text=changed(row.text))


def sampled_prompts(case: Case, read: Sequence[str]) -> PromptSample:
    """Test rows by stable hash, of those that are `read` at all, whose response stays as it is after all changes.

    A prompt that grew would take room from its response within the longest row that is read, and models are to be
    compared on the same tokens.
    """
    settings = case.recipe.evaluate.robustness
    assert settings is not None
    there = frozenset(read)
    order = [row for row in stable_order(case.test, lambda row: row.id, salt=SALT) if row.id in there]
    chosen: list[Any] = []
    left_out = 0
    with case.progress.task("evaluate: changed prompts", min(settings.rows, len(order)), "rows") as advance:
        for row, fits in _in_order(case, order):
            if not fits:
                left_out += 1
                continue
            chosen.append(row)
            advance(1)
            if len(chosen) == settings.rows:
                break
    return PromptSample(chosen, left_out)


def _in_order(case: Case, order: Sequence[Any]) -> Iterator[tuple[Any, bool]]:
    """Each row, and whether its response stays as it is, in the tokens of all models."""
    tokenizers = [each for each in (case.tokenizer, case.own_tokenizer) if each is not None]
    for start in range(0, len(order), LOOKED_AT):
        rows = order[start : start + LOOKED_AT]
        fitting = set.intersection(*(_fitting(case, tokenizer, rows) for tokenizer in tokenizers))
        yield from ((row, row.id in fitting) for row in rows)


def _fitting(case: Case, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Any]) -> set[str]:
    """The rows whose response is the same tokens after all changes; a plain text has none that could differ."""
    settings = case.recipe.evaluate.robustness
    assert settings is not None
    changes = ways(settings)
    plain = {row.id for row in rows if isinstance(row, PlainText)}
    prompted = [row for row in rows if row.id not in plain]
    if not prompted:
        return plain
    changed = [
        replace(with_changed_prompt(row, *way), id=f"{row.id}\0{number}")
        for row in prompted
        for number, way in enumerate(changes)
    ]
    said = _responses(_encoded(case, tokenizer, [*prompted, *changed]))
    return plain | {
        row.id
        for row in prompted
        if all(said.get(f"{row.id}\0{number}") == said[row.id] for number in range(len(changes)))
    }


def _encoded(case: Case, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Any]) -> TokenRows:
    """Rows as token ids, without those that the chat template refuses once they are changed."""
    assert case.encode_rows is not None
    try:
        encoded = case.encode_rows(tokenizer, rows)
    except DataError:
        refusal = case.recipe.task.refusals_of_rows(tokenizer)
        if refusal is None:
            raise
        encoded = case.encode_rows(tokenizer, [row for row in rows if refusal(row) is None])
    assert isinstance(encoded, TokenRows)
    return encoded


def _responses(rows: TokenRows) -> Mapping[str, list[int]]:
    """All tokens of each row that are to be said, in their order."""
    said: dict[str, list[int]] = defaultdict(list)
    for name, example in zip(rows.row_ids, rows.examples, strict=True):
        said[name] += example.ids[example.trained].tolist()
    return said


@dataclass(frozen=True)
class ReadRows:
    """Rows as token ids: as all models read them, or in the tokens of teacher and student."""

    rows: TokenRows
    aligned: AlignedRows | None = None

    @classmethod
    def of(cls, case: Case, rows: Sequence[Any]) -> "ReadRows":
        if case.aligned_rows is not None:
            aligned = case.aligned_rows(rows).answered()
            return cls(aligned.student, aligned)
        assert case.encode_rows is not None
        encoded = case.encode_rows(case.tokenizer, rows)
        assert isinstance(encoded, TokenRows)
        return cls(encoded)

    def __len__(self) -> int:
        return len(self.rows.lengths)


def blocks_of(case: Case, sample: Sequence[Any]) -> Iterator[ReadRows]:
    """The sampled rows as they are, and then changed in each way."""
    settings = case.recipe.evaluate.robustness
    assert settings is not None
    yield ReadRows.of(case, sample)
    for way in ways(settings):
        yield ReadRows.of(case, [with_changed_prompt(row, *way) for row in sample])


def sums_on(
    case: Case, predictors: Mapping[str, Predictor], read: ReadRows, ids: Sequence[str], advance: Advance
) -> dict[str, TokenSums]:
    """What each model gives for the responses of rows that were read, row by row in the order of `ids`."""
    found, drawn = tokens_on(case, predictors, read.rows, advance, read.aligned)
    return {name: sums_of(each, drawn, ids) for name, each in found.items()}


def sums_of(tokens: TokenMeasures, drawn: TokensOfRows, ids: Sequence[str]) -> TokenSums:
    """Sums over the tokens of each row, in the order of `ids`; zeros of a row without a token."""
    number_of = {identity: number for number, identity in enumerate(ids)}
    places = [number_of[identity] for identity in drawn.row_ids]

    def by_row(values: npt.NDArray[Any]) -> Sums:
        sums = np.zeros(len(ids))
        sums[places] = drawn.sums(values)
        return sums

    return TokenSums(
        loss=by_row(tokens.loss),
        kl=by_row(tokens.kl),
        agrees=by_row(tokens.agrees),
        tokens=by_row(np.ones(len(drawn.row_of))),
    )
