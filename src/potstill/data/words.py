"""Documents of words as token ids: pieces of words in windows, of which each word counts in exactly one."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from potstill.data.ids import Index, Keys
from potstill.data.rows import OWN_ID
from potstill.data.windows import Numbers, Window, windows_in
from potstill.errors import DataError
from potstill.models import Part
from potstill.signals import IGNORE_INDEX, Batch

ENCODE_CHUNK = 256


def load_word_tokenizer(location: str, **where: Any) -> PreTrainedTokenizerBase:
    """The tokenizer of a model, ready to be given words one by one."""
    tokenizer = AutoTokenizer.from_pretrained(location, **where)
    if getattr(tokenizer, "add_prefix_space", None) is False:
        # Else they would be read as if no space stood before them.
        tokenizer = AutoTokenizer.from_pretrained(location, add_prefix_space=True, **where)
    return tokenizer


def windows_of(
    tokenizer: PreTrainedTokenizerBase, documents: Sequence[Sequence[str]], max_length: int, overlap: int
) -> Iterator[list[Window]]:
    """For each document its windows of at most `max_length` tokens, which share `overlap` pieces with the next.

    A word is answered at its first piece, in the window that shows more around it: of the pieces that two windows
    share, the first half is answered in the earlier one. A word that the tokenizer reads as nothing has no answer.
    """
    special = tokenizer.num_special_tokens_to_add()
    step = max_length - special - overlap
    assert step > 0, "windows must go on"
    for start in range(0, len(documents), ENCODE_CHUNK):
        chunk = [list(words) for words in documents[start : start + ENCODE_CHUNK]]
        encoded = tokenizer(
            chunk,
            is_split_into_words=True,
            truncation=True,
            max_length=max_length,
            stride=overlap,
            return_overflowing_tokens=True,
            # What stands in a text stays text.
            split_special_tokens=True,
        )
        parts: list[list[Any]] = [[] for _ in chunk]
        for encoding, document in zip(encoded.encodings, encoded["overflow_to_sample_mapping"], strict=True):
            parts[document].append(encoding)
        for encodings in parts:
            yield windows_in(encodings, step, overlap)


@dataclass(frozen=True)
class EncodedWords:
    """The windows of tagged documents. Labels hold IGNORE_INDEX where a document is not tagged."""

    ids: tuple[str, ...]
    """Of the windows: the document's, with a number behind all but its first."""
    windows: list[Window]
    labels: list[Numbers]
    """Of each window the classes of its words."""
    documents: Numbers
    """The number of the document that each window is of."""
    pad_id: int
    truncated: int
    """Documents with a word that the tokenizer reads as nothing."""

    @cached_property
    def lengths(self) -> Sequence[int]:
        return [len(window.tokens) for window in self.windows]

    @property
    def row_ids(self) -> Sequence[str]:
        """Of the document that each window is of."""
        firsts = {document: self.ids[window] for window, document in reversed(list(enumerate(self.documents.tolist())))}
        return [firsts[document] for document in self.documents.tolist()]

    @cached_property
    def positions(self) -> Sequence[int]:
        """How many words are answered in each window."""
        return [len(window.places) for window in self.windows]

    def feature_sizes(self, part: Part) -> Iterator[tuple[int, int]]:
        """For each window the words that count, and the tokens that each may see."""
        return zip(self.positions, self.lengths, strict=True)

    def collate(self, indices: Sequence[int]) -> Batch:
        """Windows `indices` padded on the right; the mask is true at the first pieces of the words that count."""
        shape = len(indices), max(self.lengths[index] for index in indices)
        input_ids = np.full(shape, self.pad_id, dtype=np.int64)
        attention = np.zeros(shape, dtype=np.int64)
        labels = np.full(shape, IGNORE_INDEX, dtype=np.int64)
        mask = np.zeros(shape, dtype=np.bool_)
        for row, index in enumerate(indices):
            window = self.windows[index]
            input_ids[row, : len(window.tokens)] = window.tokens
            attention[row, : len(window.tokens)] = 1
            labels[row, window.places] = self.labels[index]
            mask[row, window.places] = True
        return Batch(
            ids=tuple(self.ids[index] for index in indices),
            inputs={"input_ids": torch.from_numpy(input_ids), "attention_mask": torch.from_numpy(attention)},
            labels=torch.from_numpy(labels),
            mask=torch.from_numpy(mask),
        )


def encode_words(
    rows: Sequence[Any],
    tokenizer: PreTrainedTokenizerBase,
    numbers: dict[str, int],
    *,
    max_length: int,
    overlap: int,
) -> EncodedWords:
    """The windows of tagged rows in which a word is answered; tags are numbered by `numbers`.

    Raises:
        DataError: no word at all that the tokenizer reads, or a window with the id of another row.
    """
    ids, windows, labels, documents = [], [], [], []
    truncated = 0
    split = windows_of(tokenizer, [row.tokens for row in rows], max_length, overlap)
    for document, (row, parts) in enumerate(zip(rows, split, strict=True)):
        classes = np.full(len(row.tokens), IGNORE_INDEX, dtype=np.int64)
        if row.tags is not None:
            classes[:] = [numbers[tag] for tag in row.tags]
        # A word of more pieces than a window holds has windows of its own, in which nothing is answered.
        for number, window in enumerate(window for window in parts if len(window.words)):
            ids.append(f"{row.id}#{number + 1}" if number else row.id)
            windows.append(window)
            labels.append(classes[window.words])
            documents.append(document)
        truncated += sum(len(window.words) for window in parts) < len(row.tokens)
    if rows and not windows:
        raise DataError("data: no row has a word that the tokenizer reads. Look at what it makes of the texts.")
    if (repeated := Index(Keys(ids)).first_repeated()) is not None:
        raise DataError(f'Duplicate id "{ids[repeated]}": of a row, and of a later part of a long one. {OWN_ID}')
    return EncodedWords(
        ids=tuple(ids),
        windows=windows,
        labels=labels,
        documents=np.array(documents, dtype=np.int64),
        pad_id=tokenizer.pad_token_id or 0,
        truncated=truncated,
    )
