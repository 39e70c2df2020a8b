"""Models that tag words, on changed documents and on documents of another kind."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from transformers import PreTrainedTokenizerBase

from potstill.data.tag_schemes import OUTSIDE
from potstill.data.tagged import TaggedRow
from potstill.data.words import EncodedWords
from potstill.evaluation.case import Case
from potstill.evaluation.robustness import figures
from potstill.evaluation.robustness.measured import MODELS, sampled_rows, ways
from potstill.evaluation.tags import TagAnswers
from potstill.measure import quality
from potstill.perturbations import PerturbationName, Severity
from potstill.perturbations.words import perturbed_words
from potstill.progress import unseen
from potstill.runtimes.predictor import Outputs, Predictor, held


def tags_beside_the_test(case: Case, predictors: Mapping[str, Predictor], answers: TagAnswers) -> dict[str, Any]:
    """The fields of an `EvaluateRecord` that say how models tag other documents than those of the test, to which
    `answers` are."""
    settings = case.recipe.evaluate.robustness
    blocks: list[Sequence[TaggedRow]] = []
    if settings is not None:
        sample = sampled_rows(case)
        blocks = [sample, *([changed_document(row, *way) for row in sample] for way in ways(settings))]
    outside = list(case.out_of_domain)
    if not blocks and not outside:
        return {}
    models = {name: predictors[name] for name in MODELS if name in predictors}
    asked = _answers(case, models, [*blocks, *([outside] if outside else [])])
    found: dict[str, Any] = {}
    if settings is not None:
        found["robustness"] = figures.robustness_of_tags(asked[: len(blocks)], ways(settings), list(models))
    if outside:
        weights = quality.bootstrap_weights(len(outside), seed=case.recipe.seed + 1)
        found["out_of_domain"] = figures.tags_out_of_domain(
            str(case.recipe.evaluate.out_of_domain), answers, replace(asked[-1], weights=weights), list(models)
        )
    return found


def changed_document(row: TaggedRow, name: PerturbationName, severity: Severity) -> TaggedRow:
    """The row with changed words, each with its own tag."""
    words, tags = perturbed_words(row.tokens, row.tags or (), name, severity, row.id, outside=OUTSIDE)
    return replace(row, tokens=words, tags=None if row.tags is None else tags)


def _answers(case: Case, models: Mapping[str, Predictor], documents: Sequence[Sequence[TaggedRow]]) -> list[TagAnswers]:
    """What the models answer to each group of documents, one model after the other, so that each is loaded once."""
    encoded: dict[int, list[EncodedWords]] = {}
    for predictor in models.values():
        if id(predictor.tokenizer) not in encoded:
            encoded[id(predictor.tokenizer)] = [_encoded(case, predictor.tokenizer, rows) for rows in documents]
    total = sum(len(rows.ids) for each in models.values() for rows in encoded[id(each.tokenizer)])
    outputs: dict[str, list[Outputs]] = {}
    with case.progress.task("evaluate: other texts", total, "windows") as advance:
        for name, predictor in models.items():
            with held(predictor):
                outputs[name] = []
                for rows in encoded[id(predictor.tokenizer)]:
                    # One that asks others counts too.
                    outputs[name].append(predictor.outputs(rows, unseen))
                    advance(len(rows.ids))
    as_teacher = encoded[id(models["teacher"].tokenizer)]
    return [
        TagAnswers(
            {name: each[number] for name, each in outputs.items()},
            rows,
            as_teacher[number],
            case.class_names,
            quality.bootstrap_weights(len(rows), seed=case.recipe.seed),
        )
        for number, rows in enumerate(documents)
    ]


def _encoded(case: Case, tokenizer: PreTrainedTokenizerBase, rows: Sequence[TaggedRow]) -> EncodedWords:
    assert case.encode_rows is not None
    encoded = case.encode_rows(tokenizer, rows)
    assert isinstance(encoded, EncodedWords)
    return encoded
