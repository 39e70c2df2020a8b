"""The student's first weights, cut from its teacher: layers chosen, width projected, sliced or pruned.

With a basis P (teacher width x student width) of orthonormal columns, a residual stream h becomes h P: matrices that
write to the stream become P^T W, those that read it W P. The columns are principal directions of the word embeddings,
or single channels: the first, or the most important. A norm rescales the narrower stream to unit variance for each
channel. Where it is read, a factor of sqrt(teacher / student) makes up for the channels that are missing, where the
family says so. Heads and feed-forward units are kept whole: the first, or the most important of each layer. Two stacks
have one basis, for they share their embeddings and meet in the cross-attention. A student of the teacher's own shape is
its exact copy, with its persistent buffers.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from potstill.errors import ModelError
from potstill.models import Family, Part, Positions, Role, Size, Slot, family_of
from potstill.students.cutting import Cut
from potstill.students.factorised import fill_embeddings, is_factorised, principal_directions
from potstill.students.importance import Importance
from potstill.students.layouts import laid_out_alike
from potstill.students.sizes import Copy, layer_map
from potstill.students.width_projection import WidthProjection, largest


def copy_from_teacher(
    student: PreTrainedModel,
    teacher: PreTrainedModel,
    settings: Copy,
    importance: Importance | None = None,
    pieces: Int[Tensor, "pieces"] | None = None,
) -> None:
    """Fill the student's parameters and buffers in place from the teacher's, of the same family or one that is laid
    out alike.

    `importance` is that of the teacher's parts, where the settings choose by it; `pieces` are the teacher's ids of the
    student's vocabulary, where it has not all of them.

    Raises:
        ModelError: a tensor of the student that the teacher has not, or of which it is not known how it is cut; or
            one of the teacher's layers that the student has no place for.
    """
    assert importance is not None or not settings.measures, "these settings choose by importance"
    family, own = family_of(teacher.config), family_of(student.config)
    if not laid_out_alike(own.name, family.name):
        first = next(name for name, _ in student.named_parameters())
        raise ModelError(f"student parameter {first}: the teacher has no {first}; use init: random.")
    embeddings = teacher.get_input_embeddings().weight.detach().float()
    embeddings = embeddings if pieces is None else embeddings[pieces]
    kept = WidthProjection(
        _basis(embeddings, own.size(student.config, Size.WIDTH), settings, importance, family),
        importance if settings.width == "pruned" else None,
    )
    own_layers, whole = own.layer_counts(student.config), family.layer_counts(teacher.config)
    chosen = {part: _layers(own_layers[part], whole[part], settings, importance, part) for part in family.layer_stacks}
    weights = _weights_for(student, teacher)
    factorised = is_factorised(student.config)
    if factorised:
        fill_embeddings(student, weights, kept.basis)
    cut = Cut(student.config, teacher.config, kept, chosen, pieces)
    taken = set()
    with torch.no_grad():
        for name, tensor in saved_tensors(student):
            if (slot := own.slot(name)) is None:
                raise ModelError(f"student parameter {name}: how to cut it is not known; use init: random.")
            if factorised and slot.role.embeds:
                continue
            # Of layers, the teacher's that was chosen for the student's.
            source = slot if slot.layer is None else replace(slot, layer=chosen[slot.part.stack][slot.layer])
            if source not in weights:
                raise ModelError(
                    f"student parameter {name}: the teacher has no {family.name_of(source)}; use init: random."
                )
            taken.add(source)
            tensor.copy_(cut(source, weights[source]))
    _require_nothing_left(student, teacher, chosen, taken)


def saved_tensors(model: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    """The parameters, each once, and the buffers that are saved with them: what a model is made of.

    Not what its class makes anew where it is loaded, such as the table of sinusoidal positions.
    """
    computed = set(model._keys_to_ignore_on_save or ())
    saved = model.state_dict().keys() - computed
    yield from ((name, parameter) for name, parameter in model.named_parameters() if name not in computed)
    yield from ((name, buffer) for name, buffer in model.named_buffers() if name in saved)


def by_slot(family: Family, weights: Mapping[str, Tensor]) -> dict[Slot, Tensor]:
    """Tensors by their places; those that have none in the family are left out."""
    found = {family.slot(name): tensor for name, tensor in weights.items()}
    return {slot: tensor for slot, tensor in found.items() if slot is not None}


def _weights_for(student: PreTrainedModel, teacher: PreTrainedModel) -> dict[Slot, Tensor]:
    """The teacher's weights, with what a student of another family has not, or has beside them.

    Each single text is of the first token type, so its row can as well stand in every position.
    """
    family, own = family_of(teacher.config), family_of(student.config)
    weights = by_slot(family, teacher.state_dict())
    positions, types = (
        Slot(role, Part.ONLY, None, "weight") for role in (Role.POSITION_EMBEDDING, Role.TYPE_EMBEDDING)
    )
    if own.has(Role.TYPE_EMBEDDING) and not family.has(Role.TYPE_EMBEDDING):
        weights[types] = torch.zeros(student.config.type_vocab_size, weights[positions].shape[1])
    elif family.has(Role.TYPE_EMBEDDING) and not own.has(Role.TYPE_EMBEDDING):
        weights[positions] = weights[positions].float() + weights[types][0].float()
    return weights


def _require_nothing_left(
    student: PreTrainedModel, teacher: PreTrainedModel, chosen: Mapping[Part, Sequence[int]], taken: set[Slot]
) -> None:
    """Raises ModelError: of a layer of the teacher that was chosen, something is in no layer of the student."""
    family = family_of(teacher.config)
    places = ((name, family.layer_of(name)) for name in teacher.state_dict())
    inside = [name for name, place in places if place is not None and place[1] in chosen[place[0]]]
    # What a layer has for all others is taken from there, whichever layers were chosen.
    left = [
        name for name in inside if (slot := family.slot(name)) is None or (slot.layer is not None and slot not in taken)
    ]
    if left:
        raise ModelError(
            f"student: a {student.config.model_type} model has no place for the teacher's {min(left)}, so it would be "
            "another model. Leave student.family out, or use init: random."
        )


def _layers(
    student: int, teacher: int, settings: Copy, importance: Importance | None, part: Part = Part.ONLY
) -> list[int]:
    if settings.layers == "block_influence":
        assert importance is not None
        chosen: list[int] = largest(importance.layers[part], student).tolist()
        return chosen
    return layer_map(student, teacher, settings.layers)


def _basis(
    embeddings: Float[Tensor, "vocabulary width"],
    size: int,
    settings: Copy,
    importance: Importance | None,
    family: Family,
) -> Float[Tensor, "width {size}"]:
    width = embeddings.shape[1]
    if size == width or settings.width == "slice":
        sinusoidal = family.positions is Positions.SINUSOIDAL
        return torch.eye(width)[:, _of_like_frequency(size, width) if sinusoidal else torch.arange(size)]
    if settings.width == "pruned":
        assert importance is not None
        return torch.eye(width)[:, largest(importance.channels, size)]
    return principal_directions(embeddings, size)


def _of_like_frequency(size: int, width: int) -> Int[Tensor, "{size}"]:
    """The channels of a stream in which sinusoidal positions have the frequencies of a narrower one's.

    Sines stand in the first half and cosines in the second; from each, as many are taken at an even distance.
    """

    def spread_over(count: int) -> Int[Tensor, "_"]:
        return (torch.arange(count) * width / size + 0.5).floor().long()

    return torch.cat([spread_over((size + 1) // 2), (width + 1) // 2 + spread_over(size // 2)])
