"""Pairs as token ids: sources for the encoder, targets that the decoder learns to write, and batches of both.

Ids are put together here and not by a tokenizer's own truncation, so that what is cut is known, and what ends a text
is there by construction. Strings of special tokens in the data stay text.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from potstill.data.chat_tokens import TokenCounts
from potstill.data.generated import GeneratedResponse
from potstill.data.pairs import Pair
from potstill.data.rows import OWN_ID
from potstill.data.special_tokens import TextIds, end_token
from potstill.data.token_rows import TokenRows
from potstill.data.tokens import TokenFile, TokenIds, Tokenised
from potstill.errors import DataError
from potstill.models import Part
from potstill.signals import IGNORE_INDEX, Batch


@dataclass(frozen=True)
class PairTokens:
    """Makes token ids of pairs, by the rules of one tokenizer."""

    tokenizer: PreTrainedTokenizerBase
    max_source: int
    max_target: int

    def source_ids(self, source: str) -> tuple[TokenIds, bool]:
        """What the encoder reads, and whether the text was cut for it; what the tokenizer puts around a text stays."""
        ids, cut = self._sources.within(source, self.max_source)
        # A text of which no token is left still needs one for the decoder to look at.
        return np.array(ids or [self.end], dtype=np.int32), cut

    def target_ids(self, target: str) -> TokenIds:
        """All that the decoder must say, up to the token that ends it."""
        before, after = self._targets.around
        ids = [*before, *self.text_ids(target), *after]
        # Some tokenizers leave the end to the model.
        return np.array(ids if ids[-1] == self.end else [*ids, self.end], dtype=np.int32)

    def text_ids(self, text: str) -> list[int]:
        """A target alone, with nothing put before or after it."""
        return self._targets.alone(text)

    def tokenise(self, rows: Iterable[Pair | GeneratedResponse]) -> tuple[TokenFile, TokenCounts]:
        """Answered rows as tokens, the source first, and the counts of what did not fit.

        A target that is too long is cut without its end: a model must not learn to stop there.

        Raises:
            DataError: an id that occurs twice.
        """
        cut_rows = cut_targets = 0

        def made() -> Iterator[Tokenised]:
            nonlocal cut_rows, cut_targets
            for row in rows:
                source, cut, target = self._parts(row)
                learnt = target[: self.max_target]
                cut_targets += len(learnt) < len(target)
                cut_rows += cut or len(learnt) < len(target)
                trained = np.arange(len(source) + len(learnt)) >= len(source)
                yield Tokenised(row.id, np.concatenate([source, learnt]), trained)

        kept = TokenFile(made())
        if (repeated := kept.first_repeated()) is not None:
            raise DataError(f'Duplicate id "{kept.names[repeated]}". {OWN_ID}')
        return kept, TokenCounts(
            examples=len(kept),
            tokens=int(kept.lengths.sum()),
            trained_tokens=int(kept.trained_counts.sum()),
            rows_cut=cut_rows,
            responses_cut=cut_targets,
            turns_dropped=0,
            examples_dropped=0,
            first_dropped=(),
        )

    def _parts(self, row: Pair | GeneratedResponse) -> tuple[TokenIds, bool, TokenIds]:
        if isinstance(row, GeneratedResponse):
            return row.prompt, False, row.response
        assert row.target is not None, f"{row.id}: there is no target to learn"
        return *self.source_ids(row.source), self.target_ids(row.target)

    @property
    def end(self) -> int:
        """The token that ends a target.

        Raises:
            ModelError: the tokenizer has none.
        """
        return end_token(self.tokenizer)

    @cached_property
    def _sources(self) -> TextIds:
        return TextIds(self.tokenizer)

    @cached_property
    def _targets(self) -> TextIds:
        return TextIds(self.tokenizer, target=True)


@dataclass(frozen=True, eq=False)
class PairRows:
    """Pairs as a source of batches."""

    examples: TokenFile
    """Source and target one after the other; the target is what is trained."""
    pad_id: int
    counts: TokenCounts | None = None

    @property
    def ids(self) -> Sequence[str]:
        return self.examples.names

    @property
    def positions(self) -> Sequence[int]:
        counts: list[int] = self.examples.trained_counts.tolist()
        return counts

    @property
    def row_ids(self) -> Sequence[str]:
        return self.ids

    @property
    def truncated(self) -> int:
        """Rows of which something was cut."""
        return 0 if self.counts is None else self.counts.rows_cut

    @cached_property
    def lengths(self) -> Sequence[int]:
        lengths: list[int] = self.examples.lengths.tolist()
        return lengths

    def unpacked(self) -> "PairRows":
        """Themselves: no two pairs share a row."""
        return self

    def followed_by(self, more: TokenRows) -> "PairRows":
        """These pairs and then those."""
        return PairRows(TokenFile(chain(self.examples, more.examples)), self.pad_id)

    def examples_in(self, row: int) -> Sequence[int]:
        """The row's own number."""
        return (row,)

    def feature_sizes(self, part: Part) -> Iterator[tuple[int, int]]:
        """For each pair the tokens that count in a loss on features of a stack, and the keys that each may see."""
        targets = self.examples.trained_counts
        sources = self.examples.lengths - targets
        tokens, keys = {
            Part.ENCODER: (sources, sources),
            Part.DECODER: (targets, targets),
            Part.CROSS: (targets, sources),
        }[part]
        return zip(tokens.tolist(), keys.tolist(), strict=True)

    def collate(self, indices: Sequence[int]) -> Batch:
        """Rows `indices`, sources and targets padded on the right.

        Labels and mask are about the targets, of which position t is token t: what the decoder is shown before it is
        shifted where a model is asked, for each has a start token of its own. The mask follows from the lengths, never
        from ids: a padding token can be one that ends a text.
        """
        examples = [self.examples[index] for index in indices]
        sources = [example.ids[~example.trained] for example in examples]
        targets = [example.ids[example.trained] for example in examples]
        input_ids, attention = _padded(sources, self.pad_id)
        target_ids, mask = _padded(targets, self.pad_id)
        return Batch(
            ids=tuple(example.id for example in examples),
            inputs={
                "input_ids": input_ids,
                "attention_mask": attention.long(),
                "target_ids": target_ids,
                "decoder_attention_mask": mask.long(),
            },
            labels=target_ids.masked_fill(~mask, IGNORE_INDEX),
            mask=mask,
        )


def _padded(rows: Sequence[TokenIds], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The rows as one array, and where it is no padding."""
    shape = (len(rows), max(map(len, rows)))
    ids, there = np.full(shape, pad, dtype=np.int64), np.zeros(shape, dtype=np.bool_)
    for place, row in enumerate(rows):
        ids[place, : len(row)] = row
        there[place, : len(row)] = True
    return torch.from_numpy(ids), torch.from_numpy(there)
