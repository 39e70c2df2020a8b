"""Factorised embeddings: a narrow matrix for the vocabulary, and a projection to the student's width.

Source: ALBERT, Lan et al. 2019, arXiv:1909.11942, section 3.1. transformers has such encoders in the shape of BERT as
ELECTRA.

The first weights are the best factors of the teacher's matrix, by its singular values. The norm of the embeddings then
works on the narrow vectors. What comes out is as near to the teacher's as its spectrum lets it: of all-MiniLM-L6-v2's
384 channels, 64 give a mean cosine of 0.46, and 256 one of 0.75. So training has much to make up for.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import CONFIG_MAPPING, PretrainedConfig, PreTrainedModel

from potstill.errors import ModelError
from potstill.models import Part, Role, Size, Slot, family_named, family_of
from potstill.students.sizes import own_values

_TABLES = (Role.TOKEN_EMBEDDING, Role.POSITION_EMBEDDING, Role.TYPE_EMBEDDING)


def with_factorised_embeddings(config: PretrainedConfig, size: int) -> PretrainedConfig:
    """The same model with embeddings of `size` channels.

    Raises:
        ModelError: a family that has no such form, or embeddings that would not be narrower.
    """
    if (family := family_of(config).factorised_as) is None:
        raise ModelError(
            f"student.vocabulary: factorised embeddings are made for students in the shape of BERT, and this one is "
            f"{config.model_type!r}. Use trimmed, or full."
        )
    if size >= config.hidden_size:
        raise ModelError(
            f"student.vocabulary.size: {size} is not below the student's width {config.hidden_size}, so nothing would "
            "be saved. Lower it."
        )
    values = own_values(config) | family_named(family).values({Size.EMBEDDING: size}) | {"model_type": family}
    if values.get("classifier_dropout") is None:
        values["classifier_dropout"] = config.hidden_dropout_prob
    return CONFIG_MAPPING[family].from_dict(values)


def is_factorised(config: PretrainedConfig) -> bool:
    """Whether a student of this configuration has a projection behind its embeddings."""
    family = family_of(config)
    return Size.EMBEDDING in family.sizes and family.size(config, Size.EMBEDDING) != family.size(config, Size.WIDTH)


def fill_embeddings(
    student: PreTrainedModel, weights: Mapping[Slot, Tensor], basis: Float[Tensor, "width student_width"]
) -> None:
    """Fill embeddings and projection of a factorised student from its teacher's, whose stream is narrowed by `basis`.

    With E the narrowed matrix and V its right singular vectors, E is nearly (E V) V^T: E V are the embeddings, and V
    the projection. Vectors of fewer channels are shorter where each has unit variance, for which the norm's scale makes
    up.
    """
    family = family_of(student.config)
    size, width = (family.size(student.config, each) for each in (Size.EMBEDDING, Size.WIDTH))

    def narrowed(role: Role, leaf: str = "weight") -> Tensor:
        return weights[_slot(role, leaf)].float() @ basis

    def own(role: Role, leaf: str = "weight") -> Tensor:
        found: Tensor = student.get_parameter(family.name_of(_slot(role, leaf)))
        return found

    directions = principal_directions(narrowed(Role.TOKEN_EMBEDDING), size)
    scale = weights[_slot(Role.EMBEDDING_NORM, "weight")].float() @ basis.square()
    shift = narrowed(Role.EMBEDDING_NORM, "bias")
    with torch.no_grad():
        for role in _TABLES:
            own(role).copy_(narrowed(role) @ directions)
        own(Role.EMBEDDING_NORM).copy_((scale @ directions.square()) * (width / size) ** 0.5)
        own(Role.EMBEDDING_NORM, "bias").copy_(shift @ directions)
        own(Role.EMBEDDING_PROJECTION).copy_(directions)
        # What of the shift lies outside of the narrow space.
        own(Role.EMBEDDING_PROJECTION, "bias").copy_(shift - directions @ (directions.T @ shift))


def _slot(role: Role, leaf: str) -> Slot:
    return Slot(role, Part.ONLY, None, leaf)


def principal_directions(embeddings: Float[Tensor, "vocabulary width"], size: int) -> Float[Tensor, "width {size}"]:
    """Orthonormal directions that keep most of the embeddings' squared length: their first right singular vectors."""
    gram = embeddings.double().T @ embeddings.double()
    _, vectors = torch.linalg.eigh(gram)
    directions = vectors[:, -size:].flip(1)
    # The sign of an eigenvector is arbitrary; fix it, so that every machine makes the same student.
    signs = directions.gather(0, directions.abs().argmax(dim=0, keepdim=True)).sign()
    signed: Tensor = directions * signs
    return signed.float()
