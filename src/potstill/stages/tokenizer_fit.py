"""Whether a tokenizer is that of its model, as far as the rows tell: how many of their tokens are unknown to it."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

from potstill.data.batches import batches_by_length
from potstill.data.encoded import Encoded
from potstill.errors import ModelError
from potstill.recipe import Recipe
from potstill.stages.inputs import Inputs
from potstill.stages.piece_counts import COUNTED_ROWS

MOST_UNKNOWN = 0.5
"""The share of unknown tokens above which a split is refused: of most words nothing is read."""
MANY_UNKNOWN = 0.05
"""The share above which the plan warns. Of English web text BERT's own tokenizer reads under 1 % as unknown."""
FEWEST_PIECES = 0.9
"""Of a model's rows of embeddings. Matrices are padded to round numbers: Qwen 2.5 has tokens for 99.8 % of its rows, T5
for 99.9 %."""
MORE_CUT = 0.05
"""The share of rows that the student may read less of than its teacher before the plan warns: as of unknown tokens."""
SAMPLED_ROWS = 2_000
"""Rows of a split that are counted, spread over it: enough to tell 5 % from 1 %."""
_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "spiece.model", "sentencepiece.bpe.model", "tokenizer.model")


def unknown_shares(inputs: Inputs, encoded: Mapping[str, Encoded]) -> dict[str, float]:
    """The share of unknown tokens in each split, without those that stand around a text.

    Empty where no token is for unknown words alone: tokenizers of bytes know all.

    Raises:
        ModelError: a split of which most tokens are unknown.
    """
    tokenizer = inputs.tokenizer
    unknown = tokenizer.unk_token_id
    others = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.sep_token_id}
    if unknown is None or unknown in others:
        return {}
    around = torch.tensor([number for number in tokenizer.all_special_ids if number != unknown], dtype=torch.int64)
    shares = {name: _share(rows, unknown, around) for name, rows in encoded.items()}
    for name, share in shares.items():
        if share > MOST_UNKNOWN:
            raise ModelError(
                f"{_file(inputs)}: {share:.0%} of the tokens of data.{name} are unknown ({tokenizer.unk_token}), so "
                f"nothing can be learnt from most words; {_sizes(inputs)}. Copy the tokenizer's files from the model "
                "that it was trained from, or take a teacher that reads this language."
            )
    return shares


def doubts_about_tokenizer(inputs: Inputs, shares: Mapping[str, float]) -> list[str]:
    """Sentences for the plan: where many tokens are unknown, and where the tokenizer is much smaller than the model."""
    found = [
        f"{name}: {share:.0%} of the tokens are unknown to the tokenizer ({inputs.tokenizer.unk_token}), and neither "
        "teacher nor student reads them."
        for name, share in shares.items()
        if share > MANY_UNKNOWN
    ]
    rows = inputs.lead.config.get_text_config().vocab_size
    if len(inputs.tokenizer) < FEWEST_PIECES * rows:
        found.append(f"{_file(inputs)}: {_sizes(inputs)}. If it is that of another model, copy the right one.")
    return found


def doubts_about_own_tokenizer(recipe: Recipe, inputs: Inputs, counted: Mapping[str, Encoded]) -> list[str]:
    """Where a student with a tokenizer of its own reads less of the rows than its teacher does; `counted` are the rows
    as the teacher reads them.

    Raises:
        ModelError: a split of which most tokens are unknown to it.
    """
    if inputs.own is None or inputs.read_alike:
        return []
    own = replace(inputs.of_student, lead=inputs.own.files)
    encoded = {name: own.encoded(recipe, inputs.splits[name].rows) for name in counted}
    found = [
        f"{name}: {share:.0%} of the tokens are unknown to the student's tokenizer."
        for name, share in unknown_shares(own, encoded).items()
        if share > MANY_UNKNOWN
    ]
    for name, rows in encoded.items():
        more = (rows.truncated - counted[name].truncated) / max(1, len(inputs.splits[name].rows))
        if more > MORE_CUT:
            found.append(
                f"{name}: the student's tokenizer makes more tokens of a text than its teacher's: at "
                f"{recipe.task.max_length} tokens, {more:.0%} of the rows more are cut. Raise task.max_length."
            )
    return found


def _share(encoded: Encoded, unknown: int, around: torch.Tensor) -> float:
    rows = len(encoded.lengths)
    sampled = sorted({number * rows // SAMPLED_ROWS for number in range(SAMPLED_ROWS)}) if rows else []
    of_unknown, of_all = 0, 0
    for batch in batches_by_length([encoded.lengths[number] for number in sampled], COUNTED_ROWS):
        inputs = encoded.collate([sampled[number] for number in batch]).inputs
        # An encoder-decoder reads sources and writes targets.
        for ids, mask in (("input_ids", "attention_mask"), ("target_ids", "decoder_attention_mask")):
            if ids in inputs:
                # Packed rows have no mask; what pads them is a special token.
                tokens = inputs[ids][inputs[mask] > 0] if mask in inputs else inputs[ids]
                of_unknown += int((tokens == unknown).sum())
                of_all += int((~torch.isin(tokens, around)).sum())
    return of_unknown / of_all if of_all else 0.0


def _file(inputs: Inputs) -> str:
    """The file of the vocabulary, or the model where there is none of a known name."""
    folder = Path(inputs.lead.location)
    return next((str(folder / name) for name in _FILES if (folder / name).is_file()), inputs.lead.location)


def _sizes(inputs: Inputs) -> str:
    rows = inputs.lead.config.get_text_config().vocab_size
    return f"the tokenizer has {len(inputs.tokenizer):,} tokens, and the model rows for {rows:,}"
