"""The student's first weights, cut from its teacher: layers chosen, width projected or sliced.

With an orthonormal basis P (teacher width x student width) of the principal directions of the word embeddings,
a residual stream h becomes h P: matrices that write to the stream become P^T W, those that read it W P. Layer
norm rescales the narrower stream to unit variance for each channel, hence the factor sqrt(teacher / student)
on what reads it. Heads and feed-forward units are kept from the front. A student of the teacher's own shape
is its exact copy.
"""

import math
import re
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from potstill.errors import ModelError
from potstill.families import ENCODER_FAMILIES
from potstill.students.shape import Copy, layer_map


def copy_from_teacher(student: PreTrainedModel, teacher: PreTrainedModel, settings: Copy) -> None:
    """Fill the student's parameters in place from the teacher's, of the same family.

    Raises:
        ModelError: a parameter of the student that the teacher has not.
    """
    weights = teacher.state_dict()
    chosen = layer_map(student.config.num_hidden_layers, teacher.config.num_hidden_layers, settings.layers)
    cut = _cut(student.config, teacher.config, weights, settings)
    with torch.no_grad():
        for name, parameter in student.named_parameters():
            source = _teacher_name(name, chosen)
            if source not in weights:
                raise ModelError(f"student parameter {name}: the teacher has no {source}; use init: random.")
            parameter.copy_(cut(name, weights[source].float()))


def principal_directions(embeddings: Float[Tensor, "vocabulary width"], size: int) -> Float[Tensor, "width {size}"]:
    """Orthonormal directions that keep most of the embeddings' squared length (uncentred PCA)."""
    gram = embeddings.double().T @ embeddings.double()
    _, vectors = torch.linalg.eigh(gram)
    directions = vectors[:, -size:].flip(1)
    # The sign of an eigenvector is arbitrary; fix it, so that every machine makes the same student.
    signs = directions.gather(0, directions.abs().argmax(dim=0, keepdim=True)).sign()
    signed: Tensor = directions * signs
    return signed.float()


def _cut(
    student: PretrainedConfig, teacher: PretrainedConfig, weights: dict[str, Tensor], settings: Copy
) -> Callable[[str, Tensor], Tensor]:
    """What makes a teacher tensor of a name the student's: decoders keep every tensor as it is."""
    if teacher.model_type not in ENCODER_FAMILIES:
        return lambda name, tensor: tensor
    embeddings = _find(weights, "word_embeddings.weight")
    return _Cut(student, teacher, _basis(embeddings, student.hidden_size, settings.width))


class _Cut:
    """Cuts one teacher tensor to the student's shape, by the role that its name tells."""

    def __init__(
        self,
        student: PretrainedConfig,
        teacher: PretrainedConfig,
        basis: Float[Tensor, "width student_width"],
    ) -> None:
        self._basis = basis
        self._gain = math.sqrt(basis.shape[0] / basis.shape[1])
        self._inner = student.hidden_size
        self._intermediate = student.intermediate_size

    def __call__(self, name: str, tensor: Tensor) -> Tensor:
        if "LayerNorm" in name:
            # The diagonal of P^T diag(weight) P, and P^T bias.
            return tensor @ self._basis.square() if name.endswith("weight") else tensor @ self._basis
        if "embeddings" in name:
            return tensor @ self._basis
        if any(part in name for part in (".query.", ".key.", ".value.")):
            rows = tensor[: self._inner]
            return self._reads(rows) if rows.dim() == 2 else rows
        if "attention.output.dense" in name:
            return self._writes(tensor[:, : self._inner] if tensor.dim() == 2 else tensor)
        if "intermediate.dense" in name:
            rows = tensor[: self._intermediate]
            return self._reads(rows) if rows.dim() == 2 else rows
        if "output.dense" in name:
            return self._writes(tensor[:, : self._intermediate] if tensor.dim() == 2 else tensor)
        if "pooler.dense" in name or "classifier.dense" in name:
            return self._writes(self._reads(tensor) if tensor.dim() == 2 else tensor)
        # The classifier's last layer: classes x width.
        return self._reads(tensor) if tensor.dim() == 2 else tensor

    def _reads(self, tensor: Float[Tensor, "out width"]) -> Float[Tensor, "out student_width"]:
        read: Tensor = tensor @ self._basis * self._gain
        return read

    def _writes(self, tensor: Tensor) -> Tensor:
        written: Tensor = self._basis.T @ tensor
        return written


def _basis(embeddings: Float[Tensor, "vocabulary width"], size: int, how: str) -> Float[Tensor, "width {size}"]:
    width = embeddings.shape[1]
    if size == width or how == "slice":
        return torch.eye(width)[:, :size]
    return principal_directions(embeddings, size)


def _teacher_name(name: str, chosen: list[int]) -> str:
    # `encoder.layer.3.` of encoders, `model.layers.3.` of decoders.
    return re.sub(r"\b(layers?)\.(\d+)\.", lambda found: f"{found[1]}.{chosen[int(found[2])]}.", name, count=1)


def _find(weights: dict[str, Tensor], ending: str) -> Tensor:
    return next(tensor.float() for name, tensor in weights.items() if name.endswith(ending))
