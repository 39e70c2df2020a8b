"""Feature distillation of maps: attention maps of chosen layers, and MiniLM's relations of one layer."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from potstill.errors import RecipeError
from potstill.losses.layer_maps import LayerMap, layer_pairs
from potstill.losses.model_shapes import Shapes
from potstill.losses.stacks import Looking, Stack, layers_in, loss_name, part_of, require_maps
from potstill.schedules import Constant, Weight
from potstill.settings import Settings
from potstill.signals import Features, Read, Signal

LogMaps = Float[Tensor, "tokens heads keys"]
RELATIONS = {
    "query": Signal.QUERY_RELATION,
    "key": Signal.KEY_RELATION,
    "value": Signal.VALUE_RELATION,
}


def map_distance(student: LogMaps, teacher: LogMaps, how: Literal["kl", "mse"]) -> Float[Tensor, "tokens"]:
    """How far the student's maps are from the teacher's, from log-probabilities, averaged over the heads.

    kl: KL(teacher || student) over the keys, in nats. mse: the squared distance of the two distributions, summed over
    the keys: a mean would shrink with the padding of the batch.
    """
    if how == "kl":
        return (teacher.exp() * (teacher - student)).sum(dim=-1).mean(dim=-1)
    return (teacher.exp() - student.exp()).square().sum(dim=-1).mean(dim=-1)


class Attention(Settings):
    """`weight * distance` of attention maps of chosen layers, averaged over tokens, heads and pairs of layers.

    The maps are those before dropout, over the keys that a token sees. Source: Jiao et al. 2020, TinyBERT,
    arXiv:1909.10351, section 3.1, with distributions in place of scores before the softmax.
    """

    kind: Literal["attention"] = "attention"
    weight: Weight = Constant(value=1.0)
    of: Looking | None = Field(default=None, exclude_if=lambda of: of is None)
    """Of encoder-decoders, whose maps are read: how source tokens look at each other, target tokens at those before
    them, or (cross) target tokens at the source. Listed once for each that is."""
    layers: LayerMap = "uniform"
    """A pattern, or pairs [student, teacher] of layers, counted from 1."""
    distance: Literal["kl", "mse"] = "kl"
    heads: Literal["auto", "matched", "mean", "learned"] = "auto"
    """matched: head by head, for as many heads. mean: the average map of a layer. learned: each head of the teacher is
    followed by a learned average of the student's heads. auto: matched where the numbers agree, else mean."""

    def reads(self) -> frozenset[Signal]:
        return frozenset({Signal.ATTENTION})

    def build(self, shapes: Shapes | None = None) -> "AttentionLoss":
        """Raises RecipeError: a layer that is not there, numbers of heads that do not match, maps that no one reads."""
        assert shapes is not None
        require_maps(shapes, self.kind)
        return AttentionLoss(self, shapes)


class AttentionLoss(nn.Module):
    """The feature loss of `Attention`; where heads are mixed by learned weights, these are its parameters."""

    def __init__(self, settings: Attention, shapes: Shapes) -> None:
        super().__init__()
        self.name = loss_name(settings.kind, settings.of)
        self._settings = settings
        heads = (shapes.student.heads, shapes.teacher.heads)
        self._mix = settings.heads
        if self._mix == "auto":
            self._mix = "matched" if heads[0] == heads[1] else "mean"
        if self._mix == "matched" and heads[0] != heads[1]:
            raise RecipeError(
                f"losses: attention.heads is matched, and the student has {heads[0]} heads, the teacher {heads[1]}. "
                "Use mean or learned."
            )
        part = part_of(settings.of, shapes, settings.kind, ("encoder", "decoder", "cross"))
        pairs = layer_pairs(settings.layers, *layers_in(shapes, part), lowest=1, loss=settings.kind)
        self._pairs = [tuple(Read(Signal.ATTENTION, layer, part=part) for layer in pair) for pair in pairs]
        # Zeros: each of the teacher's heads begins with the plain average of the student's.
        self.mixers = nn.ParameterList(
            nn.Parameter(torch.zeros(heads[1], heads[0])) for _ in pairs if self._mix == "learned"
        )
        self.student_reads = frozenset(student for student, _ in self._pairs)
        self.teacher_reads = frozenset(teacher for _, teacher in self._pairs)

    def weight_at(self, progress: float) -> float:
        return self._settings.weight.at(progress)

    def settings_at(self, progress: float) -> Mapping[str, float]:
        return {}

    def per_token(self, student: Features, teacher: Features) -> Float[Tensor, "tokens"]:
        parts = []
        for number, (own, followed) in enumerate(self._pairs):
            maps, targets = student[own], teacher[followed]
            if self._mix == "mean":
                maps, targets = _averaged(maps), _averaged(targets)
            elif self._mix == "learned":
                shares = self.mixers[number].softmax(dim=-1).to(maps.dtype)
                maps = _log(torch.einsum("th,nhk->ntk", shares, maps.exp()))
            parts.append(map_distance(maps, targets, self._settings.distance))
        return torch.stack(parts).mean(dim=0)


