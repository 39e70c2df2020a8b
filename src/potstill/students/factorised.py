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
from transformers import ElectraConfig, PretrainedConfig, PreTrainedModel

from potstill.errors import ModelError
from potstill.students.sizes import own_values

FAMILY = "electra"
_EMBEDDINGS = "bert.embeddings."


def with_factorised_embeddings(config: PretrainedConfig, size: int) -> PretrainedConfig:
    """The same model with embeddings of `size` channels.

    Raises:
        ModelError: a family that has no such form, or embeddings that would not be narrower.
    """
    if config.model_type != "bert":
        raise ModelError(
            f"student.vocabulary: factorised embeddings are made for students in the shape of BERT, and this one is "
            f"{config.model_type!r}. Use trimmed, or full."
        )
    if size >= config.hidden_size:
        raise ModelError(
            f"student.vocabulary.size: {size} is not below the student's width {config.hidden_size}, so nothing would "
            "be saved. Lower it."
        )
    values = own_values(config) | {"embedding_size": size, "model_type": FAMILY}
    if values.get("classifier_dropout") is None:
        values["classifier_dropout"] = config.hidden_dropout_prob
    return ElectraConfig.from_dict(values)


def is_factorised(config: PretrainedConfig) -> bool:
    """Whether a student of this configuration has a projection behind its embeddings."""
    return bool(config.model_type == FAMILY and config.embedding_size != config.hidden_size)


def fill_embeddings(
    student: PreTrainedModel, weights: Mapping[str, Tensor], basis: Float[Tensor, "width student_width"]
) -> None:
    """Fill embeddings and projection of a factorised student from its teacher's, whose stream is narrowed by `basis`.

    With E the narrowed matrix and V its right singular vectors, E is nearly (E V) V^T: E V are the embeddings, and V
    the projection. Vectors of fewer channels are shorter where each has unit variance, for which the norm's scale makes
    up.
    """
    size, width = student.config.embedding_size, student.config.hidden_size

    def narrowed(name: str) -> Tensor:
        return weights[f"{_EMBEDDINGS}{name}"].float() @ basis

    directions = principal_directions(narrowed("word_embeddings.weight"), size)
    scale = weights[f"{_EMBEDDINGS}LayerNorm.weight"].float() @ basis.square()
    shift = narrowed("LayerNorm.bias")
    base = student.base_model
    with torch.no_grad():
        for name in ("word_embeddings", "position_embeddings", "token_type_embeddings"):
            base.embeddings.get_submodule(name).weight.copy_(narrowed(f"{name}.weight") @ directions)
        base.embeddings.LayerNorm.weight.copy_((scale @ directions.square()) * (width / size) ** 0.5)
        base.embeddings.LayerNorm.bias.copy_(shift @ directions)
        base.embeddings_project.weight.copy_(directions)
        # What of the shift lies outside of the narrow space.
        base.embeddings_project.bias.copy_(shift - directions @ (directions.T @ shift))


def principal_directions(embeddings: Float[Tensor, "vocabulary width"], size: int) -> Float[Tensor, "width {size}"]:
    """Orthonormal directions that keep most of the embeddings' squared length: their first right singular vectors."""
    gram = embeddings.double().T @ embeddings.double()
    _, vectors = torch.linalg.eigh(gram)
    directions = vectors[:, -size:].flip(1)
    # The sign of an eigenvector is arbitrary; fix it, so that every machine makes the same student.
    signs = directions.gather(0, directions.abs().argmax(dim=0, keepdim=True)).sign()
    signed: Tensor = directions * signs
    return signed.float()
