"""Losses on features by loops over plain numbers, and models and features to compare them on."""

import cmath
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BertConfig,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedModel,
)

from potstill.losses import AnyLoss, Attention, Cosine, Embeddings, HiddenStates, Relations, Shapes
from potstill.records import ShapeRecord
from potstill.schedules import Constant
from potstill.schedules import Cosine as CosineSchedule
from potstill.signals import Batch, Read, Signal

Floats = npt.NDArray[np.float64]
Vector = Sequence[complex]
FEATURE_LOSSES = tuple(loss for loss in get_args(get_args(AnyLoss)[0]) if not loss().reads() <= {Signal.LOGITS})


def shape(layers: int, width: int, heads: int, family: str = "bert") -> ShapeRecord:
    return ShapeRecord(
        family=family,
        layers=layers,
        width=width,
        heads=heads,
        intermediate=2 * width,
        vocabulary=40,
        classes=3,
        parameters=1,
        embedding_parameters=1,
    )


SHAPES = Shapes(student=shape(2, 8, 2), teacher=shape(4, 12, 3))
ALIKE = Shapes(student=shape(3, 12, 3), teacher=shape(3, 12, 3))
"""Student and teacher of one shape, for what needs no projection."""


@dataclass(frozen=True)
class Variant:
    """A loss with the models that it stands between, and the pairs of layers that it must compare."""

    settings: Any
    shapes: Shapes
    pairs: tuple[tuple[int, int], ...]


UNIFORM = ((1, 2), (2, 4))
VARIANTS = {
    "hidden_states": (
        Variant(HiddenStates(), SHAPES, UNIFORM),
        Variant(HiddenStates(layers="distilbert", distance="cosine"), SHAPES, ((1, 1), (2, 4))),
        Variant(HiddenStates(layers="first", distance="normalised_mse"), SHAPES, ((1, 1), (2, 2))),
        Variant(HiddenStates(layers="last", weight=CosineSchedule(start=0.1, end=0.9)), SHAPES, ((1, 3), (2, 4))),
        Variant(HiddenStates(layers=((0, 0), (1, 3)), projection="none"), ALIKE, ((0, 0), (1, 3))),
    ),
    "embeddings": (Variant(Embeddings(), SHAPES, ((0, 0),)), Variant(Embeddings(projection="none"), ALIKE, ((0, 0),))),
    "cosine": (Variant(Cosine(), ALIKE, ((3, 3),)), Variant(Cosine(projection="learned"), SHAPES, ((2, 4),))),
    "attention": (
        Variant(Attention(), SHAPES, UNIFORM),
        Variant(Attention(distance="mse"), SHAPES, UNIFORM),
        Variant(Attention(), ALIKE, ((1, 1), (2, 2), (3, 3))),
        Variant(Attention(heads="learned", layers=((1, 1), (2, 3))), SHAPES, ((1, 1), (2, 3))),
        Variant(Attention(heads="learned", distance="mse", weight=Constant(value=0.3)), SHAPES, UNIFORM),
    ),
    "relations": (
        Variant(Relations(heads=4), SHAPES, ((2, 4),)),
        Variant(Relations(heads=2, layers=(1, 3), of=("value",)), SHAPES, ((1, 3),)),
    ),
}
ALL = [
    pytest.param(variant, id=f"{kind}-{number}")
    for kind, variants in VARIANTS.items()
    for number, variant in enumerate(variants)
]


def naive_value(
    variant: Variant, module: Any, student: Callable[[Read], Any], teacher: Callable[[Read], Any]
) -> complex:
    """The loss of one token, from what the two models say of it: a vector, or for each head a list of log-shares."""
    settings, total = variant.settings, 0j
    last = (variant.shapes.student.layers, variant.shapes.teacher.layers)
    for number, (own, followed) in enumerate(variant.pairs):
        if settings.kind in ("attention", "relations"):
            signals = (
                [Signal.ATTENTION]
                if settings.kind == "attention"
                else [Signal(f"{each}_relation") for each in settings.of]
            )
            heads = settings.heads if settings.kind == "relations" else 0
            for signal in signals:
                maps = (student(Read(signal, own, heads=heads)), teacher(Read(signal, followed, heads=heads)))
                total += naive_maps(variant, module, number, *maps)
            continue
        # Encoders have no final norm, so `normed` never is set here.
        state, target = student(Read(Signal.HIDDEN_STATES, own)), teacher(Read(Signal.HIDDEN_STATES, followed))
        assert own <= last[0] and followed <= last[1]
        if len(module.projections):
            matrix = module.projections[number].weight.tolist()
            state = [sum(weight * value for weight, value in zip(row, state, strict=True)) for row in matrix]
        how = "cosine" if settings.kind == "cosine" else settings.distance
        total += naive_distance(state, target, how)
    return total if settings.kind == "relations" else total / len(variant.pairs)


