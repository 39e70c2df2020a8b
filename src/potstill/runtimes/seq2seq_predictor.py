"""The graphs of an encoder-decoder as a predictor, in whichever runtime they are answered from."""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from potstill.artefacts.manifest import Manifest, read_manifest
from potstill.capabilities import Capability
from potstill.chunk_sizes import chunk_rows
from potstill.data.encoded import Encoded
from potstill.data.tokens import Prompt
from potstill.measure.weights import SavedWeights
from potstill.runtimes.folder import ModelFolder
from potstill.runtimes.graphs import model_bytes
from potstill.runtimes.predictor import Advance, Outputs, Parameters, write_one_by_one
from potstill.runtimes.seq2seq_graphs import Seq2SeqGraphs
from potstill.runtimes.timing import Loads
from potstill.signals import Batch, Signals
from potstill.targets import FullTarget, LogitTargets
from potstill.tasks import AnyTask

GIVES = frozenset({Capability.DISTRIBUTION, Capability.TOP_K, Capability.TEXT})


class Seq2SeqPredictor:
    """Reads each source and its target by themselves, whatever else is in a batch.

    `beside` is the device on which its logits are compared with those of other models.
    """

    asks_others = False
    gives = GIVES
    device = torch.device("cpu")

    def __init__(
        self, folder: ModelFolder, task: AnyTask, tokenizer: PreTrainedTokenizerBase, beside: torch.device
    ) -> None:
        self.tokenizer = tokenizer
        self._folder = folder
        self._beside = beside
        self._manifest: Manifest = read_manifest(folder.path)
        self._shared_tokens: int | None = getattr(task, "shared_tokens", None)
        self._graphs: Seq2SeqGraphs | None = None

    @property
    def graphs(self) -> Seq2SeqGraphs:
        if self._graphs is None:
            self._folder.require_unchanged()
            self._graphs = Seq2SeqGraphs(self._folder.path, self._manifest, torch.get_num_threads())
        return self._graphs

    def parameters(self) -> Parameters:
        return Parameters(self._manifest.num_parameters, self._manifest.num_parameters_without_embeddings)

    def weights(self) -> SavedWeights:
        return SavedWeights(self._manifest.precision, model_bytes(self._folder.path, self._manifest))

    def loads(self) -> Loads:
        return Loads((str(self._folder.path),), runtime=self._manifest.runtime)

    def chunk_rows(self) -> int:
        start = [self._manifest.start_token]
        return chunk_rows(self.device, self.graphs.logits(start, start).shape[1])

    def end_tokens(self) -> frozenset[int]:
        return frozenset(self._manifest.end_tokens)

    def answers_rows(self, rows: Encoded) -> None:
        """One model answers all rows."""

    def forward(self, batch: Batch) -> Signals:
        return Signals(target=self.target(batch))

    def target(self, batch: Batch) -> FullTarget:
        return LogitTargets(self._logits(batch, int(batch.mask.sum())))

    def first_logits(self, batch: Batch, most: int) -> Tensor:
        return self._logits(batch, most)

    def _logits(self, batch: Batch, most: int) -> Tensor:
        """Those at the first positions that count, at most so many."""
        found: list[Tensor] = []
        given, left = batch.inputs, most
        for row, counted in enumerate(batch.mask):
            if left <= 0:
                break
            source = given["input_ids"][row][given["attention_mask"][row].bool()]
            target = given["target_ids"][row][given["decoder_attention_mask"][row].bool()]
            logits = torch.from_numpy(self.graphs.logits(source.tolist(), target.tolist()))
            found.append(logits[counted[: len(target)]][:left, : self._shared_tokens])
            left -= len(found[-1])
        return torch.cat(found).to(self._beside)

    def outputs(self, rows: Encoded, advance: Advance) -> Outputs:
        raise NotImplementedError("encoder-decoders have no head for classes")

    def write(self, row: Any, prompt: Sequence[int], new_tokens: int, ends: Collection[int]) -> list[int]:
        return self.graphs.greedy(np.asarray(prompt).tolist(), new_tokens, ends)[0]

    def write_all(
        self, rows: Sequence[Any], prompts: Sequence[Prompt], new_tokens: int, ends: Collection[int], advance: Advance
    ) -> list[list[int]]:
        return write_one_by_one(self, rows, prompts, new_tokens, ends, advance)

    def hold(self) -> None:
        """They stay in memory until `release` anyway."""

    def release(self) -> None:
        self._graphs = None
