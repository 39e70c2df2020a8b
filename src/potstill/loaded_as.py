"""How a teacher's weights are held in memory while it answers.

Imported where speed is measured too, so torch and transformers only where they are needed.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal, get_args

from potstill.errors import ModelError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

WeightsType = Literal["float32", "bfloat16", "float16"]
TYPES: tuple[WeightsType, ...] = get_args(WeightsType)
HALF: tuple[WeightsType, ...] = ("bfloat16", "float16")
Quantization = Literal["4bit", "8bit"]
_OF_PROCESSORS = {"bfloat16": ("avx512_bf16", "amx_bf16"), "float16": ("avx512_fp16", "amx_fp16")}
"""What a processor has that computes in a type, as torch names it."""


@dataclass(frozen=True)
class LoadedAs:
    """The type of the weights, and what else is done to hold them; by default as models are trained."""

    type: WeightsType = "float32"
    quantization: Quantization | None = None
    """In how many bits those of the linear layers are, but for the head: 4 (NF4; arXiv:2305.14314) or 8 (LLM.int8;
    arXiv:2208.07339). All else has the type, and products of 4 bits are made in it."""
    spread: bool = False
    """Whether the layers are spread over all devices of this machine."""

    @property
    def half(self) -> bool:
        return self.type in HALF

    @property
    def special(self) -> bool:
        """Whether it cannot be held as other models are, in float32 on one device."""
        return self.quantization is not None or self.spread

    @property
    def arguments(self) -> dict[str, Any]:
        """What transformers is told when it loads such a model; nothing of one that is held as all others.

        Raises:
            ModelError: what it takes is not installed.
        """
        import torch

        self.require_packages()
        told: dict[str, Any] = {"dtype": getattr(torch, self.type)} if self.half or self.special else {}
        if self.quantization is not None:
            told["quantization_config"] = _quantised(self.quantization, told["dtype"])
        if self.spread:
            told["device_map"] = "auto"
        return told

    def require_packages(self) -> None:
        """Raises ModelError: what it takes is not installed."""
        needed = {"bitsandbytes": self.quantization and "quantization", "accelerate": self.spread and "device_map"}
        for package, key in needed.items():
            if key and find_spec(package) is None:
                raise ModelError(f"teacher.{key}: it needs the package {package}. Run: pip install potstill[large]")

    @property
    def told(self) -> str | None:
        """For digests and people, what answers depend on; None of what was always so."""
        in_bits = "" if self.quantization is None else f" in {self.quantization}"
        return f"{self.type}{in_bits}" if self.half or in_bits else None


IN_FLOAT32 = LoadedAs()


def _quantised(quantization: Quantization, dtype: "torch.dtype") -> Any:
    from transformers import BitsAndBytesConfig

    # At each product it tells anew in which type it is made.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    if quantization == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)


def computes_in(type: WeightsType, device: str) -> bool:
    """Whether a device computes in a type as fast as in float32 at least.

    A processor without the instructions for it makes each factor a float32 first: on one with AVX-512, a model of 30 x
    576 answered at 0.75 of its rate in float32 (bfloat16) and 0.3 (float16), and with those for bfloat16 at twice it.
    """
    import torch

    if type not in HALF:
        return True
    if device != "cpu":
        # Older devices, such as a T4, have bfloat16 by way of float32 alone.
        return type == "float16" or torch.cuda.is_bf16_supported(including_emulation=False)
    # The oldest torch that is used here cannot tell.
    capabilities: Mapping[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(capabilities.get(name, False) for name in _OF_PROCESSORS[type])


def placed(model: "PreTrainedModel", device: "torch.device") -> "PreTrainedModel":
    """The model on a device, where it does not lie already as it must: spread over several, or in few bits.

    Raises:
        ModelError: it is spread, and does not fit on the devices.
    """
    places = getattr(model, "hf_device_map", None)
    if (
        places is not None
        and device.type != "cpu"
        and (outside := [name for name, at in places.items() if at in OUTSIDE])
    ):
        raise ModelError(
            f"teacher.device_map: {len(outside)} parts of the model ({outside[0]} first) find no place on the "
            "devices of this machine. Set teacher.quantization, or take a machine with more memory on its devices."
        )
    if places is None and getattr(model, "quantization_method", None) is None:
        model.to(device)
    return model


OUTSIDE = ("cpu", "disk", "meta")
"""Where parts of a model lie that no device had place for."""
