"""What a predictor is: a saved model, or several as one, that answers rows and that a fresh process can time."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from potstill.capabilities import Capability
from potstill.data.encoded import Encoded
from potstill.data.tokens import Prompt
from potstill.measure.weights import SavedWeights
from potstill.runtimes import RUNTIMES
from potstill.runtimes.folder import ModelFolder
from potstill.runtimes.timing import Loads
from potstill.signals import Batch, Signals
from potstill.targets import FullTarget
from potstill.tasks import AnyTask
from potstill.teachers import AnyTeacher

Outputs = Float[np.ndarray, "answers outputs"]
Advance = Callable[[int], None]


@dataclass(frozen=True)
class Parameters:
    """How many a model has."""

    total: int
    without_embeddings: int


@dataclass(frozen=True)
class Queries:
    """What is shown to a model to time it: texts, the words of documents, or the token ids of prompts."""

    form: str
    items: Sequence[Any]
    settings: Mapping[str, int] = field(default_factory=dict)
    one_by_one: bool = False
    """Whether they are never batched, and each token that is written after them is timed."""
    of_student: Sequence[Any] | None = None
    """The same for models with the student's tokenizer, where it has other tokens than its teacher's."""


@runtime_checkable
class Predictor(Protocol):
    """One model, or several as one. It is loaded when it is first asked, and leaves memory at `release`."""

    @property
    def gives(self) -> frozenset[Capability]: ...

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """That of the rows which it reads."""
        ...

    @property
    def asks_others(self) -> bool:
        """Whether its answers are made of those of other predictors, at no further cost."""
        ...

    def parameters(self) -> Parameters: ...

    def weights(self) -> SavedWeights:
        """As it is served."""
        ...

    def loads(self) -> Loads:
        """What a fresh process loads to answer as this does."""
        ...

    @property
    def device(self) -> torch.device: ...

    def chunk_rows(self) -> int:
        """Of a generative model: the positions whose logits are held at a time."""
        ...

    def end_tokens(self) -> frozenset[int]:
        """Of a generative model: the tokens that end a response by its generation settings."""
        ...

    def forward(self, batch: Batch) -> Signals:
        """The outputs for a batch, as a teacher gives them."""
        ...

    def first_logits(self, batch: Batch, most: int) -> Tensor:
        """The logits or numbers of the rows, or the logits of a language model's first trained tokens, at most so many:
        what another form of the same model is compared by."""
        ...

    def answers_rows(self, rows: Encoded) -> None:
        """Batches that are asked about next are of these rows.

        Raises:
            DataError: a row that it cannot answer, of a domain that no teacher knows.
        """
        ...

    def outputs(self, rows: Encoded, advance: Advance) -> Outputs:
        """The outputs of the head for all rows, or all words that count, in their order, in float32."""
        ...

    def target(self, batch: Batch) -> FullTarget:
        """The distribution of the next token at each position that counts."""
        ...

    def write(self, row: Any, prompt: Sequence[int], new_tokens: int, ends: Collection[int]) -> list[int]:
        """The likeliest tokens after a row's prompt, up to one of `ends`, which is included."""
        ...

    def write_all(
        self, rows: Sequence[Any], prompts: Sequence[Prompt], new_tokens: int, ends: Collection[int], advance: Advance
    ) -> list[list[int]]:
        """The same for many rows, some at a time."""
        ...

    def hold(self) -> None:
        """Stay in memory after `outputs`, until `release`: for who asks about rows that depend on earlier answers."""
        ...

    def release(self) -> None: ...


@contextmanager
def held(predictor: Predictor) -> Iterator[Predictor]:
    """A predictor that stays in memory, and leaves it at the end."""
    predictor.hold()
    try:
        yield predictor
    finally:
        predictor.release()


def write_one_by_one(
    predictor: Predictor,
    rows: Sequence[Any],
    prompts: Sequence[Prompt],
    new_tokens: int,
    ends: Collection[int],
    advance: Advance,
) -> list[list[int]]:
    """`write_all` of a predictor that writes after one prompt at a time."""
    written = []
    for row, prompt in zip(rows, prompts, strict=True):
        written.append(predictor.write(row, np.asarray(prompt).tolist(), new_tokens, ends))
        advance(1)
    return written


def release_all(predictors: Collection[Predictor]) -> None:
    """All models out of memory. What torch keeps of an accelerator's for tensors to come is given back, so that other
    processes have it."""
    for predictor in predictors:
        predictor.release()
    if any(predictor.device.type == "cuda" for predictor in predictors):
        torch.cuda.empty_cache()


def open_predictor(
    folder: ModelFolder,
    *,
    task: AnyTask,
    tokenizer: PreTrainedTokenizerBase,
    device: torch.device,
    batch_size: int,
    runtime: str = "transformers",
    teacher: AnyTeacher | None = None,
) -> Predictor:
    """What answers from the files in a folder, or as the settings of a teacher say; nothing is loaded yet.

    `batch_size` rows are shown at a time.
    """
    opened: Predictor = import_module(RUNTIMES[runtime].predictor).open_predictor(
        folder, task, tokenizer, device, batch_size, teacher
    )
    return opened
