"""Text after a prompt, or a target for a source: tokens of held-out responses, and what the models write."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedTokenizerBase

from potstill.cross_tokenizer import AlignedRows, RetellingTeacher
from potstill.data.token_rows import TokenRows
from potstill.evaluation import references
from potstill.evaluation.answers import SHOWN_CHARACTERS, Judged, agreed, estimate
from potstill.evaluation.case import Case
from potstill.evaluation.formulas import Resampled
from potstill.evaluation.judged_writing.judged import judgement_of
from potstill.evaluation.kept_rows import ModelRows
from potstill.evaluation.metrics import Measured
from potstill.evaluation.queries import new_tokens, timed_prompts
from potstill.evaluation.regressions import ShownRow, regressions_of
from potstill.evaluation.slices import RowScores, field_values, slices_of, whole_rows
from potstill.evaluation.writing import Reader, Written, readers_of, responses_of
from potstill.measure import quality
from potstill.measure.language import TokenMeasures, TokensOfRows, joined, measure_tokens
from potstill.recipe.writing_judges import ServerJudge
from potstill.records import Agreement, Estimate, Generation, WritingJudgement
from potstill.runtimes.predictor import Advance, Predictor, Queries
from potstill.runtimes.transformers import TransformersPredictor
from potstill.signals import Batch, Signals
from potstill.targets import FullTarget
from potstill.tasks.generative import generative

Right = npt.NDArray[np.bool_]
UNTRAINED = "the student as training found it"
"""Its key among the models: none of them can have this name, for it is no folder's."""


@dataclass(frozen=True)
class Untrained:
    """The student as training found it, which a teacher must be better than."""

    tokens: TokenMeasures
    vocabulary: int


@dataclass(frozen=True)
class GenerativeAnswers:
    """What each model gives at every trained token of the test rows, and what it writes after their prompts."""

    tokens: Mapping[str, TokenMeasures]
    untrained: Untrained
    drawn: TokensOfRows
    exact: Mapping[str, Right]
    """Whether the response to each row is right as a whole; empty where none can be."""
    responses: Mapping[str, Sequence[str]]
    """These responses."""
    written: Written | None
    """What the models wrote, where that was measured."""
    generations: Sequence[Generation]
    without_answer: int | None = None
    """How many of the student's tokens its teacher says nothing of, where it has others."""

    independent = False

    @property
    def models(self) -> Sequence[str]:
        return list(self.tokens)

    def right(self, model: str) -> Right:
        return self.tokens[model].right

    def share(self, values: Right) -> Resampled:
        return self.drawn.means(values)

    def confidence(self, model: str) -> tuple[npt.NDArray[np.float64], Right]:
        return self.tokens[model].confidence, self.tokens[model].right

    def agreement(self, model: str) -> Agreement:
        return _agreement(self.tokens, self.drawn, model)


def answers_of(
    case: Case, predictors: Mapping[str, Predictor], known: GenerativeAnswers | None = None
) -> GenerativeAnswers:
    """What all models give, in memory at the same time, for their distributions are compared token by token.

    Where `known` is what they gave beside an earlier form of the student, of the others the teacher alone is asked
    again, as the one that this form is compared with.
    """
    aligned, left_out = _aligned(case)
    if known is not None:
        asked = {name: predictors[name] for name in ("teacher", "student")}
        found, drawn = measured_tokens(case, asked, aligned)
        tokens, untrained = {**known.tokens, **found}, known.untrained
    else:
        model = case.untrained()
        first = next(iter(predictors.values()))
        start = TransformersPredictor(None, case.recipe.task, case.student_tokenizer, first.device, 1, model=model)
        tokens, drawn = measured_tokens(case, {**predictors, UNTRAINED: start}, aligned)
        untrained = Untrained(tokens.pop(UNTRAINED), int(model.get_output_embeddings().weight.shape[0]))
        # Speed is measured in other processes, which need the device to themselves.
        model.cpu()
    readers = readers_of(case, predictors)
    written, generations = responses_of(case, predictors, readers)
    judges_whole = generative(case.recipe.task).judges_whole_responses
    exact, responses = _exact_matches(case, predictors, readers[id(case.tokenizer)]) if judges_whole else ({}, {})
    return GenerativeAnswers(tokens, untrained, drawn, exact, responses, written, generations, left_out)


def compared(case: Case, source: Predictor, form: Predictor) -> Agreement:
    """How often the likeliest token of a form is that of the model which it was made of."""
    tokens, drawn = measured_tokens(case, {"teacher": source, "student": form}, _aligned(case)[0])
    return _agreement(tokens, drawn, "student")


def _aligned(case: Case) -> tuple[AlignedRows | None, int | None]:
    """The test rows of a student with other tokens than its teacher's, without those tokens that the teacher says
    nothing of, and how many these are."""
    if case.aligned is None:
        return None, None
    whole = case.aligned()
    answered = whole.answered()
    counts = [int(rows.student.examples.trained_counts.sum()) for rows in (whole, answered)]
    return answered, counts[0] - counts[1]


