"""Losses: each is a settings class beside its mathematics, listed in `AnyLoss`.

Adding one: write the module, list its class here, and give the contract tests its float64 reference.
"""

from typing import Annotated

from pydantic import Field

from potstill.losses.hard import HardLabels
from potstill.losses.mixing import LossSums, MixedLoss
from potstill.losses.response import SoftTargets, soft_target_kl

AnyLoss = Annotated[SoftTargets | HardLabels, Field(discriminator="kind")]

__all__ = ["AnyLoss", "HardLabels", "LossSums", "MixedLoss", "SoftTargets", "soft_target_kl"]