class Relations(Settings):
    """`weight * sum of KL` between relations of queries, keys and values in one layer (MiniLMv2, arXiv:2012.15828).

    A relation is how alike the vectors of two tokens are, as a distribution over the keys that a token sees. Vectors
    are cut anew into `heads`, so numbers of layers, heads and channels need not match. Decoders' queries and keys are
    taken as attention multiplies them, after the rotation by position.
    """

    kind: Literal["relations"] = "relations"
    weight: Weight = Constant(value=1.0)
    stack: Stack | None = Field(default=None, exclude_if=lambda stack: stack is None)
    """Of encoder-decoders, whose vectors are read; listed once for each, where both are."""
    layers: tuple[int, int] | None = None
    """The student's layer and the teacher's, counted from 1; by default the last of both. For a teacher of 24 layers
    and more the paper takes one some layers below the top."""
    of: Annotated[tuple[Literal["query", "key", "value"], ...], Field(min_length=1)] = ("query", "key", "value")
    heads: int = Field(default=12, ge=1)
    """Relation heads; must divide the channels of all heads together, of both models. More heads carry more detail:
    the paper takes 48 for a teacher 768 wide and 64 for one 1,024 wide, four times its heads."""

    def reads(self) -> frozenset[Signal]:
        return frozenset(RELATIONS[each] for each in self.of)

    def build(self, shapes: Shapes | None = None) -> "RelationsLoss":
        """Raises RecipeError: a layer that is not there, or channels that cannot be cut into the heads, or read."""
        assert shapes is not None
        require_maps(shapes, self.kind)
        for whose, shape in (("student", shapes.student), ("teacher", shapes.teacher)):
            for each in self.of:
                other = shape.query_width if each == "query" else shape.key_value_width
                width = other or shape.width
                if width % self.heads:
                    plural = {"query": "queries", "key": "keys", "value": "values"}[each]
                    raise RecipeError(
                        f"losses: relations.heads is {self.heads}, and the {whose}'s {width} channels of {plural} "
                        f"cannot be cut into {self.heads}. Choose a number that divides the channels of both models."
                    )
        return RelationsLoss(self, shapes)


class RelationsLoss(nn.Module):
    """The feature loss of `Relations`."""

    def __init__(self, settings: Relations, shapes: Shapes) -> None:
        super().__init__()
        self.name = loss_name(settings.kind, settings.stack)
        self._weight = settings.weight
        part = part_of(settings.stack, shapes, settings.kind, ("encoder", "decoder"), setting="stack")
        counts = layers_in(shapes, part)
        [layers] = layer_pairs((settings.layers or counts,), *counts, lowest=1, loss=self.name)
        self._pairs = [
            tuple(Read(RELATIONS[each], layer, heads=settings.heads, part=part) for layer in layers)
            for each in settings.of
        ]
        self.student_reads = frozenset(student for student, _ in self._pairs)
        self.teacher_reads = frozenset(teacher for _, teacher in self._pairs)

    def weight_at(self, progress: float) -> float:
        return self._weight.at(progress)

    def settings_at(self, progress: float) -> Mapping[str, float]:
        return {}

    def per_token(self, student: Features, teacher: Features) -> Float[Tensor, "tokens"]:
        parts: Sequence[Tensor] = [map_distance(student[own], teacher[seen], "kl") for own, seen in self._pairs]
        return torch.stack(list(parts)).sum(dim=0)


def _averaged(maps: LogMaps) -> Float[Tensor, "tokens 1 keys"]:
    """The average map of all heads."""
    return _log(maps.exp().mean(dim=1, keepdim=True))


def _log(maps: Float[Tensor, "*maps"]) -> Float[Tensor, "*maps"]:
    # A key that is not seen has no probability, and its logarithm would have no gradient.
    return maps.clamp(min=torch.finfo(maps.dtype).tiny).log()
