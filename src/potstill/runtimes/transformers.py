"""Models that transformers loads from a folder."""

from collections.abc import Collection, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from potstill.capabilities import Capability
from potstill.data.batches import batches_by_length
from potstill.data.encoded import Encoded
from potstill.data.tokens import Prompt
from potstill.loaded_as import placed
from potstill.measure.weights import SavedWeights, saved_weights
from potstill.runtimes.folder import ModelFolder
from potstill.runtimes.greedy import greedy
from potstill.runtimes.predictor import Advance, Outputs, Parameters
from potstill.runtimes.timing import Loads
from potstill.signals import Batch, Signals
from potstill.targets import FullTarget, HiddenTargets, plain_log_sum_exp
from potstill.tasks import AnyTask
from potstill.tasks.generative import ends_of, generative
from potstill.tasks.problem_types import HeadTask
from potstill.teachers import AnyTeacher, FrozenTeacher
from potstill.teachers.responses import Generated, write_responses

OF_HEAD = frozenset({Capability.DISTRIBUTION, Capability.HIDDEN_STATES, Capability.WEIGHTS})
OF_LANGUAGE_MODEL = OF_HEAD | {Capability.TOP_K, Capability.TEXT}


class TransformersPredictor:
    """A saved model of one of the task's classes, held as its folder says.

    `model` can be one that is in memory already.
    """

    asks_others = False

    def __init__(
        self,
        folder: ModelFolder | None,
        task: AnyTask,
        tokenizer: PreTrainedTokenizerBase,
        device: torch.device,
        batch_size: int,
        model: PreTrainedModel | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self._folder = folder
        self._task = task
        self.device = device
        self._batch_size = batch_size
        self._model = model
        self._ready = False
        self._held = False
        self._frozen: FrozenTeacher | None = None
        self._parameters: Parameters | None = None
        self._served: SavedWeights | None = None
        self._outputs: tuple[Encoded, Outputs] | None = None
        self._target: tuple[Batch, FullTarget] | None = None

    @property
    def gives(self) -> frozenset[Capability]:
        return OF_LANGUAGE_MODEL if self._task.generative else OF_HEAD

    @property
    def model(self) -> PreTrainedModel:
        """The model on its device, loaded where it is not yet."""
        if self._model is None:
            assert self._folder is not None
            self._model = self._folder.load(self._task)
            self._ready = False
        if not self._ready:
            placed(self._model, self.device).eval()
            # Of weights in few bits several are in one number.
            total = self._model.num_parameters()
            if self._folder is not None and (told := self._folder.loaded_as).quantization is not None:
                self._served = SavedWeights(str(told.told), self._model.get_memory_footprint())
            self._parameters = Parameters(total, total - self._task.embedding_parameters(self._model))
            self._ready = True
        return self._model

    def parameters(self) -> Parameters:
        if self._parameters is None:
            _ = self.model
        assert self._parameters is not None
        return self._parameters

    def weights(self) -> SavedWeights:
        assert self._folder is not None
        return self._served or self._folder.served or saved_weights(self._folder.path)

    def loads(self) -> Loads:
        assert self._folder is not None
        folder = str(self._folder.path)
        trusted = (folder,) if self._folder.trust_remote_code else ()
        held = self._folder.loaded_as
        return Loads((folder,), trusted=trusted, held={folder: asdict(held)} if held.special else {})

    def chunk_rows(self) -> int:
        return generative(self._task).head_of(self.model).chunk_rows

    def end_tokens(self) -> frozenset[int]:
        return ends_of(self.model)

    def forward(self, batch: Batch) -> Signals:
        # To freeze a model is to walk over all of its parameters.
        if self._frozen is None:
            self._frozen = FrozenTeacher(self.model, self.device, self._task.ask)
        return self._frozen(batch)

    def first_logits(self, batch: Batch, most: int) -> Tensor:
        return first_logits(self.forward(batch), most)

    def answers_rows(self, rows: Encoded) -> None:
        """One model answers all rows."""

    def outputs(self, rows: Encoded, advance: Advance) -> Outputs:
        # An ensemble asks its members for what they may have been asked for already.
        if self._outputs is None or self._outputs[0] is not rows:
            self._outputs = rows, self._forward_all(rows, advance)
            if not self._held:
                self.release()
        return self._outputs[1]

    def _forward_all(self, rows: Encoded, advance: Advance) -> Outputs:
        assert isinstance(self._task, HeadTask)
        parts: list[Outputs] = [np.empty((0, 0), dtype=np.float32)] * len(rows.ids)
        for indices in batches_by_length(rows.lengths, self._batch_size):
            batch = rows.collate(indices)
            values = self._task.outputs(self.forward(batch), batch).float().cpu().numpy()
            counts = [1] * len(indices) if batch.whole_rows else batch.mask.sum(dim=1).tolist()
            for index, part in zip(indices, np.split(values, np.cumsum(counts)[:-1]), strict=True):
                parts[index] = part
            advance(len(indices))
        return np.concatenate(parts)

    def target(self, batch: Batch) -> FullTarget:
        if self._target is None or self._target[0] is not batch:
            target = self.forward(batch).target
            assert isinstance(target, HiddenTargets)
            self._target = batch, target
        return self._target[1]

    def write(self, row: Any, prompt: Sequence[int], new_tokens: int, ends: Collection[int]) -> list[int]:
        return greedy([self.model], prompt, new_tokens, stop=ends)[0]

    def write_all(
        self, rows: Sequence[Any], prompts: Sequence[Prompt], new_tokens: int, ends: Collection[int], advance: Advance
    ) -> list[list[int]]:
        settings = Generated(temperature=0, max_new_tokens=new_tokens)
        written: list[list[int]] = [[]] * len(prompts)
        for indices in batches_by_length([len(ids) for ids in prompts], self._batch_size):
            responses = write_responses(
                self.model, [prompts[index] for index in indices], settings, new_tokens=new_tokens, ends=ends, seed=0
            )
            for index, response in zip(indices, responses, strict=True):
                written[index] = response
            advance(len(indices))
        return written

    def hold(self) -> None:
        self._held = True

    def release(self) -> None:
        self._held = False
        if self._model is not None and self._folder is not None:
            _ = self.parameters()
            self._model = None
        self._frozen = None
        self._target = None


def first_logits(outputs: Signals, most: int) -> Tensor:
    """Those of all rows, or of the first positions of a target."""
    if outputs.mean is not None:
        return outputs.mean
    if outputs.logits is not None:
        return outputs.logits
    assert isinstance(outputs.target, FullTarget)
    return outputs.target.logits_at(slice(most), 1.0, plain_log_sum_exp)


def open_predictor(
    folder: ModelFolder,
    task: AnyTask,
    tokenizer: PreTrainedTokenizerBase,
    device: torch.device,
    batch_size: int,
    teacher: AnyTeacher | None = None,
) -> TransformersPredictor:
    """The model in a folder; it is loaded when it is first asked."""
    return TransformersPredictor(folder, task, tokenizer, device, batch_size)
