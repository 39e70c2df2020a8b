"""Students of encoder-decoders: their sizes, and how each parameter of the teacher is cut to them.

A stream h becomes h P as in `copying.py`, with one basis for both stacks, which share their embeddings and meet in the
cross-attention. Heads keep their size. T5 biases attention by distance in the first layer of each stack, and every
layer of it uses that bias: a student takes it from there, whichever layers it keeps, with the same heads in all.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from jaxtyping import Int
from torch import Tensor
from transformers import PretrainedConfig

from potstill.errors import ModelError
from potstill.families import Part
from potstill.students.width_projection import WidthProjection, rows_of

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


class CutTwoStacks:
    """Cuts one tensor to the student's shape, by the role that its name tells."""

    def __init__(
        self,
        student: PretrainedConfig,
        teacher: PretrainedConfig,
        kept: WidthProjection,
        chosen: Mapping[Part, Sequence[int]],
    ) -> None:
        self._kept = kept
        self._chosen = chosen
        self._t5 = teacher.model_type == "t5"
        self._heads = student.num_attention_heads
        self._head = head_size(teacher)
        self._units = intermediate_size(student)
        # In T5, whatever reads the stream reads it through a norm, the head too: the factor goes there. A small T5 of
        # licence names before any training, KL from the teacher at widths 144, 128 and 96 of 192, all layers: sliced
        # 0.12, 0.25 and 2.10 so, 0.19, 0.45 and 2.77 with the factor where the layers read alone, 0.19, 0.44 and 3.16
        # without; pruned 0.12, 0.20 and 1.79 so, 0.15, 0.29 and 1.88, 0.15, 0.33 and 2.12.
        self._of_norms, self._of_reads = (kept.gain, 1.0) if self._t5 else (1.0, kept.gain)

    def __call__(self, name: str, tensor: Tensor) -> Tensor:
        """`tensor` is the teacher's for the student's parameter `name`."""
        kept = self._kept
        role = name.split(".")[-2]
        if role == "relative_attention_bias":
            return tensor[:, self._heads_of(name)]
        if "layer_norm" in role or "layernorm" in role:
            return kept.scale(tensor) * self._of_norms if name.endswith("weight") else tensor @ kept.basis
        if role in ("shared", "embed_tokens", "lm_head", "embed_positions"):
            return kept.read(tensor)
        if role in ("q", "k", "v", "q_proj", "k_proj", "v_proj"):
            return self._reads(tensor[rows_of(self._heads_of(name), self._head)])
        if role in ("o", "out_proj"):
            inner = rows_of(self._heads_of(name), self._head)
            return kept.write(tensor[:, inner] if tensor.dim() == 2 else tensor)
        if role in ("wi", "wi_0", "wi_1", "fc1"):
            return self._reads(tensor[self._units_of(name)])
        if role in ("wo", "fc2"):
            return kept.write(tensor[:, self._units_of(name)] if tensor.dim() == 2 else tensor)
        raise ModelError(f"student parameter {name}: how to cut it is not known; use init: random.")

    def _heads_of(self, name: str) -> Int[Tensor, "heads"]:
        """The teacher's heads that are kept, of the attention that a parameter is of."""
        stack, layer = self._place(name)
        cross = "EncDecAttention" in name or "encoder_attn" in name
        # T5's heads share their bias with those of the layers above.
        layers = self._chosen[stack] if self._t5 and not cross else [layer]
        return self._kept.heads(layers, self._heads, part=Part.CROSS if cross else stack)

    def _units_of(self, name: str) -> Int[Tensor, "units"]:
        stack, layer = self._place(name)
        return self._kept.units(layer, self._units, part=stack)

    def _place(self, name: str) -> tuple[Part, int]:
        """The stack of a parameter, and the layer of the teacher that it is taken from."""
        found = _LAYER.search(name)
        assert found is not None, name
        stack = Part(found[1])
        return stack, self._chosen[stack][int(found[3])]

    def _reads(self, tensor: Tensor) -> Tensor:
        return self._kept.read(tensor) * self._of_reads if tensor.dim() == 2 else tensor
