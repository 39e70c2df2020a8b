"""Texts and documents as token ids, by the library `tokenizers` alone.

What the process holds that answers from a graph: neither torch nor transformers.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from potstill.artefacts.manifest import Manifest

Ids = npt.NDArray[np.int64]
Feeds = Mapping[str, Ids]
TOKENIZER = "tokenizer.json"


class Reader:
    """The tokenizer of a folder, and what a graph is given of a text."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        from tokenizers import Tokenizer

        self._names = manifest.inputs
        self._pad_id = manifest.pad_id
        self._tokenizer: Any = Tokenizer.from_file(str(folder / TOKENIZER))
        # What stands in a text stays text.
        self._tokenizer.encode_special_tokens = True
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(
            manifest.max_length,
            stride=manifest.overlap,
            strategy="longest_first",
            direction=manifest.truncation_side,
        )

    @property
    def special_tokens(self) -> int:
        """How many tokens stand around each text."""
        return int(self._tokenizer.num_special_tokens_to_add(False))

    def encode(self, text: str | Sequence[str]) -> Any:
        """A text, or a pair of them, without the places of its tokens, which take a third of the time."""
        return self._tokenizer.encode_batch_fast([text if isinstance(text, str) else tuple(text)])[0]

    def encode_words(self, words: Sequence[str]) -> list[Any]:
        """The windows of a document that is given word by word."""
        first = self._tokenizer.encode(list(words), is_pretokenized=True)
        return [first, *first.overflowing]

    def feeds(self, encodings: Sequence[Any]) -> Feeds:
        """The inputs of a graph for texts that are read together, padded on the right."""
        longest = max(len(each.ids) for each in encodings)
        columns = {
            "input_ids": [each.ids for each in encodings],
            "attention_mask": [each.attention_mask for each in encodings],
            "token_type_ids": [each.type_ids for each in encodings],
        }
        return {
            name: _padded(columns[name], longest, self._pad_id if name == "input_ids" else 0) for name in self._names
        }


def _padded(rows: Sequence[Sequence[int]], longest: int, pad: int) -> Ids:
    found = np.full((len(rows), longest), pad, dtype=np.int64)
    for number, row in enumerate(rows):
        found[number, : len(row)] = row
    return found
