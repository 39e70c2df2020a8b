"""Text after a prompt, or a target for a source: tokens of held-out responses, and what the models write."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedTokenizerBase

from potstill.capabilities import Capability
from potstill.data.token_rows import TokenRows
from potstill.evaluation import references
from potstill.evaluation.answers import SHOWN_CHARACTERS, Judged, agreed, estimate
from potstill.evaluation.case import Case
from potstill.evaluation.metrics import Measured, Resampled
from potstill.evaluation.queries import new_tokens, prompted_rows, room_after, timed_prompts
from potstill.measure import quality
from potstill.measure.language import TokenMeasures, TokensOfRows, joined, measure_tokens
from potstill.records import Agreement, Estimate, Generation
from potstill.runtimes.predictor import Predictor, Queries
from potstill.runtimes.transformers import TransformersPredictor
from potstill.targets import FullTarget
from potstill.tasks.generative import end_tokens, generative

Right = npt.NDArray[np.bool_]
UNTRAINED = "the student as training found it"
"""Its key among the models: none of them can have this name, for it is no folder's."""


@dataclass(frozen=True)
class GenerativeAnswers:
    """What each model gives at every trained token of the test rows, and what it writes after their prompts."""

    tokens: Mapping[str, TokenMeasures]
    untrained: TokenMeasures
    """Of the student as training found it: what a teacher must be better than."""
    drawn: TokensOfRows
    exact: Mapping[str, Right]
    """Whether the response to each row is right as a whole; empty where none can be."""
    vocabulary: int
    generations: Sequence[Generation]

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
        own = self.tokens[model]
        return agreed(self.share(own.agrees), own.agrees, ~self.tokens["teacher"].right, float(own.kl.mean()))


def answers_of(case: Case, predictors: Mapping[str, Predictor]) -> GenerativeAnswers:
    """What all models give, in memory at the same time, for their distributions are compared token by token."""
    task = generative(case.recipe.task)
    rows = case.encode(case.tokenizer)
    assert isinstance(rows, TokenRows)
    untrained = case.untrained()
    first = next(iter(predictors.values()))
    start = TransformersPredictor(None, case.recipe.task, case.tokenizer, first.device, 1, model=untrained)
    tokens, drawn = measured_tokens(case, rows, {**predictors, UNTRAINED: start})
    initial = tokens.pop(UNTRAINED)
    generations = _generations(case, predictors)
    exact = _exact_matches(case, predictors) if task.judges_whole_responses else {}
    vocabulary = int(untrained.get_output_embeddings().weight.shape[0])
    # Speed is measured in other processes, which need the device to themselves.
    untrained.cpu()
    return GenerativeAnswers(tokens, initial, drawn, exact, vocabulary, generations)


def judged(case: Case, answers: GenerativeAnswers, measured: Measured) -> Judged:
    tokens, drawn = answers.tokens, answers.drawn
    losses = {"teacher": tokens["teacher"].loss, "untrained": answers.untrained.loss}
    exact = measured.get("exact_match")
    return Judged(
        answers=answers,
        queries=Queries("prompts", timed_prompts(case), {"new_tokens": new_tokens(case)}, one_by_one=True),
        references=[
            *references.of_tokens(case, drawn, losses, answers.vocabulary),
            *(references.of_whole_responses(case, exact["teacher"], drawn.weights) if exact else []),
        ],
        generations=answers.generations,
        more={
            "test_tokens": len(drawn.row_of),
            "learnt_from": case.recipe.label.responses.kind,
            "kl_gain_over_baseline": _gain(answers, "kl"),
            "loss_gain_over_baseline": _gain(answers, "loss"),
            "initial_kl_mean": float(answers.untrained.kl.mean()),
            "kl_gain_over_start": estimate(drawn.means(answers.untrained.kl - tokens["student"].kl)),
        },
    )


