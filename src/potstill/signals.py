"""The protocols by which losses, teachers and the training loop meet.

The loop knows a teacher as `teacher(batch) -> Signals` and a logit loss as one value for each position.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from potstill.models import Part
from potstill.targets import Head, Target

IGNORE_INDEX = -100
"""The label of a position without a hard label (the convention of torch and transformers)."""

LabelPositions = Literal["rows", "words", "tokens"]
"""What has a label of its own: whole rows, words of a row, or the tokens that a model learns to write."""


class Signal(StrEnum):
    """What a loss can ask of a model; a recipe's losses decide what is stored, and what is asked in each step."""

    LOGITS = "logits"
    HIDDEN_STATES = "hidden_states"
    """Of the tokens that count: tokens x width."""
    ATTENTION = "attention"
    """Attention maps as log-probabilities before dropout: tokens x heads x keys."""
    QUERY_RELATION = "query_relation"
    KEY_RELATION = "key_relation"
    VALUE_RELATION = "value_relation"
    """How alike the queries (keys, values) of two tokens are, as maps of the same form (arXiv:2012.15828)."""


@dataclass(frozen=True, order=True)
class Read:
    """One feature of one layer of a model."""

    signal: Signal
    layer: int
    """0 is the output of the embeddings; layer i is that of the i-th layer, and for maps the attention within it."""
    heads: int = 0
    """Of relations: into how many heads the vectors are cut."""
    normed: bool = False
    """Of hidden states: whether after the final norm, which only those of the last layer go through."""
    part: Part = Part.ONLY


Features = Mapping[Read, Tensor]


@dataclass(frozen=True)
class Signals:
    """The outputs of a model for a batch; a signal that nobody asked for is None."""

    logits: Float[Tensor, "*batch classes"] | None = None
    hidden: Float[Tensor, "*batch width"] | None = None
    """Last hidden states, after the final norm: what the head makes logits of."""
    head: Head | None = None
    mean: Float[Tensor, "*batch"] | None = None
    """Of a model whose output is a number: the mean of a Gaussian of unit variance."""
    target: Target | None = None
    """A teacher's distributions at the unmasked positions alone, in their order."""
    features: Features = field(default_factory=dict)
    """Of the tokens that count alone (`Batch.tokens`), in their order."""


@dataclass(frozen=True)
class Batch:
    """Rows on their way through a model.

    `mask` is true where a position counts at all; `labels` is IGNORE_INDEX where there is no hard label. Labels
    that are numbers are floating, and NaN where there is none.
    """

    ids: tuple[str, ...]
    inputs: Mapping[str, Tensor]
    labels: Int[Tensor, "*batch"] | Float[Tensor, "*batch"]
    mask: Bool[Tensor, "*batch"]
    whole_rows: bool = False
    """Of a mask of two dimensions: whether its positions are answers about a whole row, such as its labels, and not
    the row's tokens. A mask of one dimension is always about rows."""
    counted: Int[Tensor, "positions"] | None = None
    """`places`, where the host has looked before the batch went to an accelerator."""

    @property
    def token_weights(self) -> Float[Tensor, "rows length"]:
        """How much each token counts in a loss on features; they sum to the number of unmasked positions.

        So features share the normaliser of all losses. Where each token is a position, it counts as one; where
        positions are about a row, its tokens have equal shares of them. Padding counts nothing.
        """
        if self.mask.dim() == 2 and not self.whole_rows:
            return self.mask.float()
        about_rows = self.mask if self.mask.dim() == 2 else self.mask[:, None]
        positions = about_rows.sum(dim=1, keepdim=True)
        seen = self.inputs["attention_mask"] * (positions > 0)
        return seen / seen.sum(dim=1, keepdim=True).clamp(min=1) * positions

    @property
    def tokens(self) -> Bool[Tensor, "rows length"]:
        """The tokens that count in a loss on features."""
        return self.token_weights > 0

    def weights_of(self, part: Part) -> Float[Tensor, "rows length"]:
        """The same for a stack. A row's source tokens share the row's unmasked positions, which are of its target."""
        if part is not Part.ENCODER:
            return self.token_weights
        seen = self.inputs["attention_mask"].float()
        shares = self.mask.sum(dim=1, keepdim=True) / seen.sum(dim=1, keepdim=True).clamp(min=1)
        return seen * shares

    def tokens_of(self, part: Part) -> Bool[Tensor, "rows length"]:
        """The tokens of a stack that count in a loss on features; of attention, the ones that look."""
        return self.weights_of(part) > 0

    @property
    def places(self) -> Int[Tensor, "positions"]:
        """The true positions of the mask, counted row by row. Of a batch that was not pinned before it went to an
        accelerator this waits for it."""
        return self.mask.reshape(-1).nonzero().squeeze(1) if self.counted is None else self.counted

    def to(self, device: torch.device) -> "Batch":
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pinned(self) -> "Batch":
        """The same in memory from which a CUDA device copies beside its work; as it is where there is none in use."""
        in_use: bool = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
        return replace(self, counted=self.places)._each(lambda tensor: tensor.pin_memory()) if in_use else self

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        inputs = {name: change(tensor) for name, tensor in self.inputs.items()}
        counted = None if self.counted is None else change(self.counted)
        return replace(self, inputs=inputs, labels=change(self.labels), mask=change(self.mask), counted=counted)