def _agreement(tokens: Mapping[str, TokenMeasures], drawn: TokensOfRows, model: str) -> Agreement:
    own = tokens[model]
    return agreed(drawn.means(own.agrees), own.agrees, ~tokens["teacher"].right, float(own.kl.mean()))


def judged(case: Case, answers: GenerativeAnswers, measured: Measured) -> Judged:
    tokens, drawn, untrained = answers.tokens, answers.drawn, answers.untrained
    losses = {"teacher": tokens["teacher"].loss, "untrained": untrained.tokens.loss}
    exact = measured.get("exact_match")
    return Judged(
        answers=answers,
        queries=queries_of(case),
        references=[
            *references.of_tokens(case, drawn, losses, untrained.vocabulary),
            *(references.of_whole_responses(case, exact["teacher"], drawn.weights) if exact else []),
        ],
        generations=answers.generations,
        more={
            **more_of(case, answers),
            **(_by_response(case, answers) if answers.exact else _by_token(case, answers)),
        },
    )


def more_of(case: Case, answers: GenerativeAnswers) -> dict[str, Any]:
    """What only language models have."""
    initial = answers.untrained.tokens.kl
    return {
        "test_tokens": len(answers.drawn.row_of),
        "tokens_without_answer": answers.without_answer,
        "learnt_from": case.recipe.label.responses.kind,
        "written_prompts": None if answers.written is None else answers.written.weights.shape[1],
        "judgement": _judgement(case, answers.written),
        "kl_gain_over_baseline": _gain(answers, "kl"),
        "loss_gain_over_baseline": _gain(answers, "loss"),
        "initial_kl_mean": float(initial.mean()),
        "kl_gain_over_start": estimate(answers.drawn.means(initial - answers.tokens["student"].kl)),
    }


