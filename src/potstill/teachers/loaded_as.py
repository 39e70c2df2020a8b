"""How a teacher's weights are held in memory while it answers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch

WeightsType = Literal["float32", "bfloat16", "float16"]
HALF: tuple[WeightsType, ...] = ("bfloat16", "float16")
_OF_PROCESSORS = {"bfloat16": ("avx512_bf16", "amx_bf16"), "float16": ("avx512_fp16", "amx_fp16")}
"""What a processor has that computes in a type, as torch names it."""


@dataclass(frozen=True)
class LoadedAs:
    """The type of the weights; by default that in which models are trained."""

    type: WeightsType = "float32"

    @property
    def half(self) -> bool:
        return self.type in HALF

    @property
    def arguments(self) -> dict[str, Any]:
        """What transformers is told when it loads such a model."""
        return {"dtype": getattr(torch, self.type)} if self.half else {}

    @property
    def told(self) -> str | None:
        """For digests and people; None of what was always so."""
        return self.type if self.half else None


IN_FLOAT32 = LoadedAs()


def computes_in(type: WeightsType, device: str) -> bool:
    """Whether a device computes in a type as fast as in float32 at least.

    A processor without the instructions for it makes each factor a float32 first: on one with AVX-512, a model of 30 x
    576 answered at 0.75 of its rate in float32 (bfloat16) and 0.3 (float16), and with those for bfloat16 at twice it.
    """
    if type not in HALF:
        return True
    if device != "cpu":
        return type == "float16" or torch.cuda.is_bf16_supported()
    # The oldest torch that is used here cannot tell.
    capabilities: Mapping[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(capabilities.get(name, False) for name in _OF_PROCESSORS[type])
