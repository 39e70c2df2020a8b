"""One tensor of a teacher cut to its student's shape, by what its role says of its axes."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PretrainedConfig

from potstill.errors import ModelError
from potstill.models import Axis, Gain, Part, Role, Size, Slot, family_of
from potstill.students.width_projection import WidthProjection, rows_of

_OF_HEADS = (Axis.HEADS, Axis.QUERIES, Axis.KEYS, Axis.QUERIES_KEYS_VALUES, Axis.OF_EACH_HEAD)


class Cut:
    """Cuts tensors of one teacher for one student; `chosen` are the teacher's layers of each of its stacks."""

    def __init__(
        self,
        student: PretrainedConfig,
        teacher: PretrainedConfig,
        kept: WidthProjection,
        chosen: Mapping[Part, Sequence[int]],
        pieces: Int[Tensor, "pieces"] | None = None,
    ) -> None:
        own, self._family = family_of(student), family_of(teacher)
        self._kept = kept
        self._chosen = chosen
        self._pieces = pieces
        self._head = self._family.head_size(teacher)
        self._groups = own.key_value_heads(student)
        self._heads = self._family.size(teacher, Size.HEADS)
        self._grouped = self._heads // self._family.key_value_heads(teacher)
        self._units = own.size(student, Size.INTERMEDIATE)
        self._dense_units = own.size(student, Size.DENSE_INTERMEDIATE if own.experts else Size.INTERMEDIATE)
        self._experts = own.size(student, Size.EXPERTS) if own.experts else 0
        in_norms = self._family.gain is Gain.NORMS or (
            self._family.gain is Gain.NORMS_OF_PRUNED and kept.importance is not None
        )
        self._of_norms = kept.gain if in_norms else 1.0
        self._of_reads = kept.gain if self._family.gain is Gain.READS else 1.0
        # A model that multiplies its embeddings by more than its teacher would find them larger: these are smaller.
        scale, its = self._family.embedding_scale, own.embedding_scale
        self._of_embeddings = (scale(teacher) if scale else 1.0) / (its(student) if its else 1.0)
        # Where the head is the embeddings, the norm that it reads through makes up for that.
        self._of_last_norm = 1 / self._of_embeddings if getattr(student, "tie_word_embeddings", False) else 1.0

    def __call__(self, slot: Slot, tensor: Tensor) -> Tensor:
        """`tensor` is the teacher's, and `slot` its place there.

        Raises:
            ModelError: it has other axes than its role.
        """
        axes = slot.role.axes(slot.leaf)
        if tensor.dim() != len(axes):
            raise ModelError(
                f"teacher parameter {self._family.name_of(slot)}: it has {tensor.dim()} axes, and a {slot.role.value} "
                f"has {len(axes)}; how to cut it is not known. Use init: random."
            )
        made = tensor.float() if tensor.is_floating_point() else tensor
        if axes[0] is Axis.EXPERTS and len(axes) == 3:
            experts = self._kept.experts(self._layer(slot), self._experts).tolist()
            return torch.stack([self._matrix(made[expert], axes[1:], slot, expert) for expert in experts])
        if self._family.inputs_first and slot.layer is not None and len(axes) == 2:
            return self._matrix(made.T, axes, slot).T
        return self._matrix(made, axes, slot)

    def _matrix(self, made: Tensor, axes: tuple[Axis, ...], slot: Slot, expert: int | None = None) -> Tensor:
        """A matrix, with what it reads along its last axis, or a vector."""
        for number, axis in enumerate(axes):
            if (places := self._places(axis, slot, made.shape[number], expert)) is not None:
                made = made.index_select(number, places)
        for number, axis in enumerate(axes):
            if axis in (Axis.READ, Axis.STREAM):
                made = self._kept.read(made.movedim(number, -1)).movedim(-1, number) * self._factor(axis, slot)
        if axes[0] is Axis.WRITTEN:
            made = self._kept.write(made)
        return self._scale(made, slot) if axes[0] is Axis.SCALE else made

    def _factor(self, axis: Axis, slot: Slot) -> float:
        if axis is Axis.READ:
            return self._of_reads
        if slot.role is Role.TOKEN_EMBEDDING:
            return self._of_embeddings
        # The shift of a norm.
        return self._of_last_norm if self._is_last_norm(slot) else 1.0

    def _scale(self, weight: Tensor, slot: Slot) -> Tensor:
        """The diagonal of P^T diag(weight) P, with the factors of a norm."""
        factor = self._of_norms if slot.role.norms_what_is_read else 1.0
        if self._is_last_norm(slot):
            factor *= self._of_last_norm
        scaled = self._kept.scale(weight) * factor
        # The one is in no weight, but takes the factor too.
        return scaled + (factor - 1) if self._family.norms_around_one else scaled

    def _is_last_norm(self, slot: Slot) -> bool:
        """Whether the head reads the stream through this norm: the final one, else that of the last layer's end."""
        if slot.part is not (last := self._family.layer_stacks[-1]):
            return False
        if self._family.stack(last).final_norm is not None:
            return slot.role is Role.FINAL_NORM
        return slot.role is Role.FEED_FORWARD_NORM and slot.layer == self._chosen[last][-1]

    def _places(self, axis: Axis, slot: Slot, count: int, expert: int | None) -> Int[Tensor, "_"] | None:
        """Which of the teacher's rows or columns are kept, of so many; None where all are, or channels of the stream
        are made."""
        if axis is Axis.VOCABULARY:
            return self._pieces
        if axis is Axis.EXPERTS:
            return self._kept.experts(self._layer(slot), self._experts)
        if axis in (Axis.UNITS, Axis.GATES_AND_UNITS):
            units = self._units_of(slot, expert)
            # All gates stand before the first unit.
            return units if axis is Axis.UNITS else torch.cat([units, units + count // 2])
        if axis not in _OF_HEADS:
            return None
        stack = self._family.stack(slot.part)
        layers = self._chosen[slot.part.stack] if stack.one_choice_of_heads else [self._layer(slot)]
        groups = self._kept.heads(layers, self._groups, grouped=self._grouped, part=slot.part)
        keys = rows_of(groups, self._head)
        if axis is Axis.KEYS:
            return keys
        heads = rows_of(groups, self._grouped)
        if axis is Axis.HEADS:
            return heads
        if axis is Axis.OF_EACH_HEAD:
            return rows_of(heads, 3 * self._head)
        queries = rows_of(heads, self._head)
        if axis is Axis.QUERIES:
            return queries
        # All queries stand before the first key, and all keys before the first value.
        before_keys = self._heads * self._head
        return torch.cat([queries, keys + before_keys, keys + (before_keys + count) // 2])

    def _units_of(self, slot: Slot, expert: int | None) -> Int[Tensor, "_"]:
        layer = self._layer(slot)
        if expert is not None:
            return self._kept.units_of_expert(layer, expert, self._units)
        return self._kept.units(layer, self._dense_units, part=slot.part)

    @staticmethod
    def _layer(slot: Slot) -> int:
        assert slot.layer is not None, slot
        return slot.layer
