"""Losses: each is a settings class beside its mathematics, listed in `AnyLoss`.

Adding one: write the module, list its class here, and give the contract tests its float64 reference.
"""

from typing import Annotated

from pydantic import Field

from potstill.losses.hard import HardLabels
from potstill.losses.hidden_states import Cosine, Embeddings, HiddenStates
from potstill.losses.maps import Attention, Relations
from potstill.losses.mixing import LossSums, MixedLoss
from potstill.losses.model_shapes import Shapes
from potstill.losses.response import SoftTargets, soft_target_kl
from potstill.losses.stacks import loss_name

AnyLoss = Annotated[
    SoftTargets | HardLabels | HiddenStates | Attention | Relations | Embeddings | Cosine, Field(discriminator="kind")
]


def name_of(loss: AnyLoss) -> str:
    """What a loss is called in metrics and errors; a recipe can list each name once."""
    if isinstance(loss, HiddenStates | Attention | Embeddings | Cosine):
        return loss_name(loss.kind, loss.of)
    if isinstance(loss, Relations):
        return loss_name(loss.kind, loss.stack)
    return loss.kind


__all__ = [
    "AnyLoss",
    "Attention",
    "Cosine",
    "Embeddings",
    "HardLabels",
    "HiddenStates",
    "LossSums",
    "MixedLoss",
    "Relations",
    "Shapes",
    "SoftTargets",
    "name_of",
    "soft_target_kl",
]
