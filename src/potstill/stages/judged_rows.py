"""The rows on which the models of a run are judged, as evaluation takes them."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from potstill.data.encoded import Encoded
from potstill.data.rows import labelled_rows
from potstill.evaluation.case import Case
from potstill.progress import Progress
from potstill.recipe import Recipe
from potstill.stages.inputs import Inputs
from potstill.stages.other_tokens import aligned_rows, rows_in_both


def case_of(
    recipe: Recipe, inputs: Inputs, progress: Progress, *, untrained: Callable[[], PreTrainedModel] | None = None
) -> Case:
    """What models are judged on."""

    def encode_rows(tokenizer: PreTrainedTokenizerBase, rows: Sequence[Any]) -> Encoded:
        own = inputs if tokenizer is inputs.tokenizer else inputs.of_student
        return own.encoded(recipe, rows)

    def nothing() -> PreTrainedModel:
        raise AssertionError("a case before training has no student")

    other_tokens = inputs.own is not None and inputs.own.vocabularies is not None
    return Case(
        recipe=recipe,
        splits=inputs.splits,
        class_names=inputs.labels,
        tokenizer=inputs.tokenizer,
        config=inputs.lead.config,
        progress=progress,
        encode=lambda tokenizer: encode_rows(tokenizer, inputs.splits["test"].rows),
        untrained=untrained or nothing,
        own_config=inputs.own.files.config if inputs.own is not None else None,
        own_tokenizer=inputs.of_student.tokenizer if other_tokens else None,
        aligned=partial(aligned_rows, recipe, inputs, "test") if other_tokens else None,
        encode_rows=encode_rows,
        encode_validation=lambda tokenizer: encode_rows(tokenizer, labelled_rows(inputs.splits["validation"].rows)),
        aligned_rows=partial(rows_in_both, recipe, inputs) if other_tokens else None,
        out_of_domain=inputs.out_of_domain,
        unanswerable=inputs.unanswerable,
    )
