"""Students of encoder-decoders: their sizes, and how each parameter of the teacher is cut to them.

A stream h becomes h P as in `copying.py`, with one basis for both stacks, which share their embeddings and meet in the
cross-attention. Heads keep their size. T5 biases attention by distance in the first layer of each stack, and every
layer of it uses that bias: a student takes it from there, whichever layers it keeps, with the same heads in all.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor
from transformers import PretrainedConfig

from potstill.errors import ModelError
from potstill.families import Part

LAYER_COUNTS = {"t5": ("num_layers", "num_decoder_layers"), "bart": ("encoder_layers", "decoder_layers")}
"""The names that a family's configuration has for the layers of encoder and decoder."""
_LAYER = re.compile(r"\b(encoder|decoder)\.(block|layers)\.(\d+)\.")


def layer_counts(config: PretrainedConfig) -> tuple[int, int]:
    """The layers of encoder and decoder."""
    encoder, decoder = (getattr(config, name) for name in LAYER_COUNTS[config.model_type])
    return encoder, decoder


def require_one_number_of_heads(config: PretrainedConfig) -> None:
    """Raises ModelError: encoder and decoder differ in heads or feed-forward width, which nothing here knows."""
    pairs = [("encoder_attention_heads", "decoder_attention_heads"), ("encoder_ffn_dim", "decoder_ffn_dim")]
    for encoder, decoder in pairs if config.model_type == "bart" else []:
        values = getattr(config, encoder), getattr(config, decoder)
        if values[0] != values[1]:
            raise ModelError(
                f"teacher.model: {encoder} is {values[0]} and {decoder} {values[1]}; a teacher whose stacks differ in "
                "these cannot be shrunk yet."
            )


def head_size(config: PretrainedConfig) -> int:
    """Channels of a head."""
    return int(config.d_kv if config.model_type == "t5" else config.d_model // config.encoder_attention_heads)


def sizes(
    family: str, *, layers: tuple[int, int], width: int, heads: int, intermediate: int, dropout: float | None
) -> dict[str, Any]:
    """A student's sizes in the words of its family's configuration."""
    encoder, decoder = LAYER_COUNTS[family]
    values: dict[str, Any] = {encoder: layers[0], decoder: layers[1], "d_model": width}
    if family == "t5":
        values |= {"num_heads": heads, "d_ff": intermediate}
        return values | ({} if dropout is None else {"dropout_rate": dropout})
    values |= dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), heads)
    values |= dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), intermediate)
    return values | ({} if dropout is None else {"dropout": dropout, "attention_dropout": dropout})


def intermediate_size(config: PretrainedConfig) -> int:
    """Width of the feed-forward layers."""
    return int(config.d_ff if config.model_type == "t5" else config.encoder_ffn_dim)


def source_name(name: str, chosen: Mapping[Part, Sequence[int]]) -> str:
    """The teacher's parameter for one of the student."""
    found = _LAYER.search(name)
    if found is None or "relative_attention_bias" in name:
        return name
    layer = chosen[Part(found[1])][int(found[3])]
    return f"{name[: found.start(3)]}{layer}{name[found.end(3) :]}"


@runtime_checkable
class Stream(Protocol):
    """How a residual stream is narrowed, as `copying.py` does it."""

    @property
    def gain(self) -> float: ...

    @property
    def basis(self) -> Float[Tensor, "width student_width"]: ...

    def read(self, tensor: Float[Tensor, "out width"]) -> Float[Tensor, "out student_width"]: ...

    def write(self, tensor: Tensor) -> Tensor: ...

    def scale(self, tensor: Float[Tensor, "width"]) -> Float[Tensor, "student_width"]: ...


class CutTwoStacks:
    """Cuts one tensor to the student's shape, by the role that its name tells; the first heads and units are kept."""

    def __init__(self, student: PretrainedConfig, teacher: PretrainedConfig, kept: Stream) -> None:
        self._kept = kept
        self._heads = student.num_attention_heads
        self._inner = self._heads * head_size(teacher)
        self._units = intermediate_size(student)
        # In T5, whatever reads the stream reads it through a norm, the head too: the factor goes there. A small T5 of
        # licence names before any training, KL from the teacher at widths 144 and 128 of 192, all layers: sliced 0.15
        # and 0.36 so, 0.22 and 0.57 with the factor where the layers read alone, 0.23 and 0.58 without.
        self._of_norms, self._of_reads = (kept.gain, 1.0) if teacher.model_type == "t5" else (1.0, kept.gain)

    def __call__(self, name: str, tensor: Tensor) -> Tensor:
        kept = self._kept
        role = name.split(".")[-2]
        if role == "relative_attention_bias":
            return tensor[:, : self._heads]
        if "layer_norm" in role or "layernorm" in role:
            return kept.scale(tensor) * self._of_norms if name.endswith("weight") else tensor @ kept.basis
        if role in ("shared", "embed_tokens", "lm_head", "embed_positions"):
            return kept.read(tensor)
        if role in ("q", "k", "v", "q_proj", "k_proj", "v_proj"):
            return self._reads(tensor[: self._inner])
        if role in ("o", "out_proj"):
            return kept.write(tensor[:, : self._inner] if tensor.dim() == 2 else tensor)
        if role in ("wi", "wi_0", "wi_1", "fc1"):
            return self._reads(tensor[: self._units])
        if role in ("wo", "fc2"):
            return kept.write(tensor[:, : self._units] if tensor.dim() == 2 else tensor)
        raise ModelError(f"student parameter {name}: how to cut it is not known; use init: random.")

    def _reads(self, tensor: Tensor) -> Tensor:
        return self._kept.read(tensor) * self._of_reads if tensor.dim() == 2 else tensor
