"""Which signals the losses read of the teacher, where each comes from, and what it takes on disk."""

from collections.abc import Mapping, Sequence

import torch

from potstill.data.encoded import Encoded
from potstill.errors import RecipeError
from potstill.losses import MixedLoss, Shapes
from potstill.models import Part
from potstill.recipe import Recipe
from potstill.records import SignalRecord
from potstill.signals import Read, Signal

STATE_BYTES = 2
"""Of a number in float16."""


def build_loss(recipe: Recipe, shapes: Shapes, *, compiled: bool = False) -> MixedLoss:
    """The recipe's losses between these two models. Projections are drawn from torch's global generator."""
    return MixedLoss([loss.build(shapes) for loss in recipe.weighted_losses()], compiled=compiled)


def planned_signals(recipe: Recipe, shapes: Shapes, rows: Encoded, logit_bytes: int) -> list[SignalRecord]:
    """The signals that training reads, with what is stored of them.

    Raises:
        RecipeError: features are to be stored that cannot be; names the disk that they would take.
    """
    found = []
    if recipe.reads_distributions:
        size = 0 if recipe.label.mode == "online" else logit_bytes
        found.append(SignalRecord(name=Signal.LOGITS.value, source=recipe.label.mode, size_bytes=size, layers=[]))
    with torch.device("meta"):
        reads = build_loss(recipe, shapes).teacher_reads
    for (signal, part), layers in _by_signal(reads).items():
        size = sum(_bytes(read, shapes, rows) for read in layers)
        stored = recipe.label.features == "stored"
        if stored and signal is not Signal.HIDDEN_STATES:
            raise RecipeError(
                f"label.features: stored, and losses read {signal.value} of layers "
                f"{', '.join(str(read.layer) for read in layers)}, which would take {size / 1e6:,.1f} MB: a row's maps "
                "grow with the square of its length. Set label.features: online, or leave these losses out."
            )
        found.append(
            SignalRecord(
                name=signal.value if part is Part.ONLY else f"{part.value}_{signal.value}",
                source="stored" if stored else "online",
                size_bytes=size if stored else 0,
                layers=[read.layer for read in layers],
            )
        )
    return found


def _by_signal(reads: frozenset[Read]) -> Mapping[tuple[Signal, Part], Sequence[Read]]:
    found: dict[tuple[Signal, Part], list[Read]] = {}
    for read in sorted(reads):
        found.setdefault((read.signal, read.part), []).append(read)
    return found


def _bytes(read: Read, shapes: Shapes, rows: Encoded) -> int:
    """What this feature takes in float16, of all tokens that count."""
    sizes = rows.feature_sizes(read.part)
    if read.signal is Signal.HIDDEN_STATES:
        return STATE_BYTES * shapes.teacher.width * sum(tokens for tokens, _ in sizes)
    heads = read.heads or shapes.teacher.heads
    return STATE_BYTES * heads * sum(tokens * keys for tokens, keys in sizes)
