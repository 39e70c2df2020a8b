"""Tokenised examples in rows of at most `max_length` tokens, so that little of a batch is padding.

Examples in a row do not see each other: their positions restart, and transformers makes a block-diagonal mask of
that. It does so only without an attention mask and without a cache, so a model must be called with
`use_cache=False`; and with flash attention, only for batches of one row.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain

import numpy as np
import torch

from potstill.data.chat_tokens import TokenCounts
from potstill.data.on_disk import Ragged
from potstill.data.token_rows import TokenRows
from potstill.data.tokens import TokenFile, Tokenised
from potstill.models import Part
from potstill.signals import IGNORE_INDEX, Batch


@dataclass(frozen=True, eq=False)
class PackedRows:
    """Rows of one example or more, as a source of batches."""

    examples: TokenFile
    rows: Ragged
    """The numbers of the examples in each row."""
    pad_id: int
    counts: TokenCounts | None = None
    """What became of the rows on their way into tokens."""

    @property
    def ids(self) -> Sequence[str]:
        return self.examples.names

    @property
    def positions(self) -> Sequence[int]:
        counts: list[int] = self.examples.trained_counts.tolist()
        return counts

    @property
    def row_ids(self) -> Sequence[str]:
        return self.examples.row_names

    @property
    def truncated(self) -> int:
        """Rows of which something was cut or left out."""
        return 0 if self.counts is None else self.counts.rows_cut

    def unpacked(self) -> "PackedRows":
        """The same examples, one in each row."""
        return replace(self, rows=Ragged((number,) for number in range(len(self.examples))))

    def followed_by(self, more: TokenRows) -> "PackedRows":
        """These examples and then those, one in each row."""
        return replace(self, examples=TokenFile(chain(self.examples, more.examples)), counts=None).unpacked()

    def examples_in(self, row: int) -> Sequence[int]:
        """The numbers of the examples of a row."""
        return self.rows[row]

    def feature_sizes(self, part: Part) -> Iterator[tuple[int, int]]:
        """For each example the tokens that count in a loss on features, and those that each of them may see."""
        return zip(self.examples.trained_counts.tolist(), self.examples.lengths.tolist(), strict=True)

    @cached_property
    def lengths(self) -> Sequence[int]:
        return self.rows.sums_of(self.examples.lengths)

    def collate(self, indices: Sequence[int]) -> Batch:
        """Rows `indices`, padded on the right; the padding is a sequence of its own, which nothing else sees.

        Labels and mask are shifted already: both are about the token that follows a position. The true positions of
        the mask, row by row, are those of the first of `ids`, then of the second, and so on.
        """
        shape = (len(indices), max(self.lengths[index] for index in indices))
        input_ids = np.full(shape, self.pad_id, dtype=np.int64)
        positions = np.empty(shape, dtype=np.int64)
        labels = np.full(shape, IGNORE_INDEX, dtype=np.int64)
        mask = np.zeros(shape, dtype=np.bool_)
        names: list[str] = []
        for place, index in enumerate(indices):
            start = 0
            for number in self.rows[index]:
                example = self.examples[number]
                end = start + len(example.ids)
                input_ids[place, start:end] = example.ids
                positions[place, start:end] = np.arange(end - start)
                labels[place, start : end - 1] = np.where(example.trained[1:], example.ids[1:], IGNORE_INDEX)
                mask[place, start : end - 1] = example.trained[1:]
                names.append(example.id)
                start = end
            positions[place, start:] = np.arange(shape[1] - start)
        return Batch(
            ids=tuple(names),
            inputs={"input_ids": torch.from_numpy(input_ids), "position_ids": torch.from_numpy(positions)},
            labels=torch.from_numpy(labels),
            mask=torch.from_numpy(mask),
        )


def pack(examples: Sequence[Tokenised], *, max_length: int, pad_id: int, packing: bool = True) -> PackedRows:
    """The examples in as few rows as best-fit finds, or one in each row without `packing`; a function of them alone."""
    kept = examples if isinstance(examples, TokenFile) else TokenFile(examples)
    lengths = kept.lengths.tolist()
    assert all(length <= max_length for length in lengths), "examples are cut when they are tokenised"
    rows = _best_fit_decreasing(lengths, max_length) if packing else ([number] for number in range(len(lengths)))
    return PackedRows(kept, Ragged(sorted(row) for row in rows), pad_id)


def _best_fit_decreasing(lengths: Sequence[int], room: int) -> list[list[int]]:
    """Items in bins of `room`, the longest first, each into the bin that it fills best.

    At most 11/9 of the fewest possible bins and four more (Johnson et al. 1974, doi:10.1137/0203025).
    """
    bins: list[list[int]] = []
    with_space: dict[int, list[int]] = defaultdict(list)
    spaces = 0  # bit n is set where a bin has space for n more
    for item in sorted(range(len(lengths)), key=lambda item: -lengths[item]):
        length = lengths[item]
        enough = spaces >> length
        if enough:
            space = length + (enough & -enough).bit_length() - 1
            chosen = with_space[space].pop()
            spaces ^= 0 if with_space[space] else 1 << space
        else:
            space, chosen = room, len(bins)
            bins.append([])
        bins[chosen].append(item)
        left = space - length
        with_space[left].append(chosen)
        spaces |= 1 << left
    return bins
