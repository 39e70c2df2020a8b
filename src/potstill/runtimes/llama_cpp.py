"""GGUF files as predictors, answered from by llama.cpp on the processor, as they are served."""

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from potstill.artefacts.llama_cpp import LlamaModel, Logits
from potstill.artefacts.manifest import Manifest, read_manifest
from potstill.capabilities import Capability
from potstill.chunk_sizes import chunk_rows
from potstill.data.encoded import Encoded
from potstill.data.tokens import Prompt
from potstill.measure.weights import SavedWeights
from potstill.runtimes.folder import ModelFolder
from potstill.runtimes.predictor import Advance, Outputs, Parameters, write_one_by_one
from potstill.runtimes.timing import Loads
from potstill.signals import Batch, Signals
from potstill.targets import FullTarget, LogitTargets
from potstill.tasks import AnyTask
from potstill.tasks.generative import generation_config_in
from potstill.teachers import AnyTeacher

GIVES = frozenset({Capability.DISTRIBUTION, Capability.TOP_K, Capability.TEXT})


class LlamaCppPredictor:
    """A language model in a GGUF file. Each example is read by itself, whichever row it shares with others.

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
        self._model: LlamaModel | None = None

    def _opened(self, tokens: int) -> LlamaModel:
        """The model, with room for so many tokens; what it keeps of a text grows with them."""
        if self._model is None or self._model.room < tokens:
            self.release()
            self._folder.require_unchanged()
            file = self._folder.path / self._manifest.model_file
            room = max(tokens, self._manifest.max_length)
            self._model = LlamaModel(file, threads=torch.get_num_threads(), tokens=room)
        return self._model

    def parameters(self) -> Parameters:
        return Parameters(self._manifest.num_parameters, self._manifest.num_parameters_without_embeddings)

    def weights(self) -> SavedWeights:
        file = self._folder.path / self._manifest.model_file
        return SavedWeights(f"GGUF {self._manifest.precision.upper()}", file.stat().st_size)

    def loads(self) -> Loads:
        return Loads((str(self._folder.path),), runtime=self._manifest.runtime)

    def chunk_rows(self) -> int:
        return chunk_rows(self.device, self._opened(1).vocabulary)

    def end_tokens(self) -> frozenset[int]:
        return ends_in(self._folder.path)

    def answers_rows(self, rows: Encoded) -> None:
        """One model answers all rows."""

    def forward(self, batch: Batch) -> Signals:
        return Signals(target=self.target(batch))

    def target(self, batch: Batch) -> FullTarget:
        return LogitTargets(self._logits(batch))

    def first_logits(self, batch: Batch, most: int) -> Tensor:
        return self._logits(batch, most)

    def _logits(self, batch: Batch, most: int | None = None) -> Tensor:
        """Those at the positions that count, or at the first of them."""
        found: list[Logits] = []
        left = int(batch.mask.sum()) if most is None else most
        for ids, counts in examples_in(batch):
            if not left:
                break
            # What stands behind the last token that counts has no part in it.
            places = np.flatnonzero(counts)[:left]
            ids, wanted = ids[: places[-1] + 1], counts[: places[-1] + 1]
            found.append(self._opened(len(ids)).logits(ids, wanted)[:, : self._shared_tokens])
            left -= len(places)
        return torch.from_numpy(np.concatenate(found)).to(self._beside)

    def outputs(self, rows: Encoded, advance: Advance) -> Outputs:
        raise NotImplementedError("language models have no head for classes")

    def write(self, row: Any, prompt: Sequence[int], new_tokens: int, ends: Collection[int]) -> list[int]:
        return self._opened(len(prompt) + new_tokens).greedy(prompt, new_tokens, ends)[0]

    def write_all(
        self, rows: Sequence[Any], prompts: Sequence[Prompt], new_tokens: int, ends: Collection[int], advance: Advance
    ) -> list[list[int]]:
        return write_one_by_one(self, rows, prompts, new_tokens, ends, advance)

    def hold(self) -> None:
        """It stays in memory until `release` anyway."""

    def release(self) -> None:
        if self._model is not None:
            self._model.close()
            self._model = None


def examples_in(batch: Batch) -> Iterator[tuple[list[int], list[bool]]]:
    """The token ids of each example of the rows, with which of its positions count; padding is none.

    Where positions begin anew, another example does.
    """
    for ids, places, counts in zip(
        batch.inputs["input_ids"].tolist(), batch.inputs["position_ids"].tolist(), batch.mask.tolist(), strict=True
    ):
        starts = [at for at, place in enumerate(places) if place == 0]
        for start, end in zip(starts, [*starts[1:], len(ids)], strict=True):
            if any(counts[start:end]):
                yield ids[start:end], counts[start:end]


def ends_in(folder: Path) -> frozenset[int]:
    """The tokens that end a response by the generation settings that lie beside a file."""
    ends = getattr(generation_config_in(folder), "eos_token_id", None)
    return frozenset(ends if isinstance(ends, list) else [] if ends is None else [ends])


def open_predictor(
    folder: ModelFolder,
    task: AnyTask,
    tokenizer: PreTrainedTokenizerBase,
    device: torch.device,
    batch_size: int,
    teacher: AnyTeacher | None = None,
) -> LlamaCppPredictor:
    """The file in a folder; it is loaded when it is first asked."""
    return LlamaCppPredictor(folder, task, tokenizer, device)
