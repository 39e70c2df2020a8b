"""An encoder and a decoder, each a graph: sources in, targets out, without torch and without transformers.

What the encoder gives of a source is kept while its target is written, and so is what the decoder gives of each token.
"""

import time
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import numpy as np

from potstill.artefacts.manifest import Manifest
from potstill.runtimes.graphs import NamedGraph, Numbers, open_named

LOGITS = "logits"
Step = tuple[int, float, Numbers]
"""A token, the seconds that it took, and the logits that it is the likeliest of."""


class Seq2SeqGraphs:
    """The graphs in a shipped folder. Each source is read by itself, as it comes in use: in int8 the numbers of a batch
    are rounded together, so that what is read beside it would change its target."""

    def __init__(self, folder: Path, manifest: Manifest, threads: int) -> None:
        self._encoder = open_named(folder, manifest.encoder_file, manifest, threads)
        self._decoder = open_named(folder, manifest.model_file, manifest, threads)
        self._start = manifest.start_token

    def logits(self, source: Sequence[int], target: Sequence[int]) -> Numbers:
        """Those of each token of a target, after the tokens before it: tokens x vocabulary."""
        return _Reading(self._encoder, self._decoder, source).after([self._start, *target[:-1]])

    def steps(self, source: Sequence[int], new_tokens: int, stop: Collection[int] = ()) -> Iterator[Step]:
        """The likeliest tokens of a target up to a stop token. The first takes the reading of the source too."""
        started = time.perf_counter()
        reading, token = _Reading(self._encoder, self._decoder, source), self._start
        for _ in range(new_tokens):
            logits = reading.after([token])[0]
            token = int(logits.argmax())
            yield token, time.perf_counter() - started, logits
            if token in stop:
                break
            started = time.perf_counter()

    def greedy(
        self, source: Sequence[int], new_tokens: int, stop: Collection[int] = ()
    ) -> tuple[list[int], list[float]]:
        """The same tokens, with the seconds that each took."""
        tokens, taken = [], []
        for token, seconds, _ in self.steps(source, new_tokens, stop):
            tokens.append(token)
            taken.append(seconds)
        return tokens, taken


class _Reading:
    """A source on its way into a target."""

    def __init__(self, encoder: NamedGraph, decoder: NamedGraph, source: Sequence[int]) -> None:
        ids = np.array([source], dtype=np.int64)
        self._decoder = decoder
        self._mask = np.ones_like(ids)
        self._cross = encoder({"input_ids": ids, "attention_mask": self._mask})
        self._past = {
            name.replace("cross", "past"): np.zeros((*each.shape[:2], 0, each.shape[3]), dtype=each.dtype)
            for name, each in self._cross.items()
        }

    def after(self, ids: Sequence[int]) -> Numbers:
        """The logits after each of the tokens that come next."""
        read = np.array([ids], dtype=np.int64)
        found = self._decoder({"input_ids": read, "attention_mask": self._mask, **self._cross, **self._past})
        self._past = {name.replace("present", "past"): each for name, each in found.items() if name != LOGITS}
        logits: Numbers = found[LOGITS][0]
        return logits
