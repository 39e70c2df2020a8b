"""The lower layers of an encoder frozen, and what they compute kept: a pass costs only the layers above."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from potstill.data.batches import batches_by_length
from potstill.data.encoded import Encoded
from potstill.models import layers_of, stack_of
from potstill.progress import Advance
from potstill.signals import Batch


@dataclass(frozen=True)
class KeptActivations:
    """Rows as the hidden states beneath the trained layers, in float32: a `BatchSource`."""

    rows: Encoded
    hidden: list[Tensor]

    @property
    def lengths(self) -> Sequence[int]:
        return self.rows.lengths

    def collate(self, indices: Sequence[int]) -> Batch:
        batch = self.rows.collate(indices)
        hidden = nn.utils.rnn.pad_sequence([self.hidden[index] for index in indices], batch_first=True)
        inputs = {"inputs_embeds": hidden, "attention_mask": batch.inputs["attention_mask"]}
        return replace(batch, inputs=inputs)


class _GivenEmbeddings(nn.Module):
    """Stands in for the embeddings of a model that is fed with hidden states."""

    def forward(
        self, input_ids: Tensor | None = None, inputs_embeds: Tensor | None = None, *_: object, **others: object
    ) -> Tensor:
        assert inputs_embeds is not None
        return inputs_embeds


class _NotThere(nn.Module):
    """Stands in for what is beside the first layer, in a model that begins above it: what that layer gives is all."""

    def forward(self, before: Tensor, after: Tensor, *_: object) -> Tensor:
        return after


@dataclass
class FrozenLayers:
    """Splits an encoder for the time of its training; `restore` makes it whole again.

    What all layers read, such as embeddings of relative positions, is frozen with those below: else these would compute
    something else in the end than what is kept of them.
    """

    model: PreTrainedModel
    count: int

    def __post_init__(self) -> None:
        self._layers = layers_of(self.model)
        assert self.count < len(self._layers), "checked with the teacher's files"
        self._embeddings = self.model.base_model.embeddings
        self._stack = stack_of(self.model)
        parts = dict(self.model.base_model.named_modules())
        self._final_norm = {name: part for name, part in parts.items() if name == self._stack.final_norm}
        self._beside_first = {name: part for name, part in parts.items() if name == self._stack.beside_first}
        shared = (parts[name] for name in self._stack.around if name in parts and name not in self._final_norm)
        self._shared = [each for module in shared for each in module.parameters() if each.requires_grad]

    def keep(self, rows: Encoded, device: torch.device, batch_size: int, advance: Advance) -> KeptActivations:
        """Compute the frozen layers once for all rows, without dropout."""
        base = self.model.base_model.to(device)
        training = base.training
        base.eval()
        self._put(self._layers[: self.count])
        # It is of what comes out of the last layer.
        self._replace(self._final_norm, nn.Identity())
        hidden: dict[int, Tensor] = {}
        with torch.inference_mode():
            for indices in batches_by_length(rows.lengths, batch_size):
                batch = rows.collate(indices).to(device)
                states = base(**batch.inputs).last_hidden_state.cpu()
                for place, index in enumerate(indices):
                    hidden[index] = states[place, : rows.lengths[index]].clone()
                advance(len(indices))
        self._put(self._layers)
        self._replace(self._final_norm)
        base.train(training)
        # Copies made outside inference mode, since tensors from inside it cannot enter autograd.
        return KeptActivations(rows, [hidden[index].clone() for index in range(len(rows.ids))])

    def detach(self) -> None:
        """Leave only the trained layers in the model."""
        self._put(self._layers[self.count :])
        self._replace(self._beside_first, _NotThere())
        for parameter in self._shared:
            parameter.requires_grad_(False)
        self.model.base_model.embeddings = _GivenEmbeddings()

    def restore(self) -> None:
        self._put(self._layers)
        self._replace(self._beside_first)
        for parameter in self._shared:
            parameter.requires_grad_(True)
        self.model.base_model.embeddings = self._embeddings

    def _replace(self, parts: Mapping[str, nn.Module], instead: nn.Module | None = None) -> None:
        """Put something in place of parts of the model, or the parts themselves again."""
        for name, part in parts.items():
            self.model.base_model.set_submodule(name, part if instead is None else instead)

    def _put(self, layers: nn.Module) -> None:
        """Make these the layers of the model."""
        self.model.base_model.set_submodule(self._stack.layers, layers)
