"""Feature distillation: hidden states of the student follow those of the teacher, through projections of their own."""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from potstill.divergences import at_least_float32
from potstill.errors import RecipeError
from potstill.losses.layer_maps import LayerMap, layer_pairs
from potstill.losses.model_shapes import Shapes
from potstill.losses.stacks import Stack, layers_in, loss_name, part_of
from potstill.models import Part, family_named
from potstill.records import ShapeRecord
from potstill.schedules import Constant, Schedule, Weight
from potstill.settings import Settings
from potstill.signals import Features, Read, Signal

States = Float[Tensor, "tokens width"]
Distance = Literal["mse", "cosine", "normalised_mse"]
STACKS = ("encoder", "decoder")


def hidden_state_distance(student: States, teacher: States, how: Distance) -> Float[Tensor, "tokens"]:
    """How far the student's hidden state of each token is from the teacher's.

    mse: the mean of the squared differences over the channels (TinyBERT, arXiv:1909.10351, equation 8).
    cosine: 1 - cos of the angle, which the length does not change (DistilBERT, arXiv:1910.01108).
    normalised_mse: the squared distance as a share of the teacher's squared length. It weighs tokens alike where a few
    have states a hundred times as long as the others, as decoders do (arXiv:2402.17762).
    """
    student, teacher = at_least_float32(student), at_least_float32(teacher)
    if how == "cosine":
        return 1 - torch.cosine_similarity(student, teacher, dim=-1)
    squared = (student - teacher).square()
    if how == "mse":
        return squared.mean(dim=-1)
    return squared.sum(dim=-1) / teacher.square().sum(dim=-1).clamp(min=torch.finfo(teacher.dtype).tiny)


class HiddenStates(Settings):
    """`weight * distance` of hidden states of chosen layers, averaged over tokens and pairs of layers."""

    kind: Literal["hidden_states"] = "hidden_states"
    weight: Weight = Constant(value=1.0)
    of: Stack | None = Field(default=None, exclude_if=lambda of: of is None)
    """Of encoder-decoders, whose layers are read; listed once for each, where both are."""
    layers: LayerMap = "uniform"
    """A pattern, or pairs [student, teacher], where layer 0 is the output of the embeddings."""
    distance: Distance = "mse"
    projection: Literal["learned", "none"] = "learned"
    """learned: a linear map for each pair takes the student's states to the teacher's width; it is trained with the
    student and not saved with it. none: compared as they are, where the widths agree."""
    final_norm: Literal["before", "after"] = "after"
    """Whether the last layer's state is taken before the final norm, as those of all other layers are, or after it,
    where the head reads it. Without meaning for encoders whose layers end with a norm."""

    def reads(self) -> frozenset[Signal]:
        return frozenset({Signal.HIDDEN_STATES})

    def build(self, shapes: Shapes | None = None) -> "HiddenStatesLoss":
        """Raises RecipeError: a layer that is not there, or widths that differ without a projection."""
        assert shapes is not None
        part = part_of(self.of, shapes, self.kind, STACKS)
        pairs = layer_pairs(self.layers, *layers_in(shapes, part), lowest=0, loss=self.kind)
        return HiddenStatesLoss(
            loss_name(self.kind, self.of),
            self.weight,
            pairs,
            shapes,
            distance=self.distance,
            projected=self.projection == "learned",
            normed=self.final_norm == "after",
            part=part,
        )


class Embeddings(Settings):
    """`weight * distance` of the outputs of the embeddings, before the first layer (TinyBERT, arXiv:1909.10351)."""

    kind: Literal["embeddings"] = "embeddings"
    weight: Weight = Constant(value=1.0)
    of: Stack | None = Field(default=None, exclude_if=lambda of: of is None)
    """Of encoder-decoders, whose layers are read; listed once for each, where both are."""
    distance: Distance = "mse"
    projection: Literal["learned", "none"] = "learned"
    """As in hidden_states."""

    def reads(self) -> frozenset[Signal]:
        return frozenset({Signal.HIDDEN_STATES})

    def build(self, shapes: Shapes | None = None) -> "HiddenStatesLoss":
        """Raises RecipeError: widths that differ without a projection."""
        assert shapes is not None
        return HiddenStatesLoss(
            loss_name(self.kind, self.of),
            self.weight,
            [(0, 0)],
            shapes,
            distance=self.distance,
            projected=self.projection == "learned",
            normed=False,
            part=part_of(self.of, shapes, self.kind, STACKS),
        )


