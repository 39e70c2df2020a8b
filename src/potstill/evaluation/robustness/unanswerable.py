"""Queries that should be declined or are nonsense: whether a student does with them what its teacher does."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from potstill.capabilities import Capability
from potstill.data.dialogues import Conversation, WrittenResponse
from potstill.data.generated import GeneratedResponse
from potstill.errors import DataError, ModelError
from potstill.evaluation.answers import SHOWN_CHARACTERS, estimate
from potstill.evaluation.case import Case
from potstill.evaluation.queries import why_not_asked
from potstill.evaluation.robustness.changed_prompts import ReadRows, TokenSums, sums_on
from potstill.evaluation.writing import Ids, Reader, Response, as_teacher_reads, readers_of, responses_after
from potstill.measure import quality
from potstill.measure.writing import repeated_share
from potstill.records import QueryAnswers, QueryScores, UnanswerableQueries
from potstill.runtimes.predictor import Predictor

FIRST_TOKENS = 16
"""Of the teacher's answer: within them it takes its course, as whether it declines."""
IN_CIRCLES = 0.5
"""The share of 4-grams that occurred before, from which on an answer goes in circles: half of it is said again."""
SHOWN_OF_KIND = 4
"""Queries of each kind that the report shows with their answers."""
TEACHER = "teacher"
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Asked:
    """What came of the queries, by model where it is of one."""

    rows: Sequence[Conversation]
    sums: Mapping[str, TokenSums]
    """At the first tokens of the teacher's answers."""
    ended: Mapping[str, Flags]
    circles: Mapping[str, Flags]
    """Whether an answer goes in circles."""


def unanswerable_queries(case: Case, predictors: Mapping[str, Predictor]) -> UnanswerableQueries | str:
    """What the models make of the queries, or why they were not asked."""
    if (why := why_not_asked(case)) is not None:
        return why
    settings = case.recipe.evaluate.robustness
    assert settings is not None
    readers = readers_of(case, predictors)
    misfits = {row.id: _misfit(list(readers.values()), row) for row in case.unanswerable}
    rows = [row for row in case.unanswerable if misfits[row.id] is None]
    if not rows:
        return f"none of them can be: {next(iter(misfits.values()), 'there are none')}"
    writers = {name: each for name, each in predictors.items() if Capability.TEXT in each.gives}
    with case.progress.task("evaluate: unanswerable queries", len(rows) * len(writers), "answers") as advance:
        responses = {
            name: responses_after(case, each, readers[id(each.tokenizer)], rows, advance)
            for name, each in writers.items()
        }
    read = _after_teacher(case, predictors[TEACHER], readers[id(case.tokenizer)], rows, responses[TEACHER])
    with case.progress.task("evaluate: their first tokens", len(read), "rows") as advance:
        sums = sums_on(case, predictors, read, [row.id for row in rows], advance)
    asked = Asked(
        rows,
        sums,
        {name: np.array([response.ended for response in each]) for name, each in responses.items()},
        {
            name: np.array([in_circles(as_teacher_reads(case, writers[name], response)) for response in each])
            for name, each in responses.items()
        },
    )
    kinds = {kind: [n for n, row in enumerate(rows) if row.domain == kind] for kind in dict.fromkeys(_kinds(rows))}
    return UnanswerableQueries(
        source=settings.unanswerable or "",
        queries=len(rows),
        left_out=len(case.unanswerable) - len(rows),
        first_tokens=FIRST_TOKENS,
        answer_tokens=case.recipe.evaluate.generation_tokens,
        models=scores(asked, range(len(rows)), seed=case.recipe.seed),
        counts={kind: len(numbers) for kind, numbers in kinds.items()},
        by_kind={kind: scores(asked, numbers, seed=case.recipe.seed) for kind, numbers in kinds.items()},
        examples=[
            QueryAnswers(
                id=rows[number].id,
                query=rows[number].text[:SHOWN_CHARACTERS],
                said={
                    name: str(writers[name].tokenizer.decode(each[number].ids, skip_special_tokens=True))
                    for name, each in responses.items()
                },
            )
            for number in _shown(rows)
        ],
    )


def in_circles(ids: Ids) -> bool:
    """Whether an answer says half of itself again."""
    return repeated_share(ids) >= IN_CIRCLES


def _shown(rows: Sequence[Conversation]) -> Iterator[int]:
    """The first queries of each kind."""
    seen: Counter[str | None] = Counter()
    for number, row in enumerate(rows):
        seen[row.domain] += 1
        if seen[row.domain] <= SHOWN_OF_KIND:
            yield number


def _kinds(rows: Sequence[Conversation]) -> list[str]:
    return [row.domain for row in rows if row.domain is not None]


def _misfit(readers: Sequence[Reader], row: Conversation) -> str | None:
    """Why a query cannot be asked: the chat template refuses it, or it leaves no room for an answer."""
    try:
        room = min(reader.prompts.room(reader.prompt(row)) for reader in readers)
    except (DataError, ModelError) as error:
        return str(error)
    return None if room > 0 else f'row "{row.id}": it leaves no room for an answer within task.max_length'


def _after_teacher(
    case: Case, teacher: Predictor, reader: Reader, rows: Sequence[Conversation], responses: Sequence[Response]
) -> ReadRows:
    """The first tokens of the teacher's answers as what is to be said after the queries."""
    if case.own_tokenizer is None:
        given: list[Any] = [
            GeneratedResponse(row.id, reader.prompt(row), np.array(each.ids[:FIRST_TOKENS], dtype=np.int32), "")
            for row, each in zip(rows, responses, strict=True)
        ]
        return ReadRows.of(case, given)
    text = partial(teacher.tokenizer.decode, skip_special_tokens=True)
    given = [
        WrittenResponse(row.id, row, str(text(each.ids[:FIRST_TOKENS])), each.ended and len(each.ids) <= FIRST_TOKENS)
        for row, each in zip(rows, responses, strict=True)
    ]
    return ReadRows.of(case, given)


def scores(asked: Asked, numbers: Sequence[int], *, seed: int) -> dict[str, QueryScores]:
    """Each model on these of the queries, over resamples of them."""
    chosen = np.array(numbers, dtype=np.int64)
    weights = quality.bootstrap_weights(len(chosen), seed=seed)

    def share(flags: Flags) -> Any:
        return estimate(quality.accuracies(flags[chosen], weights))

    found = {}
    for name, sums in asked.sums.items():
        if name not in asked.ended:
            continue
        compared = name != TEACHER
        tokens = sums.tokens[chosen]
        means = [estimate(quality.pooled_shares(each[chosen], tokens, weights)) for each in (sums.kl, sums.agrees)]
        found[name] = QueryScores(
            kl=means[0] if compared else None,
            agreement=means[1] if compared else None,
            ended=share(asked.ended[name]),
            ended_as_teacher=share(asked.ended[name] == asked.ended[TEACHER]) if compared else None,
            repeats=share(asked.circles[name]),
            repeats_as_teacher=share(asked.circles[name] == asked.circles[TEACHER]) if compared else None,
        )
    return found
