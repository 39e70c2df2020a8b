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
from jaxtyping import Int32
from transformers import PreTrainedTokenizerBase

from potstill.data.chat_tokens import TokenCounts
from potstill.data.generated import GeneratedResponse
from potstill.data.pairs import Pair
from potstill.data.rows import OWN_ID
from potstill.data.special_tokens import token_ids
from potstill.data.token_rows import TokenRows
from potstill.data.tokens import TokenFile, Tokenised
from potstill.errors import DataError, ModelError
from potstill.models import Part
from potstill.signals import IGNORE_INDEX, Batch

TokenIds = Int32[np.ndarray, "_"]


@dataclass(frozen=True)
class PairTokens:
    """Makes token ids of pairs, by the rules of one tokenizer."""

    tokenizer: PreTrainedTokenizerBase
    max_source: int
    max_target: int

    def source_ids(self, source: str) -> tuple[TokenIds, bool]:
        """What the encoder reads, and whether the text was cut for it; what the tokenizer puts around a text stays."""
        before, after = self._around
        text = self.text_ids(source)
        room = max(0, self.max_source - len(before) - len(after))
        # A text of which no token is left still needs one for the decoder to look at.
        ids = [*before, *text[:room], *after] or [self.end]
        return np.array(ids, dtype=np.int32), len(text) > room

    def target_ids(self, target: str) -> TokenIds:
        """All that the decoder must say, up to the token that ends it."""
        before, after = self._around
        ids = [*before, *self.text_ids(target), *after]
        # Some tokenizers leave the end to the model.
        return np.array(ids if ids[-1] == self.end else [*ids, self.end], dtype=np.int32)

    def text_ids(self, text: str) -> list[int]:
        """A text alone. Where the tokenizer reads the string of a special token as that token, it is spelled out.

        Unigram models do, though asked not to: their special tokens are words of theirs, and likely ones.
        """
        ids = token_ids(self.tokenizer, text, split_special_tokens=True)
        if self._structural.isdisjoint(ids):
            return ids
        return [
            spelled for token in ids for spelled in (self._spelled(token) if token in self._structural else [token])
        ]

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
        end = self.tokenizer.eos_token_id
        if end is None:
            raise ModelError(
                "the tokenizer has no end-of-sequence token, so a student could not learn to stop. "
                "Set eos_token in its tokenizer_config.json."
            )
        return int(end)

    @cached_property
    def _structural(self) -> frozenset[int]:
        """Special tokens but for the one of words that are not known, which means nothing else."""
        tokenizer = self.tokenizer
        added = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
        return frozenset((added | set(tokenizer.all_special_ids)) - {tokenizer.unk_token_id})

    def _spelled(self, token: int) -> list[int]:
        characters = str(self.tokenizer.convert_ids_to_tokens(token))
        ids = [each for one in characters for each in token_ids(self.tokenizer, one, split_special_tokens=True)]
        return [each for each in ids if each not in self._structural]

    @cached_property
    def _around(self) -> tuple[list[int], list[int]]:
        """What the tokenizer puts before and after a text."""
        bare, full = (list(self.tokenizer("a", add_special_tokens=special).input_ids) for special in (False, True))
        place = next(place for place in range(len(full)) if full[place : place + len(bare)] == bare)
        return full[:place], full[place + len(bare) :]


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
