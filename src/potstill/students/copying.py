"""The student's first weights, cut from its teacher: layers chosen, width projected, sliced or pruned.

With a basis P (teacher width x student width) of orthonormal columns, a residual stream h becomes h P: matrices that
write to the stream become P^T W, those that read it W P. The columns are principal directions of the word embeddings,
or single channels: the first, or the most important. A norm rescales the narrower stream to unit variance for each
channel. Where it is read, a factor of sqrt(teacher / student) makes up for the channels that are missing: in encoders,
and in decoders whose most important channels were kept. Heads and feed-forward units are kept whole: the first, or the
most important of each layer. A student of the teacher's own shape is its exact copy.
"""

import re

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from potstill.errors import ModelError
from potstill.families import ENCODER_DECODERS, ENCODER_FAMILIES, Part
from potstill.students import encoder_decoders
from potstill.students.factorised import fill_embeddings, is_factorised, principal_directions
from potstill.students.importance import Importance
from potstill.students.layouts import common_name, common_weights, intermediate_size
from potstill.students.sizes import Copy, layer_map
from potstill.students.width_projection import WidthProjection, largest, rows_of

_LAYER = re.compile(r"\b(layers?)\.(\d+)\.")
"""`encoder.layer.3.` of encoders, `model.layers.3.` of decoders."""


def copy_from_teacher(
    student: PreTrainedModel,
    teacher: PreTrainedModel,
    settings: Copy,
    importance: Importance | None = None,
    pieces: Int[Tensor, "pieces"] | None = None,
) -> None:
    """Fill the student's parameters in place from the teacher's, of the same family or one that is laid out alike.

    `importance` is that of the teacher's parts, where the settings choose by it; `pieces` are the teacher's ids of the
    student's vocabulary, where it has not all of them.

    Raises:
        ModelError: a parameter of the student that the teacher has not.
    """
    assert importance is not None or not settings.measures, "these settings choose by importance"
    weights = common_weights(teacher.state_dict(), teacher.config, student.config)
    embeddings = teacher.get_input_embeddings().weight.detach().float()
    embeddings = embeddings if pieces is None else embeddings[pieces]
    kept = WidthProjection(
        _basis(embeddings, student.config.hidden_size, settings, importance),
        importance if settings.width == "pruned" else None,
    )
    if teacher.config.model_type in ENCODER_DECODERS:
        _copy_two_stacks(student, teacher, settings, kept, importance)
        return
    chosen = _layers(student.config.num_hidden_layers, teacher.config.num_hidden_layers, settings, importance)
    cut = (_CutEncoder if teacher.config.model_type in ENCODER_FAMILIES else _CutDecoder)(
        student.config, teacher.config, kept
    )
    factorised = is_factorised(student.config)
    if factorised:
        fill_embeddings(student, weights, kept.basis)
    taken = set()
    with torch.no_grad():
        for own, parameter in student.named_parameters():
            name = common_name(own, student.config.model_type)
            if factorised and "embeddings" in name:
                continue
            source, layer = _teacher_name(name, chosen)
            if source not in weights:
                raise ModelError(f"student parameter {name}: the teacher has no {source}; use init: random.")
            taken.add(source)
            tensor = weights[source].float()
            if pieces is not None and parameter is student.get_input_embeddings().weight:
                tensor = tensor[pieces]
            parameter.copy_(cut(name, tensor, layer))
    layers = {name for name in weights if (found := _LAYER.search(name)) and int(found[2]) in chosen}
    if left := sorted(layers - taken):
        raise ModelError(
            f"student: a {student.config.model_type} model has no place for the teacher's {left[0]}, so it would be "
            "another model. Leave student.family out, or use init: random."
        )


def _copy_two_stacks(
    student: PreTrainedModel,
    teacher: PreTrainedModel,
    settings: Copy,
    kept: WidthProjection,
    importance: Importance | None,
) -> None:
    """The same for an encoder-decoder, each of whose stacks has layers of its own."""
    weights = teacher.state_dict()
    counts = zip(
        encoder_decoders.layer_counts(student.config), encoder_decoders.layer_counts(teacher.config), strict=True
    )
    chosen = {
        part: _layers(own, whole, settings, importance, part)
        for part, (own, whole) in zip((Part.ENCODER, Part.DECODER), counts, strict=True)
    }
    cut = encoder_decoders.CutTwoStacks(student.config, teacher.config, kept, chosen)
    with torch.no_grad():
        for name, parameter in student.named_parameters():
            source = encoder_decoders.source_name(name, chosen)
            if source not in weights:
                raise ModelError(f"student parameter {name}: the teacher has no {source}; use init: random.")
            parameter.copy_(cut(name, weights[source].float()))
        # What is added to the logits is as long as the vocabulary, in student and teacher alike.
        for name, buffer in student.named_buffers():
            if name in weights:
                buffer.copy_(weights[name])