TeacherAt = Callable[[float], Float[Tensor, "positions classes"]]
"""A teacher's logits x at a temperature T, of which softmax(x / T) is its distribution there. Those of one teacher are
the same at each; of several that are mixed they are not."""

Ask = Callable[[nn.Module, Batch], Signals]
"""How a task asks a model about a batch: for logits, or for hidden states and the head."""


@runtime_checkable
class Teacher(Protocol):
    """A source of signals for a batch: stored labels or a frozen model."""

    def __call__(self, batch: Batch) -> Signals: ...


@runtime_checkable
class PreparedTeacher(Teacher, Protocol):
    """A teacher that can be told which batch it is about to be asked about."""

    def prepare(self, batch: Batch) -> None:
        """Read what it takes to answer. The batch lies on the host; asked in another thread than the teacher is."""
        ...


@runtime_checkable
class MovingTeacher(Teacher, Protocol):
    """A teacher that changes with the student. A module, whose state belongs to the checkpoints of the training."""

    def after_step(self, student: nn.Module) -> None:
        """Hear that the optimiser has made a step."""
        ...


@runtime_checkable
class LogitLoss(Protocol):
    """A loss that is a sum over positions of a function of the logits there.

    One driver evaluates all of them together (`losses/mixing.py`), so that the logits are made once.
    """

    name: str

    def weight_at(self, progress: float) -> float: ...

    def settings_at(self, progress: float) -> Mapping[str, float]:
        """What to write to the metrics: the temperature now, for example."""
        ...

    def per_position(
        self,
        student_logits: Float[Tensor, "positions classes"],
        teacher: "TeacherAt | None",
        labels: Int[Tensor, "positions"],
        *,
        progress: float,
    ) -> Float[Tensor, "positions"]: ...


@runtime_checkable
class ValueLoss(LogitLoss, Protocol):
    """A logit loss that also knows what it is where outputs are numbers, as means of Gaussians of unit variance."""

    def per_value(
        self,
        student: Float[Tensor, "positions"],
        teacher: Float[Tensor, "positions"] | None,
        labels: Float[Tensor, "positions"],
        *,
        progress: float,
    ) -> Float[Tensor, "positions"]: ...


@runtime_checkable
class FeatureLoss(Protocol):
    """A loss between features of the two models, with one value for each token that counts.

    It is an `nn.Module` where it has parameters of its own, such as projections: they are trained and checkpointed with
    the student, and not saved with it.
    """

    name: str
    student_reads: frozenset[Read]
    teacher_reads: frozenset[Read]

    def weight_at(self, progress: float) -> float: ...

    def settings_at(self, progress: float) -> Mapping[str, float]: ...

    def per_token(self, student: Features, teacher: Features) -> Float[Tensor, "tokens"]: ...
