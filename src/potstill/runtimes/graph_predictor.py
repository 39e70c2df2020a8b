"""A graph of a model with a head as a predictor, in whichever runtime it is answered from."""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from potstill.artefacts.manifest import Manifest, read_manifest
from potstill.capabilities import Capability
from potstill.data.encoded import Encoded
from potstill.data.tokens import Prompt
from potstill.measure.weights import SavedWeights
from potstill.runtimes.folder import ModelFolder
from potstill.runtimes.graphs import Graph, model_bytes, open_graph
from potstill.runtimes.predictor import Advance, Outputs, Parameters, Predictor
from potstill.runtimes.seq2seq_predictor import Seq2SeqPredictor
from potstill.runtimes.timing import Loads
from potstill.signals import Batch, Signals
from potstill.targets import FullTarget
from potstill.tasks import AnyTask
from potstill.tasks.problem_types import HeadTask
from potstill.teachers import AnyTeacher


class GraphPredictor:
    """Answers rows one at a time, as they come in use: in int8 the numbers of a batch are rounded together, so that
    what is read beside a row would change its answer."""

    asks_others = False
    gives = frozenset({Capability.DISTRIBUTION})
    device = torch.device("cpu")

    def __init__(self, folder: ModelFolder, task: AnyTask, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self._folder = folder
        self._task = task
        self._manifest: Manifest = read_manifest(folder.path)
        self._graph: Graph | None = None
        self._held = False

    @property
    def graph(self) -> Graph:
        if self._graph is None:
            self._folder.require_unchanged()
            self._graph = open_graph(self._folder.path, self._manifest, torch.get_num_threads())
        return self._graph

    def parameters(self) -> Parameters:
        return Parameters(self._manifest.num_parameters, self._manifest.num_parameters_without_embeddings)

    def weights(self) -> SavedWeights:
        return SavedWeights(self._manifest.precision, model_bytes(self._folder.path, self._manifest))

    def loads(self) -> Loads:
        return Loads((str(self._folder.path),), runtime=self._manifest.runtime)

    def forward(self, batch: Batch) -> Signals:
        feeds = {name: batch.inputs[name].numpy() for name in self._manifest.inputs}
        return self._task.signals(torch.from_numpy(self.graph(feeds)))

    def outputs(self, rows: Encoded, advance: Advance) -> Outputs:
        assert isinstance(self._task, HeadTask)
        found = []
        for index in range(len(rows.ids)):
            batch = rows.collate([index])
            found.append(self._task.outputs(self.forward(batch), batch).numpy())
            advance(1)
        if not self._held:
            self.release()
        return np.concatenate(found)

    def first_logits(self, batch: Batch, most: int) -> Tensor:
        outputs = self.forward(batch)
        logits = outputs.mean if outputs.logits is None else outputs.logits
        assert logits is not None
        return logits

    def answers_rows(self, rows: Encoded) -> None:
        """One model answers all rows."""

    def chunk_rows(self) -> int:
        raise NotImplementedError(NO_TEXT)

    def end_tokens(self) -> frozenset[int]:
        raise NotImplementedError(NO_TEXT)

    def target(self, batch: Batch) -> FullTarget:
        raise NotImplementedError(NO_TEXT)

    def write(self, row: Any, prompt: Sequence[int], new_tokens: int, ends: Collection[int]) -> list[int]:
        raise NotImplementedError(NO_TEXT)

    def write_all(
        self, rows: Sequence[Any], prompts: Sequence[Prompt], new_tokens: int, ends: Collection[int], advance: Advance
    ) -> list[list[int]]:
        raise NotImplementedError(NO_TEXT)

    def hold(self) -> None:
        self._held = True

    def release(self) -> None:
        self._held = False
        self._graph = None


NO_TEXT = "this graph is of a model with a head, which writes nothing"


def open_predictor(
    folder: ModelFolder,
    task: AnyTask,
    tokenizer: PreTrainedTokenizerBase,
    device: torch.device,
    batch_size: int,
    teacher: AnyTeacher | None = None,
) -> Predictor:
    """The graph in a folder, or the two of an encoder-decoder; opened when they are first asked."""
    if read_manifest(folder.path).encoder_file:
        return Seq2SeqPredictor(folder, task, tokenizer, device)
    return GraphPredictor(folder, task, tokenizer)