def kept(case: Case, answers: GenerativeAnswers, model: str) -> ModelRows:
    """What is kept of a model's answers, row by row: sums over the tokens of each, none of a row that is not read."""
    number_of = {row.id: number for number, row in enumerate(case.test)}
    places = [number_of[identity] for identity in answers.drawn.row_ids]

    def by_row(values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        sums = np.zeros(len(case.test))
        sums[places] = answers.drawn.sums(values)
        return sums

    tokens = answers.tokens[model]
    numbers = {
        "tokens": by_row(np.ones(len(tokens.kl))),
        "right_tokens": by_row(tokens.right),
        "kl": by_row(tokens.kl),
        "loss": by_row(tokens.loss),
    }
    return ModelRows(answers.responses.get(model), answers.exact.get(model), numbers)


def truth(case: Case, answers: GenerativeAnswers) -> list[str] | None:
    """The true response to each row, where it is right or wrong as a whole."""
    prompts = generative(case.recipe.task).prompts(case.tokenizer)
    return [prompts.shown(row)[1] for row in case.test] if answers.exact else None


def _judgement(case: Case, written: Written | None) -> WritingJudgement | None:
    """What the judge of the recipe says of what the models wrote."""
    judge = case.recipe.evaluate.judge
    if judge is None or written is None:
        return None
    answers: Mapping[str, str | None] = {}
    if not isinstance(judge, ServerJudge) and judge.answer is not None:
        values = field_values(case.test, judge.answer)
        answers = {row.id: value for row, value in zip(case.test, values, strict=True)}
    return judgement_of(judge, written.exchanges, list(written.tokens), answers, case.progress)


def queries_of(case: Case) -> Queries:
    """The prompts by which speed is measured."""
    return Queries(
        "prompts",
        timed_prompts(case, case.tokenizer),
        {"new_tokens": new_tokens(case)},
        one_by_one=True,
        of_student=timed_prompts(case, case.own_tokenizer) if case.own_tokenizer else None,
    )


def _by_token(case: Case, answers: GenerativeAnswers) -> dict[str, Any]:
    """Slices of the test rows by the share of their tokens that is right; no row is right as a whole."""
    drawn = answers.drawn
    number_of = {row.id: number for number, row in enumerate(case.test)}
    hits = {model: drawn.sums(each.right) for model, each in answers.tokens.items()}
    counts = drawn.sums(np.ones(len(drawn.row_of)))
    numbers = [number_of[identity] for identity in drawn.row_ids]
    scores = RowScores(hits, counts, drawn.weights, drawn.lengths, "tokens", numbers=numbers)
    return {"slices": [each.record for each in slices_of(case, scores)]}


def _by_response(case: Case, answers: GenerativeAnswers) -> dict[str, Any]:
    """Slices of the test rows by their responses, right as a whole or wrong, and the rows that were lost."""
    slices = slices_of(case, whole_rows(answers.exact, answers.drawn.weights, answers.drawn.lengths))
    prompts = generative(case.recipe.task).prompts(case.tokenizer)

    def shown(row: int) -> ShownRow:
        asked, truth = prompts.shown(case.test[row])
        said = {model: texts[row][:SHOWN_CHARACTERS] for model, texts in answers.responses.items()}
        return ShownRow(asked, truth[:SHOWN_CHARACTERS], said, {})

    return {
        "slices": [each.record for each in slices],
        "regressions": regressions_of(case, answers.exact, slices, shown),
    }


def measured_tokens(
    case: Case, predictors: Mapping[str, Predictor], aligned: AlignedRows | None = None
) -> tuple[dict[str, TokenMeasures], TokensOfRows]:
    """The measures of each model at every trained token, and the rows of these tokens, in the order of the data."""
    rows = aligned.student if aligned else case.encode(case.tokenizer)
    assert isinstance(rows, TokenRows)
    with case.progress.task("evaluate: tokens", len(rows.lengths), "rows") as advance:
        return tokens_on(case, predictors, rows, advance, aligned)


def tokens_on(
    case: Case,
    predictors: Mapping[str, Predictor],
    rows: TokenRows,
    advance: Advance,
    aligned: AlignedRows | None = None,
) -> tuple[dict[str, TokenMeasures], TokensOfRows]:
    """The same on any rows; of `aligned` ones they are the student's."""
    parts: dict[str, list[TokenMeasures]] = {name: [] for name in predictors}
    number_of = {row: number for number, row in enumerate(dict.fromkeys(rows.row_ids))}
    # Several arrays of a chunk's size are held.
    chunk_rows = predictors["teacher"].chunk_rows() // 4
    row_of: list[int] = []
    lengths = np.zeros(len(number_of), dtype=np.int64)
    true_ids: list[npt.NDArray[np.int64]] = []
    told = {}
    for name, predictor in predictors.items():
        reads_otherwise = aligned is not None and predictor.tokenizer is not case.own_tokenizer
        predictor.answers_rows(aligned.teacher if aligned and reads_otherwise else rows)
        told[name] = _retold(predictor, aligned) if aligned and reads_otherwise else predictor.target
    for index in range(len(rows.lengths)):
        batch = rows.collate([index])
        targets: dict[str, FullTarget] = {name: target(batch) for name, target in told.items()}
        labels = batch.labels[batch.mask].to(predictors["teacher"].device)
        true_ids.append(labels.cpu().numpy())
        for name, found in measure_tokens(targets, targets["teacher"], labels, chunk_rows=chunk_rows).items():
            parts[name].append(found)
        for number in rows.examples_in(index):
            row = number_of[rows.row_ids[number]]
            row_of.extend([row] * int(rows.examples.trained_counts[number]))
            lengths[row] += rows.examples.lengths[number]
        advance(1)
    weights = quality.bootstrap_weights(len(number_of), seed=case.recipe.seed)
    of_rows = TokensOfRows(np.array(row_of), np.concatenate(true_ids), weights, list(number_of), lengths.tolist())
    return {name: joined(each) for name, each in parts.items()}, of_rows


def _retold(predictor: Predictor, rows: AlignedRows) -> Callable[[Batch], FullTarget]:
    """A predictor's distributions in the tokens of a student that has others."""
    teacher = RetellingTeacher(lambda batch: Signals(target=predictor.target(batch)), rows, predictor.device)

    def target(batch: Batch) -> FullTarget:
        found = teacher(batch).target
        assert isinstance(found, FullTarget)
        return found

    return target


def _gain(answers: GenerativeAnswers, name: str) -> Estimate | None:
    """How much less of a measure the student has than the baseline, as a mean over tokens."""
    if "baseline" not in answers.tokens:
        return None
    baseline, student = (getattr(answers.tokens[model], name) for model in ("baseline", "student"))
    return estimate(answers.drawn.means(baseline - student))


def _exact_matches(
    case: Case, predictors: Mapping[str, Predictor], reader: Reader
) -> tuple[dict[str, Right], dict[str, Sequence[str]]]:
    """For each model and test row whether its greedy response reads as the true one, space around them aside; and this
    response.

    Both are compared as the tokenizer reads them: what it has no tokens for, no model could write.
    """
    tokenizer, rows = case.tokenizer, case.test
    prompts = reader.prompts
    shown = [prompts.last(row) for row in rows]
    truth = [_text(tokenizer, prompts.reference(row)) for row in rows]
    room = max(map(prompts.room, shown))
    right: dict[str, Right] = {}
    written: dict[str, Sequence[str]] = {}
    with case.progress.task("evaluate: exact match", len(rows) * len(predictors), "responses") as advance:
        for name, predictor in predictors.items():
            responses = predictor.write_all(rows, shown, room, reader.ends, advance)
            written[name] = [_text(tokenizer, ids) for ids in responses]
            right[name] = np.array(
                [text == true for text, true in zip(written[name], truth, strict=True)], dtype=np.bool_
            )
    return right, written


def _text(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=True)).strip()