class _CutEncoder:
    """Cuts one tensor of an encoder to the student's shape, by the role that its name tells."""

    def __init__(self, student: PretrainedConfig, teacher: PretrainedConfig, kept: WidthProjection) -> None:
        self._kept = kept
        self._head = teacher.hidden_size // teacher.num_attention_heads
        self._heads = student.hidden_size // self._head
        self._units = intermediate_size(student)

    def __call__(self, name: str, tensor: Tensor, layer: int) -> Tensor:
        kept = self._kept
        if "LayerNorm" in name:
            return kept.scale(tensor) if name.endswith("weight") else tensor @ kept.basis
        if "embeddings" in name:
            return kept.read(tensor)
        if any(part in name for part in (".query.", ".key.", ".value.")):
            return self._reads(tensor[self._of_heads(layer)])
        if "attention.output.dense" in name:
            return kept.write(tensor[:, self._of_heads(layer)] if tensor.dim() == 2 else tensor)
        if "intermediate.dense" in name:
            return self._reads(tensor[kept.units(layer, self._units)])
        if "output.dense" in name:
            return kept.write(tensor[:, kept.units(layer, self._units)] if tensor.dim() == 2 else tensor)
        if "pooler.dense" in name or "classifier.dense" in name:
            return kept.write(self._reads(tensor))
        # The classifier's last layer: classes x width.
        return self._reads(tensor)

    def _of_heads(self, layer: int) -> Int[Tensor, "channels"]:
        return rows_of(self._kept.heads([layer], self._heads), self._head)

    def _reads(self, tensor: Tensor) -> Tensor:
        return self._kept.read(tensor) * self._kept.gain if tensor.dim() == 2 else tensor


class _CutDecoder:
    """The same for a decoder, whose heads share keys and values in groups, and whose head can be its embeddings."""

    def __init__(self, student: PretrainedConfig, teacher: PretrainedConfig, kept: WidthProjection) -> None:
        self._kept = kept
        self._head = getattr(teacher, "head_dim", None) or teacher.hidden_size // teacher.num_attention_heads
        self._grouped = teacher.num_attention_heads // teacher.num_key_value_heads
        self._groups = student.num_key_value_heads
        self._units = student.intermediate_size

    def __call__(self, name: str, tensor: Tensor, layer: int) -> Tensor:
        kept = self._kept
        if "q_norm" in name or "k_norm" in name:
            return tensor  # within a head, whose size stays
        if "norm" in name:
            # SmolLM2-135M before any training, KL from the teacher at widths 504 and 384 of 576: pruned 1.4 and 5.2
            # with the factor, 1.7 and 5.7 without; sliced 13.8 and 12.2 with it, 13.2 and 9.5 without.
            return kept.scale(tensor) * (kept.gain if kept.importance is not None else 1.0)
        if "embed_tokens" in name or "lm_head" in name:
            return kept.read(tensor) if tensor.dim() == 2 else tensor
        groups = kept.heads([layer], self._groups, grouped=self._grouped)
        queries, keys = rows_of(groups, self._head * self._grouped), rows_of(groups, self._head)
        if "q_proj" in name:
            return self._reads(tensor[queries])
        if "k_proj" in name or "v_proj" in name:
            return self._reads(tensor[keys])
        if "o_proj" in name:
            return kept.write(tensor[:, queries] if tensor.dim() == 2 else tensor)
        if "gate_proj" in name or "up_proj" in name:
            return self._reads(tensor[kept.units(layer, self._units)])
        if "down_proj" in name:
            return kept.write(tensor[:, kept.units(layer, self._units)] if tensor.dim() == 2 else tensor)
        raise ModelError(f"student parameter {name}: how to cut it is not known; use init: random.")

    def _reads(self, tensor: Tensor) -> Tensor:
        return self._kept.read(tensor) if tensor.dim() == 2 else tensor


def _layers(
    student: int, teacher: int, settings: Copy, importance: Importance | None, part: Part = Part.ONLY
) -> list[int]:
    if settings.layers == "block_influence":
        assert importance is not None
        chosen: list[int] = largest(importance.layers[part], student).tolist()
        return chosen
    return layer_map(student, teacher, settings.layers)


def _basis(
    embeddings: Float[Tensor, "vocabulary width"], size: int, settings: Copy, importance: Importance | None
) -> Float[Tensor, "width {size}"]:
    width = embeddings.shape[1]
    if size == width or settings.width == "slice":
        return torch.eye(width)[:, :size]
    if settings.width == "pruned":
        assert importance is not None
        return torch.eye(width)[:, largest(importance.channels, size)]
    return principal_directions(embeddings, size)


def _teacher_name(name: str, chosen: list[int]) -> tuple[str, int]:
    """The teacher's parameter for one of the student, and the teacher's layer that it is of (0 for those of none)."""
    found = _LAYER.search(name)
    if found is None:
        return name, 0
    layer = chosen[int(found[2])]
    return f"{name[: found.start()]}{found[1]}.{layer}.{name[found.end() :]}", layer