def measured_tokens(
    case: Case, rows: TokenRows, predictors: Mapping[str, Predictor]
) -> tuple[dict[str, TokenMeasures], TokensOfRows]:
    """The measures of each model at every trained token, and the rows of these tokens, in the order of the data."""
    parts: dict[str, list[TokenMeasures]] = {name: [] for name in predictors}
    number_of = {row: number for number, row in enumerate(dict.fromkeys(rows.row_ids))}
    # Several arrays of a chunk's size are held.
    chunk_rows = predictors["teacher"].chunk_rows() // 4
    row_of: list[int] = []
    true_ids: list[npt.NDArray[np.int64]] = []
    for predictor in predictors.values():
        predictor.answers_rows(rows)
    with case.progress.task("evaluate: tokens", len(rows.lengths), "rows") as advance:
        for index in range(len(rows.lengths)):
            batch = rows.collate([index])
            targets: dict[str, FullTarget] = {name: each.target(batch) for name, each in predictors.items()}
            labels = batch.labels[batch.mask].to(predictors["teacher"].device)
            true_ids.append(labels.cpu().numpy())
            for name, found in measure_tokens(targets, targets["teacher"], labels, chunk_rows=chunk_rows).items():
                parts[name].append(found)
            for number in rows.examples_in(index):
                row_of.extend([number_of[rows.row_ids[number]]] * int(rows.examples.trained_counts[number]))
            advance(1)
    weights = quality.bootstrap_weights(len(number_of), seed=case.recipe.seed)
    of_rows = TokensOfRows(np.array(row_of), np.concatenate(true_ids), weights)
    return {name: joined(each) for name, each in parts.items()}, of_rows


def _gain(answers: GenerativeAnswers, name: str) -> Estimate | None:
    """How much less of a measure the student has than the baseline, as a mean over tokens."""
    if "baseline" not in answers.tokens:
        return None
    baseline, student = (getattr(answers.tokens[model], name) for model in ("baseline", "student"))
    return estimate(answers.drawn.means(baseline - student))


def _generations(case: Case, predictors: Mapping[str, Predictor]) -> list[Generation]:
    """What each model writes after the same prompts."""
    settings, tokenizer = case.recipe.evaluate, case.tokenizer
    prompts = generative(case.recipe.task).prompts(tokenizer)
    chosen = prompted_rows(case, settings.generations, salt="generations")
    ends = end_tokens((each.end_tokens() for each in predictors.values()), tokenizer)
    writers = {name: each for name, each in predictors.items() if Capability.TEXT in each.gives}
    written = []
    with case.progress.task("evaluate: responses", len(chosen), "prompts") as advance:
        for row, prompt in chosen:
            left = room_after(prompt, case)
            room = settings.generation_tokens if left is None else min(left, settings.generation_tokens)
            stop = ends | {prompts.end_of(row)}
            responses = {name: each.write(row, prompt, room, stop) for name, each in writers.items()}
            advance(1)
            asked, truth = prompts.shown(row)
            written.append(
                Generation(
                    id=row.id,
                    prompt=asked[-SHOWN_CHARACTERS:],
                    truth=truth[:SHOWN_CHARACTERS],
                    said={
                        name: str(tokenizer.decode(ids, skip_special_tokens=True)) for name, ids in responses.items()
                    },
                )
            )
    return written


def _exact_matches(case: Case, predictors: Mapping[str, Predictor]) -> dict[str, Right]:
    """For each model and test row whether its greedy response reads as the true one, space around them aside.

    Both are compared as the tokenizer reads them: what it has no tokens for, no model could write.
    """
    tokenizer, rows = case.tokenizer, case.test
    prompts = generative(case.recipe.task).prompts(tokenizer)
    shown = [prompts.last(row) for row in rows]
    truth = [_text(tokenizer, prompts.reference(row)) for row in rows]
    room = max(map(prompts.room, shown))
    ends = end_tokens((each.end_tokens() for each in predictors.values()), tokenizer)
    right = {}
    with case.progress.task("evaluate: exact match", len(rows) * len(predictors), "responses") as advance:
        for name, predictor in predictors.items():
            responses = predictor.write_all(rows, shown, room, ends, advance)
            right[name] = np.array(
                [_text(tokenizer, ids) == true for ids, true in zip(responses, truth, strict=True)], dtype=np.bool_
            )
    return right


def _text(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=True)).strip()
