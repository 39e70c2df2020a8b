"""What is computed in: float32, or bfloat16 where the recipe asks for it or the accelerator has it."""

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch

AskedPrecision = Literal["auto", "float32", "bfloat16"]
UsedPrecision = Literal["float32", "bfloat16"]


def precision_on(device: torch.device, asked: AskedPrecision) -> UsedPrecision:
    """What is computed in on a device: `auto` is bfloat16 where the accelerator has it."""
    if asked != "auto":
        return asked
    return "bfloat16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "float32"


def autocast_on(device: torch.device, asked: AskedPrecision) -> AbstractContextManager[object]:
    """Arithmetic in that precision; weights stay float32."""
    if precision_on(device, asked) == "bfloat16":
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext()