class Cosine(Settings):
    """`weight * (1 - cos)` of the angle between the last hidden states, as the head reads them (arXiv:1910.01108)."""

    kind: Literal["cosine"] = "cosine"
    weight: Weight = Constant(value=1.0)
    of: Stack | None = Field(default=None, exclude_if=lambda of: of is None)
    """Of encoder-decoders, whose layers are read; listed once for each, where both are."""
    projection: Literal["learned", "none"] = "none"
    """DistilBERT is as wide as its teacher and has none; a narrower student needs one."""

    def reads(self) -> frozenset[Signal]:
        return frozenset({Signal.HIDDEN_STATES})

    def build(self, shapes: Shapes | None = None) -> "HiddenStatesLoss":
        """Raises RecipeError: widths that differ without a projection."""
        assert shapes is not None
        part = part_of(self.of, shapes, self.kind, STACKS)
        return HiddenStatesLoss(
            loss_name(self.kind, self.of),
            self.weight,
            [layers_in(shapes, part)],
            shapes,
            distance="cosine",
            projected=self.projection == "learned",
            normed=True,
            part=part,
        )


def _read(layer: int, last: int, shape: ShapeRecord, part: Part, *, normed: bool) -> Read:
    # Only the last layer's state goes through the final norm, and not all families have one.
    has_norm = family_named(shape.family).stack(part).final_norm is not None
    return Read(Signal.HIDDEN_STATES, layer, normed=normed and has_norm and layer == last, part=part)


class HiddenStatesLoss(nn.Module):
    """The feature loss of hidden states; its projections are its parameters."""

    def __init__(
        self,
        name: str,
        weight: Schedule,
        pairs: Sequence[tuple[int, int]],
        shapes: Shapes,
        *,
        distance: Distance,
        projected: bool,
        normed: bool,
        part: Part = Part.ONLY,
    ) -> None:
        super().__init__()
        self.name = name
        self._weight = weight
        self._distance: Distance = distance
        widths = (shapes.student.width, shapes.teacher.width)
        if not projected and widths[0] != widths[1]:
            raise RecipeError(
                f"losses: {name} compares a student {widths[0]} wide with a teacher {widths[1]} wide without a "
                "projection. Set its projection to learned, or the student's width to the teacher's."
            )
        self._pairs = [
            tuple(
                _read(layer, last, shape, part, normed=normed)
                for layer, last, shape in zip(
                    pair, layers_in(shapes, part), (shapes.student, shapes.teacher), strict=True
                )
            )
            for pair in pairs
        ]
        # One for each pair: layers have bases of their own. Without bias, as in TinyBERT's equation 8.
        self.projections = nn.ModuleList(nn.Linear(*widths, bias=False) for _ in pairs if projected)
        self.student_reads = frozenset(student for student, _ in self._pairs)
        self.teacher_reads = frozenset(teacher for _, teacher in self._pairs)

    def weight_at(self, progress: float) -> float:
        return self._weight.at(progress)

    def settings_at(self, progress: float) -> Mapping[str, float]:
        return {}

    def per_token(self, student: Features, teacher: Features) -> Float[Tensor, "tokens"]:
        total: Tensor | None = None
        for number, (own, followed) in enumerate(self._pairs):
            states = student[own]
            if self.projections:
                states = self.projections[number](states)
            part = hidden_state_distance(states, teacher[followed], self._distance)
            total = part if total is None else total + part
        assert total is not None
        return total / len(self._pairs)