def naive_distance(student: Vector, teacher: Vector, how: str) -> complex:
    squared = sum((a - b) ** 2 for a, b in zip(student, teacher, strict=True))
    if how == "mse":
        return squared / len(teacher)
    if how == "normalised_mse":
        return squared / sum(b * b for b in teacher)
    dot = sum(a * b for a, b in zip(student, teacher, strict=True))
    return 1 - dot / (cmath.sqrt(sum(a * a for a in student)) * cmath.sqrt(sum(b * b for b in teacher)))


def naive_maps(
    variant: Variant, module: Any, number: int, student: Sequence[Vector], teacher: Sequence[Vector]
) -> complex:
    own = [[cmath.exp(value) for value in head] for head in student]
    followed = [[cmath.exp(value) for value in head] for head in teacher]
    settings = variant.settings
    if settings.kind == "attention" and settings.heads == "learned":
        mixer = module.mixers[number].tolist()
        shares = [[cmath.exp(v) / sum(cmath.exp(w) for w in row) for v in row] for row in mixer]
        own = [
            [sum(share * head[key] for share, head in zip(row, own, strict=True)) for key in range(len(own[0]))]
            for row in shares
        ]
    elif settings.kind == "attention" and len(own) != len(followed):
        own, followed = ([[sum(column) / len(maps) for column in zip(*maps, strict=True)]] for maps in (own, followed))
    total = 0j
    for mine, seen in zip(own, followed, strict=True):
        for q, p in zip(mine, seen, strict=True):
            if getattr(settings, "distance", "kl") == "mse":
                total += (p - q) ** 2
            else:
                total += p * (cmath.log(p) - cmath.log(q))
    return total / len(own)


def features(variant: Variant, reads: frozenset[Read], of: str, tokens: int, seed: int) -> dict[Read, Floats]:
    """Random features of so many tokens, maps over as many keys."""
    sizes = getattr(variant.shapes, of)
    generator = np.random.default_rng(seed)
    found = {}
    for read in sorted(reads):
        if read.signal is Signal.HIDDEN_STATES:
            found[read] = generator.normal(size=(tokens, sizes.width))
            continue
        scores = generator.normal(size=(tokens, read.heads or sizes.heads, tokens + 1)) * 2
        found[read] = scores - np.log(np.exp(scores).sum(axis=-1, keepdims=True))
    return found


def encoder(sizes: ShapeRecord, seed: int, of: type[PretrainedConfig] = BertConfig) -> PreTrainedModel:
    torch.manual_seed(seed)
    config = of(
        vocab_size=40,
        hidden_size=sizes.width,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.heads,
        intermediate_size=sizes.intermediate,
        num_labels=3,
        initializer_range=0.5,
        max_position_embeddings=32,
    )
    model: PreTrainedModel = AutoModelForSequenceClassification.from_config(config).double().eval()
    return model


def decoder(sizes: ShapeRecord, seed: int, of: type[PretrainedConfig] = LlamaConfig, **more: Any) -> PreTrainedModel:
    torch.manual_seed(seed)
    config = of(
        vocab_size=40,
        hidden_size=sizes.width,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.heads,
        num_key_value_heads=1,
        initializer_range=0.3,
        intermediate_size=sizes.intermediate,
        max_position_embeddings=64,
        **more,
    )
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config).double().eval()
    return model


def rows(lengths: Sequence[int], *, left: int = 0, right: int = 0, garbage: int = 0) -> Batch:
    """Rows of fixed token ids, padded on both sides; what stands in the padding is `garbage`."""
    longest = left + max(lengths) + right
    ids = torch.full((len(lengths), longest), garbage)
    seen = torch.zeros_like(ids)
    positions = torch.zeros_like(ids)
    for row, length in enumerate(lengths):
        place = slice(left, left + length)
        ids[row, place] = (torch.arange(length) * 7 + 3 * row + 1) % 40
        seen[row, place] = 1
        positions[row, place] = torch.arange(length)
    return Batch(
        ids=tuple(f"row-{row}" for row in range(len(lengths))),
        inputs={"input_ids": ids, "attention_mask": seen, "position_ids": positions},
        labels=torch.zeros(len(lengths), dtype=torch.int64),
        mask=torch.ones(len(lengths), dtype=torch.bool),
    )
