"""How often the pieces of a tokenizer occur in the rows, and the student's vocabulary that follows from it."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from potstill.data.batches import batches_by_length
from potstill.data.encoded import BatchSource
from potstill.recipe import Recipe
from potstill.stages.teacher_files import Files
from potstill.students import Trimmed, TrimmedVocabulary, trim

COUNTED_ROWS = 256
"""Rows whose pieces are counted at a time."""


def student_vocabulary(
    recipe: Recipe,
    splits: Mapping[str, Sequence[Any]],
    labels: list[str],
    lead: Files,
    tokenizer: PreTrainedTokenizerBase,
) -> Trimmed | None:
    """The student's vocabulary, where the recipe trims it to what the rows say."""
    settings = recipe.student.vocabulary
    if not isinstance(settings, TrimmedVocabulary):
        return None
    counts = torch.zeros((), dtype=torch.int64)
    for name in ("train", "adapt") if settings.rows == "train_and_adapt" else ("train",):
        counts = counts + piece_counts(recipe.task.encode(splits.get(name, []), tokenizer, labels), tokenizer)
    return trim(tokenizer, lead.config, counts, settings)


def piece_counts(encoded: BatchSource, tokenizer: PreTrainedTokenizerBase) -> Int64[Tensor, "pieces"]:
    """How often each piece of a tokenizer occurs in encoded rows."""
    pieces = 1 + max(tokenizer.get_vocab().values())
    counts = torch.zeros(pieces, dtype=torch.int64)
    for indices in batches_by_length(encoded.lengths, COUNTED_ROWS):
        inputs = encoded.collate(indices).inputs
        counts += torch.bincount(inputs["input_ids"][inputs["attention_mask"] > 0], minlength=pieces)
    return counts
