"""Losses: each is a settings class beside its mathematics, listed in `AnyLoss`.

Adding one: write the module, list its class here, and give the contract tests its float64 reference.
"""

from typing import Annotated

from pydantic import Field

from potstill.losses.hard import HardLabels
from potstill.losses.hidden_states import Cosine, Embeddings, HiddenStates
from potstill.losses.maps import Attention, Relations
from potstill.losses.mixing import LossSums, MixedLoss
from potstill.losses.response import SoftTargets, soft_target_kl
from potstill.losses.shapes import Shapes

AnyLoss = Annotated[
    SoftTargets | HardLabels | HiddenStates | Attention | Relations | Embeddings | Cosine, Field(discriminator="kind")
]

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
    "soft_target_kl",
]
