"""Language models after changed prompts, on queries that nobody can answer, and on texts of another kind."""

from collections.abc import Mapping
from typing import Any

from potstill.data.dialogues import PlainText
from potstill.evaluation.case import Case
from potstill.evaluation.generative import GenerativeAnswers
from potstill.evaluation.robustness import token_figures
from potstill.evaluation.robustness.changed_prompts import ReadRows, blocks_of, sampled_prompts, sums_of, sums_on
from potstill.evaluation.robustness.measured import MODELS, ways
from potstill.evaluation.robustness.unanswerable import unanswerable_queries
from potstill.measure import quality
from potstill.records import TokenOutOfDomain, TokenRobustness
from potstill.runtimes.predictor import Predictor


def tokens_beside_the_test(
    case: Case, predictors: Mapping[str, Predictor], answers: GenerativeAnswers
) -> dict[str, Any]:
    """The fields of an `EvaluateRecord` that say how models do where prompts or texts are other than in the test, to
    which `answers` are."""
    models = {name: predictors[name] for name in MODELS if name in predictors}
    found: dict[str, Any] = {}
    if case.recipe.evaluate.robustness is not None:
        found["token_robustness"] = _robustness(case, models, answers)
    if case.out_of_domain:
        found["token_out_of_domain"] = _out_of_domain(case, models, answers)
    return found


def _robustness(case: Case, models: Mapping[str, Predictor], answers: GenerativeAnswers) -> TokenRobustness | None:
    settings = case.recipe.evaluate.robustness
    assert settings is not None
    sample = sampled_prompts(case, answers.drawn.row_ids)
    if not sample.rows:
        return None
    ids = [row.id for row in sample.rows]
    blocks = list(blocks_of(case, sample.rows))
    with case.progress.task("evaluate: after changed prompts", sum(map(len, blocks)), "rows") as advance:
        sums = [sums_on(case, models, block, ids, advance) for block in blocks]
    weights = quality.bootstrap_weights(len(ids), seed=case.recipe.seed)
    by_model = {name: [each[name] for each in sums] for name in models}
    asked = unanswerable_queries(case, models)
    return TokenRobustness(
        rows=len(ids),
        tokens=int(sums[0]["teacher"].tokens.sum()),
        plain_texts=sum(isinstance(row, PlainText) for row in sample.rows),
        left_out=sample.left_out,
        models=token_figures.token_robustness(by_model, ways(settings), weights),
        unanswerable=None if isinstance(asked, str) else asked,
        unanswerable_missing=asked if isinstance(asked, str) else None,
    )


def _out_of_domain(case: Case, models: Mapping[str, Predictor], answers: GenerativeAnswers) -> TokenOutOfDomain:
    read = ReadRows.of(case, case.out_of_domain)
    ids = list(dict.fromkeys(read.rows.row_ids))
    with case.progress.task("evaluate: out of domain", len(read), "rows") as advance:
        outside = sums_on(case, models, read, ids, advance)
    inside = {name: sums_of(answers.tokens[name], answers.drawn, answers.drawn.row_ids) for name in models}
    resamples = quality.bootstrap_weights(len(ids), seed=case.recipe.seed + 1)
    return TokenOutOfDomain(
        source=str(case.recipe.evaluate.out_of_domain),
        rows=len(ids),
        tokens=int(outside["teacher"].tokens.sum()),
        test_rows=len(answers.drawn.row_ids),
        left_out=len(case.out_of_domain) - len(ids),
        models=token_figures.out_of_domain(inside, outside, answers.drawn.weights, resamples),
    )
